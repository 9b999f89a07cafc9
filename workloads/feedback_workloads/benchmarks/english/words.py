"""The three ways in which CHAIR and its kin bring the words of a text to the singular."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final

from feedback_workloads.benchmarks.english.lemmas import Part, lemma, singular
from feedback_workloads.benchmarks.english.tagging import TEXTS_AT_ONCE, Tagger
from feedback_workloads.benchmarks.english.tokens import tokens

_PART: Final[Mapping[str, Part]] = {"n": "n", "v": "v", "a": "a", "r": "r", "-": "n"}
Reduce = Callable[[Sequence[str]], Iterator[list[str]]]
"""The words of each of many texts, in the singular."""


def singulars(texts: Sequence[str]) -> Iterator[list[str]]:
    """By pattern.en's `singularize`, as CHAIR was published."""
    for text in texts:
        yield [singular(word) for word in tokens(text.lower())]


def noun_lemmas(texts: Sequence[str]) -> Iterator[list[str]]:
    """Lemmas of all words as nouns, as RLHF-V has them."""
    for text in texts:
        yield [lemma(word, "n") for word in tokens(text.lower())]


def lemmas(texts: Sequence[str], tagger: Tagger) -> Iterator[list[str]]:
    """Lemmas by parts of speech, as OPERA and those after it have them; what is of no such part is taken for a noun."""
    for words, parts in _tagged([text.lower() for text in texts], tagger):
        yield [lemma(word, _PART[part]) for word, part in zip(words, parts, strict=True)]


def nouns(texts: Sequence[str], tagger: Tagger) -> Iterator[list[str]]:
    """Lemmas of the nouns of each text alone, in order, as AMBER has them; capitals are kept."""
    for words, parts in _tagged(texts, tagger):
        yield [lemma(word, "n") for word, part in zip(words, parts, strict=True) if part == "n"]


def by_rule(rule: str, tagger: Tagger) -> Reduce:
    """The way that an option `words` names, one of RULES."""
    rules: dict[str, Reduce] = {
        "pos": partial(lemmas, tagger=tagger),
        "singularize": singulars,
        "noun": noun_lemmas,
    }
    return rules[rule]


def _tagged(texts: Sequence[str], tagger: Tagger) -> Iterator[tuple[list[str], str]]:
    """The words of each text and their parts of speech; few texts at a time, so that memory is bounded."""
    for at in range(0, len(texts), TEXTS_AT_ONCE):
        split = [tokens(text) for text in texts[at : at + TEXTS_AT_ONCE]]
        yield from zip(split, tagger(split), strict=True)
