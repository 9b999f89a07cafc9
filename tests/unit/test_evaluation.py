"""Choice of the checkpoint, best-of-N, and the figures of scores.json."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback_workloads.benchmarks import benchmark
from feedback_workloads.contract import Decoding, Ranking
from feedback_workloads.method.evaluation import (
    Answer,
    BestOf,
    Checkpoint,
    Figures,
    Marked,
    Scorecard,
    best_of,
    choose,
    choose_best_of,
    curve_sizes,
    mark,
    of_others,
    own_likelihood,
    rank,
    reward_by,
    scores_row,
)
from feedback_workloads.method.judgement import Judgement
from feedback_workloads.method.ranking import rankings
from feedback_workloads.method.statistics import Measures, Rate
from feedback_workloads.rows.schemas import SCORES


def measures(response: float | None = 0.4, mention: float | None = 0.2, recall: float | None = 0.8) -> Measures:
    def rate(value: float | None) -> Rate:
        return Rate(value, value, value)

    return Measures(rate(response), rate(mention), rate(recall), rate(None), 10.0)


def checkpoint(step: int, selection: Measures) -> Checkpoint:
    return Checkpoint(f"checkpoint-{step:06}", step, selection, measures())


def answer(id: str = "q", candidate: int = 0, logp: float = -3.0, other: float = -3.0, text: str = "a cat") -> Answer:
    return Answer(id, candidate, text, tokens=3, logp=logp, other_logp=other)


def marked(id: str, candidate: int, logp: float = -3.0, hallucinated: int = 0) -> Marked:
    return Marked(answer(id, candidate, logp), Judgement(2, hallucinated, 1, 2))


@pytest.mark.parametrize(
    ("checkpoints", "expect"),
    [
        pytest.param([(1, measures(0.3)), (2, measures(0.2)), (3, measures(0.25))], 2, id="lowest rate"),
        pytest.param([(1, measures(0.3)), (2, measures(0.1, recall=0.5))], 1, id="recall is kept"),
        pytest.param([(1, measures(0.3)), (2, measures(0.1, recall=0.76))], 2, id="just enough recall"),
        pytest.param([(1, measures(0.2, 0.2)), (2, measures(0.2, 0.1))], 2, id="ties: lower mention-level rate"),
        pytest.param([(2, measures(0.2)), (1, measures(0.2))], 1, id="ties: earlier step"),
        pytest.param([(1, measures(None, None, 0.8)), (2, measures(0.9))], 2, id="a silent model does not win"),
        pytest.param([(1, measures(0.1, recall=0.2)), (2, measures(0.3, recall=0.6))], 2, id="no recall: the highest"),
        pytest.param([(1, measures(0.1, recall=None))], 1, id="recall unknown"),
    ],
)
def test_choose(checkpoints: list[tuple[int, Measures]], expect: int) -> None:
    assert choose(measures(), [checkpoint(*one) for one in checkpoints], min_recall_ratio=0.95).step == expect


LIKELIHOOD, RATIO = Ranking(rule="PolicyLikelihood"), Ranking()


def test_rewards_of_own_and_of_others_answers() -> None:
    own = answer(logp=-3.0, other=-6.0)
    assert reward_by(RATIO, 0.1)(own) == pytest.approx(0.1)
    assert reward_by(LIKELIHOOD, 0.1)(own) == -3.0
    # The reference gave it: its own log-probability is the reference's, the other one the policy's.
    given = answer(logp=-6.0, other=-3.0)
    assert of_others(reward_by(RATIO, 0.1))(given) == pytest.approx(0.1)
    assert of_others(reward_by(LIKELIHOOD, 0.1))(given) == -3.0
    assert own_likelihood(given) == -6.0


def test_best_of() -> None:
    answers = [
        marked("b", 1, -5),
        marked("a", 2, -1),
        marked("a", 0, -9),
        marked("a", 1, -7),
        marked("b", 0, -5),
    ]
    found = {
        n: [(one.answer.id, one.answer.candidate) for one in best_of(answers, n, own_likelihood)] for n in (1, 2, 3)
    }
    assert found == {1: [("a", 0), ("b", 0)], 2: [("a", 1), ("b", 0)], 3: [("a", 2), ("b", 0)]}


@pytest.mark.parametrize(("most", "expect"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])])
def test_curve_sizes(most: int, expect: list[int]) -> None:
    assert curve_sizes(most) == expect


@given(st.lists(st.floats(-9, 0), min_size=8, max_size=8), st.lists(st.integers(0, 2), min_size=8, max_size=8))
def test_every_rule_begins_with_the_same_single_answers(logps: list[float], hallucinated: list[int]) -> None:
    answers = [
        marked(f"q{i // 4}", i % 4, logp, wrong)
        for i, (logp, wrong) in enumerate(zip(logps, hallucinated, strict=True))
    ]
    figures, single = Figures(20, 0), [one for one in answers if one.answer.candidate == 0]
    rewards = {by: reward_by(by, 0.1) for by in (LIKELIHOOD, RATIO)}
    rows = rank({"selection": answers, "report": answers}, single, rewards, 4, figures)
    assert [(row.by, row.n) for row in rows] == [(by, n) for by in rewards for n in (1, 2, 4)]
    first = rows[0].report
    assert first == figures.of(single)
    assert all(row.report is first for row in rows if row.n == 1)  # computed once


GREEDY, NUCLEUS = Decoding(temperature=0), Decoding(temperature=0.7, top_p=0.9)


def test_scorecard() -> None:
    first, second = checkpoint(10, measures(0.3)), checkpoint(20, measures(0.2))
    best = (Ranking(rule="Regularised", weight=0.3), 4, measures(0.1))
    before = Checkpoint("baseline", 0, measures(0.6), measures(0.5))
    ratios = {"recall": Rate(0.9, 0.8, 1.0), "expected_recall": Rate(None, None, None)}
    card = Scorecard(before, [first, second], second, ratios, best, {4: measures(0.45), 8: measures(0.44)})
    data = card.to_json(GREEDY, NUCLEUS)
    assert [one["selected"] for one in data["checkpoints"]] == [False, True]
    greedy, nucleus = (how.model_dump(mode="json") for how in (GREEDY, NUCLEUS))
    assert data["baseline"] == {**measures(0.5).to_json(), "decoding": greedy}
    chosen = {"n": 4, "rule": "Regularised", "lambda": 0.3}
    assert data["best_of_n"] == {**chosen, **measures(0.1).to_json(), "decoding": nucleus}
    likely = {"n": 4, "rule": "PolicyLikelihood", "lambda": None}  # as many as the best of N that it stands beside
    assert data["baseline_best_of_n"] == {**likely, **measures(0.45).to_json(), "decoding": nucleus}
    assert [one["n"] for one in data["baseline_ranking"]] == [4, 8]
    metrics = card.metrics()
    assert metrics["baseline.response_hallucination"] == 0.5
    assert metrics["aligned.recall.high"] == 0.8
    assert metrics["selection.baseline.response_hallucination"] == 0.6
    assert metrics["selection.aligned.response_hallucination"] == 0.2
    assert "selection.aligned.response_hallucination.low" not in metrics  # a result has few bytes
    assert {name: value for name, value in metrics.items() if name.startswith("selection.ratio")} == {
        "selection.ratio.recall.low": 0.8,
        "selection.ratio.recall.high": 1.0,
    }
    assert metrics["best_of_n.response_hallucination.low"] == 0.1
    assert metrics["best_of_n.n"] == 4
    assert metrics["selected_step"] == 20


def test_where_nothing_is_ranked_the_best_of_n_is_the_one_answer() -> None:
    only = checkpoint(10, measures(0.3))
    card = Scorecard(only, [only], only, {}, None, {1: measures(), 8: measures()})
    data = card.to_json(GREEDY, NUCLEUS)
    assert data["best_of_n"] == {"n": 1, "rule": None, "lambda": None, **data["aligned"]}
    assert card.metrics()["best_of_n.n"] == 1


QUESTIONS = 200


def candidates(*hallucinating: int, recall: tuple[int, ...] = (2, 2, 2, 2)) -> list[Marked]:
    """Four candidates of each question, each likelier than those before it; so many of each hallucinate, of 100."""
    return [
        Marked(
            answer(f"q{question:03}", candidate, logp=float(candidate), other=2.0 * candidate),
            Judgement(2, int((question * 37) % 100 < hallucinating[candidate]), recall[candidate], 2),
        )
        for question in range(QUESTIONS)
        for candidate in range(4)
    ]


def chosen(drawn: list[Marked], once: list[Marked], most: int = 4) -> BestOf | None:
    figures, rewards = Figures(500, 0), {by: reward_by(by, 0.1) for by in (LIKELIHOOD, RATIO)}
    rows = rank({"selection": drawn, "report": drawn}, once, rewards, most, figures)
    return choose_best_of(rows, figures.of(once), min_recall_ratio=0.95)


def first_of(drawn: list[Marked]) -> list[Marked]:
    return [one for one in drawn if one.answer.candidate == 0]


@pytest.mark.parametrize(
    ("drawn", "expect"),
    [
        pytest.param(candidates(20, 30, 30, 40), None, id="every N is worse"),
        pytest.param(candidates(20, 20, 20, 20), None, id="no N is better"),
        pytest.param(candidates(20, 19, 19, 19), None, id="better by one question, as chance has it"),
        pytest.param(candidates(20, 10, 15, 23), 2, id="2 is best, 4 is worse than 1"),
        pytest.param(candidates(20, 15, 10, 5), 4, id="the more the better"),
        pytest.param(candidates(20, 10, 10, 10), 2, id="ties: the fewer"),
        pytest.param(candidates(20, 10, 5, 5, recall=(2, 2, 1, 1)), 2, id="4 leaves half of the picture out"),
        pytest.param([], None, id="no answers"),
    ],
)
def test_a_ranking_that_does_not_make_answers_better_is_not_the_default(
    drawn: list[Marked], expect: int | None
) -> None:
    found = chosen(drawn, first_of(drawn))
    assert (found and found.n) == expect
    assert found is None or found.by == LIKELIHOOD  # by LogRatio the first is the best


def test_the_choice_is_of_the_selection_split_and_the_figures_are_of_the_report_split() -> None:
    """By likelihood the best of 4 is right on selection and wrong on report; by the log-ratio the other way round."""

    def drawn(better: int) -> list[Marked]:
        return [
            Marked(
                answer(f"q{question:03}", candidate, logp=float(candidate), other=2.0 * candidate),
                Judgement(2, int(candidate != better), 2, 2),
            )
            for question in range(QUESTIONS)
            for candidate in range(4)
        ]

    figures, rewards = Figures(100, 0), {by: reward_by(by, 0.1) for by in (LIKELIHOOD, RATIO)}
    once = [Marked(answer(f"q{question:03}"), Judgement(2, 1, 2, 2)) for question in range(QUESTIONS)]
    rows = rank({"selection": drawn(3), "report": drawn(0)}, once, rewards, 4, figures)
    found = choose_best_of(rows, figures.of(once), min_recall_ratio=0.95)
    assert found
    assert (found.by, found.n) == (LIKELIHOOD, 4)
    assert (found.selection.response_hallucination.value, found.report.response_hallucination.value) == (0.0, 1.0)


def test_several_answers_are_compared_with_the_one_that_is_not_ranked() -> None:
    """A greedy answer may be better than one that was sampled: then ranking has to be better than that."""
    drawn, greedy = candidates(40, 30, 30, 30), candidates(20, 20, 20, 20)
    assert chosen(drawn, first_of(drawn))
    assert chosen(drawn, first_of(greedy)) is None


def test_a_gain_that_may_be_chance_does_not_make_ranking_the_default() -> None:
    """15% of the first answers hallucinate and 12% of the second, but to other questions."""
    drawn = [
        Marked(answer(f"q{question:03}", candidate, logp=float(candidate)), Judgement(2, int(wrong), 2, 2))
        for question in range(QUESTIONS)
        for candidate, wrong in enumerate((question < 30, 24 <= question < 48))
    ]
    assert chosen(drawn, first_of(drawn), most=2) is None


def guesses(seed: int, most: int = 8) -> tuple[list[Marked], list[Marked]]:
    """`most` answers to each question and one more, right or wrong by a coin, with rewards that say nothing of that."""
    random = np.random.default_rng(seed)

    def guess(question: int, candidate: int) -> Marked:
        logp, other, wrong = *random.normal(-9, 2, 2), random.random() < 0.5
        return Marked(answer(f"q{question:02}", candidate, logp, other), Judgement(2, int(wrong), 2, 2))

    drawn = [guess(question, candidate) for question in range(60) for candidate in range(most)]
    return drawn, [guess(question, 0) for question in range(60)]


def test_where_no_ranking_helps_chance_rarely_finds_one() -> None:
    """Six rules and three numbers are 18 chances; of a hundred runs 95 have to end with one answer all the same."""
    figures, rewards = Figures(100, 0), {by: reward_by(by, 0.1) for by in rankings([0.1, 0.3, 1.0])}
    found = 0
    for seed in range(100):
        drawn, once = guesses(seed)
        rows = rank({"selection": drawn, "report": []}, once, rewards, 8, figures)
        found += choose_best_of(rows, figures.of(once), min_recall_ratio=0.95) is not None
    assert found <= 5


def test_where_nothing_is_ranked_one_answer_is_the_default() -> None:
    drawn = candidates(20, 10, 10, 10)
    assert chosen(drawn, first_of(drawn), most=1) is None


def test_rows_have_the_columns_of_scores() -> None:
    one = mark([answer(text="a cat and a dog")], {"q": '["cat"]'}, benchmark("coco-objects"))[0]
    row = scores_row("checkpoint-000120", "coco", "report", "once", one)
    assert set(row) == set(SCORES.names)
    assert (row["mentions"], row["hallucinated"], row["covered"], row["truth_total"]) == (2, 1, 1, 1)
    assert (row["expected"], row["expected_covered"]) == (0, 0)  # this benchmark knows nothing of them
    assert row["spans"] == [{"start": 12, "end": 15}]
