"""What each stage is given."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, ClassVar, Final, Literal, Self, get_args

from pydantic import (
    Field,
    FiniteFloat,
    JsonValue,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    model_serializer,
    model_validator,
)

from feedback_workloads.contract.base import (
    Artifact,
    BenchmarkType,
    Frozen,
    LossType,
    Model,
    Precision,
    RateName,
    Source,
    TruthType,
    WordRule,
    canonical_json,
)


class EngineConfig(Frozen):
    """How vLLM uses the hardware. Infrastructure: not part of an artifact's identity."""

    max_model_len: int | None = None
    tensor_parallel_size: int = 1
    gpu_memory_utilization: float = 0.9
    max_num_seqs: int = 256
    cpu_kv_cache_gib: int = 1


class Decoding(Frozen):
    """Sampling parameters of one answer; vLLM's and transformers' meaning of the names."""

    temperature: float = 0.7
    top_p: float = 1.0
    max_new_tokens: int = 512


class StageConfig(Frozen):
    """What one stage is given. Subclasses add inputs and parameters.

    `output` is the artifact's folder; shard i of n writes below it (see `shard_uri`). Fields in `INFRASTRUCTURE` do not
    change what is computed and stay out of the content hash.
    """

    INFRASTRUCTURE: ClassVar[frozenset[str]] = frozenset({"output", "engine"})
    FORMAT_VERSION: ClassVar[int] = 1
    ALONE: ClassVar[bool] = False
    """Its folder changes as the work goes on, so that one process at a time works on it: see lease.py."""

    output: str
    shards: int = 1
    seed: int = 0
    max_rejected_fraction: float = 0.05

    def content(self) -> dict[str, Any]:
        """Everything that determines the artifact, as plain JSON data."""
        return {"format_version": self.FORMAT_VERSION, **self.model_dump(mode="json", exclude=set(self.INFRASTRUCTURE))}

    def content_hash(self) -> str:
        """SHA-256 (hex) of the canonical JSON of `content()`: the artifact's address."""
        return hashlib.sha256(canonical_json(self.content())).hexdigest()


class APIModel(Frozen):
    """A model behind an OpenAI-compatible API, at an address that ends where `/chat/completions` follows."""

    url: str
    model: str
    parameters: dict[str, JsonValue] = Field(default={})
    """What the API is given with each request besides, such as `reasoning_effort`."""


class Votes(Frozen):
    """Answers that are drawn to a question whose first word alone counts."""

    number: int = 5
    temperature: float = 1.0
    max_new_tokens: int = 16


class APILabeler(APIModel):
    """A labeler behind an API: it tells how likely its first token is or, with `votes`, answers several times."""

    votes: Votes | None = None
    max_picture_side: int | None = None
    """Longest side in pixels of what is sent; a larger picture is scaled down."""


class Price(Frozen):
    """Of a million tokens that are sent, and of a million that come back, in any one currency."""

    input: float = 0.0
    output: float = 0.0


class Requests(Frozen):
    """How an API is asked: infrastructure. Limits are of the stage, whose shards share them evenly."""

    concurrency: int = 16
    retries: int = 8
    timeout_seconds: int = 120
    price: Price = Price()
    max_tokens: int | None = None
    max_cost: float | None = None


KEY_VARIABLES: Final = {"labeling": "LABELING_API_KEY", "splitting": "SPLITTING_API_KEY"}
"""Environment variables with the keys of APIs that stages ask."""
COMMON_KEY_VARIABLE: Final = "OPENAI_API_KEY"
"""With the key of each of them that has none of its own."""


class LaterModel(Frozen):
    """A model of a later stage, at which the first one looks: that it is the wrong one shows before all is paid for."""

    field: str
    """Its place in the manifest, for people."""
    capability: Literal["label", "split"]
    source: Model
    max_model_len: int | None = None
    engine: EngineConfig | None = None
    """How its engine uses cards, where they are of the kind that the first stage has; None where they may be others."""


class TrainedOn(Frozen):
    """How training divides the policy over its cards, of the kind that the first stage has."""

    processes: int = 1
    zero_stage: Literal[0, 2, 3] = 2
    quantization: Literal["nf4"] | None = None
    """Of the weights below an adapter."""


