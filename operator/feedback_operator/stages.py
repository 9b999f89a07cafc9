"""The stage graph, declared once: what each stage needs, where it runs, and how its configuration follows.

A new stage is one entry of GRAPH, one configuration class in contract/configs.py and one file in workloads/stages/.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeVar

from pydantic import TypeAdapter

from feedback_operator.api import (
    METRICS,
    APISpec,
    BenchmarkSpec,
    DecodingSpec,
    EvaluationSpec,
    IterationSpec,
    LabelerAPISpec,
    LossSpec,
    SamplingSpec,
    SecretKey,
    SourceSpec,
    SplittingSpec,
    StageSection,
    TrainingSpec,
    model_of,
    requests_of,
)
from feedback_workloads import contract
from feedback_workloads.contract import KEY_VARIABLES, APILabeler, APIModel, Artifact, Model, Source, StageConfig

Image = Literal["generate", "train"]
Section = TypeVar("Section")


@dataclass(frozen=True)
class Inputs:
    """What a stage's configuration is made from: the spec, the resolved policy, and the artifacts of earlier stages."""

    spec: IterationSpec
    model: Model
    artifacts: Mapping[str, tuple[Artifact, ...]]


@dataclass(frozen=True)
class Stage:
    """One node of the graph. `name` is that of its section of the spec, and `pods` how many its Job runs side by side.

    They share the work out in shards, or do it `together`: then they need each other, and hand in one result.
    Pods of a stage that does not run a model ask for no devices.
    """

    name: str
    needs: tuple[str, ...]
    image: Image
    pods: Callable[[IterationSpec], int]
    config: Callable[[Inputs], StageConfig]
    together: bool = False
    runs_a_model: Callable[[IterationSpec], bool] = lambda spec: True
    asks: tuple[str, ...] = ()
    """Stages whose APIs its pods ask, where these have one, with their keys in the environment."""

    def section(self, spec: IterationSpec) -> StageSection:
        """What its pods are made from: its section, without the devices that nothing in them would use."""
        section = spec.section(self.name)
        return section if self.runs_a_model(spec) else _without_devices(section)

    def keys(self, spec: IterationSpec) -> dict[str, SecretKey]:
        """Environment variables that hold keys of APIs, and where they are."""
        apis = {name: api_of(spec, name) for name in self.asks}
        return {KEY_VARIABLES[name]: api.key_secret_ref for name, api in apis.items() if api and api.key_secret_ref}

    def results(self, spec: IterationSpec) -> int:
        """How many results its Job hands in."""
        return 1 if self.together else self.pods(spec)

    def addressed_config(self, given: Inputs) -> StageConfig:
        """The configuration with its content address as output: `<artifacts.uri>/<stage>/<hash>`."""
        config = self.config(given).model_copy(update={"shards": self.results(given.spec)})
        root = given.spec.artifacts.uri.rstrip("/")
        return config.model_copy(update={"output": f"{root}/{self.name}/{config.content_hash()}"})


def sampling_config(given: Inputs) -> StageConfig:
    spec = given.spec
    return contract.SamplingConfig(
        **_shared(given),
        model=given.model,
        instructions=_source(_given(spec.instructions)),
        candidates=spec.sampling.candidates,
        decoding=_decoding(spec.sampling, spec.sampling),
        temperatures=tuple(map(float, spec.sampling.temperatures)),
        prompts=tuple(spec.sampling.prompts),
        max_length=spec.training.max_length,
        lora=spec.training.lora is not None,
        trained_on=_trained_on(spec),
        later_models=tuple(_later_models(given)),
        labeler_api=_labeler_api(labeler) if (labeler := _given(spec.labeling).api) else None,
        splitter_api=_api(splitter) if (splitter := api_of(spec, "splitting")) else None,
        precision=_precision(spec),
        engine=_engine(spec.sampling, spec.sampling.max_model_len),
    )


def _later_models(given: Inputs) -> Iterator[contract.LaterModel]:
    spec, labeling = given.spec, _given(given.spec.labeling)
    if labeler := _labeler(given):
        yield contract.LaterModel(
            field="spec.labeling.model",
            capability="label",
            source=labeler,
            max_model_len=labeling.max_model_len,
            engine=_engine(labeling, labeling.max_model_len) if _same_cards(spec.sampling, labeling) else None,
        )
    if spec.splitting.llm is not None and spec.splitting.llm.model is not None:
        yield contract.LaterModel(
            field="spec.splitting.llm.model",
            capability="split",
            source=model_of(spec.splitting.llm.model),
            max_model_len=spec.splitting.max_model_len,
            engine=_engine(spec.splitting, spec.splitting.max_model_len)
            if _same_cards(spec.sampling, spec.splitting)
            else None,
        )


