"""The rows that stages exchange: their Arrow schemas, how instructions are read, sharded and seeded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from feedback_workloads.contract import Artifact, BadInput, Source

if TYPE_CHECKING:
    from feedback_workloads.artifacts import ArtifactStore

SEED_BITS = 63
"""vLLM hands a request's seed to torch as a signed 64-bit integer."""

BATCH_ROWS = 32
"""Instructions that are in memory at once, pictures included."""
PICTURE_LIMIT_BYTES = 64 << 20
COLUMN_NAMES = {
    "id": ("id", "ds_question_id"),
    "image": ("image", "image_path"),
    "question": ("question",),
    "truth": ("truth",),
    "split": ("split",),
}
OPTIONAL_COLUMNS = {"truth", "split"}


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
"""One row an answer, one list element a claim: probabilities over the full vocabulary, and p_yes > p_no."""

IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
"""A picture as Hugging Face `datasets` stores it."""

PAIRS = pa.schema(
    [
        _strict("id", pa.string()),
        _strict("image", IMAGE),
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


class BadRow(Exception):
    """One row cannot be used. `reason` is a kebab-case word to count by; `detail` is for the person who mends it."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


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
    `truth`, `split`) or of JSON lines (the same). A picture that is given by its path is looked up from the folder of
    the file that names it. The names of the RLAIF-V reference, `ds_question_id` and `image_path`, are understood too.

    Rows that cannot be used come as Rejected, for one of the reasons missing-id, duplicate-id (the second and later;
    an id is taken even if the row that has it is rejected), empty-question, missing-picture, picture-too-large,
    wrong-type, not-utf-8, not-json. Every row comes in exactly one shard, as either. Raises BadInput where there is
    nothing to read or a column is wrong, naming file and column.
    """
    seen: set[str] = set()
    for row in _raw_rows(store.download(source), source.uri):
        try:
            id = _id(row)
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
            yield Instruction(id, _picture(row), _question(row), _text(row, "truth"), _text(row, "split"))
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


# ── reading instructions ─────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _RawRow:
    """A row as the file has it. Text from parquet is still bytes, since nothing says that it is valid UTF-8."""

    place: str
    folder: Path
    values: Mapping[str, object]
    image: Callable[[], object]


def _raw_rows(folder: Path, uri: str) -> Iterator[_RawRow]:
    tables, lines = (sorted(folder.rglob(pattern)) for pattern in ("*.parquet", "*.jsonl"))
    if tables and lines:
        raise BadInput(f"{uri} has both parquet and JSON lines files ({tables[0].name}, {lines[0].name}); keep one")
    if not tables and not lines:
        raise BadInput(f"{uri} has no *.parquet or *.jsonl file to read instructions from; check the URI")
    for file in tables:
        yield from _parquet_rows(file, file.relative_to(folder).as_posix(), uri)
    for file in lines:
        yield from _json_rows(file, file.relative_to(folder).as_posix(), uri)


def _parquet_rows(file: Path, name: str, uri: str) -> Iterator[_RawRow]:
    try:
        with pq.ParquetFile(file) as table:
            columns = _columns(table.schema_arrow.names, f"{uri}/{name}")
            for column, found in columns.items():
                _check_type(column, table.schema_arrow.field(found), f"{uri}/{name}")
            number = 0
            for batch in table.iter_batches(batch_size=BATCH_ROWS, columns=list(columns.values())):
                texts = {column: _encoded(batch[columns[column]]) for column in columns if column != "image"}
                images = batch[columns["image"]]
                for index in range(batch.num_rows):
                    number += 1
                    values = {column: text[index].as_py() for column, text in texts.items()}
                    yield _RawRow(f"{name}:{number}", file.parent, values, images[index].as_py)
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{uri}/{name} is not a readable parquet file ({_line(error)}); replace it") from error


def _json_rows(file: Path, name: str, uri: str) -> Iterator[_RawRow]:
    columns: Mapping[str, str] = {}
    with file.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            place = f"{name}:{number}"
            if not line.strip():
                continue
            try:
                row = _json_object(line)
            except BadRow as bad:
                yield _RawRow(place, file.parent, {"id": bad}, lambda: None)
                continue
            columns = columns or _columns(list(row), f"{uri}/{name}")
            values = {column: row.get(found) for column, found in columns.items()}
            yield _RawRow(place, file.parent, values, partial(values.get, "image"))


def _json_object(line: bytes) -> dict[str, object]:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise BadRow("not-utf-8", f"byte {error.start} of the line is not UTF-8") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise BadRow("not-json", f"the line is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise BadRow("not-json", "the line is not a JSON object")
    return row


def _columns(found: Sequence[str], file: str) -> dict[str, str]:
    """Return which column of the file holds what. Raises BadInput where one is missing."""
    columns = {}
    for column, names in COLUMN_NAMES.items():
        present = [name for name in names if name in found]
        if present:
            columns[column] = present[0]
        elif column not in OPTIONAL_COLUMNS:
            raise BadInput(
                f"{file} has no column {' or '.join(map(repr, names))} (its columns are {', '.join(found)}); "
                "rename the column that holds it"
            )
    return columns


def _check_type(column: str, field: pa.Field, file: str) -> None:
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)
    match column:
        case "id":
            fits, expected = text or pa.types.is_integer(kind), "a string or an integer"
        case "image":
            struct = pa.types.is_struct(kind) and {"bytes", "path"} <= {child.name for child in kind.fields}
            fits, expected = struct or pa.types.is_string(kind), "struct<bytes, path> (a Hugging Face Image) or a path"
        case _:
            fits, expected = text, "a string"
    if not fits:
        raise BadInput(f"the column {field.name!r} of {file} has type {field.type}, not {expected}; convert it")


def _encoded(column: pa.Array) -> pa.Array:
    """Return text as bytes, so that a value that is not UTF-8 spoils its own row alone."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column if pa.types.is_integer(column.type) else column.cast(pa.large_binary())


def _id(row: _RawRow) -> str:
    value = row.values.get("id")
    if isinstance(value, BadRow):
        raise value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    id = _text(row, "id")
    if id is None or not id.strip():
        raise BadRow("missing-id", "the row has no id")
    return id


def _question(row: _RawRow) -> str:
    question = _text(row, "question")
    if question is None or not question.strip():
        raise BadRow("empty-question", "the question is empty")
    return question


def _text(row: _RawRow, column: str) -> str | None:
    value = row.values.get(column)
    try:
        match value:
            case bytes():
                return value.decode()
            case str():
                value.encode()  # JSON can spell lone surrogates
                return value
            case None:
                return None
    except UnicodeError as error:
        raise BadRow("not-utf-8", f"the {column} is not UTF-8: {error}") from error
    raise BadRow("wrong-type", f"the {column} is {type(value).__name__}, not text")


def _picture(row: _RawRow) -> bytes:
    """Return the encoded picture, from the row itself or from the file it names."""
    try:
        value = row.image()
    except UnicodeDecodeError as error:
        raise BadRow("not-utf-8", f"the path of the picture is not UTF-8: {error}") from error
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes) and value:
        return value
    if not isinstance(value, str) or not value:
        raise BadRow("missing-picture", "the row has neither a picture nor the path of one")
    return _picture_file(row.folder, value)


def _picture_file(folder: Path, name: str) -> bytes:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise BadRow("missing-picture", f"the path {name} leads out of the folder of the data")
    try:
        size = (folder / path).stat().st_size
        if size > PICTURE_LIMIT_BYTES:
            raise BadRow("picture-too-large", f"the file {name} has {size} bytes, more than {PICTURE_LIMIT_BYTES}")
        data = (folder / path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL or a lone surrogate in the name
        why = (
            error.strerror if isinstance(error, OSError) else str(error)
        )  # without the local path: the same on every host
        raise BadRow("missing-picture", f"the file {name!r} cannot be read: {why}") from error
    if not data:
        raise BadRow("missing-picture", f"the file {name} is empty")
    return data


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
