"""Parts of speech as NLTK's `pos_tag` gives them, of many texts at once.

NLTK's tagger (Honnibal's averaged perceptron) looks at a word, two on either side, and the tags of the two before it.
So within a text one word waits for the other, but texts do not wait for each other: this walks through many in step, by
the same sums in the same order, and is many times as fast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Final

import numpy as np
from nltk.tag.perceptron import PerceptronTagger
from numpy.typing import NDArray

from feedback_workloads.contract import BadInput

TEXTS_AT_ONCE: Final = 512
"""More are no faster, and take more memory."""
_BEFORE: Final = ("-START-", "-START2-")
_AFTER: Final = ("-END-", "-END2-")
_PARTS: Final = {"N": "n", "V": "v", "J": "a", "R": "r"}

Tagger = Callable[[Sequence[Sequence[str]]], list[str]]
"""Parts of speech of tokenized texts, a letter a token: noun, verb, adjective (`a`), adverb (`r`), `-` for others."""


def nltk_parts(texts: Sequence[Sequence[str]]) -> list[str]:
    """The parts of speech by NLTK's English tagger; BadInput, with what to install, where its weights are not here."""
    blocks = (texts[at : at + TEXTS_AT_ONCE] for at in range(0, len(texts), TEXTS_AT_ONCE))
    return [parts for block in blocks for parts in _perceptron().parts(block)]


@cache
def _perceptron() -> Perceptron:
    try:
        tagger = PerceptronTagger()
    except LookupError as error:
        raise BadInput(
            "the weights of NLTK's English tagger are not on this machine; run `python -m nltk.downloader "
            "averaged_perceptron_tagger_eng`, or unpack that file of https://www.nltk.org/nltk_data into "
            "~/nltk_data/taggers (NLTK_DATA names another folder than ~/nltk_data)"
        ) from error
    return Perceptron(tagger.model.weights, tagger.tagdict, tagger.classes)


class Perceptron:
    """An averaged perceptron: `weights` by feature and tag, and the tags of `known` words, which have but one."""

    def __init__(
        self, weights: Mapping[str, Mapping[str, float]], known: Mapping[str, str], tags: Iterable[str]
    ) -> None:
        # NLTK breaks ties in favour of the tag that is last in the alphabet, and argmax in favour of the first.
        ordered = sorted(tags, reverse=True)
        column = {tag: number for number, tag in enumerate(ordered)}
        self._weights = np.zeros((len(weights) + 1, len(ordered)))  # row 0 is that of all features without weights
        self._row = {feature: number for number, feature in enumerate(weights, 1)}
        for row, by_tag in enumerate(weights.values(), 1):
            for tag, weight in by_tag.items():
                self._weights[row, column[tag]] = weight
        self._known = {word: column[tag] for word, tag in known.items()}
        self._letters = np.array([_PARTS.get(tag[0], "-") for tag in ordered])
        self._preceding = [*ordered, *_BEFORE]  # what may stand for the tag of a word before
        self._after_tag = self._rows("i-1 tag", self._preceding)
        self._after_next = self._rows("i-2 tag", self._preceding)
        self._after_both = np.array([self._rows(f"i tag+i-2 tag {tag}", self._preceding) for tag in self._preceding])
        self._rows_of_word = cache(self._find_rows)

    def parts(self, texts: Sequence[Sequence[str]]) -> list[str]:
        """See `Tagger`."""
        order = sorted(range(len(texts)), key=lambda number: -len(texts[number]))
        lengths = np.array([len(texts[number]) for number in order])
        vocabulary: dict[str, int] = {}
        words = np.zeros((len(texts), len(_BEFORE) + int(lengths.max(initial=0)) + len(_AFTER)), np.int64)
        for row, number in enumerate(order):
            padded = (*_BEFORE, *texts[number], *_AFTER)
            words[row, : len(padded)] = [vocabulary.setdefault(word, len(vocabulary)) for word in padded]
        tags = self._tag(words, lengths, vocabulary)
        letters = self._letters[tags]
        found = {number: "".join(letters[row, : lengths[row]]) for row, number in enumerate(order)}
        return [found[number] for number in range(len(texts))]

    def _tag(
        self, words: NDArray[np.int64], lengths: NDArray[np.int64], vocabulary: Mapping[str, int]
    ) -> NDArray[np.int64]:
        """Columns of the tags of padded texts, (texts, words), given longest first."""
        known = np.array([self._known.get(word, -1) for word in vocabulary], np.int64)
        rows = np.array([self._rows_of_word(word) for word in vocabulary])
        tags = np.zeros((len(words), words.shape[1] - len(_AFTER)), np.int64)
        tags[:, 1], tags[:, 0] = (self._preceding.index(tag) for tag in _BEFORE)
        for at in range(len(_BEFORE), tags.shape[1]):
            going = int(np.count_nonzero(lengths > at - len(_BEFORE)))
            tags[:going, at] = known[words[:going, at]]
            todo = np.flatnonzero(tags[:going, at] < 0)
            before_last, last, own, following, after_following = words[todo, at - 2 : at + 3].T
            tag_before_last, last_tag = tags[todo, at - 2 : at].T
            features = (
                self._row.get("bias", 0),
                rows[own, 0],
                rows[own, 1],
                self._after_tag[last_tag],
                self._after_next[tag_before_last],
                self._after_both[last_tag, tag_before_last],
                rows[own, 2],
                rows[own, 9 + last_tag],
                rows[last, 3],
                rows[last, 4],
                rows[before_last, 5],
                rows[following, 6],
                rows[following, 7],
                rows[after_following, 8],
            )
            tags[todo, at] = sum(self._weights[feature] for feature in features).argmax(axis=1)
        return tags[:, len(_BEFORE) :]

    def _find_rows(self, word: str) -> NDArray[np.int64]:
        """Where the weights of a word's features stand: of itself, of the words beside it, of it and the tag before."""
        as_neighbour = word if word in _BEFORE + _AFTER else _normalized(word)
        end = as_neighbour[-3:]
        features = (
            f"i suffix {word[-3:]}",
            f"i pref1 {word[:1]}",
            f"i word {as_neighbour}",
            f"i-1 word {as_neighbour}",
            f"i-1 suffix {end}",
            f"i-2 word {as_neighbour}",
            f"i+1 word {as_neighbour}",
            f"i+1 suffix {end}",
            f"i+2 word {as_neighbour}",
            *(f"i-1 tag+i word {tag} {as_neighbour}" for tag in self._preceding),
        )
        return np.array([self._row.get(feature, 0) for feature in features])

    def _rows(self, feature: str, values: Iterable[str]) -> NDArray[np.int64]:
        return np.array([self._row.get(f"{feature} {value}", 0) for value in values])


def _normalized(word: str) -> str:
    """What NLTK's tagger takes a word for; numbers and words with a hyphen are all the same to it."""
    if "-" in word and word[0] != "-":
        return "!HYPHEN"
    if word.isdigit() and len(word) == 4:
        return "!YEAR"
    return "!DIGITS" if word[0].isdigit() else word.lower()
