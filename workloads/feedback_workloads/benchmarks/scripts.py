"""Texts in the scripts of a benchmark's authors: what their judge is told. Scripts are read, and never run."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from feedback_workloads.contract import BadInput
from feedback_workloads.rows.json_files import read_text


@dataclass(frozen=True)
class Script:
    """A script in Python, as its syntax."""

    file: Path
    tree: ast.Module

    @staticmethod
    def at(place: Path, *names: str) -> Script:
        """The script at `place`, which may be a folder: then the first of these names that is in it."""
        found = [place / name for name in names if (place / name).is_file()] if place.is_dir() else [place]
        if not found:
            raise BadInput(f"{place}: there is no {' or '.join(names)} in it; give the folder of the authors' scripts")
        try:
            return Script(found[0], ast.parse(read_text(found[0])))
        except (SyntaxError, ValueError) as error:
            raise BadInput(f"{found[0]} is no script in Python ({error}); give the authors' own") from error

    def text(self, name: str) -> str:
        """The text that the script gives a name: of a variable, else as a parameter's default, else in a call."""
        for _, one in sorted(self._given(name), key=lambda found: found[0]):
            if isinstance(one, ast.Constant) and isinstance(one.value, str) and one.value:
                return one.value
        raise BadInput(f"{self.file}: no text is named {name!r} in it; give the authors' own script")

    def _given(self, name: str) -> Iterator[tuple[int, ast.expr | None]]:
        """What has that name, with its rank."""
        for node in ast.walk(self.tree):
            match node:
                case ast.Assign(targets=[ast.Name(id=found)], value=value) if found == name:
                    yield 1, value
                case ast.arguments(args=parameters, defaults=defaults) if defaults:
                    last = zip(parameters[-len(defaults) :], defaults, strict=True)
                    yield from ((2, value) for parameter, value in last if parameter.arg == name)
                case ast.keyword(arg=found, value=value) if found == name:
                    yield 3, value

    def filled(self, function: str, values: Mapping[str, str]) -> str:
        """The f-string of a function, filled by the values of its names; the script's own where there is no value."""
        defined = (one for one in self.tree.body if isinstance(one, ast.FunctionDef) and one.name == function)
        strings = (node for one in defined for node in ast.walk(one) if isinstance(node, ast.JoinedStr))
        found = next(strings, None)
        if found is None:
            raise BadInput(f"{self.file}: there is no function {function} with an f-string; give the authors' script")
        return "".join(self._part(part, values) for part in found.values)

    def _part(self, part: ast.expr, values: Mapping[str, str]) -> str:
        match part:
            case ast.Constant(value=text):
                return str(text)
            case ast.FormattedValue(value=ast.Name(id=name)):
                return values[name] if name in values else self.text(name)
        raise BadInput(f"{self.file}: {ast.unparse(part)} is no name to fill in; give the authors' script")
