"""The whole arithmetic of an evaluation, from made-up answers to scores.json: no engine, no store, no chance.

Each picture shows two things, of which one is expected. What a model says is given by how many of its answers are wrong
(the first questions of the split) and how many leave the expected thing out (the last ones).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from feedback_operator.api import METRICS, EvaluationSpec, GateRule
from feedback_operator.plan.gate import all_measured, broken_rules, checked
from feedback_workloads.contract import (
    Artifact,
    BenchmarkConfig,
    Choice,
    Decoding,
    EvaluationConfig,
    Ranking,
    Source,
    StageResult,
)
from feedback_workloads.method.evaluation import Answer
from feedback_workloads.report.summary import columns, measured, on_baseline, served
from feedback_workloads.rows.instructions import Instruction
from feedback_workloads.stages.answering import BenchmarkSplit
from feedback_workloads.stages.entry import write_message
from feedback_workloads.stages.evaluation import (
    Evaluation,
    Questions,
    evaluate,
    figures_alone,
    metrics,
    number_of_answers,
    scores,
)

QUESTIONS = 40
TRUTH = (
    '{"objects":[{"place":"top left","color":"red","shape":"circle","expected":true},'
    '{"place":"bottom right","color":"blue","shape":"square"}]}'
)
EXPECTED, OTHER = "top left has a red circle.", "bottom right has a blue square."
INVENTED = "middle left has a green cross."


@dataclass(frozen=True)
class Said:
    """Of 40 answers `wrong` invent a thing and `shy` leave the expected one out; log-probabilities are alike for all.

    `logp` is under the model that says it, `other` under the one that weighs it.
    """

    wrong: int
    shy: int = 0
    logp: float = -10.0
    other: float = -10.0
    tokens: int = 10

    def answer(self, id: str, number: int, candidate: int) -> Answer:
        said = [EXPECTED] * (number < QUESTIONS - self.shy) + [OTHER] + [INVENTED] * (number < self.wrong)
        return Answer(id, candidate, " ".join(said), self.tokens, self.logp)


Saying = Mapping[str, Mapping[str, Sequence[Said]]]
"""What models say, by model and split: one answer, or the candidates."""

ONCE: Saying = {
    "baseline": {"selection": [Said(20)], "report": [Said(24)], "test": [Said(30)]},
    "checkpoint-000010": {
        "selection": [Said(12)],
        "report": [Said(4)],
        "test": [Said(20)],
    },  # best where it is reported
    "checkpoint-000020": {"selection": [Said(8, shy=2)], "report": [Said(16, shy=4)], "test": [Said(10)]},
    "checkpoint-000030": {"selection": [Said(0, shy=24)], "report": [Said(0, shy=24)], "test": [Said(0)]},  # says less
}
CHOSEN = "checkpoint-000020"
RANKED: Saying = {
    # The second has the best log-ratio a token, the third in sum, and the fourth is the likeliest.
    CHOSEN: {
        split: [
            Said(one, logp=-10, other=-10),
            Said(two, logp=-9, other=-12, tokens=5),
            Said(three, shy, logp=-11, other=-15, tokens=20),
            Said(four, logp=-8, other=-9),
        ]
        for split, one, two, three, shy, four in (
            ("selection", 8, 4, 0, 0, 40),
            ("report", 16, 20, 10, 1, 0),
            ("test", 10, 10, 2, 0, 10),
        )
    },
    # To the aligned policy the third is what it likes more than before, and the second what it likes; the baseline
    # itself likes the fourth.
    "baseline": {
        split: [
            Said(one, logp=-10, other=-10),
            Said(two, logp=-12, other=-9),
            Said(three, logp=-15, other=-11),
            Said(four, logp=-8, other=-12),
        ]
        for split, one, two, three, four in (
            ("selection", 20, 10, 4, 40),
            ("report", 24, 12, 6, 40),
            ("test", 30, 30, 30, 30),
        )
    },
}


@dataclass
class Spoken:
    """Stands in for `Answers`: it says what the tables have, and counts what it is asked for."""

    once_said: Saying = field(default_factory=lambda: ONCE)
    ranked_said: Saying = field(default_factory=lambda: RANKED)
    work: dict[tuple[str, ...], int] = field(default_factory=dict)

    @property
    def checkpoints(self) -> tuple[str, ...]:
        return tuple(model for model in self.once_said if model != "baseline")

    def once(self, model: str, split: BenchmarkSplit, asked: Sequence[Instruction]) -> list[Answer]:
        return self._say(self.once_said[model][split.split], asked, ("once", model, split.name))

    def candidates(self, model: str, split: BenchmarkSplit, asked: Sequence[Instruction]) -> list[Answer]:
        return self._say(self.ranked_said[model][split.split], asked, ("ranked", model, split.name))

    def weighed(self, by: str, model: str, split: BenchmarkSplit, asked: Sequence[Instruction]) -> list[Answer]:
        assert (by == "baseline") != (model == "baseline")
        drawn = self.candidates(model, split, asked)
        self.work["weighed", model, split.name] = len(drawn)
        said = self.ranked_said[model][split.split]
        return [replace(one, other_logp=said[one.candidate].other) for one in drawn]

    def _say(self, said: Sequence[Said], asked: Sequence[Instruction], what: tuple[str, ...]) -> list[Answer]:
        self.work[what] = len(said) * len(asked)
        return [
            one.answer(question.id, number, candidate)
            for number, question in enumerate(asked)
            for candidate, one in enumerate(said)
        ]


GREEDY = Decoding(temperature=0, max_new_tokens=64)
NUCLEUS = Decoding(temperature=0.7, top_p=0.9, max_new_tokens=64)
CONFIG = EvaluationConfig(
    output="s3://b/scores",
    policy=(Artifact(uri="s3://b/policy", sha256="a" * 64),),
    model=Source(uri="s3://b/model"),
    benchmarks=(
        BenchmarkConfig(name="first", type="shapes", source=Source(uri="s3://b/first")),
        BenchmarkConfig(name="second", type="shapes", source=Source(uri="s3://b/second"), report="test"),
    ),
    decoding=GREEDY,
    ranked_decoding=NUCLEUS,
    best_of=4,
    lambdas=(0.3,),
    reward_on_baseline=True,
    bootstrap_resamples=300,
)


def questions(config: EvaluationConfig = CONFIG) -> Questions:
    splits = [
        BenchmarkSplit(one, split)
        for one in config.benchmarks
        for split in ([one.selection, one.report] if one.name in config.selecting else [one.report])
    ]
    return {
        split: [
            Instruction.plain(f"{split.name}/{number:02}", b"", "What is there?", TRUTH) for number in range(QUESTIONS)
        ]
        for split in splits
    }


def evaluated(answers: Spoken, config: EvaluationConfig = CONFIG) -> Evaluation:
    return evaluate(config, questions(config), answers)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def found() -> Evaluation:
    return evaluated(Spoken())


@pytest.fixture(scope="module")
def written(found: Evaluation) -> dict[str, Any]:
    return scores(CONFIG, found)


def rate(figures: Mapping[str, Any], name: str = "response_hallucination") -> float:
    """A rate's value, which its interval holds."""
    value: float = figures[name]["value"]
    assert figures[name]["low"] <= value <= figures[name]["high"]
    return value


