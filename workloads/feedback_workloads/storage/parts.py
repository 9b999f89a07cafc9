"""Part files: the tables of an artifact, written a bounded number of rows at a time so that a kill loses one part.

Part N is `part-NNNNN.parquet` and, where rows were rejected, `rejected-NNNNN.parquet`, which is written first. The
former says in its metadata which of the latter belongs to it, so that it alone makes the pair whole: a rejected file
that a killed process left without its part counts for nothing and is replaced when the part is written again.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from feedback_workloads.contract import BadInput, FileEntry, Temporary
from feedback_workloads.rows.rejected import Rejected
from feedback_workloads.rows.schemas import REJECTED
from feedback_workloads.storage.objects import Absent, Digest, Objects, join

PART = re.compile(r"part-(\d{5})\.parquet")
REJECTED_KEY = b"feedback.rejected"
"""Metadata of a part: SHA-256 of the rejected file that belongs to it."""


class Parts:
    """The parts of one shard, finished ones included. The unit of work is the instruction: all its rows go in one part.

    Made by `ArtifactStore.append`, as a context. `schema` is that of its rows.
    """

    def __init__(self, objects: Objects, uri: str, schema: pa.Schema) -> None:
        self._objects = objects
        self._uri = uri
        self.schema = schema
        self._ids: frozenset[str] = frozenset()
        self._files: list[FileEntry] = []
        self._counts = Counter(rows=0, rejected=0)
        self._next = 0
        for listed in objects.list(uri):
            if match := PART.fullmatch(listed.name):
                self._read(int(match[1]))

    def finished_ids(self) -> frozenset[str]:
        """Ids of all rows and rejected rows that are stored, by this process or an earlier one."""
        return self._ids

    def write(self, rows: Sequence[Mapping[str, Any]], rejected: Sequence[Rejected] = ()) -> None:
        """Store one part: `part-NNNNN.parquet`, and `rejected-NNNNN.parquet` where rows were rejected; both or neither.

        Every row has exactly the schema's columns. Raises ValueError where an id is already stored in another part,
        and Temporary where another process writes to the same folder. Writes nothing where both are empty.
        """
        if not rows and not rejected:
            return
        table = _table(rows, self.schema)
        rejects = _table([asdict(row) for row in rejected], REJECTED)
        ids = {*table["id"].to_pylist(), *rejects["id"].to_pylist()}
        if again := sorted(ids & self._ids):
            raise ValueError(f"rows of {again[0]!r} are already in another part of {self._uri}")
        rejected_file = _encode(rejects) if rejected else b""
        belongs = {REJECTED_KEY: Digest.of(rejected_file).sha256} if rejected else {}
        part_file = _encode(table.replace_schema_metadata({**(self.schema.metadata or {}), **belongs}))
        if rejected:
            self._objects.write(join(self._uri, _rejected_name(self._next)), rejected_file)
        self._create(_part_name(self._next), part_file)
        self._add(self._next, part_file, table, rejected_file, rejects)

    def files(self) -> tuple[FileEntry, ...]:
        """Every stored file, in order, for the manifest."""
        return tuple(self._files)

    def counts(self) -> dict[str, int]:
        """`rows` in parts, `rejected` rows, and `rejected_<reason>` of each reason."""
        return dict(self._counts)

    def _create(self, name: str, data: bytes) -> None:
        uri = join(self._uri, name)
        # What is there already may be our own: a request that is tried again after its answer was lost.
        if not self._objects.create(uri, data) and self._objects.read(uri) != data:
            raise Temporary(f"another process has written {uri} meanwhile; let only one process run this shard")

    def _read(self, number: int) -> None:
        """Take over a part that an earlier process finished."""
        uri = join(self._uri, _part_name(number))
        part_file = self._objects.read(uri)
        table = read_part(uri, part_file, self.schema)
        rejected_file, rejects = b"", REJECTED.empty_table()
        if digest := pq.read_metadata(pa.BufferReader(part_file)).metadata.get(REJECTED_KEY):
            rejected_uri = join(self._uri, _rejected_name(number))
            with suppress(Absent):
                rejected_file = self._objects.read(rejected_uri)
            if Digest.of(rejected_file).sha256 != digest.decode():
                raise BadInput(
                    f"{rejected_uri} does not belong to {uri}; move the folder aside to make the artifact anew"
                )
            rejects = read_part(rejected_uri, rejected_file, REJECTED)
        self._add(number, part_file, table, rejected_file, rejects)

    def _add(self, number: int, part_file: bytes, table: pa.Table, rejected_file: bytes, rejects: pa.Table) -> None:
        self._files.append(_entry(_part_name(number), part_file, table.num_rows))
        if rejected_file:
            self._files.append(_entry(_rejected_name(number), rejected_file, rejects.num_rows))
        self._ids |= {*table["id"].to_pylist(), *rejects["id"].to_pylist()}
        self._counts.update(rows=table.num_rows, rejected=rejects.num_rows)
        self._counts.update(f"rejected_{reason}" for reason in rejects["reason"].to_pylist())
        self._next = number + 1


def is_part(name: str) -> bool:
    """Whether a file of an artifact holds rows of its table."""
    return PART.fullmatch(name) is not None


def selected(schema: pa.Schema, columns: Sequence[str] | None) -> pa.Schema:
    """Return the schema of `columns` alone; of all where they are None."""
    return schema if columns is None else pa.schema([schema.field(name) for name in columns])


def columns_of(data: bytes) -> Sequence[str]:
    """Names of the columns of a parquet file; none of what is no such file, as `read_part` will say."""
    try:
        names: Sequence[str] = pq.read_schema(pa.BufferReader(data)).names
    except pa.ArrowException:
        return ()
    return names


def read_part(uri: str, data: bytes, schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
    """Read the columns of a parquet file. Raises BadInput naming file and column where it is not of `schema`."""
    wanted = selected(schema, columns)
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        found = file.schema_arrow
        for field in wanted:
            if field.name not in found.names:
                raise BadInput(
                    f"{uri} has no column {field.name!r} (its columns are {', '.join(found.names)}); "
                    "give an artifact of the right stage"
                )
            if found.field(field.name).type != field.type:
                raise BadInput(
                    f"the column {field.name!r} of {uri} has type {found.field(field.name).type}, not {field.type}; "
                    "give an artifact of the right stage"
                )
        return file.read(columns=wanted.names).cast(wanted)
    except (pa.ArrowException, OSError) as error:
        raise BadInput(
            f"{uri} is not a readable parquet file ({_line(error)}); move its folder aside to make the artifact anew"
        ) from error


def _table(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    for row in rows:
        if row.keys() != set(schema.names):
            raise ValueError(f"a row has the columns {sorted(row)}, not {schema.names}")
    return pa.Table.from_pylist(rows, schema)


def _encode(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _entry(name: str, data: bytes, rows: int) -> FileEntry:
    digest = Digest.of(data)
    return FileEntry(name=name, sha256=digest.sha256, bytes=digest.size, rows=rows)


def _part_name(number: int) -> str:
    return f"part-{number:05d}.parquet"


def _rejected_name(number: int) -> str:
    return f"rejected-{number:05d}.parquet"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
