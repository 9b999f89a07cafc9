"""Which of COCO's 80 classes an answer names, by a word table of our own, against those that are in the picture.

In kind it is CHAIR (Rohrbach et al., arXiv 1809.02156): every mention counts, and a denied object ("there is no dog")
counts as named. But words and phrases are those of `coco_objects.toml`, so its figures stand beside each other and not
beside published ones; those are made by `chair.py` and `object_halbench.py`. The truth of a picture is a JSON list of
class names.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import Final

from feedback_workloads.benchmarks.coco.classes import classes_in
from feedback_workloads.method.judgement import Judgement

_WORD: Final = re.compile(r"[^\W\d_]+")
_WITHIN_A_PHRASE: Final = re.compile(r"[\s'’-]*")

Words = tuple[str, ...]


@dataclass(frozen=True)
class Mention:
    """One object named in a text, at characters [start, end)."""

    name: str
    start: int
    end: int


@dataclass(frozen=True)
class Lexicon:
    """What words name which class. A phrase that maps to None hides the words in it: a hot plate is no plate."""

    phrases: Mapping[Words, str | None]
    classes: frozenset[str]
    longest: int

    def mentions(self, text: str) -> Iterator[Mention]:
        """Every object named in `text`, in order; at each place the longest phrase counts."""
        words = list(_WORD.finditer(text))
        joined = [_WITHIN_A_PHRASE.fullmatch(text, a.end(), b.start()) is not None for a, b in pairwise(words)]
        at = 0
        while at < len(words):
            length = self._phrase_at(words, joined, at)
            if length:
                name = self.phrases[_lower(words[at : at + length])]
                if name:
                    yield Mention(name, words[at].start(), words[at + length - 1].end())
            at += max(length, 1)

    def _phrase_at(self, words: list[re.Match[str]], joined: list[bool], at: int) -> int:
        """Number of words of the longest known phrase that begins at word `at`; 0 where there is none."""
        longest = 1
        while longest < min(self.longest, len(words) - at) and joined[at + longest - 1]:
            longest += 1
        lengths = range(longest, 0, -1)
        return next((n for n in lengths if _lower(words[at : at + n]) in self.phrases), 0)


class CocoObjects:
    """Judges answers by the objects they name."""

    def judge(self, answer: str, truth: str) -> Judgement:
        lexicon = coco_lexicon()
        present = classes_in(truth, lexicon.classes)
        mentions = list(lexicon.mentions(answer))
        wrong = [mention for mention in mentions if mention.name not in present]
        return Judgement(
            mentions=len(mentions),
            hallucinated=len(wrong),
            covered=len(present & {mention.name for mention in mentions}),
            truth_total=len(present),
            spans=tuple((mention.start, mention.end) for mention in wrong),
        )


@cache
def coco_lexicon() -> Lexicon:
    """The table of this package, with plurals."""
    table = tomllib.loads(files(__package__).joinpath("coco_objects.toml").read_text(encoding="utf-8"))
    phrases: dict[Words, str | None] = {}
    named: list[tuple[str | None, str]] = [(None, phrase) for phrase in table["other"]["phrases"]]
    named += [(name, phrase) for name, phrases in table["classes"].items() for phrase in phrases]
    for name, phrase in named:
        for form in _forms(phrase, table["irregular"]):
            words = tuple(_WORD.findall(form))
            if phrases.setdefault(words, name) != name:
                raise ValueError(f"coco_objects.toml: {form!r} names both {phrases[words]!r} and {name!r}")
    return Lexicon(phrases, frozenset(table["classes"]), max(map(len, phrases)))


def _forms(phrase: str, irregular: Mapping[str, str]) -> tuple[str, ...]:
    """The phrase as it stands and with its last word in the plural; only as it stands after a "="."""
    if phrase.startswith("="):
        return (phrase[1:],)
    head, _, last = phrase.rpartition(" ")
    return (phrase, f"{head} {irregular.get(last) or _plural(last)}".strip())


def _plural(word: str) -> str:
    if re.search(r"(s|x|z|ch|sh)$", word):
        return f"{word}es"
    if re.search(r"[^aeiou]y$", word):
        return f"{word[:-1]}ies"
    return f"{word}s"


def _lower(words: list[re.Match[str]]) -> Words:
    return tuple(word.group().lower() for word in words)
