"""What a benchmark says about one answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Closed:
    """The answer to a question to which one answer is right.

    `said` is whether it says what the benchmark's F1 looks for, `true` whether that is the right answer; both are False
    where there is no such answer, as with the letters of options.
    """

    right: bool
    said: bool = False
    true: bool = False


@dataclass(frozen=True)
class Judgement:
    """One answer against the truth about its picture.

    `mentions` objects are named, `hallucinated` of them are not in the picture; `covered` of the picture's
    `truth_total` objects are named. `expected` of the picture's objects are such as are often named where they are
    absent, and `expected_covered` of these are named; both are 0 where a benchmark does not know which those are.
    `spans` are the hallucinated words as (start, end) character positions in the answer, where a benchmark tells them.
    `closed` is None where the question is open.
    """

    mentions: int
    hallucinated: int
    covered: int
    truth_total: int
    expected: int = 0
    expected_covered: int = 0
    spans: tuple[tuple[int, int], ...] = ()
    closed: Closed | None = None


class Benchmark(Protocol):
    """Judges answers without a model, so that the same answer always gets the same judgement."""

    def judge(self, answer: str, truth: str) -> Judgement:
        """Judge `answer` by `truth`, the text in the data set's `truth` column; BadRow where that cannot be read."""
        ...