def _trained_on(spec: IterationSpec) -> contract.TrainedOn | None:
    training = spec.training
    if not _same_cards(spec.sampling, training):
        return None
    return contract.TrainedOn(
        processes=training.nodes * training.processes_per_node,
        zero_stage=training.zero_stage,
        quantization=_rounded_below(training),
    )


def _rounded_below(training: TrainingSpec) -> Literal["nf4"] | None:
    return "nf4" if training.lora and training.lora.quantization else None


def splitting_config(given: Inputs) -> StageConfig:
    spec = given.spec
    return contract.SplittingConfig(
        **_shared(given),
        samples=given.artifacts["sampling"],
        splitter=_splitter(spec.splitting),
        question_template=spec.splitting.question_template,
        precision=_precision(spec),
        engine=_engine(spec.splitting, spec.splitting.max_model_len),
        requests=_requests(api_of(spec, "splitting")),
    )


def labeling_config(given: Inputs) -> StageConfig:
    spec, labeling = given.spec, _given(given.spec.labeling)
    return contract.LabelingConfig(
        **_shared(given),
        claims=given.artifacts["splitting"],
        instructions=_source(_given(spec.instructions)),
        model=_labeler(given),
        api=_labeler_api(labeling.api) if labeling.api else None,
        min_yes_no_mass=float(labeling.min_yes_no_mass),
        precision=_precision(spec),
        engine=_engine(labeling, labeling.max_model_len),
        requests=_requests(labeling.api),
    )


def _labeler(given: Inputs) -> Model | None:
    """The model that labels, where that is not behind an API."""
    named = _given(given.spec.labeling).model
    if named is None:
        return None
    return given.model if named.from_ == "Policy" else model_of(named)


def pairing_config(given: Inputs) -> StageConfig:
    spec = given.spec
    return contract.PairingConfig(
        **_shared(given),
        samples=given.artifacts["sampling"],
        claims=given.artifacts["splitting"],
        verdicts=given.artifacts["labeling"],
        instructions=_source(_given(spec.instructions)),
        pairs_per_instruction=spec.pairing.per_instruction,
        min_score_difference=spec.pairing.min_score_difference,
        length_balance=spec.pairing.length_balance == "Enabled",
        truth=spec.pairing.truth,
    )


def published_pairs_config(given: Inputs) -> StageConfig:
    """Of the stage pairing where the pairs were made elsewhere."""
    spec = given.spec
    return contract.PairingConfig(
        **_shared(given),
        published=contract.PublishedPairs(source=_source(_given(spec.pairs).source), model=given.model),
        lora=spec.training.lora is not None,
    )


def training_config(given: Inputs) -> StageConfig:
    spec, training = given.spec, given.spec.training
    # Answers to other prompts have other log-probabilities, whose parity says nothing; those that were not sampled have
    # none.
    sampled = not spec.sampling.prompts and spec.pairs is None
    lora = training.lora and contract.LoRA(
        rank=training.lora.rank,
        alpha=training.lora.alpha,
        dropout=float(training.lora.dropout),
        quantization=_rounded_below(training),
    )
    return contract.TrainingConfig(
        **_shared(given),
        pairs=given.artifacts["pairing"],
        model=given.model,
        beta=float(training.beta),
        loss=_loss(training.loss) if training.loss else contract.Loss(),
        learning_rate=float(training.learning_rate),
        epochs=training.epochs,
        global_batch_size=training.global_batch_size,
        warmup_ratio=float(training.warmup_ratio),
        weight_decay=float(training.weight_decay),
        max_length=training.max_length,
        checkpoints_per_epoch=training.checkpoints_per_epoch,
        lora=lora,
        precision=_precision(spec),
        gradient_checkpointing=training.gradient_checkpointing == "Enabled",
        reference="sampled" if training.reference == "Sampled" and sampled else "recomputed",
        parity_limit=float(training.parity_limit),
        **({} if sampled else {"parity_rows": 0}),
        per_device_batch_size=training.per_device_batch_size,
        nodes=training.nodes,
        processes_per_node=training.processes_per_node,
        zero_stage=training.zero_stage,
    )


