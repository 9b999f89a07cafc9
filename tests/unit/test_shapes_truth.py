"""Any answer can be judged, and what is judged is what it says."""

from __future__ import annotations

import json
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback_workloads.contract import BadInput
from feedback_workloads.shapes.captions import true_words
from feedback_workloads.shapes.truth import judge
from feedback_workloads.shapes.world import PLACES, Scene, Thing, rows

SCENE = Scene((Thing("top left", "red", "circle"), Thing("bottom right", "blue", "square")))
WORDS = [*PLACES, "top", "left", "has", "a", "is", "empty", "red", "blue", "circle", "square", ".", "?", "\n"]


@pytest.mark.parametrize(
    ("answer", "hallucinated", "mentions", "covered"),
    [
        pytest.param("top left has a red circle. bottom right has a blue square.", [], 2, 2, id="the truth"),
        pytest.param("top left has a red circle.", [], 1, 1, id="one left out"),
        pytest.param("top left has a blue circle.", ["top left has a blue circle"], 1, 0, id="wrong color"),
        pytest.param("top left has a red square.", ["top left has a red square"], 1, 0, id="wrong shape"),
        pytest.param("top right has a red circle.", ["top right has a red circle"], 1, 0, id="wrong place"),
        pytest.param("top left has a red circle. top left has a red circle.", [], 2, 1, id="said twice, covered once"),
        pytest.param("Top left has a red circle", [], 1, 1, id="capital letter, no period"),
        pytest.param("top left has a circle.", ["circle"], 1, 0, id="no color"),
        pytest.param("top left has a red.", [], 0, 0, id="names no object"),
        pytest.param("circle. square", ["circle", "square"], 2, 0, id="shapes without a sentence"),
        pytest.param("left top has a red circle.", ["circle"], 1, 0, id="no such place"),
        pytest.param("top left has a red circle square.", ["square"], 2, 1, id="a shape too many"),
        pytest.param("middle center is empty.", [], 1, 0, id="empty, and it is"),
        pytest.param("Top left is empty", ["Top left is empty"], 1, 0, id="empty, and it is not"),
        pytest.param("left top is empty. it is emptyish", [], 0, 0, id="no place is called empty"),
        pytest.param("Here is what I see.", [], 0, 0, id="says nothing"),
        pytest.param("", [], 0, 0, id="no answer"),
        pytest.param("circles and crossing", [], 0, 0, id="other words"),
    ],
)
def test_judge(answer: str, hallucinated: list[str], mentions: int, covered: int) -> None:
    found = judge(answer, SCENE.truth)
    assert [answer[mention.start : mention.end] for mention in found.hallucinated] == hallucinated
    assert (len(found.mentions), found.covered, found.objects) == (mentions, covered, 2)


def test_every_truthful_caption_is_free_of_hallucination() -> None:
    for row in rows(0, "selection", 100):
        found = judge(true_words(row.scene, row.question, Random(row.id)), row.scene.truth)
        assert (found.hallucinated, found.covered) == ((), len(row.scene.things))


@given(st.one_of(st.text(), st.lists(st.sampled_from(WORDS), max_size=40).map(" ".join)))
def test_any_text_can_be_judged(answer: str) -> None:
    found = judge(answer, SCENE.truth)
    assert all(0 <= mention.start < mention.end <= len(answer) for mention in found.mentions)
    assert found.covered <= min(found.objects, len(found.mentions))
    assert found.covered <= len(found.mentions) - len(found.hallucinated)
    assert found.expected_covered <= min(found.expected, found.covered)


@pytest.mark.parametrize(
    ("answer", "covered"),
    [
        pytest.param("top left has a red circle. bottom right has a blue square.", 1, id="all named"),
        pytest.param("bottom right has a blue square.", 0, id="the expected one left out"),
        pytest.param("top left has a blue circle.", 0, id="named wrongly"),
    ],
)
def test_expected_things_are_counted_apart(answer: str, covered: int) -> None:
    objects = json.loads(SCENE.truth)["objects"]
    truth = json.dumps({"objects": [{**objects[0], "expected": True}, {**objects[1], "expected": False}]})
    found = judge(answer, truth)
    assert (found.expected, found.expected_covered) == (1, covered)
    assert judge(answer, SCENE.truth).expected == 0


@pytest.mark.parametrize("truth", ["", "[]", "{}", '{"objects":[1]}', '{"objects":[{"place":"top left"}]}', "null"])
def test_unreadable_truth_is_bad_input(truth: str) -> None:
    with pytest.raises(BadInput, match="it must be JSON such as"):
        judge("top left has a red circle.", truth)
