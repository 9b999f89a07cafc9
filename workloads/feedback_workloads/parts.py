"""Part files: the tables of an artifact, written a bounded number of rows at a time so that a kill loses one part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from feedback_workloads.contract import FileEntry
from feedback_workloads.rows import Rejected


class Parts:
    """The parts of one shard, finished ones included. The unit of work is the instruction: all its rows go in one part.

    Made by `ArtifactStore.append`, as a context.
    """

    def finished_ids(self) -> frozenset[str]:
        """Ids of all rows and rejected rows that are stored, by this process or an earlier one."""
        raise NotImplementedError

    def write(self, rows: Sequence[Mapping[str, Any]], rejected: Sequence[Rejected] = ()) -> None:
        """Store one part: `part-NNNNN.parquet`, and `rejected-NNNNN.parquet` where rows were rejected; both or neither.

        Every row has exactly the schema's columns. Raises ValueError where an id is already stored in another part.
        Writes nothing where both are empty.
        """
        raise NotImplementedError

    def files(self) -> tuple[FileEntry, ...]:
        """Every stored file, in order, for the manifest."""
        raise NotImplementedError

    def counts(self) -> dict[str, int]:
        """`rows` in parts, `rejected` rows, and `rejected_<reason>` of each reason."""
        raise NotImplementedError
