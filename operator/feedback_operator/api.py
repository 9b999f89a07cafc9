"""FeedbackIteration v1alpha1: the resource that people write.

The only source of the custom resource definition and of the reference documentation, so every field has a description
and explicit limits. Kubernetes API conventions hold: no floating point (decimal strings instead), durations as
`...Seconds` integers, enumerations instead of booleans where a third choice can come, references by name in the same
namespace.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

GROUP: Final = "feedback.rlaif.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "FeedbackIteration"


class Resource(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)


# ── scalar types ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _within(low: str, high: str) -> AfterValidator:
    def check(text: str) -> str:
        if not Decimal(low) <= Decimal(text) <= Decimal(high):
            raise ValueError(f"{text} is not between {low} and {high}")
        return text

    return AfterValidator(check)


_DECIMAL = Field(pattern=r"^[0-9]{1,12}(\.[0-9]{1,18})?$")
Fraction = Annotated[str, _DECIMAL, _within("0", "1")]
"""A decimal string from 0 to 1."""
Temperature = Annotated[str, _DECIMAL, _within("0", "2")]
Positive = Annotated[str, _DECIMAL, _within("0.000000000001", "1000")]
Ratio = Annotated[str, _DECIMAL, _within("0", "100")]

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", min_length=1, max_length=63)]
IterationName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", min_length=1, max_length=40)]
"""Short enough that the names of children, with stage, hash and attempt, stay within 63 characters."""
Uri = Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^\S+$")]
Text = Annotated[str, Field(max_length=4096)]
Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$", max_length=32)]
Toggle = Literal["Enabled", "Disabled"]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


# ── sources ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class SourceSpec(Resource):
    """A model or a data set: where it is, and, if you want to be sure, which bytes."""

    uri: Uri = Field(description="s3://bucket/prefix, hf://owner/name, or a path on the machine that runs the stage.")
    revision: Annotated[str, Field(max_length=128)] | None = Field(
        default=None, description="Revision of an hf:// repository: a commit, tag or branch."
    )
    sha256: Digest | None = Field(
        default=None, description="Digest of the folder's manifest.json; the stage refuses any other content."
    )


class FromIteration(Resource):
    """The model that another iteration of this namespace promoted."""

    iteration: IterationName = Field(description="Name of the FeedbackIteration to wait for and to follow.")


class ModelSpec(Resource):
    """The policy to align: either a source of its own, or the outcome of an earlier iteration."""

    uri: Uri | None = Field(default=None, description="s3://bucket/prefix, hf://owner/name, or a path.")
    revision: Annotated[str, Field(max_length=128)] | None = Field(
        default=None, description="Revision of an hf:// repository: a commit, tag or branch."
    )
    sha256: Digest | None = Field(default=None, description="Digest of the folder's manifest.json.")
    from_: FromIteration | None = Field(
        default=None, alias="from", description="Chain: start from the model that this iteration promoted."
    )

    @model_validator(mode="after")
    def _one_of(self) -> ModelSpec:
        if (self.uri is None) == (self.from_ is None):
            raise ValueError("give exactly one of uri and from")
        return self


# ── pods ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Resources(Resource):
    """Compute resources of each pod of the stage, as in a container's `resources`."""

    requests: Annotated[dict[str, Quantity], Field(max_length=16)] = Field(
        default={}, description="What the scheduler reserves: cpu, memory, nvidia.com/gpu."
    )
    limits: Annotated[dict[str, Quantity], Field(max_length=16)] = Field(
        default={}, description="What the pod may use at most."
    )


class Toleration(Resource):
    """As in a pod's `tolerations`."""

    key: Annotated[str, Field(max_length=253)] | None = None
    operator: Literal["Exists", "Equal"] = "Equal"
    value: Annotated[str, Field(max_length=63)] | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: int | None = None


class SecretEnv(Resource):
    """Environment variables from a Secret of the same namespace, such as S3 credentials."""

    name: Annotated[str, Field(max_length=253)] = Field(description="Name of the Secret; each key becomes a variable.")


class CacheVolume(Resource):
    """A volume that keeps downloaded models between pods."""

    claim_name: Annotated[str, Field(max_length=253)] = Field(
        description="PersistentVolumeClaim to mount as the cache."
    )


