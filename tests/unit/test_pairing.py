"""Scoring, combining, drawing and balancing of pairs."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback_workloads.contract import BadInput
from feedback_workloads.method.pairing import Pair, ScoredAnswer, balance_lengths, combine, draw, score


def answer(candidate: int = 0, score: int = 0, text: str = "a") -> ScoredAnswer:
    return ScoredAnswer(candidate=candidate, score=score, text=text)


def pair(chosen_words: int, rejected_words: int, id: str = "x") -> Pair:
    return Pair(id, answer(0, 0, "w " * chosen_words), answer(1, -1, "v " * rejected_words))


def words(pairs: tuple[Pair, ...]) -> list[tuple[int, int]]:
    return [(one.chosen.words, one.rejected.words) for one in pairs]


@pytest.mark.parametrize(
    ("accepted", "expect"),
    [
        pytest.param([], None, id="no claims: no score"),
        pytest.param([True, True], 0, id="all accepted"),
        pytest.param([True, False, False], -2, id="two rejected"),
        pytest.param([False], -1, id="the whole answer as one claim"),
    ],
)
def test_score(accepted: list[bool], expect: int | None) -> None:
    assert score(accepted) == expect


@pytest.mark.parametrize(
    ("answers", "difference", "expect"),
    [
        pytest.param([answer(0, -1), answer(1, 0, "b")], 1, [(1, 0)], id="the higher score is chosen"),
        pytest.param([answer(0, -1), answer(1, -1, "b")], 1, [], id="equal scores form no pair"),
        pytest.param([answer(0, 0), answer(1, -1)], 1, [], id="equal texts form no pair"),
        pytest.param(
            [answer(0, 0), answer(1, -1, "b"), answer(2, -3, "c")], 2, [(0, 2), (1, 2)], id="difference of two"
        ),
        pytest.param([answer(7)], 1, [], id="one answer"),
        pytest.param([], 1, [], id="no answer"),
    ],
)
def test_combine(answers: list[ScoredAnswer], difference: int, expect: list[tuple[int, int]]) -> None:
    assert [(p.chosen.candidate, p.rejected.candidate) for p in combine("x", answers, difference)] == expect


def test_combine_needs_a_difference() -> None:
    with pytest.raises(BadInput, match=r"min_score_difference is 0.*set it to 1"):
        combine("x", [], 0)


@pytest.mark.parametrize(
    ("pairs", "kept", "threshold"),
    [
        pytest.param([], [], None, id="nothing"),
        pytest.param([pair(4, 4)], [(4, 4)], 0.0, id="equal lengths"),
        pytest.param([pair(0, 5)], [], None, id="an empty chosen answer is always much shorter"),
        pytest.param([pair(5, 0)], [(5, 0)], 0.0, id="an empty rejected answer is never longer"),
        pytest.param([pair(0, 0)], [(0, 0)], 0.0, id="both empty"),
        pytest.param([pair(5, 10), pair(10, 5)], [(5, 10), (10, 5)], 0.5, id="what evens out is kept"),
        pytest.param([pair(1, 10), pair(10, 10)], [(10, 10)], 0.0, id="the long rejected one is dropped"),
        pytest.param([pair(9, 10), pair(9, 10)], [(9, 10), (9, 10)], 0.1, id="all or none: all"),
    ],
)
def test_balance(pairs: list[Pair], kept: list[tuple[int, int]], threshold: float | None) -> None:
    balance = balance_lengths(pairs)
    assert (words(balance.pairs), balance.threshold) == (kept, threshold)


@pytest.mark.parametrize("sentence", ["A dog runs there. ", "一只狗在跑。", "犬が走っている。", "สุนัขวิ่งอยู่ตรงนั้น"])
def test_length_does_not_tell_which_answer_is_preferred_whatever_the_script(sentence: str) -> None:
    short, long = answer(0, 0, sentence), answer(1, -1, sentence * 8)
    pairs = [Pair("x", short, long), Pair("y", answer(0, 0, sentence * 4), answer(1, -1, sentence * 4 + "!"))]
    assert balance_lengths(pairs).pairs == tuple(pairs[1:])


answers_ = st.lists(
    st.builds(
        ScoredAnswer, candidate=st.integers(0, 63), score=st.integers(-5, 0), text=st.text(alphabet="ab ", max_size=4)
    ),
    max_size=12,
    unique_by=lambda one: one.candidate,
)
pairs_ = st.lists(st.builds(pair, st.integers(0, 12), st.integers(0, 12)), max_size=30)


@given(answers_, st.integers(1, 3), st.randoms())
def test_every_allowed_pair_once_in_any_order(answers: list[ScoredAnswer], difference: int, random: object) -> None:
    pairs = combine("x", answers, difference)
    allowed = {
        (one.candidate, other.candidate)
        for one in answers
        for other in answers
        if one.score - other.score >= difference and one.text != other.text
    }
    assert len(pairs) == len(allowed)
    assert {(p.chosen.candidate, p.rejected.candidate) for p in pairs} == allowed
    shuffled = answers.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert combine("x", shuffled, difference) == pairs


@given(answers_, st.integers(0, 4), st.integers(0, 2**63 - 1))
def test_drawn_pairs_are_some_of_all(answers: list[ScoredAnswer], at_most: int, seed: int) -> None:
    pairs = combine("x", answers)
    drawn = draw(pairs, at_most, seed)
    assert len(drawn) == min(at_most, len(pairs))
    assert drawn == [one for one in pairs if one in drawn]
    assert draw(pairs, at_most, seed) == drawn


def test_draw_is_uniform() -> None:
    pairs = combine("x", [answer(0, 0, "a"), *(answer(i, -1, "b") for i in range(1, 6))])
    counts = [0] * len(pairs)
    for seed in range(2000):
        for one in draw(pairs, 2, seed):
            counts[pairs.index(one)] += 1
    assert all(700 < count < 900 for count in counts)  # 800 expected, standard deviation 22


@given(pairs_)
def test_balance_is_the_best_threshold(pairs: list[Pair]) -> None:
    def kept_at(step: int) -> list[Pair]:
        return [
            p
            for p in pairs
            if p.rejected.words == 0
            or Fraction(p.rejected.words - p.chosen.words, p.rejected.words) <= Fraction(step, 50)
        ]

    def imbalance(some: tuple[Pair, ...] | list[Pair]) -> Fraction:
        chosen, rejected = sum(p.chosen.words for p in some), sum(p.rejected.words for p in some)
        return Fraction(abs(chosen - rejected), max(rejected, 1))

    balance = balance_lengths(pairs)
    options = [kept for step in range(50) if (kept := kept_at(step))]
    assert bool(options) == bool(balance.pairs)
    if options:
        assert list(balance.pairs) in options
        best = min(imbalance(kept) for kept in options)
        assert imbalance(balance.pairs) == best
        assert len(balance.pairs) == max(len(kept) for kept in options if imbalance(kept) == best)


@given(pairs_, st.randoms())
def test_balance_ignores_the_order(pairs: list[Pair], random: object) -> None:
    shuffled = pairs.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert sorted(words(balance_lengths(shuffled).pairs)) == sorted(words(balance_lengths(pairs).pairs))