def test_the_checkpoint_is_the_best_on_the_selection_split_that_keeps_the_recall(written: dict[str, Any]) -> None:
    assert (written["selected"], written["selected_step"]) == (CHOSEN, 20)
    shown = [
        (one["step"], one["selected"], *(rate(one[split]) for split in ("selection", "report")))
        for one in written["checkpoints"]
    ]
    assert shown == [(10, False, 0.3, 0.1), (20, True, 0.2, 0.4), (30, False, 0.0, 0.0)]
    silent = written["checkpoints"][2]["selection"]
    assert (rate(silent, "recall"), rate(silent, "expected_recall")) == (0.7, 0.4)


def test_every_rule_is_measured_on_both_splits_and_the_best_on_selection_is_chosen(
    found: Evaluation, written: dict[str, Any]
) -> None:
    rows = {
        (row["rule"], row["n"]): (rate(row["selection"]), rate(row["report"]), row["difference"]["value"])
        for row in written["ranking"]
    }
    first, second, third, fourth = (0.2, 0.4, 0.0), (0.1, 0.5, -0.1), (0.0, 0.25, -0.2), (1.0, 0.0, 0.8)
    expect = {(rule, n): one for rule in ("LogRatio", "LogRatioSum", "PolicyLikelihood", "Regularised")
              for n, one in ((1, first), (2, second))}  # fmt: skip
    expect |= {
        ("LogRatio", 4): second,
        ("LogRatioSum", 4): third,
        ("PolicyLikelihood", 4): fourth,
        ("Regularised", 4): third,
    }
    assert rows == {key: pytest.approx(value) for key, value in expect.items()}
    assert found.best is not None
    assert (found.best.by, found.best.n) == (Ranking(rule="LogRatioSum"), 4)  # it stands before Regularised


