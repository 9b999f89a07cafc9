"""FeedbackIteration v1alpha1: the resource that people write.

The only source of the custom resource definition and of the reference documentation, so every field has a description
and explicit limits. Kubernetes API conventions hold: no floating point (decimal strings instead), durations as
`...Seconds` integers, enumerations instead of booleans where a third choice can come, references by name in the same
namespace.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Final, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetJsonSchemaHandler, Strict, model_validator
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from feedback_operator.rules import OPERATIONAL, VALIDATIONS, Rule, UniqueBy, check_all

GROUP: Final = "feedback.rlaif.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "FeedbackIteration"


class Resource(BaseModel):
    """A part of the resource. Its rules are those over more than one field."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)
    RULES: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _as_the_api_server_reads(cls, data: Any) -> Any:
        """Fields that are null are absent, and 8.0 is the integer 8."""
        if not isinstance(data, dict):
            return data
        known = {field.alias for field in cls.model_fields.values()}
        return {key: _whole_number(value) for key, value in data.items() if value is not None or key not in known}

    @model_validator(mode="after")
    def _rules(self) -> Self:
        check_all(self.RULES, self)
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core)
        if cls.RULES:
            handler.resolve_ref_schema(schema)[VALIDATIONS] = [rule.validation() for rule in cls.RULES]
        return schema


def _whole_number(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


# ── scalar types ─────────────────────────────────────────────────────────────────────────────────────────────────────

Integer = Annotated[int, Strict()]
Switch = Annotated[bool, Strict()]
"""Neither is "8" an integer nor "true" a boolean: as the API server has it."""


def _above(low: str, high: str) -> Rule:
    return Rule(
        cel=f"double(self) > {float(low)} && double(self) <= {float(high)}",
        message=f"must be greater than {low} and at most {high}",
        holds=lambda text: float(low) < float(text) <= float(high),
    )


def _between(low: str, high: str) -> Rule:
    return Rule(
        cel=f"double(self) >= {float(low)} && double(self) <= {float(high)}",
        message=f"must be between {low} and {high}",
        holds=lambda text: float(low) <= float(text) <= float(high),
    )


DECIMAL_PATTERN: Final = r"^[0-9]{1,9}(\.[0-9]{1,12})?$"
_DECIMAL = Field(pattern=DECIMAL_PATTERN, max_length=22)
Fraction = Annotated[str, _DECIMAL, _between("0", "1")]
"""A decimal string from 0 to 1."""
Temperature = Annotated[str, _DECIMAL, _between("0", "2")]
Share = Annotated[str, _DECIMAL, _above("0", "1")]
"""A decimal string greater than 0 and at most 1."""
Positive = Annotated[str, _DECIMAL, _above("0", "1000")]
Bound = Annotated[str, _DECIMAL]
"""A decimal string of a metric or a ratio of metrics."""

NAME_PATTERN: Final = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
Name = Annotated[str, Field(pattern=NAME_PATTERN, min_length=1, max_length=63)]
"""Lower case letters, digits and dashes; starts with a letter, as names of Services must."""
IterationName = Annotated[str, Field(pattern=NAME_PATTERN, min_length=1, max_length=36)]
"""Short enough that the names of Jobs and of their pods, with stage, hash, attempt and index, stay within 63."""
ObjectName = Annotated[str, Field(pattern=r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$", min_length=1, max_length=253)]
"""Name of a Secret, a PersistentVolumeClaim, a ServiceAccount or a class."""
Uri = Annotated[
    str,
    Field(min_length=1, max_length=1024, pattern=r"^[^\x00-\x20\x7f]+$"),
    Rule(
        cel="self.startsWith('s3://') || self.startsWith('hf://') || !self.contains('://')",
        message="must be s3://bucket/prefix, hf://owner/name or a path",
        holds=lambda uri: uri.startswith(("s3://", "hf://")) or "://" not in uri,
    ),
]
Revision = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00-\x20\x7f]+$")]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$", max_length=64)]
Toggle = Literal["Enabled", "Disabled"]


