"""What both sides agree on but for what stages are given: names, exit codes, errors, sources, what a stage leaves."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from enum import IntEnum
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    JsonValue,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

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

GPU_RESOURCE: Final = re.compile(r"/gpu(\.shared)?$|/mig-|^gpu\.intel\.com/(i915|xe)$")
"""Found in the names of resources that count GPUs, whoever makes them, or parts of them: NVIDIA's MIG, shared ones."""


def counted_gpus(amounts: Mapping[str, str]) -> int:
    """GPUs among a container's requests or limits."""
    return sum(int(Decimal(number)) for name, number in amounts.items() if GPU_RESOURCE.search(name))


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


class Model(Source):
    """A model, and what is said of it beyond its files: how it is asked, and how it is loaded.

    Where nothing is said, it has the JSON of its `Source`, and so the addresses that it had before there was more.
    """

    system_prompt: str | None = None
    """What every chat with it begins with, unless a chat brings a system prompt of its own."""
    chat_template: str | None = None
    """Jinja, in the place of its own template."""
    processor_kwargs: dict[str, JsonValue] = {}
    """Settings of its image processor, as in transformers' call of it and in vLLM's `mm_processor_kwargs`."""
    trust_remote_code: bool = False
    """Whether Python code that lies beside its weights is run."""
    quantization: Literal["fp8"] | None = None
    """What vLLM makes of its weights as it loads them; weights that are quantized already say so by themselves."""

    @model_validator(mode="before")
    @classmethod
    def _a_source_of_which_no_more_is_said(cls, data: Any) -> Any:
        return data.model_dump() if type(data) is Source else data

    @model_serializer(mode="wrap")
    def _what_is_said(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        return {
            name: value
            for name, value in dump(self).items()
            if name in Source.model_fields or value != fields[name].default
        }


TruthType = Literal["shapes", "coco-objects"]
"""Benchmarks that judge any answer about a picture."""
BenchmarkType = Literal["shapes", "coco-objects", "chair", "pope", "amber", "mmstar"]
WordRule = Literal["pos", "singularize", "noun"]
"""How CHAIR brings words to the singular."""
RateName = Literal["response_hallucination", "mention_hallucination", "recall", "expected_recall", "accuracy", "f1"]
"""Rates that a benchmark measures, see `method.statistics.Measures`."""


PreferenceLoss = Literal["Sigmoid", "SigmoidNorm", "IPO", "Robust", "APOZero", "APODown", "BCOPair"]
"""Losses that compare the answers of a pair."""

AddedLoss = Literal["SFT", "Conditional", "Anchored"]
"""Losses of the chosen answer alone, which come beside those."""

LossType = Literal[PreferenceLoss, AddedLoss]
"""Terms of the training loss: see training/losses.py."""

PER_TOKEN_LOSSES: Final[tuple[LossType, ...]] = ("SigmoidNorm", "IPO")
"""Those that read beta per token; all others read it per answer, or not at all."""


RankingRule = Literal["LogRatio", "LogRatioSum", "PolicyLikelihood", "Regularised"]


class Ranking(Frozen):
    """By what answers are ranked: see method/ranking.py. `weight` is lambda of `Regularised`; other rules have none."""

    rule: RankingRule = "LogRatio"
    weight: Annotated[FiniteFloat, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _weight_of_its_rule(self) -> Self:
        if (self.rule == "Regularised") != (self.weight > 0):
            raise ValueError(f"weight {self.weight} with rule {self.rule}; only Regularised has one")
        return self


class RankingChoice(Frozen):
    """The best of `n` answers by `ranking`; of one answer, nothing is ranked."""

    n: Annotated[int, Field(ge=1, le=64)] = 1
    ranking: Ranking = Ranking()


class FileEntry(Frozen):
    """One file of an artifact. `name` is its path below the artifact's folder; `rows` is set for tables."""

    name: str
    sha256: str
    bytes: int
    rows: int | None = None


class Manifest(Frozen):
    """Everything one artifact (or one shard of it) consists of.

    Holds no time and no host, so that the same work gives the same bytes. `counts` has at least `rows` and `rejected`;
    `metrics` are quality figures; `artifacts` names artifacts within this one (the checkpoints of a policy) in order;
    `ranked` is what an evaluation chose for serving.
    """

    stage: str
    config: dict[str, Any]
    config_hash: str
    files: tuple[FileEntry, ...]
    counts: dict[str, int]
    metrics: dict[str, FiniteFloat] = {}
    versions: dict[str, str] = {}
    artifacts: dict[str, Artifact] = {}
    ranked: RankingChoice | None = None

    def encode(self) -> bytes:
        """The bytes of manifest.json; a choice that was not made is not in them."""
        return canonical_json(self.model_dump(mode="json", exclude=set() if self.ranked else {"ranked"}))


class StageResult(Frozen):
    """What a finished stage hands to the operator through the container's termination message (at most 4 KiB)."""

    stage: str
    shard: int
    manifest: Artifact
    counts: dict[str, int]
    metrics: dict[str, FiniteFloat] = {}
    aligned: Artifact | None = None
    """The checkpoint that the evaluation chose."""
    ranked: RankingChoice | None = None
    """How to rank its answers, as the evaluation chose."""
    reused: bool
    """True where the artifact was already there and nothing was computed."""


class StageFailure(Frozen):
    """What a failed stage leaves in the termination message instead of a result."""

    stage: str
    shard: int
    reason: str
    """CamelCase, for conditions: BadInput, Temporary, Communication, OutOfMemory, DiskFull, Internal."""
    message: str


def canonical_json(value: Any) -> bytes:
    """One byte string for equal data: sorted keys, no spaces, UTF-8. Rejects NaN and infinities."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
