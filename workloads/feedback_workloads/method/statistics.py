"""Rates of a benchmark and how sure they are: ratios of sums with bootstrap percentile intervals. Pure.

Questions are resampled, not answers or mentions, because what is said about one picture is not independent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, get_args

import numpy as np
from numpy.typing import NDArray

from feedback_workloads.contract import RateName
from feedback_workloads.method.judgement import Closed

CONFIDENCE: Final = 0.95
_DRAWS_A_BLOCK: Final = 256


@dataclass(frozen=True)
class Judged:
    """What a benchmark said about one answer to question `id`, and how long the answer is."""

    id: str
    mentions: int
    hallucinated: int
    covered: int
    truth_total: int
    expected: int
    expected_covered: int
    words: int
    closed: Closed | None = None


@dataclass(frozen=True)
class Rate:
    """A share in [0, 1], or a difference or a ratio of two, with its 95% interval; all None where it is undefined."""

    value: float | None
    low: float | None
    high: float | None

    def to_json(self) -> dict[str, float | None]:
        return {"value": self.value, "low": self.low, "high": self.high}


UNDEFINED: Final = Rate(None, None, None)
RATES: Final[tuple[RateName, ...]] = get_args(RateName)
"""Names of the rates among Measures."""
OF_CLOSED: Final[tuple[RateName, ...]] = ("accuracy", "f1")
"""Those of closed questions: where a benchmark asks none, files do not name them."""


@dataclass(frozen=True)
class Measures:
    """How much a set of answers hallucinates and what it leaves out; the figures that are compared and reported.

    response_hallucination: answers with a hallucinated object / answers that name an object at all.
    mention_hallucination: hallucinated mentions / all mentions.
    recall: objects of the pictures that are named / all objects of the pictures.
    expected_recall: the same of those objects alone that are often named where they are absent. Who stops naming them
    at all hallucinates less and sees no better. Undefined where the benchmark marks none.
    mean_words: mean length of an answer in words, 0 without answers.
    accuracy: right answers to closed questions / all answers to them.
    f1: of the answer that the benchmark looks for (POPE: yes, AMBER: no), 2 * rightly given / (given + right).
    """

    response_hallucination: Rate
    mention_hallucination: Rate
    recall: Rate
    expected_recall: Rate
    mean_words: float
    accuracy: Rate = UNDEFINED
    f1: Rate = UNDEFINED

    def rate(self, name: RateName) -> Rate:
        """The rate of that name."""
        found: Rate = getattr(self, name)
        return found

    def to_json(self) -> dict[str, Any]:
        rates = {name: self.rate(name) for name in RATES}
        shown: dict[str, Any] = {
            name: rate.to_json() for name, rate in rates.items() if name not in OF_CLOSED or rate != UNDEFINED
        }
        return {**shown, "mean_words": self.mean_words}

    def values(self, prefix: str) -> dict[str, float]:
        """Figures `prefix.RATE` and `prefix.mean_words`; without undefined ones."""
        rates = {f"{prefix}.{name}": self.rate(name).value for name in RATES}
        return {f"{prefix}.mean_words": self.mean_words} | {
            name: value for name, value in rates.items() if value is not None
        }

    def flat(self, prefix: str) -> dict[str, float]:
        """The same with the ends of the intervals, `prefix.RATE.low` and `prefix.RATE.high`."""
        ends = {f"{prefix}.{name}.{end}": getattr(self.rate(name), end) for name in RATES for end in ("low", "high")}
        return self.values(prefix) | {name: value for name, value in ends.items() if value is not None}


def measure(judged: Iterable[Judged], resamples: int, seed: int) -> Measures:
    """Rates over `judged` with intervals from `resamples` bootstrap samples of the questions.

    Depends on the set of answers alone, not on their order. With one seed, two sets over the same questions are
    resampled in the same way.
    """
    table = _sums_by_question(judged)
    point = table.sum(axis=0, keepdims=True)
    samples = bootstrap(table, resamples, seed)
    answers, words = point[0, _ANSWERS], point[0, _WORDS]
    return Measures(
        **{name: _rate(point, samples, *_PARTS[name]) for name in RATES},
        mean_words=float(words / answers) if answers else 0.0,
    )


def ratios(one: Iterable[Judged], other: Iterable[Judged], resamples: int, seed: int) -> dict[str, Rate]:
    """Each figure of Measures of `one` over that of `other`, by its name, with the middle 95% of the resamples.

    Both are answers to the same questions, and a resample draws the same questions of both, those that `measure` draws.
    A ratio is undefined where the figure of `other` is 0, or is 0 in so many resamples that the interval has no end.
    Raises ValueError for answers to different numbers of questions.
    """
    table = np.hstack(_tables([one, other]))
    points, samples = table.sum(axis=0, keepdims=True), bootstrap(table, resamples, seed)
    return {name: _ratio(points, samples, *parts) for name, parts in _PARTS.items()}


def differences(tried: Sequence[Iterable[Judged]], other: Iterable[Judged], resamples: int, seed: int) -> list[Rate]:
    """Response-level hallucination of each of `tried` less that of `other`, in [-1, 1]; the intervals hold all at once.

    All are answers to the same questions, and a resample draws the same questions of all: what makes a question hard
    cancels out, so this says more than intervals beside each other. Every interval reaches equally many of its standard
    errors to both sides: so many that in 95% of the resamples none of the differences is outside of its own (Westfall
    and Young's max-statistic, 1993). So the more is tried, the further they reach, and the chance that any of them
    misses stays 5%. Raises ValueError for answers to different numbers of questions.
    """
    table = np.hstack([one[:, [_HALLUCINATING, _NAMING]] for one in _tables([*tried, other])])
    points = _differences(table.sum(axis=0, keepdims=True))[0]
    samples = _differences(bootstrap(table, resamples, seed))
    known = ~np.isnan(points)
    reaches = np.full(len(points), np.nan)
    reaches[known] = _reaches(samples[:, known] - points[known])
    return [
        Rate(None, None, None)
        if math.isnan(point)
        else Rate(float(point), float(max(-1.0, point - reach)), float(min(1.0, point + reach)))
        for point, reach in zip(points, reaches, strict=True)
    ]


_COLUMNS: Final = 14
(
    _HALLUCINATING, _NAMING, _HALLUCINATED, _MENTIONS, _COVERED, _TRUTH, _EXPECTED_COVERED, _EXPECTED, _WORDS, _ANSWERS,
    _RIGHT, _CLOSED, _TWICE_RIGHTLY, _GIVEN_AND_TRUE,
) = range(_COLUMNS)  # fmt: skip
_PARTS: Final = {
    "response_hallucination": (_HALLUCINATING, _NAMING),
    "mention_hallucination": (_HALLUCINATED, _MENTIONS),
    "recall": (_COVERED, _TRUTH),
    "expected_recall": (_EXPECTED_COVERED, _EXPECTED),
    "mean_words": (_WORDS, _ANSWERS),
    "accuracy": (_RIGHT, _CLOSED),
    "f1": (_TWICE_RIGHTLY, _GIVEN_AND_TRUE),
}
"""Each figure of Measures as a part over its whole."""


def _tables(compared: Sequence[Iterable[Judged]]) -> list[NDArray[np.float64]]:
    """The sums by question of each; raises ValueError where they are not of equally many questions."""
    tables = [_sums_by_question(some) for some in compared]
    if len(numbers := {len(table) for table in tables}) > 1:
        raise ValueError(f"answers to {min(numbers)} questions are compared with answers to {max(numbers)}")
    return tables


def _sums_by_question(judged: Iterable[Judged]) -> NDArray[np.float64]:
    """Sums of the columns a question, (questions, columns), in the order of the questions' ids."""
    sums: dict[str, NDArray[np.float64]] = {}
    for one in judged:
        closed = one.closed or Closed(right=False)
        columns = (one.hallucinated > 0, one.mentions > 0, one.hallucinated, one.mentions, one.covered, one.truth_total,
                   one.expected_covered, one.expected, one.words, 1,
                   closed.right, one.closed is not None, 2 * (closed.said and closed.true),
                   closed.said + closed.true)  # fmt: skip
        sums[one.id] = sums.get(one.id, 0) + np.array(columns, dtype=np.float64)
    return np.array([sums[id] for id in sorted(sums)]).reshape(-1, _COLUMNS)


def bootstrap(table: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    """Column sums of a table, (questions, columns), in each of `resamples` draws of as many questions, a row a draw.

    Questions are drawn with replacement.
    """
    questions = len(table)
    if questions == 0 or resamples == 0:
        return np.zeros((0, table.shape[1]))
    random = np.random.default_rng(seed)
    chances = np.full(questions, 1 / questions)
    return np.concatenate([random.multinomial(questions, chances, size=size) @ table for size in _blocks(resamples)])


def exchanges(table: NDArray[np.float64], draws: int, seed: int) -> NDArray[np.float64]:
    """Column sums of a table, (questions, columns), over each question with a chance of one half, a row a draw."""
    random = np.random.default_rng(seed)
    return np.concatenate([random.integers(0, 2, size=(size, len(table))) @ table for size in _blocks(draws)])


def _blocks(draws: int) -> list[int]:
    """How many of `draws` are done at once: memory is bounded by a weight for each question and draw of a block."""
    return [min(_DRAWS_A_BLOCK, draws - done) for done in range(0, draws, _DRAWS_A_BLOCK)]


def _rate(point: NDArray[np.float64], samples: NDArray[np.float64], part: int, whole: int) -> Rate:
    if point[0, whole] == 0:
        return Rate(None, None, None)
    defined = samples[samples[:, whole] > 0]
    shares = defined[:, part] / defined[:, whole]
    low, high = interval(shares, widest=(0.0, 1.0))
    return Rate(float(point[0, part] / point[0, whole]), low, high)


def _ratio(point: NDArray[np.float64], samples: NDArray[np.float64], part: int, whole: int) -> Rate:
    """Of a pair of tables beside each other: the rate in the left one over that in the right one."""
    value = float(_quotients(point, part, whole)[0])
    with np.errstate(invalid="ignore"):  # between infinities
        low, high = interval(_quotients(samples, part, whole), widest=(0.0, math.inf))
    return Rate(value, low, high) if math.isfinite(value + high) else Rate(None, None, None)


def _quotients(sums: NDArray[np.float64], part: int, whole: int) -> NDArray[np.float64]:
    """A row each, infinite where it is undefined."""
    above = sums[:, part] * sums[:, _COLUMNS + whole]
    below = sums[:, whole] * sums[:, _COLUMNS + part]
    return np.divide(above, below, out=np.full_like(above, np.inf), where=below > 0)


def _differences(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of sums of pairs of a part and its whole, (rows, 2n): each rate less the last, (rows, n - 1); NaN of 0 of 0."""
    with np.errstate(invalid="ignore"):
        rates = sums[:, 0::2] / sums[:, 1::2]
    differences: NDArray[np.float64] = rates[:, :-1] - rates[:, -1:]
    return differences


def _reaches(deviations: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far the interval of each column reaches, by its `deviations` in the resamples, a row a resample."""
    whole = deviations[~np.isnan(deviations).any(axis=1)]
    if not len(whole):
        return np.full(deviations.shape[1], 2.0)  # to both ends
    errors = whole.std(axis=0)
    in_errors = np.divide(np.abs(whole), errors, out=np.zeros_like(whole), where=errors > 0)
    reaches: NDArray[np.float64] = errors * np.percentile(in_errors.max(axis=1, initial=0.0), 100 * CONFIDENCE)
    return reaches


def interval(values: NDArray[np.float64], widest: tuple[float, float]) -> tuple[float, float]:
    """The middle 95% of `values`; without any, `widest`."""
    if not len(values):
        return widest
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(values, (tail, 100 - tail))
    return float(low), float(high)
