"""Files of preference pairs, as they were made here or elsewhere: parquet, of which any row may be damaged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from feedback_workloads.contract import BadInput
from feedback_workloads.rows.instruction_files import BATCH_ROWS

NEEDED: Final = ("image", "question", "chosen", "rejected")
IDS: Final = ("id", "idx")
"""What the column of ids is called: here, and in RLAIF-V's own files."""
OPTIONAL: Final = ("logps", "origin")


def raw_pairs(folder: Path, uri: str) -> Iterator[dict[str, Any]]:
    """Stream the pairs below `folder`, in the order of their files' names, a few rows in memory.

    They are those of all `part-*.parquet`, which is what stages and `feedback data convert` write; where there is none,
    of all parquet files. A row has the columns NEEDED, `id` (its file and number where it has none), and those of
    OPTIONAL that are there. Raises BadInput, naming file and column, where there are no such files.
    """
    for file in _files(folder, uri):
        name = file.relative_to(folder).as_posix()
        try:
            with pq.ParquetFile(file) as table:
                found = table.schema_arrow.names
                if missing := next((column for column in NEEDED if column not in found), None):
                    raise BadInput(
                        f"{uri}/{name} has no column {missing!r} (its columns are {', '.join(found)}); give pairs, or "
                        "what feedback data convert makes of them"
                    )
                id = next((column for column in IDS if column in found), None)
                columns = [*NEEDED, *filter(None, [id]), *(column for column in OPTIONAL if column in found)]
                number = 0
                for batch in table.iter_batches(batch_size=BATCH_ROWS, columns=columns):
                    for row in batch.to_pylist():
                        number += 1
                        given = row.pop(id) if id else None
                        yield {"id": f"{name}:{number}" if given is None else str(given), **row}
        except (pa.ArrowException, OSError) as error:
            raise BadInput(f"{uri}/{name} is not a readable parquet file ({' '.join(str(error).split())})") from error


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
