"""Choice of the checkpoint, best-of-N, and the figures of scores.json."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback_workloads.benchmarks import benchmark
from feedback_workloads.method.evaluation import (
    Answer,
    Checkpoint,
    Figures,
    Marked,
    Scorecard,
    best_of,
    best_of_curve,
    choose,
    choose_best_of,
    curve_sizes,
    mark,
    scores_row,
    with_rewards,
)
from feedback_workloads.method.judgement import Judgement
from feedback_workloads.method.statistics import Measures, Rate
from feedback_workloads.rows.schemas import SCORES


def measures(response: float | None = 0.4, mention: float | None = 0.2, recall: float | None = 0.8) -> Measures:
    def rate(value: float | None) -> Rate:
        return Rate(value, value, value)

    return Measures(rate(response), rate(mention), rate(recall), 10.0)


def checkpoint(step: int, selection: Measures) -> Checkpoint:
    return Checkpoint(f"checkpoint-{step:06}", step, selection, measures())


def answer(id: str = "q", candidate: int = 0, reward: float | None = None, text: str = "a cat") -> Answer:
    return Answer(id, candidate, text, tokens=3, logp=-3.0, reward=reward)


def marked(id: str, candidate: int, reward: float | None, hallucinated: int = 0) -> Marked:
    return Marked(answer(id, candidate, reward), Judgement(2, hallucinated, 1, 2))


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


def test_rewards_are_per_token_unless_switched_off() -> None:
    answers = [answer("q", 0), answer("q", 1)]
    reference = {("q", 0): -6.0, ("q", 1): -1.5}
    assert [one.reward for one in with_rewards(answers, reference, 0.1, normalise=True)] == pytest.approx([0.1, -0.05])
    assert [one.reward for one in with_rewards(answers, reference, 0.1, normalise=False)] == pytest.approx([0.3, -0.15])


def test_best_of() -> None:
    answers = [
        marked("b", 1, 0.5),
        marked("a", 2, 0.9),
        marked("a", 0, 0.1),
        marked("a", 1, 0.3),
        marked("b", 0, 0.5),
    ]
    assert [(one.answer.id, one.answer.candidate) for one in best_of(answers, 1)] == [("a", 0), ("b", 0)]
    assert [(one.answer.id, one.answer.candidate) for one in best_of(answers, 2)] == [("a", 1), ("b", 0)]
    assert [(one.answer.id, one.answer.candidate) for one in best_of(answers, 3)] == [("a", 2), ("b", 0)]


def test_best_of_needs_rewards() -> None:
    with pytest.raises(ValueError, match="candidate 0 of q has no reward"):
        best_of([marked("q", 0, None)], 1)


@pytest.mark.parametrize(("most", "expect"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])])
def test_curve_sizes(most: int, expect: list[int]) -> None:
    assert curve_sizes(most) == expect


@given(st.lists(st.floats(-1, 1), min_size=8, max_size=8), st.lists(st.integers(0, 2), min_size=8, max_size=8))
def test_curve_begins_with_the_single_answers(rewards: list[float], hallucinated: list[int]) -> None:
    answers = [
        marked(f"q{i // 4}", i % 4, reward, wrong)
        for i, (reward, wrong) in enumerate(zip(rewards, hallucinated, strict=True))
    ]
    figures = Figures(20, 0)
    curve = best_of_curve(answers, 4, figures)
    assert list(curve) == [1, 2, 4]
    assert curve[1] == figures.of(one for one in answers if one.answer.candidate == 0)


def test_scorecard() -> None:
    first, second = checkpoint(10, measures(0.3)), checkpoint(20, measures(0.2))
    card = Scorecard(measures(0.5), [first, second], second, {1: measures(), 4: measures(0.1)})
    data = card.to_json()
    assert [one["selected"] for one in data["checkpoints"]] == [False, True]
    assert data["best_of_n"] == {"n": 4, **measures(0.1).to_json()}
    assert [one["n"] for one in data["curve"]] == [1, 4]
    metrics = card.metrics()
    assert metrics["baseline.response_hallucination"] == 0.5
    assert metrics["aligned.recall.high"] == 0.8
    assert metrics["best_of_n.response_hallucination.low"] == 0.1
    assert metrics["best_of_n.n"] == 4
    assert metrics["selected_step"] == 20


QUESTIONS = 200


def ranking(*hallucinating: int, recall: tuple[int, ...] = (2, 2, 2, 2)) -> list[Marked]:
    """Four candidates of each question, each preferred to those before it; so many of each hallucinate, of 100."""
    return [
        Marked(
            answer(f"q{question:03}", candidate, reward=float(candidate)),
            Judgement(2, int((question * 37) % 100 < hallucinating[candidate]), recall[candidate], 2),
        )
        for question in range(QUESTIONS)
        for candidate in range(4)
    ]


@pytest.mark.parametrize(
    ("ranked", "expect"),
    [
        pytest.param(ranking(20, 30, 30, 40), 1, id="every N is worse"),
        pytest.param(ranking(20, 20, 20, 20), 1, id="no N is better"),
        pytest.param(ranking(20, 19, 19, 19), 1, id="better by one question, as chance has it"),
        pytest.param(ranking(20, 10, 15, 23), 2, id="the README's curve: 2 is best, 4 is worse than 1"),
        pytest.param(ranking(20, 15, 10, 5), 4, id="the more the better"),
        pytest.param(ranking(20, 10, 10, 10), 2, id="ties: the fewer"),
        pytest.param(ranking(20, 10, 5, 5, recall=(2, 2, 1, 1)), 2, id="4 leaves half of the picture out"),
        pytest.param([], 1, id="no answers"),
    ],
)
def test_a_ranking_that_does_not_make_answers_better_is_not_the_default(ranked: list[Marked], expect: int) -> None:
    found = choose_best_of(ranked, 4, Figures(500, 0), min_recall_ratio=0.95)
    assert found.n == expect
    assert [one["n"] for one in found.to_json() if one["selected"]] == [expect]
    assert [one["difference"] is None for one in found.to_json()] == [True, False, False]


def test_a_gain_that_may_be_chance_does_not_make_ranking_the_default() -> None:
    """15% of the first answers hallucinate and 12% of the second, but to other questions."""
    ranked = [
        Marked(answer(f"q{question:03}", candidate, reward=float(candidate)), Judgement(2, int(wrong), 2, 2))
        for question in range(QUESTIONS)
        for candidate, wrong in enumerate((question < 30, 24 <= question < 48))
    ]
    assert choose_best_of(ranked, 2, Figures(500, 0), min_recall_ratio=0.95).n == 1


def test_where_nothing_is_ranked_one_answer_is_the_default() -> None:
    assert choose_best_of(ranking(20, 10, 10, 10), 1, Figures(500, 0), min_recall_ratio=0.95).n == 1


def test_rows_have_the_columns_of_scores() -> None:
    one = mark([answer(reward=0.5, text="a cat and a dog")], {"q": '["cat"]'}, benchmark("object-halbench"))[0]
    row = scores_row("checkpoint-000120", "coco", "report", one)
    assert set(row) == set(SCORES.names)
    assert (row["mentions"], row["hallucinated"], row["covered"], row["truth_total"]) == (2, 1, 1, 1)
    assert row["spans"] == [{"start": 12, "end": 15}]
