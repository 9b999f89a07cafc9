"""Evidence of a made-up iteration on the shapes world, as the report gets it, without an engine or a store."""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random
from typing import Any

from feedback_workloads.contract import Decoding
from feedback_workloads.method.evaluation import (
    BEST,
    BEST_OF_RULE,
    RULE,
    Answer,
    Checkpoint,
    Figures,
    Marked,
    Scorecard,
    best_of,
    choose,
    choose_best_of,
    curve_sizes,
    own_likelihood,
    rank,
    rank_baseline,
    reward_by,
    scores_row,
)
from feedback_workloads.method.judgement import Judgement
from feedback_workloads.method.ranking import rankings
from feedback_workloads.report.evidence import (
    Claim,
    Evidence,
    Example,
    Examples,
    Pair,
    PairAnswer,
    answers_by_question,
    difference,
    kind_of,
    ranked_words,
    reward_of,
)
from feedback_workloads.report.iteration import Iteration
from feedback_workloads.shapes.world import COLORS, PLACES, SHAPES, Row, Thing, png, rows

QUESTIONS = 90  # enough for a ranking to prove itself
FIGURES = Figures(resamples=200, seed=0)
STEPS = (20, 40, 60, 80, 100, 120)
EXPECTED = "circle"
"""The shape that is often named where it is absent."""


class Speaker:
    """Describes scenes, inventing a thing with probability `invents` and leaving one out with `omits`."""

    def __init__(self, name: str, invents: float, omits: float) -> None:
        self.name, self.invents, self.omits = name, invents, omits

    def say(self, row: Row, candidate: int) -> Marked:
        random = Random(f"{self.name}/{row.id}/{candidate}")
        said = [thing.sentence for thing in row.scene.things if random.random() >= self.omits]
        true = set(said)
        while random.random() < self.invents:
            thing = Thing(random.choice(PLACES), random.choice(tuple(COLORS)), random.choice(SHAPES))
            said.insert(random.randint(0, len(said)), thing.sentence)
        present = {thing.sentence for thing in row.scene.things}
        text = " ".join(said)
        wrong = [sentence for sentence in said if sentence not in present]
        spans = tuple((text.index(one) + one.index(" a ") + 3, text.index(one) + len(one) - 1) for one in wrong)
        expected = {thing.sentence for thing in row.scene.things if thing.shape == EXPECTED}
        judgement = Judgement(
            mentions=len(said),
            hallucinated=len(wrong),
            covered=len(true),
            truth_total=len(present),
            expected=len(expected),
            expected_covered=len(true & expected),
            spans=spans,
        )
        aligned = random.gauss(0, 1) - 1.5 * len(wrong) + 0.2 * len(true) - 9
        logps = (random.gauss(-9, 1), aligned) if self.name == "baseline" else (aligned, -9.0)
        return Marked(Answer(row.id, candidate, text, len(text.split()) + 1, *logps), judgement)

    def say_all(self, to: list[Row], candidates: int = 1) -> list[Marked]:
        return [self.say(row, candidate) for row in to for candidate in range(candidates)]


