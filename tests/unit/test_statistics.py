"""Rates and their intervals."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback_workloads.method.judgement import Closed
from feedback_workloads.method.statistics import OF_CLOSED, Judged, Measures, Rate, differences, measure, ratios


def judged(
    id: str,
    mentions: int = 2,
    hallucinated: int = 0,
    covered: int = 1,
    *,
    truth_total: int = 2,
    expected: int = 0,
    expected_covered: int = 0,
    words: int = 10,
) -> Judged:
    return Judged(id, mentions, hallucinated, covered, truth_total, expected, expected_covered, words)


def values(measures: Measures) -> tuple[float | None, ...]:
    rates = (measures.response_hallucination, measures.mention_hallucination, measures.recall)
    return (*(rate.value for rate in rates), measures.mean_words)


NOTHING = Rate(None, None, None)


@pytest.mark.parametrize(
    ("answers", "expect"),
    [
        pytest.param([], (None, None, None, 0.0), id="no answers: nothing is known"),
        pytest.param([judged("a"), judged("b", 4, 2, 2)], (0.5, 2 / 6, 3 / 4, 10.0), id="two answers"),
        pytest.param(
            [judged("a", 0, 0, 0), judged("b", 1, 1, 0)], (1.0, 1.0, 0.0, 10.0), id="silence is outside the first rate"
        ),
        pytest.param([judged("a", 0, 0, 0, words=3)], (None, None, 0.0, 3.0), id="nothing named: no rate"),
        pytest.param(
            [judged("a", 0, 0, 0, truth_total=0, words=1)], (None, None, None, 1.0), id="nothing to name: no recall"
        ),
    ],
)
def test_values(answers: list[Judged], expect: tuple[float | None, ...]) -> None:
    assert values(measure(answers, 100, 0)) == expect


def test_recall_of_expected_things_is_of_the_pictures_that_have_some() -> None:
    some = [judged("a", expected=2, expected_covered=1), judged("b", expected=1, expected_covered=0)]
    rate = measure([*some, judged("c")], 200, 0).expected_recall
    assert rate.value == pytest.approx(1 / 3)
    assert (rate.low, rate.high) == (0.0, 0.5)
    assert measure([judged("c")], 200, 0).expected_recall == NOTHING


def test_undefined_rates_have_no_interval_and_no_figure() -> None:
    measures = measure([judged("a", 0, 0, 0)], 100, 0)
    assert measures.response_hallucination == NOTHING
    assert set(measures.flat("x")) == {"x.mean_words", "x.recall", "x.recall.low", "x.recall.high"}


def test_interval_of_a_share_is_the_binomial_one() -> None:
    answers = [judged(f"{i:03}", hallucinated=int(i % 10 < 4)) for i in range(400)]
    rate = measure(answers, 4000, 7).response_hallucination
    deviation = math.sqrt(0.4 * 0.6 / 400)
    assert rate.value == pytest.approx(0.4)
    assert rate.low == pytest.approx(0.4 - 1.96 * deviation, abs=0.005)
    assert rate.high == pytest.approx(0.4 + 1.96 * deviation, abs=0.005)


def test_answers_to_one_question_are_resampled_together() -> None:
    """Ten copies of each answer say nothing new, so the interval must not shrink."""
    answers = [judged(f"{i:02}", hallucinated=i % 2) for i in range(40)]
    once, copied = measure(answers, 500, 3), measure(answers * 10, 500, 3)
    assert copied.response_hallucination == once.response_hallucination


def test_no_resamples_leave_the_widest_interval() -> None:
    assert measure([judged("a")], 0, 0).recall == Rate(0.5, 0.0, 1.0)


def test_a_difference_is_of_the_same_questions() -> None:
    """What both get wrong cancels out: the interval is that of the questions on which they differ."""
    before = [judged(f"{i:03}", hallucinated=int(i % 10 < 4)) for i in range(400)]
    after = [judged(f"{i:03}", hallucinated=int(i % 10 < 3)) for i in range(400)]
    (found,) = differences([after], before, 4000, 7)
    deviation = math.sqrt(0.1 * 0.9 / 400)
    assert found.value == pytest.approx(-0.1)
    assert found.low == pytest.approx(-0.1 - 1.96 * deviation, abs=0.005)
    assert found.high == pytest.approx(-0.1 + 1.96 * deviation, abs=0.005)


@pytest.mark.parametrize(
    ("one", "other", "resamples", "expect"),
    [
        pytest.param([judged("a")], [judged("a")], 100, Rate(0.0, 0.0, 0.0), id="none"),
        pytest.param([judged("a", 0)], [judged("a")], 100, NOTHING, id="one names nothing"),
        pytest.param([], [], 100, NOTHING, id="no answers"),
        pytest.param([judged("a")], [judged("a", 1, 1)], 0, Rate(-1.0, -1.0, 1.0), id="no resamples"),
    ],
)
def test_differences(one: list[Judged], other: list[Judged], resamples: int, expect: Rate) -> None:
    assert differences([one], other, resamples, 0) == [expect]
    # whatever is tried beside it, and whether or not that says anything
    assert differences([one, one], other, resamples, 0) == [expect, expect]
    assert differences([[replace(each, mentions=0) for each in one], one], other, resamples, 0) == [NOTHING, expect]


def test_the_more_is_tried_the_further_intervals_reach() -> None:
    """What is tried twice is one thing; of 20 independent ones the intervals are Sidak's, 3.02 standard errors."""
    random = np.random.default_rng(0)

    def guesses() -> list[Judged]:
        return [judged(f"{i:03}", hallucinated=int(random.random() < 0.4)) for i in range(400)]

    nothing_wrong = [judged(f"{i:03}") for i in range(400)]  # so that each difference is one rate
    tried = [guesses() for _ in range(20)]
    (alone,) = differences(tried[:1], nothing_wrong, 4000, 7)
    (twice, same) = differences([tried[0]] * 2, nothing_wrong, 4000, 7)
    assert twice == same == alone
    found = differences(tried, nothing_wrong, 4000, 7)[0]
    deviation = math.sqrt(alone.value * (1 - alone.value) / 400)
    assert alone.high - alone.value == pytest.approx(1.96 * deviation, rel=0.05)
    assert found.high - found.value == pytest.approx(3.02 * deviation, rel=0.05)
    assert found.value - found.low == pytest.approx(found.high - found.value)


