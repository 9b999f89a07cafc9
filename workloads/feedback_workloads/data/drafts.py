"""A row of public data on its way to ours: what is known of it before its picture is read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from feedback_workloads.data.cards import Origin
from feedback_workloads.data.trees import Tree
from feedback_workloads.rows.identity import shard_of
from feedback_workloads.rows.picture_texts import picture_in
from feedback_workloads.rows.rejected import BadRow, Rejected

Kind = Literal["instructions", "pairs"]
Drafts = Iterator["Draft | Rejected"]

DESCRIBE = (
    "Describe this picture in detail.",
    "What can be seen in this picture? Please answer in full sentences.",
    "Tell somebody who cannot see it what is in this picture.",
    "Which objects are in this picture, and where are they?",
    "What is going on in this picture? Give the details.",
    "Write a careful description of everything that is visible here.",
)
"""Questions about pictures that come with none."""


@dataclass(frozen=True)
class Draft:
    """One row: `columns` are those of the schema but `id`, `image` and `source`; `path` is its picture's name.

    `id` is unique within its source, whose name is put before it.

    `picture` gives the encoded picture, and raises BadRow where it is not there.
    """

    id: str
    picture: Callable[[], bytes]
    path: str | None
    columns: Mapping[str, str | None]


@dataclass(frozen=True)
class Published:
    """A public data set, and how its files become drafts.

    `files` says what `--from` has to hold; `licence` is an SPDX name, or `other`, of which `terms` says more. `rows`
    takes the tree and the options, which `options` names with what each means.
    """

    title: str
    home: str
    licence: str
    terms: str
    files: str
    kind: Kind
    rows: Callable[[Tree, Mapping[str, str]], Drafts]
    options: Mapping[str, str] = field(default_factory=dict)

    def origin(self, name: str, rows: int) -> Origin:
        """This source in the card of a data set, which has `rows` rows of it."""
        return Origin(name, self.title, self.home, self.licence, self.terms, rows)


def text(values: Mapping[str, Any], name: str) -> str:
    """The text in a field; BadRow where there is none."""
    found = values.get(name)
    if not isinstance(found, str):
        reason = "missing-field" if found is None else "wrong-type"
        raise BadRow(reason, f"the field {name!r} is {type(found).__name__}, not text")
    try:
        found.encode()
    except UnicodeError as error:
        raise BadRow("not-utf-8", f"the field {name!r} is not UTF-8: {error}") from error
    if not found.strip():
        raise BadRow(f"empty-{name}", f"the field {name!r} is empty")
    return found


def number(values: Mapping[str, Any], name: str) -> int:
    """The integer in a field, which may be spelled as text; BadRow where there is none."""
    found = values.get(name)
    if isinstance(found, int) and not isinstance(found, bool):
        return found
    if isinstance(found, str) and found.strip().isdecimal():
        return int(found)
    reason = "missing-field" if found is None else "wrong-type"
    raise BadRow(reason, f"the field {name!r} is {type(found).__name__}, not an integer")


def parsed(values: Mapping[str, Any], name: str) -> Any:
    """What the JSON text in a field says; BadRow where it is none."""
    try:
        return json.loads(text(values, name))
    except (ValueError, RecursionError) as error:
        raise BadRow("not-json", f"the field {name!r} is not JSON: {error}") from error


def embedded(tree: Tree, image: object, *paths: str) -> Callable[[], bytes]:
    """The picture of a field as Hugging Face has it: bytes, a path, or text that is a path or base64."""

    def read() -> bytes:
        found = image
        if isinstance(found, dict):
            found = found.get("bytes") or found.get("path")
        if isinstance(found, bytes) and found:
            return found
        if isinstance(found, str) and found:
            return picture_in(found) or tree.picture(found)
        if paths:
            return tree.picture(*paths)
        raise BadRow("missing-picture", "the row has neither a picture nor the path of one")

    return read


def question_about(id: str) -> str:
    """One of the questions about pictures that come with none, the same for the same id."""
    return DESCRIBE[shard_of(id, len(DESCRIBE))]


def rejected(place: str, bad: BadRow) -> Rejected:
    return Rejected(place, None, bad.reason, bad.detail)