def evidence() -> Evidence:
    """A whole iteration that went well."""
    report, selection = rows(0, "report", QUESTIONS), rows(0, "selection", QUESTIONS)
    speakers = [Speaker(f"checkpoint-{step:06}", 0.2 + 0.18 * math.exp(-step / 30), 0.12) for step in STEPS]
    baseline = Speaker("baseline", 0.38, 0.18)
    before = FIGURES.of(baseline.say_all(selection))
    checkpoints = [
        Checkpoint(one.name, step, FIGURES.of(one.say_all(selection)), FIGURES.of(one.say_all(report)))
        for one, step in zip(speakers, STEPS, strict=True)
    ]
    chosen = choose(before, checkpoints, 0.95)
    speaker = next(one for one in speakers if one.name == chosen.name)
    drawn = {"selection": speaker.say_all(selection, 8), "report": speaker.say_all(report, 8)}
    rewards = {by: reward_by(by, 0.1) for by in rankings([0.3])}
    once = speaker.say_all(selection)
    rows_of_ranking = rank(drawn, once, rewards, 8, FIGURES)
    best = choose_best_of(rows_of_ranking, FIGURES.of(once), 0.95)
    assert best
    card = Scorecard(
        Checkpoint("baseline", 0, before, FIGURES.of(baseline.say_all(report))),
        checkpoints,
        chosen,
        FIGURES.ratios(once, baseline.say_all(selection)),
        (best.by, best.n, FIGURES.of(best_of(drawn["report"], best.n, rewards[best.by]))),
        {n: FIGURES.of(best_of(baseline.say_all(report, 8), n, own_likelihood)) for n in curve_sizes(8)},
    )
    said = [
        *(scores_row("baseline", "shapes", "report", "once", one) for one in baseline.say_all(report)),
        *(scores_row(chosen.name, "shapes", "report", "once", one) for one in speaker.say_all(report)),
        *(scores_row(chosen.name, "shapes", "report", "ranked", one) for one in drawn["report"]),
    ]
    nucleus = {"decoding": Decoding(temperature=0.7, top_p=0.9).model_dump(mode="json")}
    of_baseline = {"selection": baseline.say_all(selection, 8), "report": baseline.say_all(report, 8)}
    on_baseline = rank_baseline(of_baseline, baseline.say_all(selection), rewards, 8, FIGURES)
    scores = {
        "benchmark": "shapes",
        "questions": {"selection": QUESTIONS, "report": QUESTIONS},
        "rule": RULE.format(benchmark="shapes", ratio=0.95, best=BEST["response_hallucination"]),
        "selected": chosen.name,
        "selected_step": chosen.step,
        "best_of_rule": BEST_OF_RULE.format(benchmark="shapes", ratio=0.95),
        **card.to_json(Decoding(temperature=0), Decoding(temperature=0.7, top_p=0.9)),
        "selection": {"baseline": before.to_json(), "aligned": chosen.selection.to_json()},
        "ranking": [{**row.to_json(), **nucleus} for row in rows_of_ranking],
        "reward_on_baseline": [
            {"by": by, **row.to_json(), **nucleus} for by, ranked in on_baseline.items() for row in ranked
        ],
        "others": {},
    }
    first = report[0]
    shown = Pair([png(first.scene)], first.question, *(_pair_answer(baseline.say(first, number)) for number in (0, 1)))
    versions = {"torch": ["2.13.0"], "vllm": ["0.31.0", "0.32.0"]}
    return Evidence(ITERATION, scores, pairs(), training(), _examples(report, said, scores), (), [shown], versions)


def _pair_answer(said: Marked) -> PairAnswer:
    """Of which the labeler is sure, but for the last claim: there it said only yes or no."""
    sentences = said.answer.text.split(". ")
    claims = [
        Claim(sentence, accepted=number > 0, p_yes=0.92 if number else 0.02)
        for number, sentence in enumerate(sentences)
    ]
    return PairAnswer(said.answer.text, -1, [*claims[:-1], replace(claims[-1], p_yes=None)])


def _examples(report: list[Row], said: list[dict[str, Any]], scores: dict[str, Any]) -> Examples:
    best = scores["best_of_n"]
    answers = answers_by_question(said, scores["selected"], reward_of(best), best["n"])
    kinds = {row.id: kind_of(answers[row.id]) for row in report}
    first = {kind: row for row in reversed(report) for kind in [kinds[row.id]]}
    return Examples(
        shown=[Example(kind, [png(row.scene)], row.question, answers[row.id]) for kind, row in sorted(first.items())],
        best_of=ranked_words(best),
        difference=difference([answers[row.id] for row in report]),
        numbers={
            kind: list(kinds.values()).count(kind)
            for kind in ("mended", "still wrong", "newly wrong", "right before and after")
        },
    )


def training() -> list[dict[str, Any]]:
    random = Random(0)
    return [
        {
            "step": step,
            "loss": 0.693 * math.exp(-step / 90) + random.gauss(0, 0.03),
            "reward_margin": step / 150 + random.gauss(0, 0.08),
            "accuracy": min(1.0, 0.5 + 0.4 * (1 - math.exp(-step / 25)) + random.gauss(0, 0.06)),
            "grad_norm": 2.0 + random.gauss(0, 0.2),
            "learning_rate": 3e-6 * (1 - step / 120),
        }
        for step in range(1, 121)
    ]


