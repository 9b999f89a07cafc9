"""From judged answers to figures: which checkpoint is chosen, and what ranking several answers adds. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Final, Literal

from feedback_workloads.contract import Decoding, Ranking, RateName
from feedback_workloads.method import ranking
from feedback_workloads.method.judgement import Benchmark, Judgement
from feedback_workloads.method.statistics import (
    OF_CLOSED,
    UNDEFINED,
    Judged,
    Measures,
    Rate,
    differences,
    measure,
    ratios,
)
from feedback_workloads.method.words import count_words

BASELINE: Final = "baseline"
RULE: Final = (
    "On the selection split of benchmark {benchmark}: of the checkpoints whose recall is at least {ratio:g} times the "
    "baseline's, the one with the {best}; ties go to the lower mention-level one, then to "
    "the earlier step. Where no checkpoint keeps the recall, the one with the highest."
)
BEST: Final[Mapping[RateName, str]] = {
    "response_hallucination": "lowest response-level hallucination",
    "mention_hallucination": "lowest mention-level hallucination",
    "recall": "highest recall",
    "expected_recall": "highest recall of expected things",
    "accuracy": "highest accuracy",
    "f1": "highest F1",
}
"""What is best of each rate, for RULE."""
BEST_OF_RULE: Final = (
    "On the selection split of benchmark {benchmark}: of the rules, weights and numbers N > 1 for which the best of N "
    "answers hallucinates less than the one answer that is not ranked, with the whole interval of the difference below "
    "0, and has at least {ratio:g} times its recall, those with the lowest response-level hallucination; ties go to "
    "the smaller N, then to the rule that stands first. Where there is none, one answer. The intervals are so wide "
    "that all of them hold at once with 95%: however much is tried, chance is rarely taken for a gain."
)
FEWER_IS_BETTER: Final[tuple[RateName, ...]] = ("response_hallucination", "mention_hallucination")
_WORST_RATE: Final = 1.0  # of a model that names no object at all, for which no rate is defined

Drawn = Literal["once", "ranked"]
"""What an answer was drawn for: to stand alone, or to be ranked among others; each has a decoding of its own."""


@dataclass(frozen=True)
class Answer:
    """One answer to question `id`. `logp` is its summed raw log-probability under the model that gave it.

    `other_logp` is that under another model: under the reference for an aligned policy's answers.
    """

    id: str
    candidate: int
    text: str
    tokens: int
    logp: float
    other_logp: float = math.nan


Reward = Callable[[Answer], float]
"""By what an answer is preferred to others to the same question."""

Ranker = Literal["aligned", "baseline"]
"""Whose log-probabilities a reward is made of, where the baseline's answers are ranked."""


@dataclass(frozen=True)
class Marked:
    """An answer and what the benchmark says about it."""

    answer: Answer
    judgement: Judgement

    @property
    def judged(self) -> Judged:
        found = self.judgement
        return Judged(
            id=self.answer.id,
            mentions=found.mentions,
            hallucinated=found.hallucinated,
            covered=found.covered,
            truth_total=found.truth_total,
            expected=found.expected,
            expected_covered=found.expected_covered,
            words=count_words(self.answer.text),
            closed=found.closed,
        )


@dataclass(frozen=True)
class Figures:
    """How measures are made of answers: with the same bootstrap for all models, so that their intervals compare."""

    resamples: int
    seed: int

    def of(self, marked: Iterable[Marked]) -> Measures:
        return measure((one.judged for one in marked), self.resamples, self.seed)

    def differences(self, tried: Sequence[Iterable[Marked]], other: Iterable[Marked]) -> list[Rate]:
        return differences(
            [[one.judged for one in some] for some in tried], [one.judged for one in other], self.resamples, self.seed
        )

    def ratios(self, marked: Iterable[Marked], other: Iterable[Marked]) -> dict[str, Rate]:
        return ratios((one.judged for one in marked), (one.judged for one in other), self.resamples, self.seed)


# ── the choice of a checkpoint ───────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's name, the step it was saved at, and its figures on both splits; the baseline is that of step 0."""

    name: str
    step: int
    selection: Measures
    report: Measures