class SamplingConfig(StageConfig):
    """Draw several answers to each instruction from the policy, under one decoding.

    `temperatures` or `prompts`, when given, break that rule on purpose (ablations without deconfounding): candidate i
    uses the one numbered i modulo their number, a prompt in place of the instruction's question.
    """

    INFRASTRUCTURE: ClassVar[frozenset[str]] = frozenset(
        {"output", "engine", "max_length", "lora", "trained_on", "later_models", "labeler_api", "splitter_api"}
    )
    FORMAT_VERSION: ClassVar[int] = 3
    """2: transparent pictures lie on white, not on black. 3: gray pictures of 16 bits keep their shades."""

    stage: Literal["sampling"] = "sampling"
    model: Model
    instructions: Source
    candidates: int = 10
    decoding: Decoding = Decoding()
    temperatures: tuple[float, ...] = ()
    prompts: tuple[str, ...] = ()
    max_length: int = 2048
    """That of training, which changes nothing that is sampled: where prompts leave no room within it, nothing is."""
    lora: bool = False
    """Whether training makes an adapter: where the policy cannot have one, nothing is sampled either."""
    trained_on: TrainedOn | None = None
    """Likewise: where the cards are too small for it, nothing is sampled. None where they may be of another kind."""
    later_models: tuple[LaterModel, ...] = ()
    """Likewise: where one of them cannot do its part, nothing is sampled."""
    labeler_api: APILabeler | None = None
    splitter_api: APIModel | None = None
    """Likewise: where one of them does not answer, nothing is sampled."""
    precision: Precision = "auto"
    part_rows: int = 64  # instructions a part file
    engine: EngineConfig = EngineConfig()


class SentenceSplitter(Frozen):
    """Each sentence of an answer is a claim; found by a rule-based library, without a model."""

    kind: Literal["sentences"] = "sentences"
    language: str = "en"


class WholeAnswer(Frozen):
    """The whole answer is the one claim: the holistic labels of the paper's ablation."""

    kind: Literal["whole"] = "whole"


class LLMSplitter(Frozen):
    """A text model divides an answer into claims and turns the claims into yes/no questions (paper, section 3.2)."""

    kind: Literal["llm"] = "llm"
    model: Model
    decoding: Decoding = Decoding(temperature=0.2, top_p=0.9, max_new_tokens=2048)
    attempts: int = 3


class APISplitter(Frozen):
    """The same by a model behind an API."""

    kind: Literal["api"] = "api"
    api: APIModel
    decoding: Decoding = Decoding(temperature=0.2, top_p=0.9, max_new_tokens=2048)
    attempts: int = 3


Splitter = Annotated[SentenceSplitter | WholeAnswer | LLMSplitter | APISplitter, Field(discriminator="kind")]


class SplittingConfig(StageConfig):
    """Divide each answer into claims and each claim into one yes/no question."""

    INFRASTRUCTURE: ClassVar[frozenset[str]] = frozenset({"output", "engine", "requests"})
    FORMAT_VERSION: ClassVar[int] = 2
    """2: a splitter's thoughts are neither asked for nor taken for claims."""

    stage: Literal["splitting"] = "splitting"
    samples: tuple[Artifact, ...]
    splitter: Splitter = SentenceSplitter()
    question_template: str = "Is it true that {claim}? Please answer yes or no."
    precision: Precision = "auto"
    part_rows: int = 512  # answers' instructions a part file
    engine: EngineConfig = EngineConfig()
    requests: Requests = Requests()


class LabelingConfig(StageConfig):
    """Ask the labeler, a model here or behind an API, each question about the picture: p(yes) against p(no)."""

    INFRASTRUCTURE: ClassVar[frozenset[str]] = frozenset({"output", "engine", "requests"})

    stage: Literal["labeling"] = "labeling"
    claims: tuple[Artifact, ...]
    instructions: Source
    model: Model | None = None
    api: APILabeler | None = None
    min_yes_no_mass: float = 0.5
    """Least p(yes) + p(no) of a verdict: where there is less, the labeler's answer begins with something else."""
    precision: Precision = "auto"
    part_rows: int = 64
    engine: EngineConfig = EngineConfig()
    requests: Requests = Requests()

    def content(self) -> dict[str, Any]:
        """As of any stage; of `model` and `api`, the one that is given."""
        content = super().content()
        del content["model" if self.model is None else "api"]
        return content

    @model_validator(mode="after")
    def _one_labeler(self) -> Self:
        if (self.model is None) == (self.api is None):
            raise ValueError("give exactly one of model and api")
        return self


class PublishedPairs(Frozen):
    """Pairs that were made elsewhere, and the policy in whose tokens they are to be trained on."""

    source: Source
    model: Model


