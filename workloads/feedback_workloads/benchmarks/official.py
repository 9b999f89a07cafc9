"""Public benchmarks, judged as their authors judge them, from files of answers in the form that they publish.

Such a benchmark is one file of this room with a class that is an `Official`. Numbers come out by their official names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

from feedback_workloads.benchmarks.judging import Judge
from feedback_workloads.contract import BadInput
from feedback_workloads.rows.json_files import Row


@dataclass(frozen=True)
class Option:
    """What may be chosen about a benchmark: its `values`, the first of which is the default."""

    meaning: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Share:
    """What one answer adds to a metric that is a quotient of sums: `part` of `whole`.

    `item` is what was asked, by a name that does not depend on who answered.
    """

    item: str
    part: float
    whole: float = 1


Shares = Mapping[str, Sequence[Share]]
"""What each answer adds to each metric. Metrics that are no such quotients are not among them."""


@dataclass(frozen=True)
class Scores:
    """What came out for `answers` answers.

    `metrics` has the official names; rates are fractions, and None where they are 0 of 0. `result` is the content of
    the file that the official scorer writes, for JSON or a text as it stands, and `file` its name. `notes` are
    sentences for the person who reads the numbers. `shares` is what models are compared by, answer by answer.
    """

    answers: int
    metrics: Mapping[str, float | None]
    file: str
    result: object
    notes: tuple[str, ...] = ()
    shares: Shares = field(default_factory=dict)


class Official(Protocol):
    """A public benchmark."""

    options: ClassVar[Mapping[str, Option]]
    truth: ClassVar[str]
    """What `--truth` has to name."""
    truth_files: ClassVar[tuple[str, ...]]
    """Patterns of the names of what is read in it, where that may be a folder."""
    question: ClassVar[str]
    """What a model is asked about each picture where no file of questions is given; empty where one has to be."""
    answer: ClassVar[str]
    """The field of an answer's text."""

    def score(self, answers: Path, truth: Path, options: Mapping[str, str]) -> Scores:
        """Judge a file of answers by the truth about its pictures; `options` has a value of each option.

        Raises BadInput, which names the file, its line or row, the field and the remedy.
        """
        ...

    def closed(self, question: Row) -> bool:
        """Whether only "Yes" or "No" can be right, so that a model is not left to say more."""
        ...


@runtime_checkable
class Judged(Official, Protocol):
    """A public benchmark of which a model judges the answers.

    What the judge says about an answer stands beside it in the file of answers, from where `score` takes it: so what
    was said once, here or elsewhere, is replayed.
    """

    prompts: ClassVar[str]
    """What `--judge-prompts` has to name: the authors' scripts, in which stands what the judge is told."""

    def judged(
        self, answers: Path, truth: Path, options: Mapping[str, str], prompts: Path, judge: Judge
    ) -> list[dict[str, object]]:
        """The answers, with what the judge says about each. Raises BadInput and Temporary."""
        ...


def chosen(options: Mapping[str, Option], given: Mapping[str, str]) -> dict[str, str]:
    """The value of each option; BadInput where there is no such option or value."""
    for name, value in given.items():
        if name not in options:
            known = ", ".join(options) or "none"
            raise BadInput(f"there is no option {name!r} of this benchmark; its options: {known}")
        option = options[name]
        if value not in option.values:
            raise BadInput(f"the option {name} ({option.meaning}) is {value!r}; give one of {', '.join(option.values)}")
    return {name: given.get(name, option.values[0]) for name, option in options.items()}


def quotients(shares: Shares) -> dict[str, float | None]:
    """The metrics of which these are the shares."""
    return {name: ratio(sum(one.part for one in of), sum(one.whole for one in of)) for name, of in shares.items()}


def ratio(part: float, whole: float) -> float | None:
    """`part / whole`; None of 0, where official scorers stop with an error."""
    return part / whole if whole else None


def shown(value: float | None) -> str:
    """A number as tables have it."""
    match value:
        case None:
            return "0 of 0"
        case int():
            return str(value)
        case _:
            return f"{value:.4f}"