@pytest.mark.parametrize(
    ("column", "expect", "decoding"),
    [
        # answers with a hallucination, hallucinated mentions, recall, recall of the expected, words
        pytest.param("baseline", (0.6, 24 / 104, 1.0, 1.0, 15.6), GREEDY, id="the policy before alignment"),
        pytest.param("aligned", (0.4, 16 / 92, 76 / 80, 36 / 40, 13.8), GREEDY, id="the chosen checkpoint"),
        pytest.param("best_of_n", (0.25, 10 / 89, 79 / 80, 39 / 40, 13.35), NUCLEUS, id="the best of four of its own"),
        pytest.param("baseline_best_of_n", (1.0, 40 / 120, 1.0, 1.0, 18.0), NUCLEUS, id="the likeliest of four"),
    ],
)
def test_columns(written: dict[str, Any], column: str, expect: tuple[float, ...], decoding: Decoding) -> None:
    figures = written[column]
    rates = ("response_hallucination", "mention_hallucination", "recall", "expected_recall")
    assert (*(rate(figures, name) for name in rates), figures["mean_words"]) == pytest.approx(expect)
    assert figures["decoding"] == decoding.model_dump(mode="json")


def test_columns_say_what_was_ranked_and_how(written: dict[str, Any]) -> None:
    def named(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["n"], row["rule"], row["lambda"]

    assert named(written["best_of_n"]) == (4, "LogRatioSum", None)
    assert named(written["baseline_best_of_n"]) == (4, "PolicyLikelihood", None)
    shown = [(*named(row), rate(row)) for row in written["baseline_ranking"]]
    assert shown == [(n, "PolicyLikelihood", None, value) for n, value in ((1, 0.6), (2, 0.6), (4, 1.0))]
    nucleus = NUCLEUS.model_dump(mode="json")
    ranked = [*written["ranking"], *written["baseline_ranking"], *written["reward_on_baseline"]]
    assert all(row["decoding"] == nucleus for row in ranked)
    assert all(row["decoding"] == GREEDY.model_dump(mode="json") for row in written["checkpoints"])
    assert written["questions"] == {"selection": QUESTIONS, "report": QUESTIONS}


def test_rewards_on_the_answers_of_the_baseline(written: dict[str, Any]) -> None:
    rows = {
        (row["by"], row["rule"], row["n"]): (rate(row["selection"]), rate(row["report"]))
        for row in written["reward_on_baseline"]
    }
    first, second, third, fourth = (0.5, 0.6), (0.25, 0.3), (0.1, 0.15), (1.0, 1.0)
    curves = {
        ("aligned", "LogRatio"): (first, second, third),
        ("aligned", "LogRatioSum"): (first, second, third),
        ("aligned", "PolicyLikelihood"): (first, second, second),
        ("aligned", "Regularised"): (first, second, third),
        ("baseline", "PolicyLikelihood"): (first, first, fourth),
    }
    expect = {(*who, n): value for who, curve in curves.items() for n, value in zip((1, 2, 4), curve, strict=True)}
    assert rows == {key: pytest.approx(value) for key, value in expect.items()}
    assert on_baseline(written).startswith(
        "Of the baseline's own answers, the best of 4 hallucinates on the report split by aligned LogRatio in 15.0%"
    )


def test_other_benchmarks_take_the_choices_of_the_first(written: dict[str, Any]) -> None:
    other = written["others"]["second"]
    assert list(written["others"]) == ["second"]
    assert (rate(other["baseline"]), rate(other["aligned"]), rate(other["best_of_n"])) == (0.75, 0.25, 0.05)
    assert (other["best_of_n"]["rule"], other["best_of_n"]["n"]) == ("LogRatioSum", 4)


def test_metrics_are_the_figures(found: Evaluation, written: dict[str, Any]) -> None:
    metrics = found.cards["first"].metrics()
    for who in ("baseline", "aligned", "best_of_n"):
        for name in ("response_hallucination", "mention_hallucination", "recall", "expected_recall"):
            assert metrics[f"{who}.{name}"] == written[who][name]["value"]
    assert (metrics["best_of_n.n"], metrics["selected_step"]) == (4, 20)


def gate(*rules: GateRule) -> EvaluationSpec:
    """An evaluation with these rules, on the benchmarks of CONFIG."""
    benchmarks = [{"name": one.name, "type": "shapes", "uri": one.source.uri} for one in CONFIG.benchmarks]
    return EvaluationSpec.model_validate({"benchmarks": benchmarks, "gate": [rule.model_dump() for rule in rules]})


def test_the_gate_reads_figures_of_the_selection_split(found: Evaluation, written: dict[str, Any]) -> None:
    metrics = found.cards["first"].metrics()
    ratio = written["selection"]["ratio"]
    assert ratio["response_hallucination"]["value"] == pytest.approx(0.2 / 0.5)
    measured = [name for name in METRICS.values() if name not in ("accuracy", "f1")]  # nothing closed is asked
    for name in measured:
        assert all(metrics[f"selection.ratio.{name}.{end}"] == ratio[name][end] for end in ("low", "high"))
    for who, hallucination, recall in (("baseline", 0.5, 1.0), ("aligned", 0.2, 78 / 80)):
        figures = written["selection"][who]
        assert figures["decoding"] == GREEDY.model_dump(mode="json")
        assert (rate(figures), rate(figures, "recall")) == (hallucination, recall)
        for name in measured:
            figure = figures[name] if name == "mean_words" else figures[name]["value"]
            assert metrics[f"selection.{who}.{name}"] == figure
    rule = GateRule(metric="responseHallucination", relative_to="Baseline", max="0.39")
    told = {name: str(value) for name, value in metrics.items()}
    broken = "responseHallucination relative to the baseline is 0.4 on the selection split, above 0.39"
    assert broken_rules(gate(rule), told) == (broken,)
    others = [
        GateRule(metric="recall", min="0.9", max="1.0"),
        GateRule(metric="recall", relative_to="Baseline", use="Interval", min="0.5"),
    ]
    assert [(one.subject, one.wanted, one.measured, one.broken) for one in checked(gate(rule, *others), told)] == [
        ("responseHallucination relative to the baseline", "at most 0.39", "0.4", broken),
        ("recall", "at least 0.9 and at most 1.0", "0.975", ""),
        ("recall relative to the baseline", "wholly above 0.5", "0.98 (0.94-1.00)", ""),
    ]
    [unknown] = checked(gate(others[0]), {})
    assert (unknown.measured, unknown.broken) == ("not measured", "recall was not measured on the selection split")


def test_all_that_decides_fits_what_kubernetes_keeps_of_a_result(found: Evaluation, tmp_path: Path) -> None:
    metrics = {name: 1 / 3 if value else value for name, value in found.cards["first"].metrics().items()}
    place = Artifact(uri="s3://" + "b" * 600, sha256="a" * 64)
    counts = {f"rejected_some-long-reason-{i}": 10_000 for i in range(8)}
    result = StageResult(
        stage="evaluation", shard=0, manifest=place, aligned=place, counts=counts, metrics=metrics, reused=False
    )
    write_message(tmp_path / "message", result)
    kept = StageResult.model_validate_json((tmp_path / "message").read_text()).metrics
    assert {name for name in metrics if name.startswith("selection.")} <= kept.keys()
    assert {f"{who}.response_hallucination" for who in ("baseline", "aligned")} <= kept.keys()  # what the status shows


def turned(said: Saying, *splits: str) -> Saying:
    """The same, but on these splits what was wrong is right and what was right is wrong."""
    return {
        model: {
            split: [replace(one, wrong=QUESTIONS - one.wrong) if split in splits else one for one in some]
            for split, some in by_split.items()
        }
        for model, by_split in said.items()
    }


def test_what_is_reported_decides_nothing(found: Evaluation, written: dict[str, Any]) -> None:
    """With all answers of the report splits turned, every choice and every figure that it rests on stay the same."""
    other = evaluated(Spoken(turned(ONCE, "report", "test"), turned(RANKED, "report", "test")))
    turned_scores = scores(CONFIG, other)
    assert other.best is not None
    assert found.best is not None
    assert (other.best.by, other.best.n) == (found.best.by, found.best.n)
    for key in ("selected", "selected_step", "rule", "best_of_rule", "selection"):
        assert turned_scores[key] == written[key]
    gate = "selection."
    metrics = [
        {name: value for name, value in one.cards["first"].metrics().items() if name.startswith(gate)}
        for one in (found, other)
    ]
    assert metrics[0] == metrics[1]
    for rows in ("checkpoints", "ranking", "reward_on_baseline"):
        pairs = list(zip(turned_scores[rows], written[rows], strict=True))
        assert all(one["selection"] == before["selection"] for one, before in pairs)
        assert all(one.get("difference") == before.get("difference") for one, before in pairs)
        assert all(rate(one["report"]) == pytest.approx(1 - rate(before["report"])) for one, before in pairs)
    for column in ("baseline", "aligned", "best_of_n", "baseline_best_of_n"):
        assert rate(turned_scores[column]) == pytest.approx(1 - rate(written[column]))


def test_what_is_selected_on_decides() -> None:
    """With the single answers of the selection split turned, another checkpoint is chosen, and one answer as good."""
    ranked = {**RANKED, "checkpoint-000010": {split: [Said(30)] * 4 for split in ("selection", "report", "test")}}
    once = {model: said for model, said in turned(ONCE, "selection").items() if model != "checkpoint-000030"}
    result = evaluated(Spoken(once, ranked))
    assert (result.cards["first"].chosen.name, result.best) == ("checkpoint-000010", None)
    written = scores(CONFIG, result)
    assert written["best_of_n"] == {"n": 1, "rule": None, "lambda": None, **written["aligned"]}
    assert written["baseline_best_of_n"]["n"] == 4


def test_of_one_answer_nothing_is_ranked() -> None:
    config = CONFIG.model_copy(update={"best_of": 1, "reward_on_baseline": False})
    answers = Spoken()
    result = evaluated(answers, config)
    assert {what for what, *_ in answers.work} == {"once"}
    assert sum(answers.work.values()) == number_of_answers(config, questions(), len(answers.checkpoints))
    written = scores(config, result)
    assert (written["baseline_best_of_n"], written["baseline_ranking"], written["ranking"]) == (None, [], [])
    assert written["best_of_n"] == {"n": 1, "rule": None, "lambda": None, **written["aligned"]}
    assert list(columns(written)) == ["baseline", "aligned"]
    assert served(written) == (
        "The server's default is one answer, not ranked: ranking was not measured, because spec.evaluation.bestOf is 1."
    )


@pytest.mark.parametrize("asked_for", [True, False])
def test_all_work_is_announced(asked_for: bool) -> None:
    config = CONFIG.model_copy(update={"reward_on_baseline": asked_for})
    answers = Spoken()
    result = evaluated(answers, config)
    assert sum(answers.work.values()) == number_of_answers(config, questions(), len(answers.checkpoints))
    assert (scores(config, result)["reward_on_baseline"] is not None) == asked_for
    assert (("weighed", "baseline", "first/report") in answers.work) == asked_for
    assert (("ranked", "baseline", "first/selection") in answers.work) == asked_for


# ── other benchmarks than the first ──────────────────────────────────────────────────────────────────────────────────

BY_NAME = CONFIG.model_copy(
    update={
        "best_of": 1,
        "reward_on_baseline": False,
        "choice": Choice(benchmark="second", metric="recall"),
        "gated": ("second",),
    }
)


def test_the_choice_and_the_gate_read_the_benchmark_that_they_name() -> None:
    """By recall, it is the one that leaves nothing out; the first benchmark decides nothing then."""
    answers = Spoken()
    result = evaluated(answers, BY_NAME)
    written = scores(BY_NAME, result)
    assert written["selected"] == "checkpoint-000010"
    assert "On the selection split of benchmark second: of the checkpoints" in written["rule"]
    assert "the one with the highest recall; ties" in written["rule"]
    assert ("once", "baseline", "second/selection") in answers.work
    other = written["others"]["second"]["selection"]
    assert (rate(other["aligned"]), rate(other["baseline"])) == (12 / 40, 20 / 40)
    told = {name: str(value) for name, value in metrics(BY_NAME, result).items()}
    assert told["second/selection.aligned.response_hallucination"] == "0.3"
    rules = gate(
        GateRule(metric="responseHallucination", benchmark="second", relative_to="Baseline", max="0.5"),
        GateRule(metric="recall", benchmark="first", min="0.99"),
    )
    assert all_measured(rules, told)
    assert broken_rules(rules, told) == (
        "responseHallucination of second relative to the baseline is 0.6 on the selection split, above 0.5",
    )


def test_where_no_rule_names_it_another_benchmark_decides_nothing(found: Evaluation, written: dict[str, Any]) -> None:
    assert metrics(CONFIG, found) == found.cards["first"].metrics()
    assert "selection" not in written["others"]["second"]


def test_ranking_is_chosen_on_the_first_benchmark_alone() -> None:
    """Of the other's selection split only the one answer is asked for."""
    config = CONFIG.model_copy(update={"gated": ("second",), "reward_on_baseline": False})
    answers = Spoken()
    result = evaluated(answers, config)
    asked = {what for what in answers.work if what[2] == "second/selection"}
    assert asked == {("once", model, "second/selection") for model in ("baseline", *answers.checkpoints)}
    assert sum(answers.work.values()) == number_of_answers(config, questions(config), len(answers.checkpoints))
    assert result.best is not None


@dataclass(frozen=True)
class Right(Said):
    """The first answers are right, of as many questions that yes and no are the answers to in turns."""

    def answer(self, id: str, number: int, candidate: int) -> Answer:
        there = number % 2 == 0
        return Answer(id, candidate, "Yes." if there == (number < self.wrong) else "No.", 2, -1.0)


def test_closed_questions_have_accuracy_and_f1_with_their_intervals() -> None:
    """Of 40 answers 30 are right before, and 36 after: the last ten, or four, are wrong, half of them a false yes."""
    pope = BenchmarkConfig(name="pope", type="pope", source=Source(uri="s3://b/pope"))
    config = BY_NAME.model_copy(
        update={"benchmarks": (pope,), "choice": Choice(benchmark="pope", metric="f1"), "gated": ()}
    )
    rights = {"baseline": 30, "checkpoint-000010": 36, "checkpoint-000020": 32}
    answers = Spoken({model: {"selection": [Right(n)], "report": [Right(n)]} for model, n in rights.items()})
    asked = {
        split: [
            Instruction.plain(f"{number:02}", b"", "Is there a dog?", "no" if number % 2 else "yes")
            for number in range(QUESTIONS)
        ]
        for split in (BenchmarkSplit(pope, "selection"), BenchmarkSplit(pope, "report"))
    }
    result = evaluate(config, asked, answers)  # type: ignore[arg-type]
    written = scores(config, result)
    assert written["selected"] == "checkpoint-000010"
    before, after = written["baseline"], written["aligned"]
    assert (rate(before, "accuracy"), rate(after, "accuracy")) == (30 / 40, 36 / 40)
    assert rate(before, "f1") == pytest.approx(2 * 15 / (20 + 20))
    # a yes names the object: what is not there is hallucinated, and recall is of what is there
    assert (rate(after), rate(after, "recall")) == (2 / 20, 18 / 20)
    told = metrics(config, result)
    assert told["selection.aligned.f1"] == pytest.approx(18 / 20)
    assert told["selection.ratio.accuracy.low"] > 1
    assert written["selection"]["ratio"]["accuracy"]["value"] == pytest.approx(1.2)
    assert list(measured(written)) == [
        "response_hallucination", "mention_hallucination", "recall", "accuracy", "f1", "mean_words"
    ]  # fmt: skip


def test_what_the_gate_reads_of_other_benchmarks_is_handed_in_before_all_else(tmp_path: Path) -> None:
    """Four benchmarks with long names are more than a result has bytes for."""
    names = [f"a-benchmark-with-quite-a-long-name-{number}" for number in range(4)]
    wanted = [f"{name}/selection.ratio.response_hallucination.high" for name in names]
    of_others = {f"{name}/selection.{who}.{what}": 0.333333 for name in names for who in ("aligned", "baseline")
                 for what in METRICS.values()}  # fmt: skip
    of_first = {f"selection.aligned.{what}": 0.3333333333 for what in METRICS.values()}
    of_report = {"baseline.response_hallucination": 0.5, "aligned.response_hallucination": 0.25}
    place = Artifact(uri="s3://" + "b" * 600, sha256="a" * 64)
    result = StageResult(
        stage="evaluation", shard=0, manifest=place, aligned=place, counts={}, reused=False,
        metrics={**of_others, **dict.fromkeys(wanted, 1.5), **of_first, **of_report},
    )  # fmt: skip
    write_message(tmp_path / "message", result, wanted)
    kept = StageResult.model_validate_json((tmp_path / "message").read_text()).metrics
    assert {*wanted, *of_first, *of_report} <= kept.keys()
    assert not of_others.keys() <= kept.keys()


# ── a model by itself ────────────────────────────────────────────────────────────────────────────────────────────────

ALONE = CONFIG.model_copy(update={"policy": (), "reward_on_baseline": False})


def test_a_model_by_itself_is_asked_the_report_splits_alone() -> None:
    """Of four answers the likeliest is the fourth, which is always wrong but for the second benchmark's."""
    answers = Spoken({"baseline": ONCE["baseline"]})
    asked = questions(ALONE)
    found = figures_alone(ALONE, asked, answers)  # type: ignore[arg-type]
    assert set(answers.work) == {
        (drawn, "baseline", split) for drawn in ("once", "ranked") for split in ("first/report", "second/test")
    }
    # candidates are drawn while the model is loaded, and read again when they are ranked
    assert sum(answers.work.values()) == number_of_answers(ALONE, asked, checkpoints=0)
    written = found.scores
    assert (rate(written["baseline"]), written["questions"]) == (24 / 40, {"report": 40})
    assert [(row["n"], rate(row)) for row in written["baseline_ranking"]] == [(1, 0.6), (2, 0.6), (4, 1.0)]
    assert written["baseline_best_of_n"] == written["baseline_ranking"][-1]
    assert written["baseline_best_of_n"]["decoding"] == NUCLEUS.model_dump(mode="json")
    assert rate(written["others"]["second"]["baseline"]) == 30 / 40
    assert (found.chosen, found.ranked) == (None, None)
    assert found.metrics["baseline.recall"] == 1.0
    assert {name.partition(".")[0] for name in found.metrics} == {"baseline"}
    assert list(columns(written)) == ["baseline", "baseline, best of 4 by its own likelihood"]


def test_a_model_by_itself_of_which_one_answer_is_asked() -> None:
    config = ALONE.model_copy(update={"best_of": 1})
    answers = Spoken({"baseline": ONCE["baseline"]})
    found = figures_alone(config, questions(config), answers)  # type: ignore[arg-type]
    assert {drawn for drawn, *_ in answers.work} == {"once"}
    assert (found.scores["baseline_best_of_n"], found.scores["baseline_ranking"]) == (None, [])
    assert list(columns(found.scores)) == ["baseline"]