def pairs() -> dict[str, Any]:
    """statistics.json of the pairing stage."""
    random = Random(1)

    def histogram(mean: float, number: int) -> dict[str, int]:
        values = [max(1, round(random.gauss(mean, 4))) for _ in range(number)]
        return {str(value): values.count(value) for value in sorted(set(values))}

    return {
        "funnel": {
            "instructions": 400, "candidates": 4000, "truncated": 3, "unlabelled": 0, "mismatched": 0,
            "without_claims": 12, "scored": 3985, "combinations": 6120, "drawn": 702, "balanced": 640,
        },
        "metrics": {
            "drawn.chosen_words": 16.2, "drawn.rejected_words": 19.8, "balanced.chosen_words": 16.9,
            "balanced.rejected_words": 18.1, "balance_threshold": 0.42, "truth_agreement": 0.83, "truth_ties": 0.11,
            "labeler.true_claims_accepted": 0.97, "labeler.untrue_claims_rejected": 0.88, "labeler.answers_right": 0.81,
        },
        "scores": {"-4": 12, "-3": 96, "-2": 420, "-1": 1310, "0": 2147},
        "differences": {"1": 510, "2": 110, "3": 20},
        "words": {
            "drawn": {"chosen": histogram(16.2, 702), "rejected": histogram(19.8, 702)},
            "balanced": {"chosen": histogram(16.9, 640), "rejected": histogram(18.1, 640)},
        },
        "calibration": [
            {"claims": 1810, "p_yes": 0.02, "true": 90}, {"claims": 240, "p_yes": 0.16, "true": 61},
            {"claims": 205, "p_yes": 0.74, "true": 140}, {"claims": 9905, "p_yes": 0.99, "true": 9720},
        ],
    }  # fmt: skip


def _stage(name: str, start: str, end: str, rows: int, *, reused: bool = False, shards: int = 1) -> dict[str, Any]:
    return {
        "name": name,
        "state": "Done",
        "hash": "0" * 64,
        "startTime": f"2026-11-24T10:{start}Z",
        "completionTime": f"2026-11-24T10:{end}Z",
        "shards": [
            {
                "shard": shard,
                "uri": f"s3://feedback/iterations/{name}/{'5e8a' * 16}/shard-{shard:05}-of-{shards:05}",
                "sha256": f"{shard}{'9c4f' * 15}abc",
                "counts": {"rows": rows // shards, "rejected": 2 if name == "sampling" and shard == 0 else 0},
                "metrics": {},
                "reused": reused,
            }
            for shard in range(shards)
        ],
    }


ITERATION = Iteration.model_validate(
    {
        "apiVersion": "feedback.rlaif.dev/v1alpha1",
        "kind": "FeedbackIteration",
        "metadata": {"name": "shapes", "namespace": "default"},
        "spec": {
            "model": {"uri": "s3://feedback/shapes/policy"},
            "splitting": {"type": "Sentences"},
            "labeling": {"model": {"uri": "s3://feedback/shapes/labeler"}},
            "sampling": {"candidates": 10, "temperature": "0.7"},
            "training": {"beta": "0.1", "learningRate": "0.000003"},
        },
        "status": {
            "stages": [
                _stage("sampling", "00:00", "02:10", 4000, shards=2),
                _stage("splitting", "02:10", "02:14", 4000),
                _stage("labeling", "02:14", "04:30", 4000, reused=True),
                _stage("pairing", "04:30", "04:33", 640),
                _stage("training", "04:33", "09:01", 120),
                _stage("evaluation", "09:01", "12:40", 600),
            ],
        },
        "ending": {"how": "promoted", "why": "it meets every rule", "kept": "shapes"},
        "gate": [
            {"subject": "recall", "wanted": "at least 0.8", "measured": "0.86", "broken": ""},
            {"subject": "meanWords", "wanted": "at most 10", "measured": "16", "broken": "meanWords is 16, above 10"},
        ],
        "wallSeconds": 763.4,
        "processor": "AMD EPYC, 2 cores, AVX2",
    }
)  # fmt: skip