class PairingConfig(StageConfig):
    """Score answers by minus their rejected claims and pair the answers of one instruction; or read `published` pairs,
    which need none of what the stages before make."""

    INFRASTRUCTURE: ClassVar[frozenset[str]] = frozenset({"output", "engine", "lora"})
    FORMAT_VERSION: ClassVar[int] = 3
    """2: letters of scripts without spaces are counted as words. 3: how often the labeler is right is measured."""

    stage: Literal["pairing"] = "pairing"
    samples: tuple[Artifact, ...] = ()
    claims: tuple[Artifact, ...] = ()
    verdicts: tuple[Artifact, ...] = ()
    instructions: Source | None = None
    pairs_per_instruction: int = 2
    min_score_difference: int = 1
    length_balance: bool = True
    truth: TruthType | None = None
    """Type of the benchmark that can judge answers against the instructions' `truth` column, where there is one."""
    published: PublishedPairs | None = None
    lora: bool = False
    """Whether training makes an adapter: published pairs are not read for a policy that cannot have one."""

    def content(self) -> dict[str, Any]:
        """As of any stage; published pairs are part of it where there are some."""
        content = super().content()
        if self.published is None:
            del content["published"]
        return content

    @model_validator(mode="after")
    def _instructions_or_published(self) -> Self:
        if (self.instructions is None) != (self.published is not None):
            raise ValueError("give either instructions, with samples, claims and verdicts, or published pairs")
        return self