class PodOverrides(Resource):
    """What a stage's pods may be given beyond the defaults; anything else is refused."""

    image: Annotated[str, Field(max_length=512)] | None = Field(default=None, description="Container image.")
    image_pull_secrets: Annotated[list[Name], Field(max_length=8)] = Field(default=[], description="Pull secrets.")
    node_selector: Annotated[dict[str, str], Field(max_length=32)] = Field(default={}, description="Labels of nodes.")
    tolerations: Annotated[list[Toleration], Field(max_length=16)] = Field(default=[], description="Tolerated taints.")
    affinity: dict[str, Any] = Field(default={}, description="As in a pod's `affinity`.")
    priority_class_name: Annotated[str, Field(max_length=253)] | None = Field(default=None, description="Priority.")
    runtime_class_name: Annotated[str, Field(max_length=253)] | None = Field(default=None, description="Runtime.")
    service_account_name: Annotated[str, Field(max_length=253)] | None = Field(
        default=None,
        description="Identity of the pod towards the cloud (IRSA, workload identity); no token is mounted.",
    )
    env_from: Annotated[list[SecretEnv], Field(max_length=8)] = Field(default=[], description="Secrets as environment.")
    cache: CacheVolume | None = Field(default=None, description="Volume for downloaded models.")


class StageSection(Resource):
    """What every section that becomes pods has in common. Nothing here changes what is computed."""

    resources: Resources = Field(default=Resources(), description="Resources of each pod.")
    pod: PodOverrides = Field(default=PodOverrides(), description="Allowed changes to the pods.")


# ── spec ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


class ArtifactsSpec(Resource):
    """Where the stages leave their artifacts."""

    uri: Uri = Field(description="Folder for artifacts: s3://bucket/prefix, or a local path without a cluster.")


class SamplingSpec(StageSection):
    """How answers are drawn. One decoding for all candidates, so that pairs differ in content, not style."""

    candidates: int = Field(default=10, ge=2, le=64, description="Answers to each instruction.")
    temperature: Temperature = Field(default="0.7", description="Sampling temperature.")
    top_p: Fraction = Field(default="1.0", description="Nucleus sampling threshold.")
    max_new_tokens: int = Field(default=512, ge=1, le=32768, description="Longest answer in tokens.")
    temperatures: Annotated[list[Temperature], Field(max_length=16)] = Field(
        default=[],
        description="Ablation without deconfounding: candidate i uses the i-th temperature, round and round.",
    )
    shards: int = Field(default=1, ge=1, le=1024, description="Pods that share the instructions.")
    max_model_len: int | None = Field(default=None, ge=16, le=1048576, description="Context length given to vLLM.")


class SentencesSplitter(Resource):
    """Each sentence of an answer is a claim."""

    type: Literal["Sentences"] = "Sentences"
    language: Annotated[str, Field(pattern="^[a-z]{2,3}$")] = Field(default="en", description="ISO 639 code.")


class WholeAnswerSplitter(Resource):
    """Ablation: the whole answer is the one claim (holistic labels)."""

    type: Literal["WholeAnswer"] = "WholeAnswer"


class LLMSplitterSpec(Resource):
    """A text model divides the answers and writes the questions."""

    type: Literal["LLM"] = "LLM"
    model: SourceSpec = Field(description="Instruction-tuned text model.")
    temperature: Temperature = Field(default="0.2", description="Sampling temperature.")
    top_p: Fraction = Field(default="0.9", description="Nucleus sampling threshold.")
    max_new_tokens: int = Field(default=2048, ge=16, le=32768, description="Longest list of claims in tokens.")
    attempts: int = Field(default=3, ge=1, le=10, description="Tries before an answer is rejected.")


SplitterSpec = Annotated[
    SentencesSplitter | WholeAnswerSplitter | LLMSplitterSpec,
    Field(discriminator="type"),
]


class LabelerSpec(Resource):
    """Who judges: a splitter that divides answers into claims, and a multimodal model that accepts or rejects each."""

    model: SourceSpec = Field(description="Multimodal model that answers the yes/no questions.")
    splitter: SplitterSpec = Field(default=SentencesSplitter(), description="How answers become claims.")
    question_template: Annotated[str, Field(max_length=512, pattern=r"\{claim\}")] = Field(
        default="Is it true that {claim}? Please answer yes or no.",
        description="Question made of a claim, for splitters without a model. Must contain {claim}.",
    )


class LabelingSpec(StageSection):
    """How the claims and verdicts stages run."""

    shards: int = Field(default=1, ge=1, le=1024, description="Pods that share the answers, in each of the two stages.")
    max_model_len: int | None = Field(default=None, ge=16, le=1048576, description="Context length given to vLLM.")


