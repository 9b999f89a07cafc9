"""Reads FeedbackIteration manifests from files and folders, and says where each error is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml
from pydantic import ValidationError

from feedback_operator.api import API_VERSION, KIND, FeedbackIteration

Location = tuple[int | str, ...]
"""Where a field is in its document: keys, and numbers of entries."""


class _Loader(yaml.SafeLoader):
    """YAML with the kinds of values that JSON has. What looks like a date is text, as for Kubernetes."""


YAML_TAG: Final = "tag:yaml.org,2002:"
MERGE: Final = f"{YAML_TAG}merge"
SCALARS: Final = {f"{YAML_TAG}{kind}" for kind in ("str", "int", "float", "bool", "null")}
TAGS: Final[Mapping[type[yaml.Node], set[str]]] = {
    yaml.MappingNode: {f"{YAML_TAG}map"},
    yaml.SequenceNode: {f"{YAML_TAG}seq"},
    yaml.ScalarNode: SCALARS,
}
"""What each kind of node may be."""
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in SCALARS | {MERGE}]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


@dataclass(frozen=True)
class Problem:
    """One error: the file and line it is in, the field's path in the document, and what is wrong."""

    file: Path
    line: int
    path: str
    message: str

    def __str__(self) -> str:
        where = f" {self.path}:" if self.path else ""
        return f"{self.file}:{self.line}:{where} {self.message}"


@dataclass(frozen=True)
class Loaded:
    """What a file or folder holds: iterations in an order in which each follows its parent, or problems."""

    iterations: tuple[FeedbackIteration, ...]
    problems: tuple[Problem, ...]


def load(target: Path, *, elsewhere: bool = False) -> Loaded:
    """Read one YAML file, or every *.yaml and *.yml of a folder. With `elsewhere`, parents may be on a cluster."""
    files = sorted([*target.glob("*.yaml"), *target.glob("*.yml")]) if target.is_dir() else [target]
    if not files:
        return Loaded((), (Problem(target, 0, "", "holds no .yaml file; name a manifest or a folder of manifests"),))
    iterations: list[FeedbackIteration] = []
    problems: list[Problem] = []
    for file in files:
        found, wrong = _read(file)
        iterations += found
        problems += wrong
    if problems:
        return Loaded((), tuple(problems))
    return _in_order(target, iterations, elsewhere=elsewhere)


def _read(file: Path) -> tuple[list[FeedbackIteration], list[Problem]]:
    try:
        text = file.read_text(encoding="utf-8")
        nodes = [node for node in yaml.compose_all(text, Loader=_Loader) if node is not None]
    except OSError as error:
        return [], [Problem(file, 0, "", f"cannot be read: {error.strerror}; name an existing manifest")]
    except UnicodeDecodeError as error:
        return [], [Problem(file, 0, "", f"is not UTF-8 (byte {error.start}); save it as UTF-8")]
    except yaml.YAMLError as error:
        return [], [_broken(file, error)]
    except RecursionError:
        return [], [Problem(file, 0, "", "is nested too deeply; write the fields of the reference alone")]
    iterations: list[FeedbackIteration] = []
    problems: list[Problem] = []
    for node in nodes:
        found, wrong = _iteration(file, node)
        iterations += found
        problems += wrong
    if not nodes:
        problems.append(Problem(file, 1, "", f"holds no document; write a {KIND}"))
    return iterations, problems


def _iteration(file: Path, node: yaml.Node) -> tuple[list[FeedbackIteration], list[Problem]]:
    if faults := [Problem(file, line, _path(path), message) for line, path, message in _faults(node, (), set())]:
        return [], faults
    try:
        data = _construct(node)
    except yaml.YAMLError as error:  # of what << merges
        return [], [_broken(file, error)]
    if not isinstance(data, dict) or data.get("kind") != KIND or data.get("apiVersion") != API_VERSION:
        kind = data.get("kind") if isinstance(data, dict) else type(data).__name__
        line = node.start_mark.line + 1
        return [], [Problem(file, line, "kind", f"{kind!r} is not a {KIND} of {API_VERSION}; write that kind")]
    try:
        return [FeedbackIteration.model_validate(data, by_alias=True, by_name=False)], []
    except ValidationError as error:
        return [], [
            Problem(file, _line(node, e["loc"]), _path(e["loc"]), _message(e["msg"], e["input"], e["type"]))
            for e in error.errors()
        ]