def choose(
    baseline: Measures,
    checkpoints: Sequence[Checkpoint],
    min_recall_ratio: float,
    metric: RateName = "response_hallucination",
) -> Checkpoint:
    """The checkpoint that RULE chooses; `baseline` are its figures on the selection split."""

    def preference(checkpoint: Checkpoint) -> tuple[float, float, int]:
        """Lower is better."""
        measures = checkpoint.selection
        return (_badness(measures, metric), _rate(measures.mention_hallucination), checkpoint.step)

    least = min_recall_ratio * _recall(baseline)
    eligible = [checkpoint for checkpoint in checkpoints if _recall(checkpoint.selection) >= least]
    if not eligible:
        return min(checkpoints, key=lambda one: (-_recall(one.selection), *preference(one)))
    return min(eligible, key=preference)


def _badness(measures: Measures, metric: RateName) -> float:
    """Lower is better; a rate that is undefined is as bad as it can be."""
    rate = measures.rate(metric)
    return _rate(rate) if metric in FEWER_IS_BETTER else -(rate.value or 0.0)


# ── ranking ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class BestOf:
    """The best of `n` answers by `by`: figures on both splits.

    `difference` is how much more it hallucinates, on the selection split, than the one answer that is not ranked; its
    interval holds at once with those of all that was tried beside it.
    """

    by: Ranking
    n: int
    selection: Measures
    report: Measures
    difference: Rate

    def to_json(self) -> dict[str, Any]:
        """A row of `ranking` in scores.json."""
        return {
            **named(self.by),
            "n": self.n,
            "selection": self.selection.to_json(),
            "report": self.report.to_json(),
            "difference": self.difference.to_json(),
        }


def named(by: Ranking) -> dict[str, Any]:
    """A rule and its weight, null where the rule has none."""
    return {"rule": by.rule, "lambda": by.weight if by.rule == "Regularised" else None}


def reward_by(by: Ranking, beta: float) -> Reward:
    """The reward of an aligned policy's answer, whose `other_logp` is the reference's."""
    return lambda one: ranking.reward(by, one.logp, one.other_logp, one.tokens, beta)


def of_others(reward: Reward) -> Reward:
    """The same of an answer that the reference gave, and whose `other_logp` is the aligned policy's."""
    return lambda one: reward(replace(one, logp=one.other_logp, other_logp=one.logp))


def own_likelihood(one: Answer) -> float:
    """What the model that gave an answer says of it: the reward that costs nothing."""
    return one.logp


def best_of(candidates: Iterable[Marked], n: int, reward: Reward) -> list[Marked]:
    """The answer with the highest reward among candidates 0 .. n-1 of each question, in the order of questions."""
    taken = sorted(
        (one for one in candidates if one.answer.candidate < n), key=lambda one: (one.answer.id, one.answer.candidate)
    )
    questions = (list(group) for _, group in groupby(taken, key=lambda one: one.answer.id))
    return [group[ranking.best([reward(one.answer) for one in group])] for group in questions]


def curve_sizes(best_of: int) -> list[int]:
    """1, 2, 4 ... and `best_of` itself: how many answers the best-of-N curve ranks."""
    return sorted({*(2**i for i in range(best_of.bit_length()) if 2**i <= best_of), best_of})


def rank(
    candidates: Mapping[Literal["selection", "report"], Sequence[Marked]],
    once: Sequence[Marked],
    rewards: Mapping[Ranking, Reward],
    most: int,
    figures: Figures,
) -> list[BestOf]:
    """The best of N = 1, 2, 4 ... `most` answers by every rule, all from the same candidates.

    `once` are the answers to the selection split's questions that are not ranked.
    """

    def taken(n: int, reward: Reward) -> tuple[list[Marked], list[Marked]]:
        return best_of(candidates["selection"], n, reward), best_of(candidates["report"], n, reward)

    tries = [(by, n) for by in rewards for n in curve_sizes(most) if n > 1]
    # of one answer, whatever the rule, the first is the best
    answers = [taken(1, own_likelihood), *(taken(n, rewards[by]) for by, n in tries)]
    found = figures.differences([selection for selection, _ in answers], once)
    one, *others = [
        (figures.of(selection), figures.of(report), difference)
        for (selection, report), difference in zip(answers, found, strict=True)
    ]
    measured = dict(zip(tries, others, strict=True))
    return [BestOf(by, n, *measured.get((by, n), one)) for by in rewards for n in curve_sizes(most)]