def _integer_as_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Quantity = Annotated[
    str,
    Field(
        pattern=r"^[0-9]{1,12}(\.[0-9]{1,9})?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$",
        max_length=26,
        json_schema_extra={"x-kubernetes-int-or-string": True},
    ),
    BeforeValidator(_integer_as_text),
]
"""As in Kubernetes: `4`, `"500m"`, `64Gi`."""
_FACTORS: Final = {
    "m": Decimal("0.001"),
    "": Decimal(1),
    **{unit: Decimal(1000) ** power for power, unit in enumerate(("k", "M", "G", "T"), start=1)},
    **{unit: Decimal(1024) ** power for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti"), start=1)},
}


def amount(quantity: str) -> Decimal:
    """A quantity as a number."""
    digits = quantity.rstrip("kmKMGTi")
    return Decimal(digits) * _FACTORS[quantity[len(digits) :]]


# ── sources ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class SourceSpec(Resource):
    """A model or a data set: where it is, and, if you want to be sure, which bytes."""

    uri: Uri = Field(description="s3://bucket/prefix, hf://owner/name, or a path on the machine that runs the stage.")
    revision: Revision | None = Field(
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

    RULES = (
        Rule(
            cel="has(self.uri) != has(self.from)",
            message="give exactly one of uri and from",
            holds=lambda model: (model.uri is None) != (model.from_ is None),
        ),
        Rule(
            cel="has(self.uri) || (!has(self.revision) && !has(self.sha256))",
            message="revision and sha256 must not be given with from; the iteration brings its own digest",
            holds=lambda model: model.uri is not None or (model.revision is None and model.sha256 is None),
        ),
    )

    uri: Uri | None = Field(
        default=None, description="s3://bucket/prefix, hf://owner/name, or a path on the machine that runs the stage."
    )
    revision: Revision | None = Field(
        default=None, description="Revision of an hf:// repository: a commit, tag or branch."
    )
    sha256: Digest | None = Field(
        default=None, description="Digest of the folder's manifest.json; the stages refuse any other content."
    )
    from_: FromIteration | None = Field(
        default=None, alias="from", description="Chain: start from the model that this iteration promoted."
    )


# ── pods ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


_STANDARD: Final = ("cpu", "memory", "ephemeral-storage")


def _whole_devices(amounts: dict[str, str]) -> bool:
    return all("/" not in name or text.isdecimal() for name, text in amounts.items())


Amounts = Annotated[
    dict[str, Quantity],
    Field(max_length=16),
    Rule(
        cel="self.all(name, name in ['cpu', 'memory', 'ephemeral-storage'] "
        "|| name.matches('^[a-z0-9]([-.a-z0-9]{0,250}[a-z0-9])?/[A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?$'))",
        message="names must be cpu, memory, ephemeral-storage, or a device such as nvidia.com/gpu",
        holds=lambda amounts: all(
            name in _STANDARD
            or re.fullmatch(r"[a-z0-9]([-.a-z0-9]{0,250}[a-z0-9])?/[A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?", name)
            for name in amounts
        ),
    ),
    Rule(
        cel="self.all(name, !name.contains('/') || string(self[name]).matches('^[0-9]+$'))",
        message="devices such as nvidia.com/gpu must be counted in whole numbers without a unit",
        holds=_whole_devices,
    ),
]


def _within_limits(resources: Resources) -> bool:
    return all(
        amount(text) <= amount(resources.limits[name])
        for name, text in resources.requests.items()
        if name in resources.limits
    )


def _devices_are_limits(resources: Resources) -> bool:
    return all(
        name in resources.limits and amount(resources.limits[name]) == amount(text)
        for name, text in resources.requests.items()
        if "/" in name
    )


class Resources(Resource):
    """Compute resources of each pod, as in a container's `resources`."""

    RULES = (
        Rule(
            cel="!has(self.requests) || !has(self.limits) || self.requests.all(name, !(name in self.limits) "
            "|| quantity(string(self.requests[name])).compareTo(quantity(string(self.limits[name]))) <= 0)",
            message="a request must not be greater than its limit",
            holds=_within_limits,
        ),
        Rule(
            cel="!has(self.requests) || self.requests.all(name, !name.contains('/') || (has(self.limits) "
            "&& name in self.limits && string(self.requests[name]) == string(self.limits[name])))",
            message="a device such as nvidia.com/gpu must be under limits; a request for it, if any, must be equal",
            holds=_devices_are_limits,
        ),
    )

    requests: Amounts = Field(default={}, description="What the scheduler reserves: cpu, memory.")
    limits: Amounts = Field(default={}, description="What the pod may use at most: cpu, memory, nvidia.com/gpu.")


_LABEL_KEY: Final = r"^([a-z0-9]([-.a-z0-9]*[a-z0-9])?/)?[A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?$"
LabelKey = Annotated[str, Field(min_length=1, max_length=317, pattern=_LABEL_KEY)]
LabelValue = Annotated[str, Field(max_length=63, pattern=r"^([A-Za-z0-9]([-_.A-Za-z0-9]*[A-Za-z0-9])?)?$")]


AffinityKind = Literal["nodeAffinity", "podAffinity", "podAntiAffinity"]


def _without_nulls(value: object) -> object:
    if not isinstance(value, dict):
        return value
    return {kind: rules for kind, rules in value.items() if rules is not None or kind not in get_args(AffinityKind)}


Affinity = Annotated[
    dict[
        AffinityKind,
        Annotated[
            dict[str, Any],
            Field(
                description="As in a pod; the API server checks it when the pod is made.",
                json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
            ),
        ],
    ],
    BeforeValidator(_without_nulls),
]


class Toleration(Resource):
    """A taint of nodes that the pods put up with, as in a pod's `tolerations`."""

    RULES = (
        Rule(
            cel="has(self.key) || self.operator == 'Exists'",
            message="a toleration without a key needs operator Exists",
            holds=lambda toleration: toleration.key is not None or toleration.operator == "Exists",
        ),
        Rule(
            cel="self.operator != 'Exists' || !has(self.value) || self.value == ''",
            message="a toleration with operator Exists must have no value",
            holds=lambda toleration: toleration.operator != "Exists" or not toleration.value,
        ),
        Rule(
            cel="!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            message="tolerationSeconds needs effect NoExecute",
            holds=lambda toleration: toleration.toleration_seconds is None or toleration.effect == "NoExecute",
        ),
    )

    key: LabelKey | None = Field(default=None, description="Key of the taint; absent with Exists: every taint.")
    operator: Literal["Exists", "Equal"] = Field(
        default="Equal", description="Equal compares the value; Exists is content with the key."
    )
    value: LabelValue | None = Field(default=None, description="Value of the taint; absent with Exists.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="Effect of the taint; absent: every effect."
    )
    toleration_seconds: Annotated[Integer, Field(ge=0, le=31536000)] | None = Field(
        default=None, description="How long a NoExecute taint is put up with; absent: for ever."
    )


class SecretEnv(Resource):
    """Environment variables from a Secret of the same namespace, such as S3 credentials."""

    name: ObjectName = Field(description="Name of the Secret; each of its keys becomes a variable.")


class CacheVolume(Resource):
    """A volume that keeps downloaded models between pods."""

    claim_name: ObjectName = Field(description="PersistentVolumeClaim of the same namespace to mount as the cache.")


class PodOverrides(Resource):
    """What pods may be given beyond the defaults; anything else is refused."""

    image: Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[^\x00-\x20\x7f]+$")] | None = Field(
        default=None, description="Container image in place of the operator's default."
    )
    image_pull_secrets: Annotated[list[ObjectName], Field(max_length=8), UniqueBy()] = Field(
        default=[], description="Names of Secrets with credentials of the image's registry."
    )
    node_selector: Annotated[
        dict[str, LabelValue],
        Field(max_length=32),
        Rule(
            cel=f"self.all(key, key.matches('{_LABEL_KEY}'))",
            message="keys must be labels of nodes, such as example.com/pool",
            holds=lambda labels: all(re.fullmatch(_LABEL_KEY.strip("^$"), key) for key in labels),
        ),
    ] = Field(default={}, description="Labels that a node must have.")
    tolerations: Annotated[list[Toleration], Field(max_length=16)] = Field(
        default=[], description="Taints of nodes that the pods put up with."
    )
    affinity: Affinity = Field(default={}, description="Which nodes, as in a pod's `affinity`.")
    priority_class_name: ObjectName | None = Field(default=None, description="PriorityClass of the pods.")
    runtime_class_name: ObjectName | None = Field(default=None, description="RuntimeClass of the pods.")
    service_account_name: ObjectName | None = Field(
        default=None,
        description="Identity of the pods towards the cloud (IRSA, workload identity); no token is mounted.",
    )
    env_from: Annotated[list[SecretEnv], Field(max_length=8), UniqueBy(("name",))] = Field(
        default=[], description="Secrets whose keys become environment variables, such as S3 credentials."
    )
    cache: CacheVolume | None = Field(
        default=None, description="Volume for downloaded models; absent: each pod downloads them anew."
    )


class StageSection(Resource):
    """What every section that becomes pods has in common. Nothing here changes what is computed."""

    resources: Annotated[Resources, OPERATIONAL] = Field(
        default=Resources(), description="Compute resources of each pod."
    )
    pod: Annotated[PodOverrides, OPERATIONAL] = Field(
        default=PodOverrides(), description="What the pods are given beyond the defaults."
    )


# ── spec ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


class ArtifactsSpec(Resource):
    """Where the stages leave their artifacts."""

    uri: Annotated[Uri, Field(max_length=512)] = Field(
        description="Folder for artifacts: s3://bucket/prefix, or a local path without a cluster."
    )


class SamplingSpec(StageSection):
    """How answers are drawn. One decoding for all candidates, so that pairs differ in content, not style."""

    candidates: Integer = Field(default=10, ge=2, le=64, description="Answers to each instruction.")
    temperature: Temperature = Field(default="0.7", description="Sampling temperature, from 0 to 2.")
    top_p: Share = Field(default="1.0", description="Nucleus sampling threshold, above 0 and at most 1.")
    max_new_tokens: Integer = Field(default=512, ge=1, le=32768, description="Longest answer in tokens.")
    temperatures: Annotated[list[Temperature], Field(max_length=16)] = Field(
        default=[],
        description="Ablation without deconfounding: candidate i uses the i-th temperature, round and round.",
    )
    shards: Integer = Field(default=1, ge=1, le=256, description="Pods that share the instructions.")
    max_model_len: Annotated[Annotated[Integer, Field(ge=16, le=1048576)] | None, OPERATIONAL] = Field(
        default=None,
        description="Context length of the policy in vLLM, in tokens, wherever it answers: in the stages samples and "
        "scores, and at the endpoint; absent: the model's own.",
    )


class SentencesSpec(Resource):
    """A rule-based division of answers into sentences."""

    language: Annotated[str, Field(pattern="^[a-z]{2,3}$", max_length=3)] = Field(
        default="en", description="ISO 639 code of the answers' language."
    )


class LLMSpec(Resource):
    """A text model that divides answers into claims and writes the questions."""

    model: SourceSpec = Field(description="Instruction-tuned text model.")
    temperature: Temperature = Field(default="0.2", description="Sampling temperature, from 0 to 2.")
    top_p: Share = Field(default="0.9", description="Nucleus sampling threshold, above 0 and at most 1.")
    max_new_tokens: Integer = Field(default=2048, ge=16, le=32768, description="Longest list of claims in tokens.")
    attempts: Integer = Field(default=3, ge=1, le=10, description="Tries before an answer is rejected.")


class SplitterSpec(Resource):
    """How answers become claims: a type, and the parameters of that type."""

    RULES = (
        Rule(
            cel="(self.type == 'LLM') == has(self.llm)",
            message="llm must be given for type LLM, and for no other",
            holds=lambda splitter: (splitter.type == "LLM") == (splitter.llm is not None),
        ),
        Rule(
            cel="self.type == 'Sentences' || !has(self.sentences)",
            message="sentences must be given for no type but Sentences",
            holds=lambda splitter: splitter.type == "Sentences" or splitter.sentences is None,
        ),
    )

    type: Literal["Sentences", "WholeAnswer", "LLM"] = Field(
        default="Sentences",
        description="Sentences: each sentence is a claim. LLM: a text model finds the claims and writes the questions. "
        "WholeAnswer: the whole answer is the one claim (an ablation, holistic labels).",
    )
    sentences: SentencesSpec | None = Field(default=None, description="Parameters of type Sentences.")
    llm: LLMSpec | None = Field(default=None, description="Parameters of type LLM.")


class LabelerSpec(Resource):
    """Who judges: a splitter that divides answers into claims, and a multimodal model that accepts or rejects each."""

    model: SourceSpec = Field(
        description="Multimodal model that answers the yes/no questions. Where its chat template can switch thinking "
        "off, it is off."
    )
    splitter: SplitterSpec = Field(default=SplitterSpec(), description="How answers become claims.")
    question_template: Annotated[str, Field(max_length=512, pattern=r"\{claim\}")] = Field(
        default="Is it true that {claim}? Please answer yes or no.",
        description="Question made of a claim, for splitters without a model. Must contain {claim}.",
    )
    min_yes_no_mass: Fraction = Field(
        default="0.5",
        description="Least probability, from 0 to 1, that the model's answer to a question begins with yes or no. "
        "Where it is less, the model says something else first, and the answer that was to be judged is rejected.",
    )


class LabelingSpec(StageSection):
    """How the claims and verdicts stages run."""

    shards: Integer = Field(
        default=1, ge=1, le=256, description="Pods that share the answers, in each of the two stages."
    )
    max_model_len: Annotated[Annotated[Integer, Field(ge=16, le=1048576)] | None, OPERATIONAL] = Field(
        default=None,
        description="Context length of the labeler and of a splitter's model in vLLM, in tokens; absent: the model's "
        "own.",
    )


class PairsSpec(StageSection):
    """How scored answers become preference pairs."""

    per_instruction: Integer = Field(default=2, ge=1, le=64, description="Most pairs of one instruction.")
    min_score_difference: Integer = Field(default=1, ge=1, le=64, description="Least difference in rejected claims.")
    length_balance: Toggle = Field(default="Enabled", description="Drop pairs until both sides are equally long.")
    truth: Literal["shapes", "object-halbench"] | None = Field(
        default=None, description="Benchmark type that can judge the answers, where the instructions carry their truth."
    )


class LoRASpec(Resource):
    """Low-rank adapters on the language model's linear layers."""

    rank: Integer = Field(default=64, ge=1, le=512, description="Rank of the adapters.")
    alpha: Integer = Field(default=16, ge=1, le=1024, description="Scale of the adapters, in units of 1/rank.")
    dropout: Fraction = Field(
        default="0.05", description="Share of the adapters' inputs that is dropped while training, from 0 to 1."
    )


class TrainingSpec(StageSection):
    """Direct preference optimisation of the policy."""

    RULES = (
        Rule(
            cel="self.globalBatchSize % (self.perDeviceBatchSize * self.nodes * self.processesPerNode) == 0",
            message="globalBatchSize must be a multiple of perDeviceBatchSize x nodes x processesPerNode",
            holds=lambda training: (
                training.global_batch_size
                % (training.per_device_batch_size * training.nodes * training.processes_per_node)
                == 0
            ),
        ),
    )

    beta: Positive = Field(
        default="0.1", description="Strength of the tie to the policy before alignment; greater than 0."
    )
    learning_rate: Positive = Field(
        default="0.0000005", description="Peak learning rate, as a plain decimal: 0.0000005, not 5e-7."
    )
    epochs: Integer = Field(default=4, ge=1, le=100, description="Passes over the pairs.")
    global_batch_size: Integer = Field(
        default=8, ge=1, le=65536, description="Pairs a step, whatever the number of GPUs."
    )
    warmup_ratio: Fraction = Field(
        default="0.05", description="Share of the steps with a rising learning rate, from 0 to 1."
    )
    weight_decay: Fraction = Field(default="0.01", description="Weight decay of AdamW, from 0 to 1.")
    max_length: Integer = Field(default=2048, ge=16, le=1048576, description="Longest row in tokens, picture included.")
    checkpoints_per_epoch: Integer = Field(
        default=4, ge=1, le=100, description="Checkpoints saved and scored an epoch."
    )
    lora: LoRASpec | None = Field(default=None, description="Train adapters instead of all weights.")
    reference: Literal["Sampled", "Recomputed"] = Field(
        default="Sampled", description="Reference log-probabilities: the sampler's own, or from a forward pass."
    )
    parity_limit: Annotated[str, _DECIMAL, _above("0.03", "1000")] = Field(
        default="0.2",
        description="Largest mean difference, in nats a token, between the sampler's log-probabilities and those of a "
        "forward pass. Above 0.03 references are recomputed; above this limit vLLM and the trainer compute different "
        "models, best-of-N would rank by the wrong one, and training ends before its first step.",
    )
    gradient_checkpointing: Annotated[Toggle, OPERATIONAL] = Field(
        default="Enabled", description="Compute activations again in the backward pass: less memory, more time."
    )
    per_device_batch_size: Annotated[Integer, OPERATIONAL] = Field(
        default=1,
        ge=1,
        le=4096,
        description="Pairs a process holds at once; more is faster and takes more memory. At most globalBatchSize / "
        "(nodes x processesPerNode).",
    )
    nodes: Annotated[Integer, OPERATIONAL] = Field(default=1, ge=1, le=256, description="Pods that train together.")
    processes_per_node: Annotated[Integer, OPERATIONAL] = Field(
        default=1, ge=1, le=64, description="Processes a pod: as many as it has GPUs."
    )
    zero_stage: Annotated[Literal[0, 2, 3], OPERATIONAL] = Field(
        default=2, description="DeepSpeed ZeRO stage; 0 trains without DeepSpeed."
    )


class BenchmarkSpec(Resource):
    """Pictures and questions with known truth."""

    name: Name = Field(description="Name in reports; each benchmark has its own.")
    type: Literal["shapes", "object-halbench"] = Field(
        description="How answers are judged, and what the column truth holds."
    )
    uri: Uri = Field(description="Data set with columns id, image, question, truth, split.")
    revision: Revision | None = Field(
        default=None, description="Revision of an hf:// repository: a commit, tag or branch."
    )
    sha256: Digest | None = Field(
        default=None, description="Digest of the folder's manifest.json; the stages refuse any other content."
    )


Metric = Literal["responseHallucination", "mentionHallucination", "recall", "meanWords"]


class GateRule(Resource):
    """One condition for promotion. Every rule must hold."""

    RULES = (
        Rule(
            cel="has(self.min) || has(self.max)",
            message="give min, max or both",
            holds=lambda rule: rule.min is not None or rule.max is not None,
        ),
        Rule(
            cel="!has(self.min) || !has(self.max) || double(self.min) <= double(self.max)",
            message="min must not be greater than max",
            holds=lambda rule: rule.min is None or rule.max is None or float(rule.min) <= float(rule.max),
        ),
    )

    metric: Metric = Field(description="What is compared, on the report split of the first benchmark.")
    relative_to: Literal["Baseline"] | None = Field(
        default=None, description="Compare the ratio to the baseline of the same run instead of the value."
    )
    min: Bound | None = Field(default=None, description="Least value or ratio that passes.")
    max: Bound | None = Field(default=None, description="Greatest value or ratio that passes.")


class EvaluationSpec(StageSection):
    """How checkpoints are scored, which one is chosen, and what it must reach."""

    benchmarks: Annotated[list[BenchmarkSpec], Field(min_length=1, max_length=8), UniqueBy(("name",))] = Field(
        description="Benchmarks; the first one selects the checkpoint and feeds the gate."
    )
    best_of: Integer = Field(
        default=8, ge=1, le=64, description="Answers ranked for the best-of-N figures, from 1 up to so many."
    )
    length_normalisation: Toggle = Field(default="Enabled", description="Divide the reward by the answer's length.")
    min_recall_ratio: Fraction = Field(
        default="0.95", description="A checkpoint with less than this share of the baseline's recall is not chosen."
    )
    gate: Annotated[list[GateRule], Field(max_length=16), OPERATIONAL] = Field(
        default=[], description="What the aligned policy must reach to be promoted."
    )


class ServingSpec(StageSection):
    """The best-of-N endpoint of the promoted policy."""

    endpoint: Name | None = Field(
        default=None,
        description="Name of the Deployment and the Service; the newest promoted iteration that names it serves there. "
        "Absent: nothing is served.",
    )
    replicas: Annotated[Integer, Field(ge=0, le=1000)] | None = Field(
        default=None,
        description="Pods behind the endpoint; 0 keeps its name and address without any. Absent: one at first, then as "
        "many as an autoscaler or `kubectl scale` makes of it.",
    )
    best_of: Annotated[Integer, Field(ge=1, le=64)] | None = Field(
        default=None,
        description="Answers drawn and ranked for each request that does not say. Absent: as many as the scores stage "
        "found best on the selection split, up to spec.evaluation.bestOf; one where ranking did not help.",
    )
    progress_deadline_seconds: Integer = Field(
        default=1800,
        ge=10,
        le=86400,
        description="A rollout without a newly ready pod for so long is taken back: the pods load models in this time.",
    )


class IterationSpec(Resource):
    """One round of sampling, labeling, training and scoring, and what becomes of the result."""

    model: ModelSpec = Field(
        description="The policy to align; also the reference and the baseline. A model of LLaVA-1.5's layout."
    )
    labeler: LabelerSpec = Field(description="Who judges the answers.")
    instructions: SourceSpec = Field(description="Data set with columns id, image, question: Parquet or JSON lines.")
    artifacts: ArtifactsSpec = Field(description="Where the stages leave their results.")
    sampling: SamplingSpec = Field(default=SamplingSpec(), description="How answers are drawn: stage samples.")
    labeling: LabelingSpec = Field(
        default=LabelingSpec(), description="How answers are judged: stages claims and verdicts."
    )
    pairs: PairsSpec = Field(
        default=PairsSpec(), description="How judged answers become preference pairs: stage pairs."
    )
    training: TrainingSpec = Field(
        default=TrainingSpec(), description="How the policy learns from the pairs: stage policy."
    )
    evaluation: EvaluationSpec = Field(
        description="How checkpoints are scored, which is chosen, and what it must reach: stage scores."
    )
    serving: Annotated[ServingSpec | None, OPERATIONAL] = Field(
        default=None, description="Best-of-N endpoint of the promoted policy; absent: nothing is served."
    )
    precision: Literal["Auto", "Float32", "BFloat16"] = Field(
        default="Auto", description="Arithmetic of all models; Auto is bfloat16 on GPUs and float32 without."
    )
    seed: Integer = Field(
        default=0,
        ge=0,
        le=2147483647,
        description="Everything random follows from it: the same spec gives the same result.",
    )
    max_rejected_fraction: Fraction = Field(
        default="0.05", description="A stage that rejects a greater share of its rows fails, from 0 to 1."
    )
    suspend: Annotated[Switch, OPERATIONAL] = Field(
        default=False, description="Stop all Jobs; what is complete is kept, and false goes on from there."
    )
    deadline_seconds: Annotated[Annotated[Integer, Field(ge=1, le=31536000)] | None, OPERATIONAL] = Field(
        default=None, description="Most seconds that each stage's Job may take; absent: no limit."
    )
    ttl_seconds_after_finished: Annotated[Annotated[Integer, Field(ge=0, le=31536000)] | None, OPERATIONAL] = Field(
        default=None,
        description="Seconds after which finished Jobs are removed, artifacts stay; absent: with the iteration.",
    )


class Metadata(BaseModel):
    """The part of ObjectMeta that the operator reads; other keys are left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)

    name: IterationName
    namespace: str = "default"
    uid: str = ""
    generation: int = 1
    resource_version: str = ""
    creation_timestamp: str = ""
    deletion_timestamp: str | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"


# ── status ───────────────────────────────────────────────────────────────────────────────────────────────────────────


Moment = Annotated[str, Field(max_length=20, pattern=r"^([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z)?$")]
"""RFC 3339 in UTC with whole seconds, or empty where it has not come."""


def _measured(text: object) -> object:
    """NaN, infinities and figures of absurd length are as good as not measured."""
    if isinstance(text, str) and not (len(text) <= 64 and re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", text)):
        return ""
    return text


def _cut(text: object) -> object:
    return text if not isinstance(text, str) or len(text) <= MESSAGE_LIMIT else text[: MESSAGE_LIMIT - 1] + "…"


def _camel_case(text: object) -> object:
    """A reason that a program gave in its own words, in the letters that a condition's reason may have."""
    if not isinstance(text, str) or not text:
        return text
    return re.sub(r"[^A-Za-z0-9]", "", text).lstrip("0123456789")[:128] or "Unknown"


MESSAGE_LIMIT: Final = 8192
# What comes from pods is made to fit: a status that the API server refuses would be worse than one that is cut.
Measured = Annotated[str, Field(max_length=64, pattern=r"^(-?[0-9]+(\.[0-9]+)?)?$"), BeforeValidator(_measured)]
"""A metric as a decimal string, or empty where it was not measured."""
Message = Annotated[str, Field(max_length=MESSAGE_LIMIT), BeforeValidator(_cut)]
Reason = Annotated[str, Field(max_length=128, pattern="^([A-Za-z][A-Za-z0-9]*)?$"), BeforeValidator(_camel_case)]
Whole = Annotated[int, Field(ge=0)]


class Observed(Resource):
    """A part of the status. What another version of the operator wrote there, and this one does not know, is left out:
    an upgrade must not make an iteration invalid."""

    model_config = ConfigDict(extra="ignore")


class Condition(Observed):
    """As metav1.Condition: Ready, Reconciling and Stalled as kstatus reads them, Promoted and Serving."""

    type: Annotated[str, Field(min_length=1, max_length=316)] = Field(description="What the condition is about.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    reason: Annotated[Reason, Field(min_length=1)] = Field(description="Why, in one CamelCase word.")
    message: Message = Field(default="", description="Why, in a sentence that says what to do.")
    observed_generation: Whole = Field(default=0, description="metadata.generation that the condition speaks of.")
    last_transition_time: Moment = Field(default="", description="When the status changed last.")


class ShardResult(Observed):
    """What one shard of a stage handed in."""

    shard: Annotated[int, Field(ge=0, le=1023)] = Field(description="Number of the shard, from 0.")
    uri: Annotated[str, Field(min_length=1, max_length=2048)] = Field(description="Folder of the shard's artifact.")
    sha256: Digest = Field(description="Digest of the folder's manifest.json.")
    counts: Annotated[dict[str, int], Field(max_length=1024)] = Field(
        default={}, description="Numbers of rows, of rejected rows and of what else the stage counts."
    )
    metrics: Annotated[dict[str, Measured], Field(max_length=1024)] = Field(
        default={}, description="What the stage measured, as decimal strings."
    )
    aligned: SourceSpec | None = Field(default=None, description="The checkpoint that the scores stage chose.")
    best_of: Annotated[int, Field(ge=1, le=64)] | None = Field(
        default=None, description="How many of its answers to rank, as the scores stage chose."
    )
    reused: bool = Field(default=False, description="True where the artifact was there already.")


class StageStatus(Observed):
    """What is known of one stage."""

    model_config = ConfigDict(revalidate_instances="always")  # copies of it are made to fit, too

    name: Annotated[str, Field(min_length=1, max_length=63)] = Field(description="Name of the stage.")
    state: Literal["Waiting", "Running", "Suspended", "Done", "Failed"] = Field(description="Where the stage is.")
    hash: Annotated[str, Field(max_length=64)] = Field(
        default="", description="Content address of the artifact: digest of all that determines it."
    )
    job: Annotated[str, Field(max_length=63)] = Field(default="", description="Name of the Job of the latest attempt.")
    attempt: Whole = Field(default=0, description="Number of the latest attempt, from 0.")
    generation: Whole = Field(default=0, description="Generation of the spec that the latest attempt was started for.")
    retries: Whole = Field(
        default=0,
        description="Attempts of that generation in a row, before the latest, that got no further than those before.",
    )
    reason: Reason = Field(default="", description="Why the stage failed, or what keeps its pods from running.")
    message: Message = Field(default="", description="What goes on, what the stage waits for, or what to do.")
    start_time: Moment = Field(default="", description="When the latest attempt started.")
    completion_time: Moment = Field(default="", description="When the latest attempt ended.")
    done: Whole | None = Field(default=None, description="Progress of a running stage, in its own units.")
    total: Whole | None = Field(default=None, description="What `done` will be at the end.")
    shards: Annotated[list[ShardResult], Field(max_length=256), UniqueBy(("shard",))] = Field(
        default=[], description="What each shard of a finished stage handed in."
    )


class ResolvedModel(Observed):
    """The policy that is being aligned, fixed when the first stage starts."""

    iteration: Annotated[str, Field(max_length=36)] = Field(
        default="", description="The iteration that promoted it, where spec.model.from names one."
    )
    uri: Annotated[str, Field(min_length=1, max_length=2048)] = Field(description="Where it is.")
    revision: Revision | None = Field(default=None, description="Revision of an hf:// repository.")
    sha256: Digest | None = Field(
        default=None, description="Digest of the folder's manifest.json; the stages refuse any other content."
    )


class PromotedModel(Observed):
    """The checkpoint that passed the gate last, and all that its endpoint needs beside spec.serving."""

    uri: Annotated[str, Field(min_length=1, max_length=2048)] = Field(description="Folder of the checkpoint.")
    sha256: Digest = Field(description="Digest of the folder's manifest.json.")
    reference: ResolvedModel = Field(description="The policy before alignment.")
    beta: Annotated[str, Field(max_length=22)] = Field(description="As in spec.training, when it was trained.")
    length_normalisation: Toggle = Field(description="As in spec.evaluation, when it was scored.")
    precision: Annotated[str, Field(max_length=16)] = Field(description="As in spec, when it was scored.")
    temperature: Annotated[str, Field(max_length=22)] = Field(description="As in spec.sampling, when it was scored.")
    top_p: Annotated[str, Field(max_length=22)] = Field(description="As in spec.sampling, when it was scored.")
    max_new_tokens: Whole = Field(description="As in spec.sampling, when it was scored.")
    image: Annotated[str, Field(max_length=512)] = Field(
        default="",
        description="The operator's image for servers when the checkpoint was promoted: an operator that has another "
        "one by now changes no pods. spec.serving.pod.image goes before it.",
    )
    best_of: Annotated[int, Field(ge=1, le=64)] = Field(
        default=1, description="How many answers to rank where spec.serving.bestOf does not say, as it was scored best."
    )


class ServingStatus(Observed):
    """The endpoint, as far as this iteration has to do with it."""

    endpoint: Annotated[str, Field(max_length=63)] = Field(description="Name of its Deployment and Service.")
    revision: Annotated[str, Field(max_length=64)] = Field(
        default="", description="Identity of this iteration's pods behind the endpoint."
    )
    replicas: Whole = Field(
        default=0, description="Pods that the Deployment is to have, while this iteration holds the endpoint."
    )
    ready_replicas: Whole = Field(default=0, description="Pods of this revision that take requests.")
    served_revision: Annotated[str, Field(max_length=64)] = Field(
        default="", description="The latest revision that was rolled out completely."
    )
    rolled_back_revision: Annotated[str, Field(max_length=64)] = Field(
        default="", description="This revision, where its pods did not become ready and were taken back."
    )


class Hallucination(Observed):
    """Share of answers with a hallucination, on the report split of the first benchmark."""

    baseline: Measured = Field(default="", description="Before alignment, a decimal string.")
    aligned: Measured = Field(default="", description="Of the chosen checkpoint, a decimal string.")


class IterationStatus(Observed):
    """Computed from what was observed, in one place, at the end of each reconciliation."""

    observed_generation: Whole = Field(default=0, description="Generation of the spec that this status is about.")
    stage: Annotated[str, Field(max_length=63)] = Field(default="", description="The stage it is at; empty at the end.")
    progress: Annotated[str, Field(max_length=63)] = Field(
        default="", description="How far that stage is, as done/total in its own units."
    )
    conditions: Annotated[list[Condition], Field(max_length=16), UniqueBy(("type",))] = Field(
        default=[],
        description="Ready: finished. Reconciling: at work. Stalled: needs a person. Promoted: the gate passed. "
        "Serving: the endpoint answers with this policy.",
    )
    stages: Annotated[list[StageStatus], Field(max_length=16), UniqueBy(("name",))] = Field(
        default=[], description="The stages in the order in which they run."
    )
    model: ResolvedModel | None = Field(default=None, description="The policy that is being aligned.")
    aligned: SourceSpec | None = Field(default=None, description="The aligned policy: the checkpoint that was chosen.")
    hallucination: Hallucination | None = Field(
        default=None, description="Did it help: share of hallucinated answers before and after."
    )
    promoted: PromotedModel | None = Field(default=None, description="The checkpoint that passed the gate last.")
    serving: ServingStatus | None = Field(default=None, description="The endpoint.")


class FeedbackIteration(Resource):
    """One round of learning from open-source AI feedback."""

    RULES = (
        Rule(
            cel="!has(self.spec.model.from) || self.spec.model.from.iteration != self.metadata.name",
            message="spec.model.from.iteration must be another iteration",
            holds=lambda one: one.spec.model.from_ is None or one.spec.model.from_.iteration != one.metadata.name,
        ),
    )

    api_version: Literal["feedback.rlaif.dev/v1alpha1"] = Field(alias="apiVersion")
    kind: Literal["FeedbackIteration"]
    metadata: Metadata
    spec: IterationSpec = Field(description="What is wanted.")
    status: IterationStatus = Field(default=IterationStatus(), description="What was observed; the operator writes it.")

    @property
    def looked_at(self) -> bool:
        """The status is about the spec as it is, and not about one from before an edit."""
        return self.status.observed_generation >= self.metadata.generation

    def says(self, kind: str) -> Condition | None:
        """The condition of this type, if it speaks of the spec as it is; one from before an edit says nothing of it."""
        found = next((condition for condition in self.status.conditions if condition.type == kind), None)
        return found if found and found.observed_generation >= self.metadata.generation else None
