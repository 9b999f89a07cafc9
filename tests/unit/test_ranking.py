"""The reward of an answer and the order of answers."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback_workloads.contract import Ranking
from feedback_workloads.method.ranking import best, order, rankings, reward

finite = st.floats(-1e6, 0.0)


RATIO, SUM, LIKELIHOOD, REGULARISED = rankings([0.5])


@pytest.mark.parametrize(
    ("by", "logp", "ref_logp", "tokens", "beta", "expect"),
    [
        pytest.param(RATIO, -4.0, -6.0, 4, 0.1, 0.05, id="liked more than before: positive"),
        pytest.param(RATIO, -6.0, -4.0, 4, 0.1, -0.05, id="liked less than before: negative"),
        pytest.param(RATIO, -5.0, -5.0, 7, 0.1, 0.0, id="no change: zero"),
        pytest.param(RATIO, -4.0, -6.0, 1, 0.5, 1.0, id="one token: nothing to divide"),
        pytest.param(RATIO, 0.0, 0.0, 0, 0.1, 0.0, id="no tokens: zero"),
        pytest.param(SUM, -4.0, -6.0, 4, 0.1, 0.2, id="not normalised: the sum"),
        pytest.param(LIKELIHOOD, -4.0, -6.0, 4, 0.1, -4.0, id="likelihood: the reference does not count"),
        pytest.param(REGULARISED, -4.0, -6.0, 4, 0.1, -0.025, id="regularised: what both find absurd is worth less"),
    ],
)
def test_reward(by: Ranking, logp: float, ref_logp: float, tokens: int, beta: float, expect: float) -> None:
    assert reward(by, logp, ref_logp, tokens, beta) == pytest.approx(expect)


def test_every_rule_is_tried_and_regularised_with_every_weight() -> None:
    tried = [(by.rule, by.weight) for by in rankings([0.1, 0.3])]
    rules = [("LogRatio", 0), ("LogRatioSum", 0), ("PolicyLikelihood", 0)]
    assert tried == [*rules, ("Regularised", 0.1), ("Regularised", 0.3)]


@given(finite, finite, st.integers(1, 4096), st.integers(2, 9))
def test_normalised_reward_does_not_grow_with_repetition(logp: float, ref_logp: float, tokens: int, times: int) -> None:
    once = reward(RATIO, logp, ref_logp, tokens, 0.1)
    repeated = reward(RATIO, logp * times, ref_logp * times, tokens * times, 0.1)
    assert repeated == pytest.approx(once, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("rewards", "expect"),
    [
        pytest.param([], [], id="none"),
        pytest.param([0.3], [0], id="one"),
        pytest.param([0.1, 0.3, 0.2], [1, 2, 0], id="best first"),
        pytest.param([0.2, 0.3, 0.3, 0.2], [1, 2, 0, 3], id="ties to the lower index"),
        pytest.param([math.nan, -1.0, math.nan, 2.0], [3, 1, 0, 2], id="NaN last"),
        pytest.param([math.nan, -math.inf, math.inf, 0.0], [2, 3, 1, 0], id="infinities are numbers, before NaN"),
        pytest.param([0.0, -0.0], [0, 1], id="the two zeros tie"),
    ],
)
def test_order(rewards: list[float], expect: list[int]) -> None:
    assert order(rewards) == expect
    if rewards:
        assert best(rewards) == expect[0]


@given(st.lists(st.floats(allow_nan=False)))
def test_order_is_a_sorting_permutation(rewards: list[float]) -> None:
    ranked = order(rewards)
    assert sorted(ranked) == list(range(len(rewards)))
    for better, worse in pairwise(ranked):
        assert (rewards[better], -better) >= (rewards[worse], -worse)
