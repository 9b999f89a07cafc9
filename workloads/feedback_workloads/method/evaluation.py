"""From judged answers to figures: which checkpoint is chosen, and what ranking several answers adds. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Final

from feedback_workloads.method import ranking
from feedback_workloads.method.judgement import Benchmark, Judgement
from feedback_workloads.method.statistics import Judged, Measures, Rate, difference, measure
from feedback_workloads.method.words import count_words

BASELINE: Final = "baseline"
RULE: Final = (
    "On the selection split of benchmark {benchmark}: of the checkpoints whose recall is at least {ratio:g} times the "
    "baseline's, the one with the lowest response-level hallucination; ties go to the lower mention-level one, then to "
    "the earlier step. Where no checkpoint keeps the recall, the one with the highest."
)
BEST_OF_RULE: Final = (
    "On the selection split of benchmark {benchmark}: of the numbers N for which the best of N answers hallucinates "
    "less than one answer, with the whole 95% interval of the difference below 0, and has at least {ratio:g} times its "
    "recall, the one with the lowest response-level hallucination; ties go to the smaller N. Where there is none, one "
    "answer."
)
_WORST_RATE: Final = 1.0  # of a model that names no object at all, for which no rate is defined


@dataclass(frozen=True)
class Answer:
    """One answer to question `id`. `logp` is its summed raw log-probability under the model that gave it."""

    id: str
    candidate: int
    text: str
    tokens: int
    logp: float
    reward: float | None = None


@dataclass(frozen=True)
class Marked:
    """An answer and what the benchmark says about it."""

    answer: Answer
    judgement: Judgement

    @property
    def judged(self) -> Judged:
        found = self.judgement
        words = count_words(self.answer.text)
        return Judged(self.answer.id, found.mentions, found.hallucinated, found.covered, found.truth_total, words)


@dataclass(frozen=True)
class Figures:
    """How measures are made of answers: with the same bootstrap for all models, so that their intervals compare."""

    resamples: int
    seed: int

    def of(self, marked: Iterable[Marked]) -> Measures:
        return measure((one.judged for one in marked), self.resamples, self.seed)

    def difference(self, marked: Iterable[Marked], other: Iterable[Marked]) -> Rate:
        one, another = ([each.judged for each in some] for some in (marked, other))
        return difference(one, another, self.resamples, self.seed)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's name, the step it was saved at, and its figures on both splits."""

    name: str
    step: int
    selection: Measures
    report: Measures


@dataclass(frozen=True)
class BestOf:
    """How many answers of the chosen checkpoint are best ranked, and the figures on the selection split that say so.

    `curve` has figures by N, `differences` how much less the best of N > 1 hallucinates than one answer.
    """

    n: int
    curve: Mapping[int, Measures]
    differences: Mapping[int, Rate]

    def to_json(self) -> list[dict[str, Any]]:
        """The curve of scores.json, by N; `difference` is null for one answer."""
        return [
            {
                "n": n,
                "selected": n == self.n,
                **measures.to_json(),
                "difference": self.differences[n].to_json() if n in self.differences else None,
            }
            for n, measures in sorted(self.curve.items())
        ]


@dataclass(frozen=True)
class Scorecard:
    """All figures on one benchmark. `curve` has those of the best of N answers of the chosen checkpoint, by N."""

    baseline: Measures
    checkpoints: Sequence[Checkpoint]
    chosen: Checkpoint
    curve: Mapping[int, Measures]

    @property
    def best_of_n(self) -> int:
        return max(self.curve)

    def to_json(self) -> dict[str, Any]:
        """What scores.json says of the benchmark; but for `selection`, everything is measured on the report split."""
        curve = [{"n": n, **measures.to_json()} for n, measures in sorted(self.curve.items())]
        return {
            "baseline": self.baseline.to_json(),
            "checkpoints": [
                {
                    "name": one.name,
                    "step": one.step,
                    "selected": one.name == self.chosen.name,
                    "selection": one.selection.to_json(),
                    "report": one.report.to_json(),
                }
                for one in self.checkpoints
            ],
            "aligned": self.chosen.report.to_json(),
            "best_of_n": curve[-1],
            "curve": curve,
        }

    def metrics(self) -> dict[str, float]:
        """The figures that the gate reads, by flat names such as `aligned.recall.low`."""
        return {
            **self.baseline.flat("baseline"),
            **self.chosen.report.flat("aligned"),
            **self.curve[self.best_of_n].flat("best_of_n"),
            "best_of_n.n": float(self.best_of_n),
            "selected_step": float(self.chosen.step),
        }


