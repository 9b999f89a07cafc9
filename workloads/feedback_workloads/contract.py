"""What the operator and the workloads agree on: stage configurations, manifests, results and exit codes.

This is the one module of the workloads that the operator imports, so it needs nothing but pydantic. Everything here is
frozen data; JSON made from it uses the Python names.
"""

from __future__ import annotations

import hashlib
import json
from enum import IntEnum
from typing import Annotated, Any, ClassVar, Final, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter, model_validator

MANIFEST_NAME = "manifest.json"
"""Name of the file that makes an artifact whole; written after everything it names."""

STATISTICS_NAME = "statistics.json"
TRAINING_LOG_NAME = "training.jsonl"
SCORES_NAME = "scores.json"
"""What pairing, training and evaluation leave beside their tables: what there was to pair, each step, the figures."""

RESULT_LIMIT_BYTES = 4096
"""Kubernetes cuts a termination message at this size."""

Precision = Literal["auto", "float32", "bfloat16"]
"""Arithmetic of a model; `auto` is bfloat16 on GPUs and float32 on processors."""


class ExitCode(IntEnum):
    """How a stage process ends; the operator's podFailurePolicy is built on these."""

    DONE = 0
    BAD_INPUT = 2  # configuration or input is wrong: never retried
    TEMPORARY = 75  # EX_TEMPFAIL of sysexits.h: retried
    TERMINATED = 143  # 128 + SIGTERM: what is complete was flushed


class BadInput(Exception):
    """The configuration or an input is wrong; a retry cannot help.

    The message is one sentence that names the field or file, the value and the remedy.
    """


class Temporary(Exception):
    """A server or resource is out of reach for now; a retry may help."""


class Disconnected(Temporary):
    """Processes that train together lost each other, or never met."""


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


# ── references ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Artifact(Frozen):
    """A verified artifact: the folder `uri` whose manifest.json has this SHA-256 (hex)."""

    uri: str
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Source(Frozen):
    """A model or data set that comes from outside the iteration, or from an earlier one.

    `uri` is `s3://bucket/prefix`, `hf://owner/name` (a Hugging Face repository at `revision`) or a local path. With
    `sha256` the folder's manifest.json must have that digest; without it, the identity of the source is `uri` and
    `revision` alone.
    """

    uri: str
    revision: str | None = None
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None


BenchmarkType = Literal["shapes", "object-halbench"]


# ── stage configurations ─────────────────────────────────────────────────────────────────────────────────────────────


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


class SamplingConfig(StageConfig):
    """Draw several answers to each instruction from the policy, under one decoding.

    `temperatures`, when given, breaks that rule on purpose (the ablation without deconfounding): candidate i uses
    temperatures[i modulo their number].
    """

    FORMAT_VERSION: ClassVar[int] = 2
    """2: transparent pictures lie on white, not on black."""

    stage: Literal["sampling"] = "sampling"
    model: Source
    instructions: Source
    candidates: int = 10
    decoding: Decoding = Decoding()
    temperatures: tuple[float, ...] = ()
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
    model: Source
    decoding: Decoding = Decoding(temperature=0.2, top_p=0.9, max_new_tokens=2048)
    attempts: int = 3


Splitter = Annotated[SentenceSplitter | WholeAnswer | LLMSplitter, Field(discriminator="kind")]


class SplittingConfig(StageConfig):
    """Divide each answer into claims and each claim into one yes/no question."""

    FORMAT_VERSION: ClassVar[int] = 2
    """2: a splitter's thoughts are neither asked for nor taken for claims."""

    stage: Literal["splitting"] = "splitting"
    samples: tuple[Artifact, ...]
    splitter: Splitter = SentenceSplitter()
    question_template: str = "Is it true that {claim}? Please answer yes or no."
    precision: Precision = "auto"
    part_rows: int = 512  # answers' instructions a part file
    engine: EngineConfig = EngineConfig()


class LabelingConfig(StageConfig):
    """Ask the labeler each question about the picture: p(yes) against p(no) of one token."""

    stage: Literal["labeling"] = "labeling"
    claims: tuple[Artifact, ...]
    instructions: Source
    model: Source
    min_yes_no_mass: float = 0.5
    """Least p(yes) + p(no) of a verdict: where there is less, the labeler's answer begins with something else."""
    precision: Precision = "auto"
    part_rows: int = 64
    engine: EngineConfig = EngineConfig()