def test_a_ratio_is_of_the_same_questions() -> None:
    """What both get wrong cancels out: of 40% and 30% the interval is narrower than of two samples apart."""
    before = [judged(f"{i:03}", hallucinated=int(i % 10 < 4)) for i in range(400)]
    after = [judged(f"{i:03}", hallucinated=int(i % 10 < 3), words=5) for i in range(400)]
    found = ratios(after, before, 4000, 7)
    ratio = found["response_hallucination"]
    deviation = math.sqrt(0.75 * 0.25 / (0.4 * 400))  # of the 40% of questions, three of four stay wrong
    assert ratio.value == pytest.approx(0.75)
    assert ratio.low == pytest.approx(0.75 - 1.96 * deviation, abs=0.01)
    assert ratio.high == pytest.approx(0.75 + 1.96 * deviation, abs=0.01)
    assert found["mean_words"] == Rate(0.5, 0.5, 0.5)
    assert found["recall"] == Rate(1.0, 1.0, 1.0)
    assert found["expected_recall"] == NOTHING
    assert list(found) == [*measure(before, 0, 0).to_json(), *OF_CLOSED]
    assert all(found[name] == NOTHING for name in OF_CLOSED)


@pytest.mark.parametrize("wrong", [0, 1])
def test_a_ratio_to_what_may_be_nothing_is_undefined(wrong: int) -> None:
    """One wrong answer of a hundred is missing from a third of the resamples."""
    before = [judged(f"{i:03}", hallucinated=int(i < wrong)) for i in range(100)]
    assert ratios(before, before, 300, 0)["response_hallucination"] == NOTHING


