"""Files of preference pairs, as they were made here or elsewhere: parquet, of which any row may be damaged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from feedback_workloads.contract import BadInput
from feedback_workloads.rows.conversations import Message, asked, conversation, question_of
from feedback_workloads.rows.instruction_files import BATCH_ROWS, Survey, parquet_survey

NEEDED: Final = (("image", "images"), ("question", "messages"), ("chosen",), ("rejected",))
"""Columns of a pair; the second name is that of several pictures or turns, where there is no column of the first."""
IDS: Final = ("id", "idx")
"""What the column of ids is called: here, and in RLAIF-V's own files."""
OPTIONAL: Final = ("logps", "origin")


def asked_in(row: Mapping[str, Any]) -> tuple[tuple[Message, ...], tuple[bytes, ...]]:
    """What a row of pairs asks, as turns, and the pictures in them. Raises BadRow where these are none."""
    images = tuple(one["bytes"] for one in (row["images"] if "images" in row else [row["image"]]))
    if "messages" in row:
        return conversation(row["messages"], len(images)), images
    return asked(row["question"], len(images)), images


def asked_columns(schema: pa.Schema, messages: Sequence[Message], images: Sequence[bytes]) -> dict[str, Any]:
    """The columns of a row of `schema`, PAIRS or PAIRS_OF_CONVERSATIONS, that `asked_in` reads."""
    shown = [{"bytes": image, "path": None} for image in images]
    if "messages" in schema.names:
        return {"images": shown, "messages": messages}
    (image,) = shown
    return {"image": image, "question": question_of(messages)}


def raw_pairs(folder: Path, uri: str) -> Iterator[dict[str, Any]]:
    """Stream the pairs below `folder`, in the order of their files' names, a few rows in memory.

    They are those of all `part-*.parquet`, which is what stages and `feedback data convert` write; where there is none,
    of all parquet files. A row has the columns NEEDED, by the names that they have there, `id` (its file and number
    where it has none), and those of OPTIONAL that are there. Raises BadInput, naming file and column, where there are
    no such files.
    """
    for file in _files(folder, uri):
        name = file.relative_to(folder).as_posix()
        try:
            with pq.ParquetFile(file) as table:
                found = dict.fromkeys(table.schema_arrow.names).keys()
                if missing := next((names for names in NEEDED if found.isdisjoint(names)), None):
                    raise BadInput(
                        f"{uri}/{name} has no column {' or '.join(map(repr, missing))} (its columns are "
                        f"{', '.join(found)}); give pairs, or what feedback data convert makes of them"
                    )
                id = next((column for column in IDS if column in found), None)
                needed = [next(name for name in names if name in found) for names in NEEDED]
                columns = [*needed, *filter(None, [id]), *(column for column in OPTIONAL if column in found)]
                number = 0
                for batch in table.iter_batches(batch_size=BATCH_ROWS, columns=columns):
                    for row in batch.to_pylist():
                        number += 1
                        given = row.pop(id) if id else None
                        yield {"id": f"{name}:{number}" if given is None else str(given), **row}
        except (pa.ArrowException, OSError) as error:
            raise BadInput(f"{uri}/{name} is not a readable parquet file ({' '.join(str(error).split())})") from error


def survey(folder: Path, uri: str) -> Survey:
    """What the pairs below `folder` have beyond one picture and one question. Raises BadInput as `raw_pairs`."""
    return reduce(or_, map(parquet_survey, _files(folder, uri)))


def number_of_pairs(folder: Path, uri: str) -> int:
    """How many rows `raw_pairs` gives, by what the files say of themselves."""
    try:
        return sum(pq.read_metadata(file).num_rows for file in _files(folder, uri))
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"a file of {uri} is not readable parquet ({' '.join(str(error).split())})") from error


def _files(folder: Path, uri: str) -> list[Path]:
    files = sorted(folder.rglob("part-*.parquet")) or sorted(folder.rglob("*.parquet"))
    if not files:
        raise BadInput(f"{uri} has no *.parquet; give the output of pairing, or what feedback data convert made")
    return files