class PairingConfig(StageConfig):
    """Score answers by minus their rejected claims and pair the answers of one instruction."""

    FORMAT_VERSION: ClassVar[int] = 2
    """2: letters of scripts without spaces are counted as words."""

    stage: Literal["pairing"] = "pairing"
    samples: tuple[Artifact, ...]
    claims: tuple[Artifact, ...]
    verdicts: tuple[Artifact, ...]
    instructions: Source
    pairs_per_instruction: int = 2
    min_score_difference: int = 1
    length_balance: bool = True
    truth: BenchmarkType | None = None
    """Type of the benchmark that can judge answers against the instructions' `truth` column, where there is one."""


class LoRA(Frozen):
    """Low-rank adapters on the language model's linear layers, all but lm_head."""

    rank: int = 64
    alpha: int = 16
    dropout: float = 0.05


class TrainingConfig(StageConfig):
    """Train the policy with DPO from the pairs, with the sampler's log-probabilities as references."""

    INFRASTRUCTURE: ClassVar[frozenset[str]] = frozenset(
        {"output", "per_device_batch_size", "nodes", "processes_per_node", "zero_stage", "gradient_checkpointing"}
    )
    ALONE: ClassVar[bool] = True

    stage: Literal["training"] = "training"
    pairs: tuple[Artifact, ...]
    model: Source
    beta: float = 0.1
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


class EvaluationConfig(StageConfig):
    """Score the baseline and every checkpoint, choose one, and measure best-of-N on it.

    Selection, of a checkpoint and of how many answers to rank, reads the `selection` split of the first benchmark
    alone; all that is reported comes from `report` splits.
    """

    FORMAT_VERSION: ClassVar[int] = 2
    """2: the selection split is ranked, too, and how many answers to rank is chosen on it."""

    stage: Literal["evaluation"] = "evaluation"
    policy: tuple[Artifact, ...]
    model: Source
    """The policy before alignment: baseline, and reference of the reward."""
    benchmarks: Annotated[tuple[BenchmarkConfig, ...], Field(min_length=1)]
    decoding: Decoding = Decoding()
    best_of: int = 8
    beta: float = 0.1
    length_normalisation: bool = True
    min_recall_ratio: float = 0.95
    """A checkpoint whose recall on the selection split is below this share of the baseline's is not chosen."""
    bootstrap_resamples: int = 1000
    precision: Precision = "auto"
    engine: EngineConfig = EngineConfig()


class ShapesConfig(Frozen):
    """Build the synthetic world: pictures with known truth, a small policy that hallucinates, a labeler."""

    stage: Literal["shapes"] = "shapes"
    output: str = "s3://feedback/shapes"
    seed: int = 0


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


# ── what a stage leaves ──────────────────────────────────────────────────────────────────────────────────────────────


class FileEntry(Frozen):
    """One file of an artifact. `name` is its path below the artifact's folder; `rows` is set for tables."""

    name: str
    sha256: str
    bytes: int
    rows: int | None = None


class Manifest(Frozen):
    """Everything one artifact (or one shard of it) consists of.

    Holds no time and no host, so that the same work gives the same bytes. `counts` has at least `rows` and `rejected`;
    `metrics` are quality figures; `artifacts` names artifacts within this one (the checkpoints of a policy) in order.
    """

    stage: str
    config: dict[str, Any]
    config_hash: str
    files: tuple[FileEntry, ...]
    counts: dict[str, int]
    metrics: dict[str, FiniteFloat] = {}
    versions: dict[str, str] = {}
    artifacts: dict[str, Artifact] = {}

    def encode(self) -> bytes:
        return canonical_json(self.model_dump(mode="json"))


class StageResult(Frozen):
    """What a finished stage hands to the operator through the container's termination message (at most 4 KiB)."""

    stage: str
    shard: int
    manifest: Artifact
    counts: dict[str, int]
    metrics: dict[str, FiniteFloat] = {}
    aligned: Artifact | None = None
    """The checkpoint that the evaluation chose."""
    best_of: Annotated[int, Field(ge=1, le=64)] | None = None
    """How many of its answers to rank, as the evaluation chose; 1 where ranking did not help."""
    reused: bool
    """True where the artifact was already there and nothing was computed."""


class StageFailure(Frozen):
    """What a failed stage leaves in the termination message instead of a result."""

    stage: str
    shard: int
    reason: str
    """CamelCase, for conditions: BadInput, Temporary, Communication, OutOfMemory, DiskFull, Internal."""
    message: str


def shard_uri(config: StageConfig, shard: int) -> str:
    """Where shard `shard` of `config.shards` writes its parts and its manifest."""
    return f"{config.output}/shard-{shard:05d}-of-{config.shards:05d}"


def canonical_json(value: Any) -> bytes:
    """One byte string for equal data: sorted keys, no spaces, UTF-8. Rejects NaN and infinities."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