def test_answers_to_other_questions_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="answers to 1 questions are compared with answers to 2"):
        differences([[judged("a")]], [judged("a"), judged("b")], 100, 0)
    with pytest.raises(ValueError, match="answers to 1 questions are compared with answers to 2"):
        ratios([judged("a")], [judged("a"), judged("b")], 100, 0)


def test_json_and_flat_figures() -> None:
    measures = Measures(Rate(0.5, 0.25, 0.75), Rate(0.1, 0.0, 0.2), Rate(1.0, 1.0, 1.0), NOTHING, 12.5)
    assert measures.to_json() == {
        "response_hallucination": {"value": 0.5, "low": 0.25, "high": 0.75},
        "mention_hallucination": {"value": 0.1, "low": 0.0, "high": 0.2},
        "recall": {"value": 1.0, "low": 1.0, "high": 1.0},
        "expected_recall": {"value": None, "low": None, "high": None},
        "mean_words": 12.5,
    }
    assert measures.flat("aligned")["aligned.response_hallucination.low"] == 0.25
    assert measures.flat("aligned")["aligned.mean_words"] == 12.5
    assert not any("expected" in name for name in measures.flat("aligned"))
    known = replace(measures, expected_recall=Rate(0.5, 0.25, 0.75))
    assert known.flat("aligned")["aligned.expected_recall.high"] == 0.75


def test_accuracy_and_f1_are_of_closed_questions() -> None:
    """Right are 2 of 4; of the class that is looked for 3 are said, 2 are true and 1 is both. The open one has none."""
    verdicts = [(True, True, True), (False, True, False), (False, False, True), (True, False, False)]
    closed = [replace(judged(f"{n}", 0, 0, 0), closed=Closed(*one)) for n, one in enumerate(verdicts)]
    found = measure([*closed, judged("open")], 500, 3)
    assert found.accuracy.value == 0.5
    assert found.f1.value == pytest.approx(2 * 1 / (2 + 2))
    assert (found.accuracy.low, found.accuracy.high) == pytest.approx((0.0, 1.0), abs=0.15)
    assert found.to_json()["f1"]["value"] == found.flat("aligned")["aligned.f1"]
    letters = [replace(judged("a", 0, 0, 0), closed=Closed(right=True))]
    assert (measure(letters, 9, 0).accuracy.value, measure(letters, 9, 0).f1) == (1.0, NOTHING)


rows = st.lists(
    st.builds(
        lambda id, mentions, wrong, truth, covered, expected, expected_covered, words: Judged(
            id,
            mentions,
            min(wrong, mentions),
            min(covered, truth),
            truth,
            min(expected, truth),
            min(expected_covered, covered, expected, truth),
            words,
        ),
        st.sampled_from("abcdefgh"),
        *[st.integers(0, 5)] * 6,
        st.integers(0, 40),
    ),
    max_size=20,
)


@given(rows, st.integers(0, 2**32), st.randoms())
def test_rates_are_shares_in_any_order(answers: list[Judged], seed: int, random: object) -> None:
    measures = measure(answers, 50, seed)
    rates = (measures.response_hallucination, measures.mention_hallucination, measures.recall, measures.expected_recall)
    for rate in rates:
        if rate.value is None:
            assert rate == NOTHING
        else:
            assert 0 <= rate.low <= rate.high <= 1
            assert 0 <= rate.value <= 1
    shuffled = answers.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert measure(shuffled, 50, seed) == measures


def test_many_questions_take_little_time_and_memory() -> None:
    answers = [judged(f"{i:05}", hallucinated=int(np.sin(i) > 0.5)) for i in range(20_000)]
    assert measure(answers, 1000, 0).response_hallucination.value == pytest.approx(1 / 3, abs=0.01)