class LoRA(Frozen):
    """Low-rank adapters on the language model's linear layers, all but lm_head."""

    rank: int = 64
    alpha: int = 16
    dropout: float = 0.05
    quantization: Literal["nf4"] | None = None
    """To what the weights below it are rounded while it is trained (QLoRA); None: they are as they are."""

    @model_serializer(mode="wrap")
    def _what_is_asked_for(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `quantization` where there is none: such an adapter has the address that it had before there was."""
        return {name: value for name, value in dump(self).items() if name != "quantization" or value is not None}


class LossTerm(Frozen):
    """One term of the training loss."""

    type: LossType
    weight: float = 1.0


class Loss(Frozen):
    """What training minimises: the weighted sum of the terms, each a mean over the pairs. See training/losses.py."""

    terms: Annotated[tuple[LossTerm, ...], Field(min_length=1)] = (LossTerm(type="Sigmoid"),)
    label_smoothing: float = 0.0
    """Of Robust: the share of pairs whose sides are believed to be swapped."""
    ld_alpha: float | None = None
    """Weight of an answer's tokens beyond the length of the shorter answer of its pair; None: they count in full."""
    anchor: float = 0.0
    """Of Anchored: the reward that chosen answers are to exceed."""

    def has(self, kind: LossType) -> bool:
        """Whether a term is of this type."""
        return any(term.type == kind for term in self.terms)


class TrainingConfig(StageConfig):
    """Train the policy with DPO from the pairs, with the sampler's log-probabilities as references."""

    INFRASTRUCTURE: ClassVar[frozenset[str]] = frozenset(
        {"output", "per_device_batch_size", "nodes", "processes_per_node", "zero_stage", "gradient_checkpointing"}
    )
    ALONE: ClassVar[bool] = True

    stage: Literal["training"] = "training"
    pairs: tuple[Artifact, ...]
    model: Model
    beta: float = 0.1
    loss: Loss = Loss()
    learning_rate: float = 5e-7
    epochs: int = 4
    global_batch_size: int = 8
    warmup_ratio: float = 0.05
    weight_decay: float = 0.01
    max_length: int = 2048
    """Longest sequence in tokens, counted after the expansion of the picture; a longer row is rejected, never cut."""
    checkpoints_per_epoch: int = 4
    lora: LoRA | None = None
    precision: Precision = "auto"
    gradient_checkpointing: bool = True
    reference: Literal["sampled", "recomputed"] = "sampled"
    parity_rows: int = 16
    """Rows on which the sampler's log-probabilities are checked against a forward pass before they are trusted."""
    parity_tolerance: float = 0.03
    """Largest mean absolute difference, in nats a token, that is still parity; beyond it references are recomputed."""
    parity_limit: float = 0.2
    """The same beyond which nothing is trained: the sampler computes another model than the trainer."""
    per_device_batch_size: int = 1
    nodes: int = 1
    processes_per_node: int = 1
    zero_stage: Literal[0, 2, 3] = 2

    @property
    def rounded(self) -> bool:
        """Whether the weights below an adapter are rounded while it is trained."""
        return self.lora is not None and self.lora.quantization is not None

    def content(self) -> dict[str, Any]:
        """As of any stage; the loss is part of it where it is another than that of DPO, which has always been there."""
        content = super().content()
        if self.loss == Loss():
            del content["loss"]
        return content

    @model_validator(mode="after")
    def _limit_beyond_tolerance(self) -> Self:
        if self.parity_limit <= self.parity_tolerance:
            raise ValueError(f"parity_limit {self.parity_limit} must exceed parity_tolerance {self.parity_tolerance}")
        return self


class BenchmarkConfig(Frozen):
    """Pictures and questions with truth; `selection` chooses the checkpoint, `report` is what is reported."""

    name: str
    type: BenchmarkType
    source: Source
    selection: str = "selection"
    report: str = "report"
    words: WordRule | None = None
    """Of `chair` alone, which has no default in an iteration: numbers of different rules cannot be compared."""

    @model_serializer(mode="wrap")
    def _what_is_said(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in dump(self).items() if name != "words" or value is not None}

    @model_validator(mode="after")
    def _words_of_chair(self) -> Self:
        if (self.type == "chair") != (self.words is not None):
            raise ValueError("words must be given for type chair, and for no other")
        return self


class Choice(Frozen):
    """By what the checkpoint is chosen, on the selection split of the benchmark of that name."""

    benchmark: str
    metric: RateName = "response_hallucination"


class EvaluationConfig(StageConfig):
    """Score the baseline and every checkpoint, choose one, and measure best-of-N on it by every rule; without a
    `policy`, score the baseline alone, on report splits.

    Selection, of a checkpoint and of how its answers are ranked, reads the `selection` split of the first benchmark
    alone, unless `choice` names another for the checkpoint; all that is reported comes from `report` splits.
    """

    INFRASTRUCTURE: ClassVar[frozenset[str]] = frozenset({"output", "engine", "gate_metrics"})

    FORMAT_VERSION: ClassVar[int] = 5
    """5: intervals of the ratios that gates read; nothing is drawn to be ranked where one answer is all there is."""

    stage: Literal["evaluation"] = "evaluation"
    policy: tuple[Artifact, ...]
    model: Model
    """The policy before alignment: baseline, and reference of the reward."""
    benchmarks: Annotated[tuple[BenchmarkConfig, ...], Field(min_length=1)]
    decoding: Decoding = Decoding(temperature=0.0)
    """Of the one answer that every model gives to each question."""
    ranked_decoding: Decoding = Decoding(temperature=0.7, top_p=0.9)
    """Of the answers that are ranked."""
    best_of: int = 8
    beta: float = 0.1
    lambdas: tuple[Annotated[FiniteFloat, Field(gt=0)], ...] = (0.1, 0.3, 1.0)
    """Weights that are tried of the rule `Regularised`."""
    reward_on_baseline: bool = False
    """Whether the baseline's answers are ranked by the chosen checkpoint, too (a figure of the paper).

    It takes as many answers of the baseline as of the checkpoint, and their log-probabilities.
    """
    min_recall_ratio: float = 0.95
    """A checkpoint whose recall on the selection split is below this share of the baseline's is chosen only where all
    are; then the one with the highest is."""
    bootstrap_resamples: int = 1000
    choice: Choice | None = None
    """None: response-level hallucination on the first benchmark."""
    gated: tuple[str, ...] = ()
    """Other benchmarks than the first whose selection splits the gate reads, by name."""
    gate_metrics: tuple[str, ...] = ()
    """What the gate reads of them, by its names in the metrics: of what is handed in, the last to be left out."""
    precision: Precision = "auto"
    engine: EngineConfig = EngineConfig()

    def content(self) -> dict[str, Any]:
        """As of any stage; what says no more than its default is no part of it."""
        content = super().content()
        return {name: value for name, value in content.items() if name not in ("choice", "gated") or value}

    @property
    def selecting(self) -> frozenset[str]:
        """Names of the benchmarks whose selection splits are answered."""
        if not self.policy:
            return frozenset()
        return frozenset({self.benchmarks[0].name, *self.gated, *([self.choice.benchmark] if self.choice else [])})

    @model_validator(mode="after")
    def _names_of_benchmarks(self) -> Self:
        names = [one.name for one in self.benchmarks]
        if unknown := sorted(self.selecting.difference(names)):
            raise ValueError(f"there is no benchmark {unknown[0]!r}; give one of {', '.join(names)}")
        return self


class ShapesConfig(Frozen):
    """Build the synthetic world: pictures with known truth, a small policy that hallucinates, a labeler."""

    stage: Literal["shapes"] = "shapes"
    output: str = "s3://feedback/shapes"
    seed: int = 0
    labelers: bool = False
    """Whether to build the labelers of the ablations, too."""


AnyStageConfig = Annotated[
    SamplingConfig
    | SplittingConfig
    | LabelingConfig
    | PairingConfig
    | TrainingConfig
    | EvaluationConfig
    | ShapesConfig,
    Field(discriminator="stage"),
]
STAGE_NAMES: Final = tuple(config.model_fields["stage"].default for config in get_args(get_args(AnyStageConfig)[0]))
"""Of the six stages and `shapes`."""
STAGE_CONFIG: TypeAdapter[AnyStageConfig] = TypeAdapter(AnyStageConfig)
"""Reads any stage's configuration by its `stage` field: `STAGE_CONFIG.validate_json(text)`."""


def shard_uri(config: StageConfig, shard: int) -> str:
    """Where shard `shard` of `config.shards` writes its parts and its manifest."""
    return shard_folder(config.output, shard, config.shards)


def shard_folder(output: str, shard: int, shards: int) -> str:
    """The folder of one of `shards` shards within that of their stage."""
    return f"{output}/shard-{shard:05d}-of-{shards:05d}"
