"""The rows that stages exchange: their Arrow schemas, how instructions are read, sharded and seeded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from feedback_workloads.contract import Artifact, Source
from feedback_workloads.instruction_files import BadRow, raw_rows

if TYPE_CHECKING:
    from feedback_workloads.artifacts import ArtifactStore

SEED_BITS = 63
"""vLLM hands a request's seed to torch as a signed 64-bit integer."""


def _strict(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


SAMPLES = pa.schema(
    [
        _strict("id", pa.string()),
        _strict("candidate", pa.int32()),
        _strict("question", pa.string()),
        _strict("answer", pa.string()),
        _strict("token_ids", pa.list_(pa.int32())),
        _strict("logprobs", pa.list_(pa.float32())),
        _strict("temperature", pa.float32()),
        _strict("seed", pa.int64()),
        _strict("finish_reason", pa.string()),
        _strict("prompt_tokens", pa.int32()),
    ]
)
"""One row a candidate answer. `token_ids` is the completion, with EOS where it was sampled; `logprobs` has one raw
value (temperature 1) a token; `finish_reason` is `stop` or `length`."""

CLAIMS = pa.schema(
    [
        _strict("id", pa.string()),
        _strict("candidate", pa.int32()),
        _strict("claims", pa.list_(pa.string())),
        _strict("questions", pa.list_(pa.string())),
    ]
)
"""One row an answer: its claims and one yes/no question for each. Both lists are empty where nothing was claimed."""

VERDICTS = pa.schema(
    [
        _strict("id", pa.string()),
        _strict("candidate", pa.int32()),
        _strict("p_yes", pa.list_(pa.float32())),
        _strict("p_no", pa.list_(pa.float32())),
        _strict("accepted", pa.list_(pa.bool_())),
    ]
)
"""One row an answer, one list element a claim: probabilities over the full vocabulary, and p_yes > p_no. What is
missing of p_yes + p_no to 1 is the probability that the labeler answers otherwise."""

IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
"""A picture as Hugging Face `datasets` stores it."""

PAIRS = pa.schema(
    [
        _strict("id", pa.string()),
        pa.field("image", IMAGE),  # datasets takes it for a picture only where it may be null
        _strict("question", pa.string()),
        _strict("chosen", pa.string()),
        _strict("rejected", pa.string()),
        _strict("chosen_token_ids", pa.list_(pa.int32())),
        _strict("rejected_token_ids", pa.list_(pa.int32())),
        _strict("chosen_logps", pa.list_(pa.float32())),
        _strict("rejected_logps", pa.list_(pa.float32())),
        _strict("chosen_candidate", pa.int32()),
        _strict("rejected_candidate", pa.int32()),
        _strict("chosen_score", pa.int32()),
        _strict("rejected_score", pa.int32()),
        _strict("chosen_claims", pa.list_(pa.string())),
        _strict("rejected_claims", pa.list_(pa.string())),
        _strict("chosen_accepted", pa.list_(pa.bool_())),
        _strict("rejected_accepted", pa.list_(pa.bool_())),
    ],
    # So that datasets.load_dataset decodes the picture.
    metadata={"huggingface": '{"info": {"features": {"image": {"_type": "Image"}}}}'},
)
"""One row a pair: a self-contained preference data set. `*_logps` are the sampler's raw values, one a token; a score is
minus the number of claims that were not accepted."""

SCORES = pa.schema(
    [
        _strict("checkpoint", pa.string()),
        _strict("benchmark", pa.string()),
        _strict("split", pa.string()),
        _strict("id", pa.string()),
        _strict("candidate", pa.int32()),
        _strict("answer", pa.string()),
        _strict("tokens", pa.int32()),
        pa.field("reward", pa.float32()),
        _strict("mentions", pa.int32()),
        _strict("hallucinated", pa.int32()),
        _strict("covered", pa.int32()),
        _strict("truth_total", pa.int32()),
        _strict("spans", pa.list_(pa.struct([_strict("start", pa.int32()), _strict("end", pa.int32())]))),
    ]
)
"""One row a scored answer. `checkpoint` is `baseline` or a checkpoint's name; `spans` are the hallucinated words, as
character offsets [start, end) in the answer."""

REJECTED = pa.schema(
    [
        _strict("id", pa.string()),
        pa.field("candidate", pa.int32()),
        _strict("reason", pa.string()),
        _strict("detail", pa.string()),
    ]
)
"""One row a `Rejected`."""


@dataclass(frozen=True)
class Rejected:
    """A row that was left out, and why.

    `id` is the instruction's id, or the row's place (`data/train.jsonl:17`) where the row has no id of its own: the id
    is missing, or it is taken by an earlier row. `candidate` is set where only that answer was left out.
    """

    id: str
    candidate: int | None
    reason: str
    detail: str


@dataclass(frozen=True)
class Instruction:
    """One picture and one question about it. `image` is the encoded file (JPEG, PNG, ...), not yet decoded."""

    id: str
    image: bytes
    question: str
    truth: str | None = None
    split: str | None = None


def read_instructions(
    store: ArtifactStore, source: Source | Artifact, shard: int = 0, shards: int = 1
) -> Iterator[Instruction | Rejected]:
    """Stream the instructions of `source` that belong to shard `shard` of `shards`, in the order of the files.

    The source is a folder of parquet files (columns `id`, `image` as a Hugging Face Image, `question`, and optionally
    `truth`, `split`) or of JSON lines (the same, in any row that has them). A picture that is given by its path is
    looked up from the folder of the file that names it. The names of the RLAIF-V reference, `ds_question_id` and
    `image_path`, are understood too.

    Rows that cannot be used come as Rejected, for one of the reasons missing-id, duplicate-id (the second and later;
    an id is taken even if the row that has it is rejected), empty-question, missing-picture, picture-too-large,
    wrong-type, not-utf-8, not-json. Every row comes in exactly one shard, as either. Raises BadInput where there is
    nothing to read or a column is wrong, naming file and column.
    """
    seen: set[str] = set()
    for row in raw_rows(store.download(source), source.uri):
        try:
            id = row.id()
        except BadRow as bad:
            if shard_of(row.place, shards) == shard:
                yield Rejected(row.place, None, bad.reason, bad.detail)
            continue
        if shard_of(id, shards) != shard:
            continue
        if id in seen:
            yield Rejected(row.place, None, "duplicate-id", f"the id {id!r} is taken by an earlier row")
            continue
        seen.add(id)
        try:
            yield Instruction(id, row.picture(), row.question(), row.text("truth"), row.text("split"))
        except BadRow as bad:
            yield Rejected(id, None, bad.reason, bad.detail)


def shard_of(id: str, shards: int) -> int:
    """Return the shard (0 .. shards-1) that instruction `id` belongs to, wherever it stands in the data."""
    return _hash("shard", id) % shards


def row_seed(seed: int, id: str, candidate: int) -> int:
    """Return the sampling seed (0 .. 2^63-1) of one candidate of one instruction."""
    return _hash("seed", str(seed), str(candidate), id) >> (64 - SEED_BITS)


def _hash(*words: str) -> int:
    """Return 64 bits of SHA-256 over the words, which are kept apart by NUL."""
    return int.from_bytes(hashlib.sha256("\0".join(words).encode()).digest()[:8], "big")