def evaluation_config(given: Inputs) -> StageConfig:
    spec, first = given.spec, given.spec.evaluation.benchmarks[0].name
    return contract.EvaluationConfig(
        **_shared(given),
        policy=() if spec.only else given.artifacts["training"],
        model=given.model,
        benchmarks=tuple(map(_benchmark, spec.evaluation.benchmarks)),
        decoding=_decoding(spec.evaluation.decoding, spec.sampling),
        ranked_decoding=contract.Decoding(
            temperature=float(spec.evaluation.ranked_decoding.temperature),
            top_p=float(spec.evaluation.ranked_decoding.top_p),
            max_new_tokens=spec.evaluation.decoding.max_new_tokens or spec.sampling.max_new_tokens,
        ),
        best_of=spec.evaluation.best_of,
        beta=float(spec.training.beta),
        lambdas=tuple(dict.fromkeys(map(float, spec.evaluation.lambdas))),
        reward_on_baseline=spec.evaluation.reward_on_baseline == "Enabled",
        min_recall_ratio=float(spec.evaluation.min_recall_ratio),
        choice=_choice(spec.evaluation),
        gated=gated(spec.evaluation),
        gate_metrics=tuple(name for rule in spec.evaluation.gate for name in rule.reads(first).values() if "/" in name),
        precision=_precision(spec),
        # The pods are another section's, the model is the one that was sampled from.
        engine=_engine(spec.evaluation, spec.sampling.max_model_len),
    )


def _choice(spec: EvaluationSpec) -> contract.Choice | None:
    """None where it says no more than that there is none."""
    if spec.choice is None:
        return None
    default = contract.Choice(benchmark=spec.benchmarks[0].name)
    metric = TypeAdapter(contract.RateName).validate_python(METRICS[spec.choice.metric])
    choice = contract.Choice(benchmark=spec.choice.benchmark or default.benchmark, metric=metric)
    return None if choice == default else choice


def gated(spec: EvaluationSpec) -> tuple[str, ...]:
    """The benchmarks that the gate names, but for the first, in their order."""
    named = {rule.benchmark for rule in spec.gate}
    return tuple(one.name for one in spec.benchmarks[1:] if one.name in named)


def _shared(given: Inputs) -> dict[str, Any]:
    """What every stage is given alike; `output` is known once all else is."""
    spec = given.spec
    return {"output": "", "seed": spec.seed, "max_rejected_fraction": float(spec.max_rejected_fraction)}


def _given(section: Section | None) -> Section:
    """What a valid spec has of a stage that is in its graph."""
    if section is None:
        raise TypeError("a spec without instructions or labeling has pairs, and no stage that reads them")
    return section


def _source(spec: SourceSpec) -> Source:
    return Source(uri=spec.uri.rstrip("/"), revision=spec.revision, sha256=spec.sha256)


def _benchmark(spec: BenchmarkSpec) -> contract.BenchmarkConfig:
    source = Source(uri=spec.uri.rstrip("/"), revision=spec.revision, sha256=spec.sha256)
    return contract.BenchmarkConfig(name=spec.name, type=spec.type, source=source, words=spec.words)


def _decoding(spec: SamplingSpec | DecodingSpec, otherwise: SamplingSpec) -> contract.Decoding:
    return contract.Decoding(
        temperature=float(spec.temperature),
        top_p=float(spec.top_p),
        max_new_tokens=spec.max_new_tokens or otherwise.max_new_tokens,
    )


def _loss(spec: LossSpec) -> contract.Loss:
    return contract.Loss(
        terms=tuple(contract.LossTerm(type=term.type, weight=float(term.weight)) for term in spec.terms),
        label_smoothing=float(spec.label_smoothing or 0),
        ld_alpha=None if spec.ld_alpha is None else float(spec.ld_alpha),
        anchor=float(spec.anchor or 0),
    )


def _splitter(spec: SplittingSpec) -> contract.Splitter:
    if spec.llm is not None:
        decoding = contract.Decoding(
            temperature=float(spec.llm.temperature),
            top_p=float(spec.llm.top_p),
            max_new_tokens=spec.llm.max_new_tokens,
        )
        if spec.llm.api is not None:
            return contract.APISplitter(api=_api(spec.llm.api), decoding=decoding, attempts=spec.llm.attempts)
        model = model_of(_given(spec.llm.model))
        return contract.LLMSplitter(model=model, decoding=decoding, attempts=spec.llm.attempts)
    if spec.type == "WholeAnswer":
        return contract.WholeAnswer()
    return contract.SentenceSplitter(language=spec.sentences.language if spec.sentences else "en")


def api_of(spec: IterationSpec, stage: str) -> APISpec | None:
    """The API that a stage asks, if any."""
    if stage == "splitting":
        return spec.splitting.llm.api if spec.splitting.llm else None
    return spec.labeling.api if spec.labeling else None