def mark(answers: Iterable[Answer], truths: Mapping[str, str], benchmark: Benchmark) -> list[Marked]:
    """Judge each answer by the truth about its question."""
    return [Marked(answer, benchmark.judge(answer.text, truths[answer.id])) for answer in answers]


def choose(baseline: Measures, checkpoints: Sequence[Checkpoint], min_recall_ratio: float) -> Checkpoint:
    """The checkpoint that RULE chooses; `baseline` are its figures on the selection split."""
    least = min_recall_ratio * _recall(baseline)
    eligible = [checkpoint for checkpoint in checkpoints if _recall(checkpoint.selection) >= least]
    if not eligible:
        return min(checkpoints, key=lambda one: (-_recall(one.selection), *_preference(one)))
    return min(eligible, key=_preference)


def with_rewards(
    answers: Iterable[Answer], ref_logps: Mapping[tuple[str, int], float], beta: float, *, normalise: bool
) -> list[Answer]:
    """The answers with their rewards; `ref_logps` are the reference's log-probabilities by question and candidate."""
    return [
        replace(one, reward=ranking.reward(one.logp, ref_logps[one.id, one.candidate], one.tokens, beta, normalise))
        for one in answers
    ]


def best_of(marked: Iterable[Marked], n: int) -> list[Marked]:
    """The answer with the highest reward among candidates 0 .. n-1 of each question, in the order of questions."""
    candidates = [one for one in marked if one.answer.candidate < n]
    candidates.sort(key=lambda one: (one.answer.id, one.answer.candidate))
    questions = (list(group) for _, group in groupby(candidates, key=lambda one: one.answer.id))
    return [group[ranking.best([_reward(one.answer) for one in group])] for group in questions]


def best_of_curve(ranked: Sequence[Marked], most: int, figures: Figures) -> dict[int, Measures]:
    """The figures of the best of N answers, from the same answers for every N."""
    return {n: figures.of(best_of(ranked, n)) for n in curve_sizes(most)}


def curve_sizes(best_of: int) -> list[int]:
    """1, 2, 4 ... and `best_of` itself: how many answers the best-of-N curve ranks."""
    return sorted({*(2**i for i in range(best_of.bit_length()) if 2**i <= best_of), best_of})


def choose_best_of(ranked: Sequence[Marked], most: int, figures: Figures, min_recall_ratio: float) -> BestOf:
    """The number of answers to rank that BEST_OF_RULE chooses; `ranked` are candidates on the selection split.

    Ranking N answers costs N times as much as one, and a ranking that follows what the policy over-learned makes
    answers worse. So N > 1 has to prove itself beyond chance: its difference from one answer, over the same questions,
    must have its whole interval below 0. Among several N the chance is a little greater than of one test; against that,
    the checkpoint was chosen by its single answers on this very split, which flatters N = 1.
    """
    answers = {n: best_of(ranked, n) for n in curve_sizes(most)}
    curve = {n: figures.of(some) for n, some in answers.items()}
    differences = {n: figures.difference(some, answers[1]) for n, some in answers.items() if n > 1}

    def helps(n: int) -> bool:
        high = differences[n].high
        return high is not None and high < 0 and _recall(curve[n]) >= min_recall_ratio * _recall(curve[1])

    def rate(n: int) -> tuple[float, int]:
        value = curve[n].response_hallucination.value
        return (_WORST_RATE if value is None else value, n)

    return BestOf(min(filter(helps, differences), key=rate, default=1), curve, differences)


def scores_row(checkpoint: str, benchmark: str, split: str, marked: Marked) -> dict[str, Any]:
    """The row of SCORES of one answer."""
    answer, judgement = marked.answer, marked.judgement
    return {
        "checkpoint": checkpoint,
        "benchmark": benchmark,
        "split": split,
        "id": answer.id,
        "candidate": answer.candidate,
        "answer": answer.text,
        "tokens": answer.tokens,
        "reward": answer.reward,
        "mentions": judgement.mentions,
        "hallucinated": judgement.hallucinated,
        "covered": judgement.covered,
        "truth_total": judgement.truth_total,
        "spans": [{"start": start, "end": end} for start, end in judgement.spans],
    }


def _reward(answer: Answer) -> float:
    if answer.reward is None:
        raise ValueError(f"candidate {answer.candidate} of {answer.id} has no reward")
    return answer.reward


def _recall(measures: Measures) -> float:
    return measures.recall.value or 0.0


def _preference(checkpoint: Checkpoint) -> tuple[float, float, int]:
    """Lower is better."""
    measures = checkpoint.selection
    response, mention = measures.response_hallucination.value, measures.mention_hallucination.value
    return (
        _WORST_RATE if response is None else response,
        _WORST_RATE if mention is None else mention,
        checkpoint.step,
    )
