"""summary.json: the figures of an iteration for scripts, and the same as a table for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from feedback_workloads.contract import MANIFEST_NAME
from feedback_workloads.method.statistics import Rate
from feedback_workloads.report.cost import api_usage
from feedback_workloads.report.evidence import Evidence, ranked_words, rule_words
from feedback_workloads.report.iteration import StageRecord

MEASURES: Final = {
    "response_hallucination": "answers with a hallucination",
    "mention_hallucination": "hallucinated mentions",
    "recall": "recall",
    "expected_recall": "recall of expected things",
    "accuracy": "accuracy",
    "f1": "F1",
    "mean_words": "mean words",
}
"""Names of what is measured, and how a person calls it."""


OF_OTHERS: Final = ("baseline", "aligned", "best_of_n", "baseline_best_of_n", "selection")
"""What is told of other benchmarks than the first."""


LABELER: Final = {
    "true_claims_accepted": "accepts {} of the claims in which all that the benchmark judges is true",
    "untrue_claims_rejected": "rejects {} of those in which something is not",
    "answers_right": "finds in {} of the answers whether anything in them is untrue",
}
"""What is measured of a labeler where the truth is known, and how a person says it."""


def summarise(evidence: Evidence) -> dict[str, Any]:
    """The content of summary.json. Figures that are missing are null, and `missing` says why."""
    scores, pairs = evidence.scores or evidence.alone or {}, evidence.pairs or {}
    return {
        "baseline": scores.get("baseline"),
        "aligned": scores.get("aligned"),
        "difference": evidence.examples.difference.to_json() if evidence.examples.difference else None,
        "best_of_n": scores.get("best_of_n"),
        "baseline_best_of_n": scores.get("baseline_best_of_n"),
        "baseline_ranking": scores.get("baseline_ranking"),
        "selection": scores.get("selection"),
        "selected_best_of": evidence.scores["best_of_n"]["n"] if evidence.scores else None,
        "ranking": scores.get("ranking"),
        "reward_on_baseline": scores.get("reward_on_baseline"),
        "others": {
            name: {who: other.get(who) for who in OF_OTHERS} for name, other in scores.get("others", {}).items()
        },
        "checkpoints": [
            {
                "step": checkpoint["step"],
                "selected": checkpoint["selected"],
                **checkpoint["report"],
                "selection": checkpoint["selection"],
                "decoding": checkpoint["decoding"],
            }
            for checkpoint in scores.get("checkpoints", [])
        ],
        "pairs": {
            "count": pairs.get("funnel", {}).get("balanced", 0),
            "truth_agreement": pairs.get("metrics", {}).get("truth_agreement"),
            "labeler": {name: pairs.get("metrics", {}).get(f"labeler.{name}") for name in LABELER},
        },
        "stages": [_stage(stage) for stage in evidence.iteration.status.stages],
        "wall_seconds": evidence.iteration.wall_seconds,
        "processor": evidence.iteration.processor,
        "versions": {package: list(of) for package, of in evidence.versions.items()},
        "missing": list(evidence.missing),
    }


def paired(difference: Rate | None) -> str:
    """How much less the aligned policy hallucinates, in a sentence; empty where that is not known."""
    if difference is None or difference.value is None or difference.low is None or difference.high is None:
        return ""
    less = difference.value <= 0
    low, high = (difference.low, difference.high) if not less else (-difference.high, -difference.low)
    return (
        f"Question by question, {100 * abs(difference.value):.1f} points ({100 * low:.1f} to {100 * high:.1f}) "
        f"{'fewer' if less else 'more'} answers of the aligned policy have a hallucination than of the baseline: a "
        "paired interval, in which what is hard about a question cancels out."
    )


def labeler(metrics: Mapping[str, float]) -> str:
    """How often the labeler is right, in a sentence; empty where the truth is not known."""
    said = [
        words.format(f"{metrics[f'labeler.{name}']:.1%}")
        for name, words in LABELER.items()
        if f"labeler.{name}" in metrics
    ]
    return f"The labeler {', '.join(said)}." if said else ""


def columns(scores: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What is compared, by its name for a person: each with how its answers were drawn and ranked."""
    named = {who: scores[who] for who in ("baseline", "aligned") if who in scores}
    if "best_of_n" in scores and (words := ranked_words(scores["best_of_n"])):
        named[f"aligned, {words}"] = scores["best_of_n"]
    if likely := scores["baseline_best_of_n"]:
        named[f"baseline, best of {likely['n']} by its own likelihood"] = likely
    return named


def measured(figures: Mapping[str, Any]) -> dict[str, str]:
    """MEASURES that a benchmark has, by its scores: those of the baseline.

    Without the recall of expected things where it marks none, and of closed questions alone without what descriptions
    name.
    """
    baseline = figures["baseline"]

    def known(name: str) -> bool:
        return name == "mean_words" or (name in baseline and baseline[name]["value"] is not None)

    needed = () if known("accuracy") else ("response_hallucination", "mention_hallucination", "recall")
    return {name: words for name, words in MEASURES.items() if name in needed or known(name)}


def table(scores: Mapping[str, Any]) -> str:
    """Baseline, aligned, the best of several answers, and what costs nothing to compare with: a line each.

    With 95% intervals, as aligned plain text.
    """
    measures = measured(scores)
    return in_columns(
        [
            ["", *measures.values(), "drawn"],
            *(
                [name, *(str(cell(column[measure])) for measure in measures), drawn(column["decoding"])]
                for name, column in columns(scores).items()
            ),
        ]
    )


