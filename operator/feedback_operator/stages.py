"""The stage graph, declared once: what each stage needs, where it runs, and how its configuration follows.

A new stage is one entry of GRAPH, one configuration class in contract.py and one file in workloads/stages/.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, Literal

from feedback_operator.api import (
    BenchmarkSpec,
    IterationSpec,
    SamplingSpec,
    SourceSpec,
    SplitterSpec,
    StageSection,
)
from feedback_workloads import contract
from feedback_workloads.contract import Artifact, Source, StageConfig

Image = Literal["generate", "train"]


@dataclass(frozen=True)
class Inputs:
    """What a stage's configuration is made from: the spec, the resolved policy, and the artifacts of earlier stages."""

    spec: IterationSpec
    model: Source
    artifacts: Mapping[str, tuple[Artifact, ...]]


@dataclass(frozen=True)
class Stage:
    """One node of the graph. `pods` is how many pods its Job runs side by side.

    They share the work out in shards, or do it `together`: then they need each other, and hand in one result.
    """

    name: str
    needs: tuple[str, ...]
    image: Image
    section: Callable[[IterationSpec], StageSection]
    pods: Callable[[IterationSpec], int]
    config: Callable[[Inputs], StageConfig]
    together: bool = False

    def results(self, spec: IterationSpec) -> int:
        """How many results its Job hands in."""
        return 1 if self.together else self.pods(spec)

    def addressed_config(self, given: Inputs) -> StageConfig:
        """The configuration with its content address as output: `<artifacts.uri>/<stage>/<hash>`."""
        config = self.config(given)
        root = given.spec.artifacts.uri.rstrip("/")
        return config.model_copy(update={"output": f"{root}/{self.name}/{config.content_hash()}"})


def samples_config(given: Inputs) -> StageConfig:
    spec = given.spec
    return contract.SamplesConfig(
        output="",
        shards=spec.sampling.shards,
        seed=spec.seed,
        max_rejected_fraction=float(spec.max_rejected_fraction),
        model=given.model,
        instructions=_source(spec.instructions),
        candidates=spec.sampling.candidates,
        decoding=_decoding(spec.sampling),
        temperatures=tuple(map(float, spec.sampling.temperatures)),
        precision=_precision(spec),
        engine=_engine(spec.sampling, spec.sampling.max_model_len),
    )


def claims_config(given: Inputs) -> StageConfig:
    spec = given.spec
    return contract.ClaimsConfig(
        output="",
        shards=spec.labeling.shards,
        seed=spec.seed,
        max_rejected_fraction=float(spec.max_rejected_fraction),
        samples=given.artifacts["samples"],
        splitter=_splitter(spec.labeler.splitter),
        question_template=spec.labeler.question_template,
        precision=_precision(spec),
        engine=_engine(spec.labeling, spec.labeling.max_model_len),
    )


def verdicts_config(given: Inputs) -> StageConfig:
    spec = given.spec
    return contract.VerdictsConfig(
        output="",
        shards=spec.labeling.shards,
        seed=spec.seed,
        max_rejected_fraction=float(spec.max_rejected_fraction),
        claims=given.artifacts["claims"],
        instructions=_source(spec.instructions),
        labeler=_source(spec.labeler.model),
        min_yes_no_mass=float(spec.labeler.min_yes_no_mass),
        precision=_precision(spec),
        engine=_engine(spec.labeling, spec.labeling.max_model_len),
    )


def pairs_config(given: Inputs) -> StageConfig:
    spec = given.spec
    return contract.PairsConfig(
        output="",
        seed=spec.seed,
        max_rejected_fraction=float(spec.max_rejected_fraction),
        samples=given.artifacts["samples"],
        claims=given.artifacts["claims"],
        verdicts=given.artifacts["verdicts"],
        instructions=_source(spec.instructions),
        pairs_per_instruction=spec.pairs.per_instruction,
        min_score_difference=spec.pairs.min_score_difference,
        length_balance=spec.pairs.length_balance == "Enabled",
        truth=spec.pairs.truth,
    )


def policy_config(given: Inputs) -> StageConfig:
    spec, training = given.spec, given.spec.training
    lora = training.lora and contract.LoRA(
        rank=training.lora.rank, alpha=training.lora.alpha, dropout=float(training.lora.dropout)
    )
    return contract.PolicyConfig(
        output="",
        seed=spec.seed,
        max_rejected_fraction=float(spec.max_rejected_fraction),
        pairs=given.artifacts["pairs"],
        model=given.model,
        beta=float(training.beta),
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
        reference="sampled" if training.reference == "Sampled" else "recomputed",
        parity_limit=float(training.parity_limit),
        per_device_batch_size=training.per_device_batch_size,
        nodes=training.nodes,
        processes_per_node=training.processes_per_node,
        zero_stage=training.zero_stage,
    )


