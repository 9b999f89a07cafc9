"""`feedback data export`: pairs in the formats of other projects, which train from them as from their own."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from io import BytesIO
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal, Protocol, get_args

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from feedback_workloads.contract import BadInput, Source
from feedback_workloads.data.pairs import PairRow, read_pairs
from feedback_workloads.data.writing import check_empty
from feedback_workloads.models.pictures import FORMATS, picture_key
from feedback_workloads.rows.schemas import IMAGE, MESSAGES
from feedback_workloads.storage.artifacts import ArtifactStore

Format = Literal["rlaif-v", "trl", "llama-factory"]

GROUP_ROWS: Final = 128
FILE_BYTES: Final = 1 << 30
"""Pictures of a file, as RLAIF-V's own have about."""
DATA_SET: Final = "feedback_pairs"
"""What LLaMA-Factory calls it."""


class Exporter(Protocol):
    """Writes pairs into a local folder in one format; the same pairs give the same bytes."""

    def __call__(self, pairs: Iterable[PairRow], folder: Path) -> None: ...


def export(store: ArtifactStore, given: str, to: str, form: str) -> int:
    """Write the pairs at the URI `given` to the new folder `to`; return their number. Raises BadInput."""
    if form not in EXPORTERS:
        raise BadInput(f"there is no format {form!r}; give one of {', '.join(get_args(Format))}")
    check_empty(store, to)
    counted = 0

    def counting() -> Iterator[PairRow]:
        nonlocal counted
        for pair in read_pairs(store.download(Source(uri=given)), given):
            counted += 1
            yield pair

    with TemporaryDirectory(prefix="feedback-export-") as folder:
        EXPORTERS[form](counting(), Path(folder))
        store.upload_folder(Path(folder), to)
    return counted


# ── RLAIF-V ──────────────────────────────────────────────────────────────────────────────────────────────────────────

RLAIF_V_COLUMNS: Final = (
    ("ds_name", pa.string()),
    ("image", IMAGE),
    ("question", pa.string()),
    ("chosen", pa.string()),
    ("rejected", pa.string()),
    ("origin_dataset", pa.string()),
    ("origin_split", pa.string()),
    ("idx", pa.string()),
    ("image_path", pa.string()),
)
"""As they are published, in their order; `logps` follows where the pairs have them."""
OURS: Final = {"ds_name": "feedback", "origin_dataset": "feedback", "origin_split": "{}"}


def rlaif_v(pairs: Iterable[PairRow], folder: Path) -> None:
    """Parquet files as RLAIF-V's; what its pairs said of themselves when they were converted, they say again."""
    pairs = iter(pairs)
    first = next(pairs, None)
    scored = first is not None and first.logps is not None
    schema = pa.schema([*RLAIF_V_COLUMNS, *([("logps", pa.string())] if scored else [])], metadata=_features("image"))
    name = "RLAIF-V-Dataset_withlogp_{:03}.parquet" if scored else "RLAIF-V-Dataset_{:03}.parquet"
    _write(map(_rlaif_v_row, chain([first] if first else [], pairs)), schema, folder, name)


def _rlaif_v_row(pair: PairRow) -> dict[str, Any]:
    if len(pair.images) > 1 or len(pair.messages) > 1:
        raise BadInput(
            f"the pair {pair.id!r} has {len(pair.images)} pictures and {len(pair.messages)} turns, and RLAIF-V's "
            "format has one of each; export with --format trl or llama-factory"
        )
    (image,) = pair.images
    said = {**OURS, "idx": pair.id, "image_path": f"{pair.id}.{kind_of(image)}", **pair.origin}
    return {
        **said,
        "idx": str(said["idx"]),
        "image": {"bytes": image, "path": None},
        "question": pair.question,
        "chosen": pair.chosen,
        "rejected": pair.rejected,
        "logps": pair.logps,
    }


# ── TRL ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

_TURNS: Final = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