class PairsSpec(StageSection):
    """How scored answers become preference pairs."""

    per_instruction: int = Field(default=2, ge=1, le=64, description="Most pairs of one instruction.")
    min_score_difference: int = Field(default=1, ge=1, le=64, description="Least difference in rejected claims.")
    length_balance: Toggle = Field(default="Enabled", description="Drop pairs until both sides are equally long.")
    truth: Literal["shapes", "object-halbench"] | None = Field(
        default=None, description="Benchmark type that can judge the answers, where the instructions carry their truth."
    )


class LoRASpec(Resource):
    """Low-rank adapters on the language model's linear layers."""

    rank: int = Field(default=64, ge=1, le=512, description="Rank r.")
    alpha: int = Field(default=16, ge=1, le=1024, description="Scale.")
    dropout: Fraction = Field(default="0.05", description="Dropout.")


class TrainingSpec(StageSection):
    """Direct preference optimisation of the policy."""

    beta: Positive = Field(default="0.1", description="Strength of the tie to the reference policy.")
    learning_rate: Positive = Field(default="0.0000005", description="Peak learning rate.")
    epochs: int = Field(default=4, ge=1, le=100, description="Passes over the pairs.")
    global_batch_size: int = Field(default=8, ge=1, le=65536, description="Pairs a step, whatever the number of GPUs.")
    warmup_ratio: Fraction = Field(default="0.05", description="Share of the steps with a rising learning rate.")
    weight_decay: Fraction = Field(default="0.01", description="Weight decay of AdamW.")
    max_length: int = Field(default=2048, ge=16, le=1048576, description="Longest row in tokens, picture included.")
    checkpoints_per_epoch: int = Field(default=4, ge=1, le=100, description="Checkpoints saved and scored an epoch.")
    lora: LoRASpec | None = Field(default=None, description="Train adapters instead of all weights.")
    reference: Literal["Sampled", "Recomputed"] = Field(
        default="Sampled", description="Reference log-probabilities: the sampler's own, or from a forward pass."
    )
    gradient_checkpointing: Toggle = Field(default="Enabled", description="Trade time for memory.")
    per_device_batch_size: int = Field(default=1, ge=1, le=4096, description="Pairs a GPU holds at once.")
    nodes: int = Field(default=1, ge=1, le=256, description="Pods that train together.")
    processes_per_node: int = Field(default=1, ge=1, le=64, description="Processes a pod: its GPUs.")
    zero_stage: Literal[0, 2, 3] = Field(default=2, description="DeepSpeed ZeRO stage; 0 trains without DeepSpeed.")

    @model_validator(mode="after")
    def _batch_divides(self) -> TrainingSpec:
        at_once = self.per_device_batch_size * self.nodes * self.processes_per_node
        if self.global_batch_size % at_once:
            raise ValueError(
                f"globalBatchSize {self.global_batch_size} is not a multiple of perDeviceBatchSize x nodes x "
                f"processesPerNode = {at_once}"
            )
        return self


class BenchmarkSpec(Resource):
    """Pictures and questions with known truth."""

    name: Name = Field(description="Name in reports.")
    type: Literal["shapes", "object-halbench"] = Field(description="How answers are judged.")
    uri: Uri = Field(description="Data set with columns id, image, question, truth, split.")
    revision: Annotated[str, Field(max_length=128)] | None = Field(
        default=None, description="Revision of an hf:// set."
    )
    sha256: Digest | None = Field(default=None, description="Digest of the folder's manifest.json.")


Metric = Literal["responseHallucination", "mentionHallucination", "recall", "meanWords"]


class GateRule(Resource):
    """One condition for promotion. Every rule must hold."""

    metric: Metric = Field(description="What is compared, on the report split of the first benchmark.")
    relative_to: Literal["Baseline"] | None = Field(
        default=None, description="Compare the ratio to the baseline of the same run instead of the value."
    )
    min: Ratio | None = Field(default=None, description="Least value or ratio.")
    max: Ratio | None = Field(default=None, description="Greatest value or ratio.")

    @model_validator(mode="after")
    def _has_bound(self) -> GateRule:
        if self.min is None and self.max is None:
            raise ValueError("give min, max or both")
        return self


class EvaluationSpec(StageSection):
    """How checkpoints are scored, which one is chosen, and what it must reach."""

    benchmarks: Annotated[list[BenchmarkSpec], Field(min_length=1, max_length=8)] = Field(
        description="Benchmarks; the first one selects the checkpoint and feeds the gate."
    )
    best_of: int = Field(default=8, ge=1, le=64, description="Answers ranked for the best-of-N figures.")
    length_normalisation: Toggle = Field(default="Enabled", description="Divide the reward by the answer's length.")
    min_recall_ratio: Fraction = Field(
        default="0.95", description="A checkpoint with less than this share of the baseline's recall is not chosen."
    )
    gate: Annotated[list[GateRule], Field(max_length=16)] = Field(
        default=[], description="What the aligned policy must reach to be promoted."
    )


