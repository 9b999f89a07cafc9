"""Pairs, ours and those that were converted, as they are handed on to others' formats."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from feedback_workloads.contract import BadInput
from feedback_workloads.rows.instruction_files import BATCH_ROWS

NEEDED: Final = ("id", "image", "question", "chosen", "rejected")
OPTIONAL: Final = ("logps", "origin")


@dataclass(frozen=True)
class PairRow:
    """A pair: the encoded picture, and what its first authors said of it, empty of pairs that were made here."""

    id: str
    image: bytes
    question: str
    chosen: str
    rejected: str
    logps: str | None
    origin: Mapping[str, Any]


def read_pairs(folder: Path, uri: str) -> Iterator[PairRow]:
    """Stream the pairs of all `part-*.parquet` below `folder`, in the order of their names, a few rows in memory.

    Raises BadInput, naming file and column, where there are none.
    """
    files = sorted(folder.rglob("part-*.parquet"))
    if not files:
        raise BadInput(f"{uri} has no part-*.parquet; give the output of pairing, or what feedback data convert made")
    for file in files:
        name = f"{uri}/{file.relative_to(folder).as_posix()}"
        try:
            with pq.ParquetFile(file) as table:
                found = table.schema_arrow.names
                if missing := next((column for column in NEEDED if column not in found), None):
                    raise BadInput(f"{name} has no column {missing!r} (its columns are {', '.join(found)}); give pairs")
                columns = [*NEEDED, *(column for column in OPTIONAL if column in found)]
                for batch in table.iter_batches(batch_size=BATCH_ROWS, columns=columns):
                    yield from map(_pair, batch.to_pylist())
        except (pa.ArrowException, OSError) as error:
            raise BadInput(f"{name} is not a readable parquet file ({' '.join(str(error).split())})") from error


def _pair(row: Mapping[str, Any]) -> PairRow:
    origin = row.get("origin")
    return PairRow(
        id=row["id"],
        image=row["image"]["bytes"],
        question=row["question"],
        chosen=row["chosen"],
        rejected=row["rejected"],
        logps=row.get("logps"),
        origin=json.loads(origin) if origin else {},
    )
