"""How far people agree with each other and with the labeler: pure. Kappas are statsmodels', alpha is krippendorff's.

Who cannot tell has not said anything. Intervals are of a bootstrap over tasks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray

from feedback_workloads.method.statistics import Rate, interval
from feedback_workloads.people.tasks import UNDECIDED

RESAMPLES: Final = 1000
LABELER: Final = "labeler"
TIE: Final = "tie"

Said = Mapping[str, Mapping[str, str]]
"""What each person said, by name and task."""
Codes = NDArray[np.int64]
"""What was said to each task, (tasks, people), as numbers of the choices; -1 where nothing was."""


@dataclass(frozen=True)
class Agreement:
    """How far some agree: over how many `tasks`, the `share` of equal answers, and beyond chance.

    `kappa` is Cohen's of two, Fleiss' of more. None where there is nothing to measure: no task that all have answered,
    or one answer alone.
    """

    who: str
    tasks: int
    share: Rate
    kappa: Rate


@dataclass(frozen=True)
class Found:
    """Agreement of each two people, of all on the tasks that all answered, and of each with the labeler.

    `alpha` is Krippendorff's over all people and all tasks that two or more answered. `with_labeler` ends with what
    most people say, ties left out; where pairs are judged, a person's ties are left out there, and counted in `ties`.
    """

    two: Sequence[Agreement]
    together: Agreement | None
    alpha: Rate
    with_labeler: Sequence[Agreement]
    ties: Mapping[str, int]


def agreement(said: Said, labeler: Mapping[str, str], choices: Sequence[str], seed: int = 0) -> Found:
    """How far people agree; with a labeler that said something, also with it. Whoever said nothing is left out."""
    decided = {
        name: {task: answer for task, answer in answers.items() if answer != UNDECIDED}
        for name, answers in sorted(said.items())
    }
    people = {name: answers for name, answers in decided.items() if answers}
    tasks = sorted({task for answers in people.values() for task in answers})
    codes = _codes(list(people.values()), tasks, choices)
    names = list(people)
    judged = {name: _without_ties(answers) for name, answers in people.items()}
    most = {"most people": majority(list(judged.values()))} if len(people) > 1 else {}
    against = {**judged, **most} if labeler else {}
    return Found(
        two=[
            _agreement(f"{names[a]} and {names[b]}", codes[:, [a, b]], len(choices), seed)
            for a, b in combinations(range(len(names)), 2)
        ],
        together=_agreement("all", codes, len(choices), seed) if len(names) > 2 else None,
        alpha=_measured(codes, lambda some: _alpha(some, len(choices)), seed),
        with_labeler=[
            _agreement(f"{name} and {LABELER}", _codes([answers, labeler], list(labeler), choices), len(choices), seed)
            for name, answers in against.items()
        ],
        ties={name: sum(answer == TIE for answer in answers.values()) for name, answers in people.items()},
    )


def majority(said: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """What more than half of those who said something say, by task; nothing where there is no such answer."""
    votes: dict[str, list[str]] = {}
    for answers in said:
        for task, answer in answers.items():
            votes.setdefault(task, []).append(answer)
    return {
        task: answer
        for task, answers in votes.items()
        for answer in sorted(set(answers))
        if 2 * answers.count(answer) > len(answers)
    }


def _without_ties(answers: Mapping[str, str]) -> dict[str, str]:
    return {task: answer for task, answer in answers.items() if answer != TIE}


def _codes(said: Sequence[Mapping[str, str]], tasks: Sequence[str], choices: Sequence[str]) -> Codes:
    number = {choice: place for place, choice in enumerate(choices)}
    rows = [[number[answers[task]] if task in answers else -1 for answers in said] for task in tasks]
    return np.array(rows, dtype=np.int64).reshape(len(tasks), len(said))


def _agreement(who: str, codes: Codes, choices: int, seed: int) -> Agreement:
    """Of the tasks that all of them answered."""
    whole = codes[(codes >= 0).all(axis=1)]
    of = _cohen if whole.shape[1] == 2 else _fleiss
    return Agreement(
        who, len(whole), _measured(whole, _share, seed), _measured(whole, lambda some: of(some, choices), seed)
    )


def _measured(codes: Codes, measure: Callable[[Codes], float], seed: int) -> Rate:
    """A measure with the middle 95% of what it is over resampled tasks; None where it is undefined."""
    value = measure(codes) if len(codes) else math.nan
    if math.isnan(value):
        return Rate(None, None, None)
    random = np.random.default_rng(seed)
    draws = [measure(codes[random.integers(0, len(codes), len(codes))]) for _ in range(RESAMPLES)]
    low, high = interval(np.array([draw for draw in draws if not math.isnan(draw)]), widest=(-1.0, 1.0))
    return Rate(value, low, high)


def _share(codes: Codes) -> float:
    return float((codes == codes[:, :1]).all(axis=1).mean())


def _cohen(codes: Codes, choices: int) -> float:
    from statsmodels.stats.inter_rater import cohens_kappa

    table = np.zeros((choices, choices))
    np.add.at(table, (codes[:, 0], codes[:, 1]), 1)
    return _quiet(lambda: float(cohens_kappa(table, return_results=False)))


def _fleiss(codes: Codes, choices: int) -> float:
    from statsmodels.stats.inter_rater import fleiss_kappa

    return _quiet(lambda: float(fleiss_kappa(_counts(codes, choices))))


def _alpha(codes: Codes, choices: int) -> float:
    import krippendorff

    counts = _counts(codes, choices)
    twice = counts[counts.sum(axis=1) > 1]
    if np.count_nonzero(twice.sum(axis=0)) < 2:  # where all say the same there is nothing to tell apart
        return math.nan
    return float(krippendorff.alpha(value_counts=twice, level_of_measurement="nominal"))


def _counts(codes: Codes, choices: int) -> Codes:
    """How often each choice was said to each task, (tasks, choices)."""
    return np.stack([(codes == choice).sum(axis=1) for choice in range(choices)], axis=1)


def _quiet(measure: Callable[[], float]) -> float:
    """The measure, NaN where it is 0 of 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return measure()