def scores_config(given: Inputs) -> StageConfig:
    spec = given.spec
    return contract.ScoresConfig(
        output="",
        seed=spec.seed,
        max_rejected_fraction=float(spec.max_rejected_fraction),
        policy=given.artifacts["policy"],
        model=given.model,
        benchmarks=tuple(map(_benchmark, spec.evaluation.benchmarks)),
        decoding=_decoding(spec.sampling),
        best_of=spec.evaluation.best_of,
        beta=float(spec.training.beta),
        length_normalisation=spec.evaluation.length_normalisation == "Enabled",
        min_recall_ratio=float(spec.evaluation.min_recall_ratio),
        precision=_precision(spec),
        # The pods are another section's, the model is the one that was sampled from.
        engine=_engine(spec.evaluation, spec.sampling.max_model_len),
    )


def _source(spec: SourceSpec) -> Source:
    return Source(uri=spec.uri.rstrip("/"), revision=spec.revision, sha256=spec.sha256)


def _benchmark(spec: BenchmarkSpec) -> contract.Benchmark:
    source = Source(uri=spec.uri.rstrip("/"), revision=spec.revision, sha256=spec.sha256)
    return contract.Benchmark(name=spec.name, type=spec.type, source=source)


def _decoding(sampling: SamplingSpec) -> contract.Decoding:
    return contract.Decoding(
        temperature=float(sampling.temperature), top_p=float(sampling.top_p), max_new_tokens=sampling.max_new_tokens
    )


def _splitter(spec: SplitterSpec) -> contract.Splitter:
    if spec.llm is not None:
        decoding = contract.Decoding(
            temperature=float(spec.llm.temperature),
            top_p=float(spec.llm.top_p),
            max_new_tokens=spec.llm.max_new_tokens,
        )
        return contract.LLMSplitter(model=_source(spec.llm.model), decoding=decoding, attempts=spec.llm.attempts)
    if spec.type == "WholeAnswer":
        return contract.WholeAnswer()
    return contract.SentenceSplitter(language=spec.sentences.language if spec.sentences else "en")


def _precision(spec: IterationSpec) -> Literal["auto", "float32", "bfloat16"]:
    match spec.precision:
        case "Auto":
            return "auto"
        case "Float32":
            return "float32"
        case "BFloat16":
            return "bfloat16"


def _engine(pods: StageSection, max_model_len: int | None) -> contract.Engine:
    """vLLM's share of the hardware, as many GPUs as each of the stage's pods has, and the model's context length."""
    return contract.Engine(tensor_parallel_size=gpus(pods), max_model_len=max_model_len)


def gpus(section: StageSection) -> int:
    """GPUs that an engine in a pod of this section uses; 1 also where there are none."""
    given = section.resources.limits.get("nvidia.com/gpu") or section.resources.requests.get("nvidia.com/gpu") or "1"
    return max(1, int(Decimal(given)))


GRAPH: Final = (
    Stage(
        name="samples",
        needs=(),
        image="generate",
        section=lambda s: s.sampling,
        pods=lambda s: s.sampling.shards,
        config=samples_config,
    ),
    Stage(
        name="claims",
        needs=("samples",),
        image="generate",
        section=lambda s: s.labeling,
        pods=lambda s: s.labeling.shards,
        config=claims_config,
    ),
    Stage(
        name="verdicts",
        needs=("claims",),
        image="generate",
        section=lambda s: s.labeling,
        pods=lambda s: s.labeling.shards,
        config=verdicts_config,
    ),
    Stage(
        name="pairs",
        needs=("samples", "claims", "verdicts"),
        image="train",
        section=lambda s: s.pairs,
        pods=lambda s: 1,
        config=pairs_config,
    ),
    Stage(
        name="policy",
        needs=("pairs",),
        image="train",
        section=lambda s: s.training,
        pods=lambda s: s.training.nodes,
        config=policy_config,
        together=True,
    ),
    Stage(
        name="scores",
        needs=("policy",),
        image="generate",
        section=lambda s: s.evaluation,
        pods=lambda s: 1,
        config=scores_config,
    ),
)
"""All stages in an order in which every stage follows what it needs."""

STAGES: Final = {stage.name: stage for stage in GRAPH}
"""The same by name."""