def trl(pairs: Iterable[PairRow], folder: Path) -> None:
    """Parquet of conversations with a list of pictures, which TRL puts before the question itself.

    Where a pair has several pictures or turns, all prompts have parts, which say where the pictures stand.
    """
    pairs = iter(pairs)
    first = next(pairs, None)
    turns = MESSAGES if first and first.conversations else _TURNS
    schema = pa.schema(
        [("images", pa.list_(IMAGE)), ("prompt", turns), ("chosen", _TURNS), ("rejected", _TURNS)],
        metadata=_features("images"),
    )
    _write(map(_trl_row, chain([first] if first else [], pairs)), schema, folder, "train-{:05}.parquet")


def _trl_row(pair: PairRow) -> dict[str, Any]:
    prompt = pair.messages if pair.conversations else [{"role": "user", "content": pair.question}]
    return {
        "images": [{"bytes": image, "path": None} for image in pair.images],
        "prompt": prompt,
        "chosen": [{"role": "assistant", "content": pair.chosen}],
        "rejected": [{"role": "assistant", "content": pair.rejected}],
    }


# ── LLaMA-Factory ────────────────────────────────────────────────────────────────────────────────────────────────────


def llama_factory(pairs: Iterable[PairRow], folder: Path) -> None:
    """JSON in its sharegpt form, the pictures as files, and dataset_info.json, which names them."""
    (folder / "images").mkdir()
    with (folder / f"{DATA_SET}.json").open("w", encoding="utf-8") as stream:
        stream.write("[")
        for number, pair in enumerate(pairs):
            stream.write(f"{',' if number else ''}\n{json.dumps(_llama_factory_row(pair, folder), ensure_ascii=False)}")
        stream.write("\n]\n")
    (folder / "dataset_info.json").write_text(json.dumps({DATA_SET: LLAMA_FACTORY_INFO}, indent=2) + "\n")


SPEAKERS: Final = {"system": "system", "user": "human", "assistant": "gpt"}
LLAMA_FACTORY_INFO: Final = {
    "file_name": f"{DATA_SET}.json",
    "formatting": "sharegpt",
    "ranking": True,
    "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected", "images": "images"},
}


def _llama_factory_row(pair: PairRow, folder: Path) -> dict[str, Any]:
    names = []
    for image in pair.images:
        names.append(f"images/{picture_key(image)[:32]}.{kind_of(image)}")  # one file, however many pairs it has
        if not (folder / names[-1]).exists():
            (folder / names[-1]).write_bytes(image)
    return {
        "conversations": [
            {
                "from": SPEAKERS[message["role"]],
                "value": "".join(part.get("text", "<image>") for part in message["content"]),
            }
            for message in pair.messages
        ],
        "chosen": {"from": "gpt", "value": pair.chosen},
        "rejected": {"from": "gpt", "value": pair.rejected},
        "images": names,
    }


EXPORTERS: Final[Mapping[str, Exporter]] = {"rlaif-v": rlaif_v, "trl": trl, "llama-factory": llama_factory}


def kind_of(data: bytes) -> str:
    """What files of a picture's format end in; BadInput where it is none."""
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as picture:
            return {"JPEG": "jpg", "MPO": "jpg"}.get(str(picture.format), str(picture.format).lower())
    except Exception as error:  # of as many kinds as there are kinds of damage
        raise BadInput(f"a picture of the pairs cannot be decoded ({error}); make the pairs anew") from error


def _features(column: str) -> dict[str, str]:
    """Metadata by which datasets.load_dataset decodes a column of pictures, or of lists of them."""
    image: dict[str, Any] = {"_type": "Image"}
    kind = image if column == "image" else {"feature": image, "_type": "List"}
    return {"huggingface": json.dumps({"info": {"features": {column: kind}}})}


def _write(rows: Iterator[dict[str, Any]], schema: pa.Schema, folder: Path, name: str) -> None:
    """Write rows as files of about FILE_BYTES, a group of rows in memory; one file at least."""
    files, rest = 0, True
    while rest or not files:
        size = 0
        file = folder / name.format(files)
        with pq.ParquetWriter(file, schema, compression="zstd") as writer:
            while size < FILE_BYTES and (group := list(islice(rows, GROUP_ROWS))):
                table = pa.Table.from_pylist([{key: row[key] for key in schema.names} for row in group], schema)
                writer.write_table(table)
                size += table.nbytes
        if files and not size:
            file.unlink()
        files, rest = files + 1, size >= FILE_BYTES