def rank_baseline(
    candidates: Mapping[Literal["selection", "report"], Sequence[Marked]],
    once: Sequence[Marked],
    rewards: Mapping[Ranking, Reward],
    most: int,
    figures: Figures,
) -> dict[Ranker, list[BestOf]]:
    """The same of the baseline's answers: by every rule as the aligned policy has it, and by the baseline itself.

    What the aligned policy learned of answers that it would not give is in the difference of the two; `other_logp` of
    the candidates is its log-probability.
    """
    by: dict[Ranker, Mapping[Ranking, Reward]] = {
        "aligned": {rule: of_others(reward) for rule, reward in rewards.items()},
        "baseline": {Ranking(rule="PolicyLikelihood"): own_likelihood},
    }
    return {ranker: rank(candidates, once, theirs, most, figures) for ranker, theirs in by.items()}


def choose_best_of(ranked: Sequence[BestOf], once: Measures, min_recall_ratio: float) -> BestOf | None:
    """What BEST_OF_RULE chooses; None where one answer is as good. `once` has the one answer's figures on selection.

    Ranking N answers costs N times as much as one, and a ranking that follows what the policy over-learned makes
    answers worse. So it has to prove itself beyond chance: its difference from one answer, over the same questions,
    must have its whole interval below 0, an interval that allows for all the rules and numbers that were tried. That
    the checkpoint was chosen by its single answers on this very split flatters one answer, which is the safe side.
    """

    def helps(one: BestOf) -> bool:
        high = one.difference.high
        return (
            one.n > 1 and high is not None and high < 0 and _recall(one.selection) >= min_recall_ratio * _recall(once)
        )

    # min() keeps the first of equals
    return min(
        filter(helps, ranked), key=lambda one: (_rate(one.selection.response_hallucination), one.n), default=None
    )


# ── what is written ──────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Scorecard:
    """All figures on one benchmark; those that have the name `selection` are of its selection split where that is
    answered (see `EvaluationConfig.selecting`), and else of the first benchmark's.

    `ratios` are those of the chosen checkpoint's figures to the baseline's on that split. `best` is what the chosen
    ranking, if any, gives here; `baseline_best` has, by N, the baseline's answers ranked by nothing but their own
    likelihood, none where nothing is ranked.
    """

    baseline: Checkpoint
    checkpoints: Sequence[Checkpoint]
    chosen: Checkpoint
    ratios: Mapping[str, Rate]
    best: tuple[Ranking, int, Measures] | None
    baseline_best: Mapping[int, Measures]

    def to_json(self, decoding: Decoding, ranked: Decoding) -> dict[str, Any]:
        """What scores.json says of the benchmark; every figure with the decoding that its answers were drawn by."""
        one, many = ({"decoding": how.model_dump(mode="json")} for how in (decoding, ranked))
        aligned = self.chosen.report.to_json()
        n = self.best[1] if self.best else max(self.baseline_best, default=0)
        return {
            "baseline": {**self.baseline.report.to_json(), **one},
            "checkpoints": [
                {
                    "name": each.name,
                    "step": each.step,
                    "selected": each.name == self.chosen.name,
                    "selection": each.selection.to_json(),
                    "report": each.report.to_json(),
                    **one,
                }
                for each in self.checkpoints
            ],
            "aligned": {**aligned, **one},
            "best_of_n": (
                {"n": self.best[1], **named(self.best[0]), **self.best[2].to_json(), **many}
                if self.best
                else {"n": 1, "rule": None, "lambda": None, **aligned, **one}
            ),
            **ranked_baseline(self.baseline_best, n, ranked),
        }

    def metrics(self) -> dict[str, float]:
        """The figures by flat names, such as `aligned.recall.low` of the report split.

        The gate reads those of the selection split, such as `selection.aligned.recall` and `selection.ratio.recall.low`
        (of the ratio's interval): a figure that decides is not one that is reported.
        """
        best = self.best[2] if self.best else self.chosen.report
        return {
            **self.of_selection(),
            **self.baseline.report.flat("baseline"),
            **self.chosen.report.flat("aligned"),
            **best.flat("best_of_n"),
            "best_of_n.n": float(self.best[1] if self.best else 1),
            "selected_step": float(self.chosen.step),
        }

    def of_selection(self) -> dict[str, float]:
        """What the gate reads, by flat names."""
        return {
            **self.baseline.selection.values("selection.baseline"),
            **self.chosen.selection.values("selection.aligned"),
            **{
                f"selection.ratio.{name}.{end}": value
                for name, ratio in self.ratios.items()
                for end, value in (("low", ratio.low), ("high", ratio.high))
                if value is not None
            },
        }

    def selection_json(self, decoding: Decoding) -> dict[str, Any]:
        """The same as scores.json has it under `selection`."""
        return {
            who: {**one.selection.to_json(), "decoding": decoding.model_dump(mode="json")}
            for who, one in (("baseline", self.baseline), ("aligned", self.chosen))
        } | {
            "ratio": {
                name: ratio.to_json()
                for name, ratio in self.ratios.items()
                if name not in OF_CLOSED or ratio != UNDEFINED
            }
        }