def in_columns(lines: Sequence[Sequence[str]]) -> str:
    """Cells below each other: names to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(_line(line, widths) for line in lines)


def drawn(decoding: Mapping[str, float]) -> str:
    """How answers were drawn: `greedy`, `T 0.7`, `T 0.7, top-p 0.9`."""
    if decoding["temperature"] == 0:
        return "greedy"
    top = "" if decoding["top_p"] == 1 else f", top-p {decoding['top_p']:g}"
    return f"T {decoding['temperature']:g}{top}"


def served(scores: Mapping[str, Any]) -> str:
    """How the server ranks by default, why, and what that gives on the report split, in sentences."""
    one, best = scores["aligned"], scores["best_of_n"]
    if best["n"] == 1:
        return f"The server's default is one answer, not ranked: {_why_one(scores['ranking'])}."
    chosen = next(row for row in scores["ranking"] if all(row[key] == best[key] for key in ("rule", "lambda", "n")))
    return (
        f"The server's default is the {ranked_words(best)}: on the selection split, {_points(chosen['difference'])} "
        f"fewer answers with a hallucination than one answer, in an interval that allows for all that was tried. On "
        f"the report split it has {cell(best['response_hallucination'])} answers with a hallucination and "
        f"{cell(best['recall'])} recall; one answer has {cell(one['response_hallucination'])} and "
        f"{cell(one['recall'])}. Intervals are over the questions of this run; how much another training differs, with "
        f"another seed, they do not say."
    )


def _why_one(rows: Sequence[Mapping[str, Any]]) -> str:
    tried = [row for row in rows if row["n"] > 1]
    if not tried:
        return "ranking was not measured, because spec.evaluation.bestOf is 1"
    fewer: dict[str, list[int]] = {}
    for row in tried:
        if (high := row["difference"]["high"]) is not None and high < 0:
            fewer.setdefault(rule_words(row), []).append(row["n"])
    if fewer:
        which = ", ".join(f"{rule} at N = {_either(numbers)}" for rule, numbers in fewer.items())
        return f"on the selection split, what hallucinated less beyond chance lost recall ({which})"
    numbers = _either(sorted({row["n"] for row in tried}))
    return f"on the selection split, the best of {numbers} did by no rule hallucinate less beyond chance"


def _either(numbers: Sequence[int]) -> str:
    return " or ".join(map(str, numbers))


def on_baseline(scores: Mapping[str, Any]) -> str:
    """What ranking the baseline's own answers gives by the paper's reward and by likelihoods; empty where not tried.

    Always the same rules: of many, the best on the report split would be so by chance, too.
    """
    rows = scores["reward_on_baseline"] or []
    most = max((row["n"] for row in rows), default=1)
    if most == 1:
        return ""
    shown = [row for row in rows if row["n"] == most and row["rule"] in ("LogRatio", "PolicyLikelihood")]
    shares = ", ".join(f"by {rule_words(row)} in {cell(row['report']['response_hallucination'])}" for row in shown)
    return (
        f"Of the baseline's own answers, the best of {most} hallucinates on the report split {shares}; its one answer "
        f"in {cell(scores['baseline']['response_hallucination'])}."
    )


def _points(difference: Mapping[str, float]) -> str:
    """A reduction in percentage points with its interval: `9.2 points (4.0–14.1)`."""
    less, least, most = (-100 * difference[name] for name in ("value", "high", "low"))
    return f"{less:.1f} points ({least:.1f}–{most:.1f})"


@dataclass(frozen=True)
class Cell:
    """A figure in words: `24.0%` with its interval `20.1–28.2`; a dash where it is undefined; lengths stand alone."""

    value: str
    interval: str = ""

    def __str__(self) -> str:
        return f"{self.value} ({self.interval})" if self.interval else self.value


def cell(figure: Mapping[str, float | None] | float) -> Cell:
    """A rate (`{"value", "low", "high"}`) or a length as a person reads it."""
    if not isinstance(figure, Mapping):
        return Cell(f"{figure:.1f}")
    value, low, high = figure["value"], figure["low"], figure["high"]
    if value is None or low is None or high is None:
        return Cell("–")
    return Cell(f"{value:.1%}", f"{100 * low:.1f}–{100 * high:.1f}")


def change(before: float | None, after: float | None) -> str:
    """The relative change, as `−64%`; empty where there is none to tell."""
    if before is None or after is None or before == 0:
        return ""
    percent = round(100 * (after / before - 1))
    return f"{percent:+}%".replace("-", "−") if percent else "±0%"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = [
        cell.ljust(width) if i == 0 else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join([first, *others]).rstrip()


def _stage(stage: StageRecord) -> dict[str, Any]:
    shards = [{"manifest": f"{one.uri}/{MANIFEST_NAME}", "sha256": one.sha256} for one in stage.artifacts]
    return {
        "name": stage.name,
        "state": stage.state,
        "ran": stage.ran,
        "seconds": stage.seconds,
        "rows": stage.count("rows"),
        "rejected": stage.count("rejected"),
        **({"api": usage} if (usage := api_usage(stage)) else {}),
        **(shards[0] if shards else {"manifest": None, "sha256": None}),
        **({"shards": shards} if len(shards) > 1 else {}),
    }