class ServingSpec(StageSection):
    """The best-of-N endpoint of the promoted policy."""

    endpoint: Name | None = Field(default=None, description="Name of the endpoint that iterations take over in turn.")
    replicas: int = Field(default=1, ge=0, le=1000, description="Pods behind the endpoint.")
    best_of: int = Field(default=8, ge=1, le=64, description="Answers drawn for each request that does not say.")


class IterationSpec(Resource):
    """One round of sampling, labeling, training and scoring, and what becomes of the result."""

    model: ModelSpec = Field(description="The policy to align; also the reference and the baseline.")
    labeler: LabelerSpec = Field(description="Who judges the answers.")
    instructions: SourceSpec = Field(description="Data set with columns id, image, question: Parquet or JSON lines.")
    artifacts: ArtifactsSpec = Field(description="Where artifacts go.")
    sampling: SamplingSpec = Field(default=SamplingSpec(), description="Stage samples.")
    labeling: LabelingSpec = Field(default=LabelingSpec(), description="Stages claims and verdicts.")
    pairs: PairsSpec = Field(default=PairsSpec(), description="Stage pairs.")
    training: TrainingSpec = Field(default=TrainingSpec(), description="Stage policy.")
    evaluation: EvaluationSpec = Field(description="Stage scores, selection and gate.")
    serving: ServingSpec | None = Field(default=None, description="Endpoint; absent: nothing is served.")
    precision: Literal["Auto", "Float32", "BFloat16"] = Field(
        default="Auto", description="Arithmetic of all models; Auto is bfloat16 on GPUs and float32 without."
    )
    seed: int = Field(default=0, ge=0, le=2147483647, description="Everything random follows from it.")
    max_rejected_fraction: Fraction = Field(
        default="0.05", description="A stage that rejects a greater share of its rows fails."
    )
    suspend: bool = Field(default=False, description="Stop all Jobs; what is complete is kept.")
    deadline_seconds: int | None = Field(default=None, ge=1, le=31536000, description="Most time for each stage's Job.")
    ttl_seconds_after_finished: int | None = Field(
        default=None, ge=0, le=31536000, description="When finished Jobs are removed. Artifacts stay."
    )


class Metadata(BaseModel):
    """The part of ObjectMeta that the operator reads; other keys are left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)

    name: IterationName
    namespace: str = "default"
    uid: str = ""
    generation: int = 1
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


# ── status ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Condition(Resource):
    """As metav1.Condition."""

    type: Annotated[str, Field(max_length=316)]
    status: Literal["True", "False", "Unknown"]
    reason: Annotated[str, Field(max_length=1024)]
    message: Annotated[str, Field(max_length=32768)] = ""
    observed_generation: int = 0
    last_transition_time: str = ""


class ShardResult(Resource):
    """What one shard of a stage handed in."""

    shard: int
    uri: str
    sha256: str
    counts: dict[str, int] = {}
    metrics: dict[str, str] = Field(default={}, description="Decimal strings.")
    aligned: SourceSpec | None = Field(default=None, description="The checkpoint that the scores stage chose.")
    reused: bool = False


class StageStatus(Resource):
    """What is known of one stage."""

    name: str
    state: Literal["Waiting", "Running", "Suspended", "Done", "Failed"]
    hash: str = Field(default="", description="Content address of the artifact.")
    job: str = ""
    attempt: int = 0
    start_time: str = ""
    completion_time: str = ""
    done: int | None = None
    total: int | None = None
    message: str = ""
    shards: list[ShardResult] = []


class IterationStatus(Resource):
    """Computed from what was observed, in one place, at the end of each reconciliation."""

    observed_generation: int = 0
    conditions: list[Condition] = []
    stages: list[StageStatus] = []
    aligned: SourceSpec | None = Field(default=None, description="The chosen checkpoint.")


class FeedbackIteration(Resource):
    """One round of learning from open-source AI feedback."""

    api_version: Literal["feedback.rlaif.dev/v1alpha1"] = Field(alias="apiVersion")
    kind: Literal["FeedbackIteration"]
    metadata: Metadata
    spec: IterationSpec
    status: IterationStatus = IterationStatus()
