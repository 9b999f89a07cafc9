"""Tables as benchmarks' authors and people have them: workbooks of Excel, parquet, CSV and TSV; JSON as anywhere."""

from __future__ import annotations

import base64
import csv
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import StringIO
from itertools import count, zip_longest
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

from feedback_workloads.contract import BadInput
from feedback_workloads.rows.json_files import Row, read_rows, read_text

LONGEST_FIELD: Final = 1 << 27
"""Of CSV: a picture in base64."""
_MAIN: Final = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_RELATION: Final = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
_ESCAPED: Final = re.compile(r"_x([0-9A-Fa-f]{4})_")


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


# ── workbooks: ECMA-376 part 1, 18.2 to 18.4 ─────────────────────────────────────────────────────────────────────────


def _workbook(file: Path) -> list[list[object]]:
    """The cells of the first sheet."""
    try:
        with zipfile.ZipFile(file) as book:
            shared = _texts(book) if "xl/sharedStrings.xml" in book.namelist() else []
            sheet = ElementTree.fromstring(book.read(_first_sheet(book)))
    except (zipfile.BadZipFile, OSError, KeyError, ElementTree.ParseError) as error:
        raise BadInput(f"{file} is no readable workbook ({error}); save it as .xlsx again") from error
    return [_cells(row, shared) for row in sheet.iter(f"{_MAIN}row")]


def _first_sheet(book: zipfile.ZipFile) -> str:
    first = ElementTree.fromstring(book.read("xl/workbook.xml")).find(f"{_MAIN}sheets/{_MAIN}sheet")
    relations = ElementTree.fromstring(book.read("xl/_rels/workbook.xml.rels"))
    targets = {one.get("Id"): one.get("Target", "") for one in relations}
    target = targets[first.get(_RELATION)] if first is not None else ""
    return target.lstrip("/") if target.startswith("/") else f"xl/{target}"


def _texts(book: zipfile.ZipFile) -> list[str]:
    return [_text(one) for one in ElementTree.fromstring(book.read("xl/sharedStrings.xml"))]


def _text(element: ElementTree.Element) -> str:
    """The text of a string, whose parts may be formatted apart; not how it is read aloud (`rPh`)."""
    parts = [*element.iterfind(f"{_MAIN}t"), *element.iterfind(f"{_MAIN}r/{_MAIN}t")]
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), "".join(part.text or "" for part in parts))


def _cells(row: ElementTree.Element, shared: Sequence[str]) -> list[object]:
    """The values of a row by column; cells that are left out are empty."""
    found: dict[int, object] = {}
    following = count()
    for cell in row.iterfind(f"{_MAIN}c"):
        place = cell.get("r")
        column = _column(place) if place else next(following)
        following = count(column + 1)
        found[column] = _value(cell, shared)
    return [found.get(column, "") for column in range(max(found, default=-1) + 1)]


def _column(place: str) -> int:
    """The number of a column, from 0: 27 for "AB12"."""
    number = 0
    for letter in filter(str.isalpha, place.upper()):
        number = number * 26 + ord(letter) - ord("A") + 1
    return number - 1


def _value(cell: ElementTree.Element, shared: Sequence[str]) -> object:
    written = cell.findtext(f"{_MAIN}v") or ""
    match cell.get("t", "n"):
        case "s":
            return shared[int(written)]
        case "inlineStr":
            inside = cell.find(f"{_MAIN}is")
            return _text(inside) if inside is not None else ""
        case "n" if written.lstrip("-").isdigit():
            return int(written)
    return written


def csv_text(rows: Iterable[Mapping[str, object]], names: Sequence[str]) -> str:
    """A table as CSV that spreadsheets open as it is: a text that would be a formula begins with an apostrophe."""
    text = StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(names)
    writer.writerows([_cell(str(row[name])) for name in names] for row in rows)
    return text.getvalue()


def _cell(text: str) -> str:
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
