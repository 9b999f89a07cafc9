"""From scored answers to preference pairs: combine, draw, balance the lengths. Pure; every choice is seeded.

Paper (arXiv 2405.17220), sections 3.1 and 3.2: answers of one instruction differ only in their random seed, and the one
with fewer rejected claims is preferred.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from random import Random
from typing import Final

import numpy as np

from feedback_workloads.contract import BadInput
from feedback_workloads.method.words import count_words

BALANCE_STEPS: Final = 50
"""The length balance tries the thresholds 0, 1/50 ... 49/50."""


@dataclass(frozen=True, order=True)
class ScoredAnswer:
    """One scored answer. `score` is minus the number of its claims that the labeler rejected."""

    candidate: int
    score: int
    text: str

    @property
    def words(self) -> int:
        return count_words(self.text)


@dataclass(frozen=True)
class Pair:
    """Two answers to instruction `id`, the first preferred."""

    id: str
    chosen: ScoredAnswer
    rejected: ScoredAnswer


@dataclass(frozen=True)
class Balance:
    """The pairs that the length balance keeps. `threshold` is its r, None where there was nothing to keep."""

    pairs: tuple[Pair, ...]
    threshold: float | None


def score(accepted: Sequence[bool]) -> int | None:
    """Minus the number of rejected claims; None for an answer without claims, which can be in no pair."""
    return sum(accepted) - len(accepted) if accepted else None


def combine(id: str, answers: Iterable[ScoredAnswer], min_difference: int = 1) -> list[Pair]:
    """All pairs of different texts whose scores differ by at least `min_difference`, in order of their candidates."""
    if min_difference < 1:
        raise BadInput(f"min_score_difference is {min_difference}, which prefers no answer; set it to 1 or more")
    return [
        Pair(id, better, worse)
        for one, other in combinations(sorted(answers), 2)
        for better, worse in [(one, other) if one.score > other.score else (other, one)]
        if better.score - worse.score >= min_difference and better.text != worse.text
    ]


def draw(pairs: Sequence[Pair], at_most: int, seed: int) -> list[Pair]:
    """At most `at_most` of the pairs, drawn uniformly and kept in their order."""
    if len(pairs) <= at_most:
        return list(pairs)
    return [pairs[i] for i in sorted(Random(seed).sample(range(len(pairs)), at_most))]


def balance_lengths(pairs: Sequence[Pair]) -> Balance:
    """Drop pairs whose rejected answer is much the longer one, so that length does not tell which answer is preferred.

    For each threshold r the pairs with (rejected - chosen) / rejected > r, in words, are dropped; the r is kept for
    which the mean lengths differ least, relative to the rejected ones. Of equally good thresholds the one that keeps
    most pairs wins, then the smallest. Computed in integers: no rounding and no division by zero; a pair whose rejected
    answer is empty is never dropped.
    """
    chosen = np.array([pair.chosen.words for pair in pairs], dtype=np.int64)
    rejected = np.array([pair.rejected.words for pair in pairs], dtype=np.int64)
    excess = (rejected - chosen) * BALANCE_STEPS
    options: list[tuple[tuple[Fraction, int, int], np.ndarray]] = []
    for step in range(BALANCE_STEPS):
        kept = excess <= step * rejected
        if kept.any():
            imbalance = _imbalance(int(chosen[kept].sum()), int(rejected[kept].sum()))
            options.append(((imbalance, -int(kept.sum()), step), kept))
    if not options:
        return Balance((), None)
    (_, _, step), kept = min(options, key=lambda option: option[0])
    return Balance(tuple(pair for pair, keep in zip(pairs, kept, strict=True) if keep), step / BALANCE_STEPS)


def _imbalance(chosen: int, rejected: int) -> Fraction:
    """|mean chosen - mean rejected| / mean rejected, from the two sums over the same pairs."""
    return Fraction(abs(chosen - rejected), max(rejected, 1))