def _api(spec: APISpec) -> APIModel:
    return APIModel(url=spec.url.rstrip("/"), model=spec.model, parameters=spec.parameters or {})


def _labeler_api(spec: LabelerAPISpec) -> APILabeler:
    votes = spec.votes and contract.Votes(
        number=spec.votes.number, temperature=float(spec.votes.temperature), max_new_tokens=spec.votes.max_new_tokens
    )
    return APILabeler(**dict(_api(spec)), votes=votes, max_picture_side=spec.max_picture_side)


def _requests(api: APISpec | None) -> contract.Requests:
    return requests_of(api) if api else contract.Requests()


def _precision(spec: IterationSpec) -> Literal["auto", "float32", "bfloat16"]:
    match spec.precision:
        case "Auto":
            return "auto"
        case "Float32":
            return "float32"
        case "BFloat16":
            return "bfloat16"


def _engine(pods: StageSection, max_model_len: int | None) -> contract.EngineConfig:
    """vLLM's share of the hardware, as many GPUs as each of the stage's pods has, and the model's context length."""
    return contract.EngineConfig(tensor_parallel_size=gpus(pods), max_model_len=max_model_len)


def gpus(section: StageSection) -> int:
    """GPUs that an engine in a pod of this section uses; 1 also where there are none."""
    resources = section.resources
    return max(1, contract.counted_gpus(resources.limits) + sum(claim.devices for claim in resources.claims))


def _same_cards(first: StageSection, second: StageSection) -> bool:
    """Whether the pods of two sections ask for the same devices, as many as they may be, on the same nodes."""

    def asked(section: StageSection) -> tuple[Any, ...]:
        limits, pod = section.resources.limits, section.pod
        devices = {name for name in limits if contract.counted_gpus({name: "1"})}
        templates = {claim.resource_claim_template_name for claim in section.resources.claims}
        return devices, templates, pod.node_selector, pod.affinity, pod.tolerations

    return asked(first) == asked(second)


def _without_devices(section: StageSection) -> StageSection:
    resources = section.resources
    left = {"requests": _standard(resources.requests), "limits": _standard(resources.limits), "claims": []}
    return section.model_copy(update={"resources": resources.model_copy(update=left)})


def _standard(amounts: Mapping[str, str]) -> dict[str, str]:
    """Without what has a domain in its name: devices."""
    return {name: number for name, number in amounts.items() if "/" not in name}


GRAPH: Final = (
    Stage(
        name="sampling",
        needs=(),
        image="generate",
        pods=lambda s: s.sampling.shards,
        config=sampling_config,
        asks=("splitting", "labeling"),
    ),
    Stage(
        name="splitting",
        needs=("sampling",),
        image="generate",
        pods=lambda s: s.splitting.shards,
        config=splitting_config,
        runs_a_model=lambda s: s.splitting.llm is not None and s.splitting.llm.api is None,
        asks=("splitting",),
    ),
    Stage(
        name="labeling",
        needs=("splitting",),
        image="generate",
        pods=lambda s: _given(s.labeling).shards,
        config=labeling_config,
        runs_a_model=lambda s: _given(s.labeling).api is None,
        asks=("labeling",),
    ),
    Stage(
        name="pairing",
        needs=("sampling", "splitting", "labeling"),
        image="train",
        pods=lambda s: 1,
        config=pairing_config,
        runs_a_model=lambda s: False,
    ),
    Stage(
        name="training",
        needs=("pairing",),
        image="train",
        pods=lambda s: s.training.nodes,
        config=training_config,
        together=True,
    ),
    Stage(
        name="evaluation",
        needs=("training",),
        image="generate",
        pods=lambda s: 1,
        config=evaluation_config,
    ),
)
"""All stages in an order in which every stage follows what it needs."""

STAGES: Final = {stage.name: stage for stage in GRAPH}
"""The same by name."""

FROM_PAIRS: Final = (
    replace(STAGES["pairing"], needs=(), config=published_pairs_config),
    STAGES["training"],
    STAGES["evaluation"],
)
"""Those of an iteration whose pairs were made elsewhere."""


EVALUATION_ALONE: Final = (replace(STAGES["evaluation"], needs=()),)
"""Those of an iteration that trains nothing."""


def stages_of(spec: IterationSpec) -> tuple[Stage, ...]:
    """The stages of an iteration, in an order in which every stage follows what it needs."""
    if spec.only:
        return EVALUATION_ALONE
    return GRAPH if spec.pairs is None else FROM_PAIRS
