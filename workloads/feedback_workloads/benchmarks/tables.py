"""Tables as benchmarks' authors and people have them: workbooks of Excel, parquet, CSV and TSV; JSON as anywhere."""

from __future__ import annotations

import base64
import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import StringIO
from itertools import zip_longest
from pathlib import Path
from typing import Final
from zipfile import BadZipFile

from feedback_workloads.contract import BadInput
from feedback_workloads.rows.json_files import Row, read_rows, read_text

LONGEST_FIELD: Final = 1 << 27
"""Of CSV: a picture in base64."""


def read_table(file: Path) -> list[Row]:
    """The rows of a file, by what its name ends in. Empty cells are empty texts; pictures of parquet become base64.

    BadInput names the file and what cannot be read in it.
    """
    match file.suffix.lower():
        case ".xlsx":
            rows = _named(_workbook(file), file)
        case ".csv" | ".tsv":
            rows = _named(_separated(file), file)
        case ".parquet":
            rows = _parquet(file)
        case _:
            return read_rows(file)
    if not rows:
        raise BadInput(f"{file}: there is no row in it; check that it is complete")
    return rows


def _named(lines: Iterable[Sequence[object]], file: Path) -> list[Row]:
    """Rows below a line of names; lines of empty cells are none."""
    filled = [(number, line) for number, line in enumerate(lines, 1) if any(cell != "" for cell in line)]
    names = [str(cell).strip() for cell in filled[0][1]] if filled else []
    return [
        Row(f"{file}, row {number}", {name: cell for name, cell in zip_longest(names, line, fillvalue="") if name})
        for number, line in filled[1:]
    ]


def _separated(file: Path) -> Iterator[list[str]]:
    """Lines of CSV, whose cells commas, semicolons or tabs divide: what the first line has most of."""
    text = read_text(file)
    first = text.partition("\n")[0]
    csv.field_size_limit(LONGEST_FIELD)
    try:
        yield from csv.reader(text.splitlines(keepends=True), delimiter=max(",;\t", key=first.count))
    except csv.Error as error:
        raise BadInput(f"{file}: its cells cannot be told apart ({error}); save it as CSV again") from error


def _parquet(file: Path) -> list[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        values = pq.read_table(file).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{file} is no readable parquet file ({error}); give one that is") from error
    return [
        Row(f"{file}, row {number}", {name: _encoded(value) for name, value in row.items()})
        for number, row in enumerate(values, 1)
    ]


def _encoded(value: object) -> object:
    """A picture as `datasets` has it, in base64; any other value as it is."""
    match value:
        case {"bytes": bytes(data)} | bytes(data):
            return base64.b64encode(data).decode()
    return value


def _workbook(file: Path) -> list[list[object]]:
    """The cells of the first sheet."""
    from openpyxl import load_workbook

    try:
        sheet = load_workbook(file, data_only=True).worksheets[0]
    except (BadZipFile, OSError, KeyError, IndexError, ValueError) as error:
        raise BadInput(f"{file} is no readable workbook ({error}); save it as .xlsx again") from error
    return [["" if cell is None else cell for cell in line] for line in sheet.iter_rows(values_only=True)]


def csv_text(rows: Iterable[Mapping[str, object]], names: Sequence[str]) -> str:
    """A table as CSV that spreadsheets open as it is: a text that would be a formula begins with an apostrophe."""
    text = StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(names)
    writer.writerows([_cell(str(row[name])) for name in names] for row in rows)
    return text.getvalue()


def _cell(text: str) -> str:
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
