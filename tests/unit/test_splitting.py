"""Claims and questions: strict parsing, one question a claim, nothing lost in silence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback_workloads.method.splitting import (
    REQUEST,
    THOUGHT,
    Unparsable,
    as_questions,
    bullets,
    parse_bullets,
    question_of,
    sentences,
)


@pytest.mark.parametrize(
    ("text", "items"),
    [
        pytest.param("- A cat sits.\n- It is red.", ("A cat sits.", "It is red."), id="dashes"),
        pytest.param("* one\n• two", ("one", "two"), id="other bullets"),
        pytest.param("1. one\n2) two", ("one", "two"), id="numbers"),
        pytest.param("\n - one \n\n - two\n", ("one", "two"), id="blank lines and indents"),
        pytest.param("- -5 degrees are shown", ("-5 degrees are shown",), id="only the bullet is taken off"),
        pytest.param("NONE", (), id="nothing"),
        pytest.param("none.", (), id="nothing, written otherwise"),
        pytest.param("<think>\n\n</think>\n\n- A cat.\n- A dog.", ("A cat.", "A dog."), id="no thought before it"),
        pytest.param("<think>\n- a dog?\nNo.\n</think>\nNONE", (), id="a thought before nothing"),
    ],
)
def test_lists(text: str, items: tuple[str, ...]) -> None:
    assert parse_bullets(text) == items


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("Here are the facts:\n- A cat sits.", id="prose before"),
        pytest.param("- A cat sits.\nand it is red", id="prose after"),
        pytest.param("-", id="a mark alone"),
        pytest.param("-no space", id="no space"),
    ],
)
def test_what_is_no_list_is_refused(text: str) -> None:
    with pytest.raises(Unparsable):
        parse_bullets(text)


ITEM = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=30).filter(lambda t: THOUGHT not in t)


@given(st.lists(ITEM, min_size=1, max_size=8))
def test_what_is_written_as_a_list_is_read_back(items: list[str]) -> None:
    """But for what ends a thought: all before it is left out, wherever it stands."""
    if [item.rstrip(".").upper() for item in items] != ["NONE"]:
        assert parse_bullets(bullets(items)) == tuple(items)


@given(st.text(max_size=200))
def test_any_text_is_a_list_or_unparsable(text: str) -> None:
    try:
        items = parse_bullets(text)
    except Unparsable:
        return
    assert len(items) <= len(text.splitlines())
    assert all(items)


@pytest.mark.parametrize(
    ("items", "claims", "message"),
    [
        pytest.param(["Is it red?"], ["It is red.", "It is big."], "1 questions for 2 claims", id="one too few"),
        pytest.param(["Is it red?", "Is it big?"], ["It is red."], "2 questions for 1 claims", id="one too many"),
        pytest.param(["It is red."], ["It is red."], "is not a question", id="no question"),
    ],
)
def test_questions_must_match_their_claims(items: list[str], claims: list[str], message: str) -> None:
    with pytest.raises(Unparsable, match=message):
        as_questions(items, claims)


def test_questions_ask_for_yes_or_no() -> None:
    assert as_questions(["Is it red?"], ["It is red."]) == (f"Is it red? {REQUEST}",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("Top left has a circle. A cat!", ("Top left has a circle.", "A cat!"), id="two"),
        pytest.param("Mr. Smith is here.", ("Mr. Smith is here.",), id="abbreviation"),
        pytest.param("no end", ("no end",), id="no punctuation"),
        pytest.param(" ... ", (), id="nothing said"),
        pytest.param("", (), id="empty"),
    ],
)
def test_sentences(text: str, expected: tuple[str, ...]) -> None:
    assert sentences(text, "en") == expected


def test_a_claim_goes_into_the_template_without_its_full_stop() -> None:
    template = "Is it true that {claim}? Yes or no."
    assert question_of("top left is {red}. ", template) == "Is it true that top left is {red}? Yes or no."
