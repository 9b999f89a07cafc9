"""Which words name which of COCO's 80 classes, by CHAIR's synonyms and by those that RLHF-V refined.

A table of synonyms has a class a line, its own name first. Two words that are one, such as "hot dog", are joined before
synonyms are looked up. Origin and licence of `synonyms.txt`: SYNONYMS.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import chain, product
from typing import Final

_PAIRS_OF_CHAIR: Final = (
    "motor bike", "motor cycle", "air plane", "traffic light", "street light", "traffic signal", "stop light",
    "fire hydrant", "stop sign", "parking meter", "suit case", "sports ball", "baseball bat", "baseball glove",
    "tennis racket", "wine glass", "hot dog", "cell phone", "mobile phone", "teddy bear", "hair drier", "potted plant",
    "bow tie", "laptop computer",
)  # fmt: skip
"""Pairs of words that CHAIR joins; "dining table" is none, for "table" finds it."""
_HIDING: Final = ("home plate", "train track")
"""Pairs that name no class, and hide the plate and the train in them."""
_ANIMALS: Final = (
    "bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "animal", "cub",
)  # fmt: skip
_QUALIFIED: Final = {
    **{f"{age} {animal}": animal for age, animal in product(("baby", "adult"), _ANIMALS)},
    "passenger jet": "jet",
    "passenger train": "train",
    "bow tie": "tie",
    "toilet seat": "toilet",
    "wine glas": "wine glass",
}
"""Pairs that are read as one word of them: a baby bird is no person. pattern.en made "wine glas" of glasses."""
_REFINED: Final = {
    "person": ("brother", "pedestrian"), "dining table": ("coffee table",), "remote": ("remote control",)
}  # fmt: skip
"""What RLHF-V's table has beside CHAIR's."""


@dataclass(frozen=True)
class Named:
    """What a text names: `words` of COCO in their order, their `classes`, and in `places` where they stand.

    `read` are all words of the text, joined.
    """

    words: tuple[str, ...]
    classes: tuple[str, ...]
    places: tuple[int, ...]
    read: tuple[str, ...]


@dataclass(frozen=True)
class Vocabulary:
    """Classes by the words that name them, and by what each pair of words is replaced that is one word."""

    class_of: Mapping[str, str]
    joined: Mapping[str, str]

    def named(self, words: Sequence[str]) -> Named:
        """What the words of a text, in the singular, name; places are those of the words that were given."""
        steps = list(self._joined(words))
        read = [word for _, word, _ in steps]
        # Seats are dropped from the words and not from their places: the official scorers' slip.
        found = [(word, steps[at][0]) for at, word in enumerate(without_seats(read)) if word in self.class_of]
        return Named(
            words=tuple(word for word, _ in found),
            classes=tuple(self.class_of[word] for word, _ in found),
            places=tuple(at for _, at in found),
            read=tuple(read),
        )

    def pairs(self, words: Sequence[str]) -> list[str]:
        """What the pairs among the words are read as."""
        return [word for _, word, is_pair in self._joined(words) if is_pair]

    def _joined(self, words: Sequence[str]) -> Iterator[tuple[int, str, bool]]:
        """The words with pairs joined, from left to right: where each begins, and whether it is a pair."""
        at = 0
        while at < len(words):
            pair = self.joined.get(" ".join(words[at : at + 2]))
            yield at, pair or words[at], pair is not None
            at += 2 if pair else 1


def without_seats(words: Sequence[str]) -> list[str]:
    """The words without every seat where there is a toilet, too: a toilet's seat is no chair."""
    return [word for word in words if word != "seat"] if "toilet" in words else list(words)


@cache
def chair_vocabulary() -> Vocabulary:
    """CHAIR's table with its slips: "iPhone" has a capital, two synonyms begin with a blank: these match nothing."""
    classes = {word: names[0] for names in _synonyms() for word in names}
    return Vocabulary(classes, {pair: pair for pair in _PAIRS_OF_CHAIR + _HIDING} | _QUALIFIED)


@cache
def refined_vocabulary() -> Vocabulary:
    """The table of Object HalBench, which joins every synonym of two words."""
    classes = {word.strip(): names[0] for names in _synonyms() for word in chain(names, _REFINED.get(names[0], ()))}
    pairs = {word: word for word in classes if word.count(" ") == 1}
    return Vocabulary(classes, pairs | {pair: pair for pair in _HIDING} | _QUALIFIED)


def _synonyms() -> list[list[str]]:
    table = files(__package__).joinpath("synonyms.txt").read_text(encoding="utf-8")
    return [line.strip().split(", ") for line in table.splitlines()]
