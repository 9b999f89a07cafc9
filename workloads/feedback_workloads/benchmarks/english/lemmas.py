"""What a word is a form of: WordNet's lemmas as NLTK's lemmatizer picks them, and the singulars of pattern.en.

WordNet 3.0's words and irregular forms are in `wordnet.tsv.gz` (origin and licence: WORDNET.md), without those of more
than one word, so that nothing is downloaded. TextBlob has pattern.en's `singularize`.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final, Literal

Part = Literal["n", "v", "a", "r"]
"""Noun, verb, adjective, adverb."""

_ENDINGS: Final[Mapping[Part, tuple[tuple[str, str], ...]]] = {
    "n": (
        ("s", ""), ("ses", "s"), ("ves", "f"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"),
        ("men", "man"), ("ies", "y"),
    ),
    "v": (
        ("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", ""),
    ),
    "a": (("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
    "r": (),
}  # fmt: skip
"""What WordNet's morphy (manual page morphy(7WN)) takes off a form, and puts in its place."""


@cache
def lemma(word: str, part: Part) -> str:
    """The shortest lemma of that part of speech which `word` may be a form of; of equals that which is found first.

    The word itself where WordNet knows none. "glasses" is a lemma, but "glass" is shorter.
    """
    wordnet = _wordnet()
    irregular = wordnet.irregular.get((word, part))
    regular = (word.removesuffix(old) + new for old, new in _ENDINGS[part] if word.endswith(old))
    forms = (word, *(regular if irregular is None else irregular))
    return min((form for form in forms if is_a(form, part)), key=len, default=word)


def is_a(word: str, part: Part) -> bool:
    """Whether WordNet has the word as a lemma of that part of speech."""
    return part in _wordnet().parts.get(word, "")


@cache
def singular(word: str) -> str:
    """The word in the singular by pattern.en's rules, which know no parts of speech: "this" is "thi"."""
    from textblob.en.inflect import singularize

    return str(singularize(word))


@dataclass(frozen=True)
class _WordNet:
    """Parts of speech by lemma, and lemmas by irregular form and part of speech."""

    parts: Mapping[str, str]
    irregular: Mapping[tuple[str, str], tuple[str, ...]]


@cache
def _wordnet() -> _WordNet:
    parts: dict[str, str] = {}
    irregular: dict[tuple[str, str], tuple[str, ...]] = {}
    table = gzip.decompress(files(__package__).joinpath("wordnet.tsv.gz").read_bytes()).decode()
    for line in table.splitlines():
        match line.split("\t"):
            case [word, of]:
                parts[word] = of
            case [form, of, lemmas]:
                irregular[form, of] = tuple(lemmas.split())
    return _WordNet(parts, irregular)
