"""Rows that come in any order, written in the order of their instructions, and read back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from feedback_workloads.contract import FileEntry
from feedback_workloads.rows.rejected import Rejected
from feedback_workloads.storage.parts import is_part, read_part, selected

if TYPE_CHECKING:
    from feedback_workloads.process.progress import Progress
    from feedback_workloads.storage.artifacts import ArtifactStore
    from feedback_workloads.storage.parts import Parts


@dataclass
class _Begun:
    """An instruction of which `awaited` rows are still to come."""

    awaited: int
    rows: list[Mapping[str, Any]] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)


class OrderedParts:
    """Gathers the rows of instructions and writes whole instructions, `part_rows` of them a part.

    They are written in the order in which they were begun, and an instruction's rows in the order of their candidates,
    so that parts do not depend on what was finished first. As a context it writes, at the end of the block, all that is
    complete, however the block ends. Progress is counted in instructions, or in `units` for each. `check` is given the
    counts of all that is stored, after each part, and may raise.
    """

    def __init__(
        self,
        parts: Parts,
        part_rows: int,
        progress: Progress,
        units: int = 1,
        check: Callable[[Mapping[str, int]], None] = lambda counts: None,
    ) -> None:
        self._parts = parts
        self._part_rows = part_rows
        self._progress = progress
        self._units = units
        self._check = check
        self._begun: dict[str, _Begun] = {}
        self._writing = False

    def __enter__(self) -> OrderedParts:
        return self

    def __exit__(self, *_: object) -> None:
        # A write that was interrupted may have happened or not: the next process will find out.
        while not self._writing and (complete := self._complete()):
            self._write(complete)

    def begin(self, id: str, rows: int) -> None:
        """Announce an instruction of that many rows (at least one), rejected ones included."""
        self._begun[id] = _Begun(rows)

    def add(self, row: Mapping[str, Any]) -> None:
        """Take a row of an instruction that was begun."""
        begun = self._begun[row["id"]]
        begun.rows.append(row)
        self._arrived(begun)

    def reject(self, rejected: Rejected) -> None:
        """Take a rejected candidate of an instruction that was begun, or a whole instruction that was not."""
        begun = self._begun.setdefault(rejected.id, _Begun(awaited=1))
        begun.rejected.append(rejected)
        self._progress.count("rejected", 1)
        self._arrived(begun)

    def _arrived(self, begun: _Begun) -> None:
        begun.awaited -= 1
        if begun.awaited == 0:
            self._progress.advance(self._units)
            if len(complete := self._complete()) == self._part_rows:
                self._write(complete)
                self._check(self._parts.counts())

    def _complete(self) -> list[str]:
        """The first instructions of which nothing is awaited; no more than go in a part."""
        ids: list[str] = []
        for id, begun in self._begun.items():
            if begun.awaited or len(ids) == self._part_rows:
                break
            ids.append(id)
        return ids

    def _write(self, ids: list[str]) -> None:
        self._writing = True
        done = [self._begun.pop(id) for id in ids]
        rows = [row for begun in done for row in sorted(begun.rows, key=lambda row: row["candidate"])]
        self._parts.write(rows, [rejected for begun in done for rejected in begun.rejected])
        self._writing = False


def stored_table(
    store: ArtifactStore, uri: str, files: Iterable[FileEntry], schema: pa.Schema, columns: Sequence[str]
) -> pa.Table:
    """Columns of all rows of a shard that is not published yet, those of earlier processes included."""
    parts = (entry for entry in files if is_part(entry.name))
    tables = [read_part(entry.name, store.read(uri, entry), schema, columns) for entry in parts]
    return pa.concat_tables([selected(schema, columns).empty_table(), *tables])
