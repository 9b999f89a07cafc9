"""Records of files as they are published, one after the other: JSON, JSON lines, parquet, CSV, TSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, BinaryIO

import ijson
import pyarrow as pa
import pyarrow.parquet as pq

from feedback_workloads.contract import BadInput
from feedback_workloads.data.trees import Tree
from feedback_workloads.rows.instruction_files import FIELD_LIMIT_BYTES
from feedback_workloads.rows.rejected import BadRow

BATCH_ROWS = 32
"""Rows of parquet that are in memory at once, pictures included."""

LINE_LIMIT_BYTES = FIELD_LIMIT_BYTES
"""A longer line, which no row is, is not taken into memory as one."""

TABLES = ("*.parquet", "*.jsonl", "*.json", "*.csv", "*.tsv")

Values = Mapping[str, Any]


def items(tree: Tree, name: str, field: str) -> Iterator[Any]:
    """The values of the list in a field of a JSON document (`annotations.item`; `item` for a list by itself).

    They are read as they are asked for. BadInput names the file where it is not JSON.
    """
    with tree.open(name) as stream:
        try:
            yield from ijson.items(_past_mark(stream), field, use_float=True)
        except (ijson.JSONError, UnicodeDecodeError) as error:
            raise BadInput(f"{name} is not JSON ({_line(error)}); fetch it again") from error


def value(tree: Tree, name: str, field: str) -> Any:
    """The first value in a field of a JSON document; None where it is not there."""
    return next(items(tree, name, field), None)


def records(tree: Tree, names: Iterable[str]) -> Iterator[tuple[str, Values | BadRow]]:
    """Every record of the files with its place (`train.jsonl:17`); BadRow where one is damaged."""
    for name in names:
        plain = name.removesuffix(".gz")
        if plain.endswith(".parquet"):
            rows = _parquet(tree, name)
        elif plain.endswith((".csv", ".tsv")):
            rows = separated(tree, name)
        else:
            rows = _json(tree, name)
        yield from ((f"{name}:{number}", row) for number, row in enumerate(rows, 1))


def _json(tree: Tree, name: str) -> Iterator[Values | BadRow]:
    """A list of objects, or an object a line, whatever the name ends in."""
    with tree.open(name) as stream:
        start = stream.read(1 << 10).lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"["):
        for found in items(tree, name, "item"):
            yield found if isinstance(found, dict) else BadRow("not-json", "this is not a JSON object")
        return
    with tree.open(name) as stream:
        for line in iter(partial(stream.readline, LINE_LIMIT_BYTES), b""):
            if line.strip():
                yield _object(line)


def _object(line: bytes) -> Values | BadRow:
    try:
        found = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return BadRow("not-utf-8", f"byte {error.start} of the line is not UTF-8")
    except (ValueError, RecursionError) as error:
        return BadRow("not-json", f"the line is not JSON: {error}")
    return found if isinstance(found, dict) else BadRow("not-json", "the line is not a JSON object")


def _parquet(tree: Tree, name: str) -> Iterator[Values | BadRow]:
    try:
        with pq.ParquetFile(tree.local(name)) as table:
            for batch in table.iter_batches(batch_size=BATCH_ROWS):
                columns = dict(zip(batch.schema.names, batch.columns, strict=True))
                for index in range(batch.num_rows):
                    try:
                        yield {name: column[index].as_py() for name, column in columns.items()}
                    except UnicodeDecodeError as error:
                        yield BadRow("not-utf-8", f"the row is not UTF-8: {error}")
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{name} is not a readable parquet file ({_line(error)}); fetch it again") from error


def separated(tree: Tree, name: str, header: Sequence[str] | None = None) -> Iterator[Values | BadRow]:
    """Rows of a CSV or TSV file, whose first line has the names where they are not given."""
    csv.field_size_limit(FIELD_LIMIT_BYTES)
    between = "\t" if name.removesuffix(".gz").endswith(".tsv") else ","
    with tree.open(name) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
        rows = csv.reader(text, delimiter=between)
        names = header or next(rows, [])
        while True:
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                yield BadRow("wrong-fields", f"the row cannot be told apart into fields: {error}")
                continue
            if row and len(row) != len(names):
                yield BadRow("wrong-fields", f"the row has {len(row)} fields, not {len(names)}")
            elif row:
                yield dict(zip(names, row, strict=True))


def _past_mark(stream: BinaryIO) -> BinaryIO:
    """The stream without a byte order mark at its start."""
    start = stream.read(3)
    return stream if start == b"\xef\xbb\xbf" else _Joined(start, stream)  # type: ignore[return-value]


class _Joined:
    """What was read already, and then the rest."""

    def __init__(self, start: bytes, rest: BinaryIO) -> None:
        self._start, self._rest = start, rest

    def read(self, size: int = -1) -> bytes:
        if self._start and size:
            start, self._start = self._start, b""
            return start
        return self._rest.read(size)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
