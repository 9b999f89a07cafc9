"""Makes one benchmark of two data sets: by the questions of the first a checkpoint is chosen, by the others it is told.

python examples/first-run/benchmark.py build/held-out/iteration-1 build/held-out/iteration-2 build/coco-objects
"""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

SPLITS = ("selection", "report")


def main(folders: list[Path], to: Path) -> None:
    """Write the rows of both folders to the new folder `to`, each file with the name of its split in the column."""
    to.mkdir(parents=True)
    for split, folder in zip(SPLITS, folders, strict=True):
        for file in sorted(folder.glob("*.parquet")):
            table = pq.read_table(file)
            column = pa.array([split] * table.num_rows, pa.string())
            named = table.drop_columns(["split"]) if "split" in table.column_names else table
            pq.write_table(named.append_column("split", column), to / f"{split}-{file.name}")


if __name__ == "__main__":
    *given, last = map(Path, sys.argv[1:])
    main(given, last)