@dataclass(frozen=True)
class BaselineCard:
    """The figures of a model by itself on one benchmark: of its one answer, and by N of the likeliest of N of its."""

    report: Measures
    best: Mapping[int, Measures]

    def to_json(self, decoding: Decoding, ranked: Decoding) -> dict[str, Any]:
        """What scores.json says of the benchmark, by the names of `Scorecard.to_json`."""
        return {
            "baseline": {**self.report.to_json(), "decoding": decoding.model_dump(mode="json")},
            **ranked_baseline(self.best, max(self.best, default=0), ranked),
        }

    def metrics(self) -> dict[str, float]:
        """The figures by flat names, such as `baseline.recall.low`."""
        return self.report.flat("baseline")


def ranked_baseline(best: Mapping[int, Measures], shown: int, decoding: Decoding) -> dict[str, Any]:
    """The baseline's answers ranked by their own likelihood, for all N and for the one that is shown beside others."""
    likelihood = named(Ranking(rule="PolicyLikelihood"))
    rows = {
        n: {"n": n, **likelihood, **measures.to_json(), "decoding": decoding.model_dump(mode="json")}
        for n, measures in best.items()
    }
    return {"baseline_best_of_n": rows.get(shown), "baseline_ranking": list(rows.values())}


def mark(answers: Iterable[Answer], truths: Mapping[str, str], benchmark: Benchmark) -> list[Marked]:
    """Judge each answer by the truth about its question."""
    return [Marked(answer, benchmark.judge(answer.text, truths[answer.id])) for answer in answers]


def scores_row(checkpoint: str, benchmark: str, split: str, drawn: Drawn, marked: Marked) -> dict[str, Any]:
    """The row of SCORES of one answer."""
    answer, judgement = marked.answer, marked.judgement
    return {
        "checkpoint": checkpoint,
        "benchmark": benchmark,
        "split": split,
        "drawn": drawn,
        "id": answer.id,
        "candidate": answer.candidate,
        "answer": answer.text,
        "tokens": answer.tokens,
        "logp": answer.logp,
        "other_logp": None if math.isnan(answer.other_logp) else answer.other_logp,
        "mentions": judgement.mentions,
        "hallucinated": judgement.hallucinated,
        "covered": judgement.covered,
        "truth_total": judgement.truth_total,
        "expected": judgement.expected,
        "expected_covered": judgement.expected_covered,
        "spans": [{"start": start, "end": end} for start, end in judgement.spans],
    }


def _recall(measures: Measures) -> float:
    return measures.recall.value or 0.0


def _rate(rate: Rate) -> float:
    return _WORST_RATE if rate.value is None else rate.value
