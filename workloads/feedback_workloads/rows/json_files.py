"""JSON objects in the physical forms in which public files have them, whatever their names end in.

A list of objects, objects one after the other (a line each, or over several lines), or a single object; each also
compressed by gzip.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from feedback_workloads.contract import BadInput

_BLANKS: Final = re.compile(r"\s*")


@dataclass(frozen=True)
class Row:
    """A JSON object and its place in its file, as in `answers.jsonl, line 3`. What it lacks is BadInput."""

    place: str
    values: Mapping[str, object]

    def text(self, *names: str) -> str:
        """The text of the first field of those names that is there."""
        value = self._value(names)
        if not isinstance(value, str):
            raise BadInput(f"{self.place}: the field {self._name(names)!r} is {_kind(value)}; give a text")
        return value

    def integer(self, *names: str) -> int:
        """The integer in the first field of those names that is there."""
        value = self._value(names)
        if isinstance(value, bool) or not isinstance(value, int):
            raise BadInput(f"{self.place}: the field {self._name(names)!r} is {_kind(value)}; give an integer")
        return value

    def texts(self, name: str) -> list[str]:
        """The list of texts in a field."""
        value = self._value((name,))
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise BadInput(f"{self.place}: the field {name!r} is {_kind(value)}; give a list of texts")
        return value

    def rows(self, name: str) -> list[Row]:
        """The objects in a field: those of a list, or the values of an object."""
        value = self._value((name,))
        values = list(value.values()) if isinstance(value, dict) else value
        if not isinstance(values, list):
            raise BadInput(f"{self.place}: the field {name!r} is {_kind(value)}; give a list of objects")
        return [_row(one, f"{self.place}, {name} {number}") for number, one in enumerate(values, 1)]

    def _name(self, names: tuple[str, ...]) -> str | None:
        return next((name for name in names if name in self.values), None)

    def _value(self, names: tuple[str, ...]) -> object:
        name = self._name(names)
        if name is None:
            wanted, found = " or ".join(map(repr, names)), ", ".join(self.values)
            raise BadInput(f"{self.place}: there is no field {wanted} (its fields are {found}); name it so")
        return self.values[name]


def read_rows(file: Path) -> list[Row]:
    """The objects of a file, in order; BadInput names the file and the line of what cannot be read."""
    rows = list(_rows(read_text(file), str(file)))
    if not rows:
        raise BadInput(f"{file}: there is no JSON object in it; check that it is complete")
    return rows


def read_text(file: Path) -> str:
    """The text of a file, unpacked where its name ends in .gz; BadInput where it is not there or no UTF-8."""
    try:
        data = file.read_bytes()
        data = gzip.decompress(data) if file.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise BadInput(f"{file} cannot be read: {why}; check the path, and that the file is complete") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadInput(f"{file}, line {line}: byte {error.start} is not UTF-8; save the file as UTF-8") from error


def _rows(text: str, name: str) -> Iterator[Row]:
    """Rows of a list are told by their number, others by their line."""
    for line, value in _documents(text, name):
        if isinstance(value, list):
            yield from (_row(one, f"{name}, row {number}") for number, one in enumerate(value, 1))
        else:
            yield _row(value, f"{name}, line {line}")


def _documents(text: str, name: str) -> Iterator[tuple[int, object]]:
    """JSON values that stand one after the other, each with the line that it begins in."""
    decoder = json.JSONDecoder()
    line, counted = 1, 0
    at = _end_of_blanks(text, 0)
    while at < len(text):
        line += text.count("\n", counted, at)
        counted = at
        try:
            value, end = decoder.raw_decode(text, at)
        except (json.JSONDecodeError, RecursionError) as error:
            where = error.lineno if isinstance(error, json.JSONDecodeError) else line
            why = error.msg if isinstance(error, json.JSONDecodeError) else "it is nested too deeply"
            raise BadInput(f"{name}, line {where}: this is not JSON ({why}); mend or remove it") from error
        yield line, value
        at = _end_of_blanks(text, end)


def _end_of_blanks(text: str, at: int) -> int:
    blanks = _BLANKS.match(text, at)
    return blanks.end() if blanks else at


def _row(value: object, place: str) -> Row:
    if not isinstance(value, dict):
        raise BadInput(f"{place}: this is {_kind(value)}; give a JSON object")
    return Row(place, value)


def _kind(value: object) -> str:
    shown = json.dumps(value, ensure_ascii=False)
    return shown if len(shown) <= 60 else f"{shown[:60]}..."
