"""Reads an answer of the shapes world and compares what it names with what the picture holds."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

from feedback_workloads.contract import BadInput
from feedback_workloads.shapes.world import COLORS, PLACES, SHAPES

_PART: Final = re.compile(r"[^.?!\n]+")
_SHAPE: Final = re.compile(rf"\b(?:{'|'.join(SHAPES)})\b", re.IGNORECASE)
_SENTENCE: Final = re.compile(
    rf"\b(?P<place>{'|'.join(PLACES)}) has an? (?P<color>{'|'.join(COLORS)}) (?P<shape>{'|'.join(SHAPES)})",
    re.IGNORECASE,
)
_EMPTY: Final = re.compile(rf"\b(?P<place>{'|'.join(PLACES)}) is empty\b", re.IGNORECASE)

Kind = tuple[str, str, str]
"""Place, color and shape of one object, in lower case; a place and two empty texts where it is said to hold none."""


@dataclass(frozen=True)
class Mention:
    """One thing that an answer says of the picture, at characters `start` to `end` (exclusive) of the answer."""

    start: int
    end: int
    kind: Kind | None
    """None where a shape is named, but no whole sentence says of what color and where."""
    hallucinated: bool


@dataclass(frozen=True)
class Reading:
    """What one answer says, held against the truth about its picture."""

    mentions: tuple[Mention, ...]
    covered: int
    """Objects of the picture that the answer names correctly, each counted once."""
    objects: int
    """Objects of the picture."""
    expected: int
    """Objects of the picture that the truth marks as expected: they are often named where they are absent."""
    expected_covered: int
    """Those of them that the answer names correctly, each counted once."""

    @property
    def hallucinated(self) -> tuple[Mention, ...]:
        return tuple(mention for mention in self.mentions if mention.hallucinated)


def judge(answer: str, truth: str) -> Reading:
    """Find all that `answer` says of the picture and whether it is so.

    Any text is a valid answer: each shape word is one mention, and it is hallucinated unless the words around it form
    a whole sentence ("top left has a red circle") that is true of the picture. So is each sentence that calls a place
    empty ("top left is empty"). Raises BadInput when `truth` is not the JSON of `Scene.truth`.
    """
    present = read_truth(truth)
    expected = {kind for kind, often in present.items() if often}
    taken = {place for place, _, _ in present}
    mentions: list[Mention] = []
    for part in _PART.finditer(answer):
        start, sentence = part.start(), part.group()
        whole = {found.end(): found for found in _SENTENCE.finditer(sentence)}
        for shape in _SHAPE.finditer(sentence):
            found = whole.get(shape.end())
            kind = _kind(found) if found else None
            span = (found or shape).span()
            mentions.append(Mention(start + span[0], start + span[1], kind, hallucinated=kind not in present))
        for empty in _EMPTY.finditer(sentence):
            place = empty["place"].lower()
            mentions.append(Mention(start + empty.start(), start + empty.end(), (place, "", ""), place in taken))
    named = present.keys() & {mention.kind for mention in mentions}
    return Reading(
        tuple(mentions),
        covered=len(named),
        objects=len(present),
        expected=len(expected),
        expected_covered=len(named & expected),
    )


def read_truth(truth: str) -> dict[Kind, bool]:
    """The objects of a `truth` value, and whether each is expected: `"expected": true`, absent where it is not.

    Raises BadInput when it is not the JSON of `Scene.truth`.
    """
    try:
        objects: list[dict[str, Any]] = json.loads(truth)["objects"]
        return {
            (str(thing["place"]), str(thing["color"]), str(thing["shape"])): bool(thing.get("expected"))
            for thing in objects
        }
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"truth {truth[:80]!r} cannot be read ({type(error).__name__}: {error}); it must be JSON such as "
            '{"objects":[{"place":"top left","color":"red","shape":"circle"}]}'
        ) from error


def _kind(found: re.Match[str]) -> Kind:
    return (found["place"].lower(), found["color"].lower(), found["shape"].lower())
