"""The reward of an answer and the order of answers."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback_workloads.method.ranking import best, order, reward

finite = st.floats(-1e6, 0.0)


@pytest.mark.parametrize(
    ("logp", "ref_logp", "tokens", "beta", "normalise", "expect"),
    [
        pytest.param(-4.0, -6.0, 4, 0.1, True, 0.05, id="liked more than before: positive"),
        pytest.param(-6.0, -4.0, 4, 0.1, True, -0.05, id="liked less than before: negative"),
        pytest.param(-5.0, -5.0, 7, 0.1, True, 0.0, id="no change: zero"),
        pytest.param(-4.0, -6.0, 1, 0.5, True, 1.0, id="one token: nothing to divide"),
        pytest.param(-4.0, -6.0, 4, 0.1, False, 0.2, id="not normalised: the sum"),
        pytest.param(0.0, 0.0, 0, 0.1, True, 0.0, id="no tokens: zero"),
    ],
)
def test_reward(logp: float, ref_logp: float, tokens: int, beta: float, normalise: bool, expect: float) -> None:
    assert reward(logp, ref_logp, tokens, beta, normalise) == pytest.approx(expect)


@given(finite, finite, st.integers(1, 4096), st.integers(2, 9))
def test_normalised_reward_does_not_grow_with_repetition(logp: float, ref_logp: float, tokens: int, times: int) -> None:
    once = reward(logp, ref_logp, tokens, 0.1)
    repeated = reward(logp * times, ref_logp * times, tokens * times, 0.1)
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