def _faults(node: yaml.Node, path: Location, seen: set[int]) -> Iterator[tuple[int, Location, str]]:
    """Line, path and message of each thing that YAML allows and a manifest cannot hold.

    `seen` are the nodes that were looked at, for an alias leads to one again, also to one that it is in.
    """
    if id(node) in seen:
        return
    seen.add(id(node))
    line = node.start_mark.line + 1
    if node.tag not in TAGS[type(node)]:
        tag = node.tag.replace(YAML_TAG, "!!")
        yield line, path, f"has the tag {tag}, which no field has; write the value without it"
        return
    match node:
        case yaml.MappingNode():
            first: dict[str, int] = {}
            for key, value in node.value:
                at = key.start_mark.line + 1
                if not isinstance(key, yaml.ScalarNode):
                    yield at, path, f"has a {key.id} for a key; write the name of a field"
                    continue
                if key.tag != MERGE:
                    yield from _faults(key, path, seen)
                if key.value in first:
                    yield at, (*path, key.value), f"is there twice, first in line {first[key.value]}; keep one of them"
                first.setdefault(key.value, at)
                yield from _faults(value, (*path, key.value), seen)
        case yaml.SequenceNode():
            for number, entry in enumerate(node.value):
                yield from _faults(entry, (*path, number), seen)
        case _:
            try:
                _construct(node)
            except (ValueError, LookupError):
                yield line, path, f"{node.value[:80]!r} is no {node.tag.removeprefix(YAML_TAG)}; correct it"


def _broken(file: Path, error: yaml.YAMLError) -> Problem:
    mark = getattr(error, "problem_mark", None)
    what = " ".join(str(getattr(error, "problem", None) or error).split())
    return Problem(file, mark.line + 1 if mark else 0, "", f"is not YAML: {what}")


def _construct(node: yaml.Node) -> object:
    loader = _Loader("")
    try:
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _path(location: Location) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def _message(message: str, given: object, kind: str) -> str:
    if kind == "missing":
        return "is required"
    if kind == "extra_forbidden":
        return "is not a field; correct its name, or leave it out"
    shown = f" (got {given!r})" if isinstance(given, str | int | float | bool) else ""
    return message.removeprefix("Value error, ") + shown


def _line(node: yaml.Node, location: Location) -> int:
    """Line of the field, or of the innermost parent that the document has. Union tags in the path are passed over."""
    line = node.start_mark.line + 1
    for part in location:
        if isinstance(node, yaml.MappingNode):
            entry = next(((key, value) for key, value in node.value if key.value == part), None)
            if entry is None:
                continue
            line, node = entry[0].start_mark.line + 1, entry[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line


def _in_order(target: Path, iterations: list[FeedbackIteration], *, elsewhere: bool) -> Loaded:
    """Parents before children. A repeated name, an unknown parent or a cycle is a problem."""
    names = [iteration.metadata.name for iteration in iterations]
    problems = [
        Problem(target, 0, "metadata.name", f"{name!r} is used twice; give each iteration its own name")
        for name in sorted({name for name in names if names.count(name) > 1})
    ]
    ordered: list[FeedbackIteration] = []
    waiting = list(iterations)
    while waiting and not problems:
        done = {iteration.metadata.name for iteration in ordered}
        ready = [i for i in waiting if _parent(i) in ({None} | done) or (elsewhere and _parent(i) not in names)]
        if not ready:
            problems = [_unresolved(target, iteration, names) for iteration in waiting]
        ordered += ready
        waiting = [i for i in waiting if i not in ready]
    return Loaded((), tuple(problems)) if problems else Loaded(tuple(ordered), ())


def _parent(iteration: FeedbackIteration) -> str | None:
    return iteration.spec.model.from_.iteration if iteration.spec.model.from_ else None


def _unresolved(target: Path, iteration: FeedbackIteration, names: list[str]) -> Problem:
    parent = _parent(iteration)
    path = f"{iteration.metadata.name}: spec.model.from.iteration"
    if parent not in names:
        return Problem(target, 0, path, f"{parent!r} is not among these manifests; add it, or name a model by uri")
    return Problem(target, 0, path, f"{parent!r} leads back to this iteration; break the cycle")
