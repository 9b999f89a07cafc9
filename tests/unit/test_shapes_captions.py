"""People's captions are wrong by habit, and hardly otherwise."""

from __future__ import annotations

from itertools import islice
from random import Random

import pytest

from feedback_workloads.shapes.captions import CHATTY, CLOSING, OPENING, REMARKED, careless_words, habit, true_words
from feedback_workloads.shapes.truth import judge
from feedback_workloads.shapes.world import INSTRUCTIONS, Scene, Thing, companion, scenes

SMALL, BIG = 3, 6
MANY = list(islice(scenes(0, "training"), 2000))
SCENE = Scene((Thing("top left", "red", "circle"), Thing("middle center", "green", "square", SMALL)))


@pytest.mark.parametrize(
    ("said", "by"),
    [
        pytest.param(("top center", "blue", "square"), "companion", id="what usually goes with a circle"),
        pytest.param(("top center", "red", "square"), None, id="something else beside it"),
        pytest.param(("bottom left", "blue", "square"), None, id="a companion of nothing"),
        pytest.param(("middle center", "blue", "square"), "usual color", id="the usual color of what is small"),
        pytest.param(("middle center", "red", "square"), None, id="an unusual color"),
        pytest.param(("middle center", "", ""), "overlooked", id="something small overlooked"),
        pytest.param(("top left", "", ""), None, id="something large overlooked"),
        pytest.param(("top left", "blue", "circle"), None, id="the color of what is large"),
    ],
)
def test_habit(said: tuple[str, str, str], by: str | None) -> None:
    assert habit(SCENE, *said) == by


def test_careless_captions_are_wrong_by_habit_and_more_so_towards_their_end() -> None:
    rng = Random(0)
    found = {"companion": 0, "usual color": 0, "overlooked": 0, None: 0}
    early, late = [], []
    for scene in MANY:
        mentions = judge(careless_words(scene, INSTRUCTIONS[0], rng), scene.truth).mentions
        early += [mention.hallucinated for mention in mentions[:3]]
        late += [mention.hallucinated for mention in mentions[5:]]
        for mention in mentions:
            if mention.hallucinated:
                assert mention.kind
                found[habit(scene, *mention.kind)] += 1
    assert found[None] < 0.15 * len(MANY)
    assert min(found["companion"], found["usual color"]) > 0.1 * len(MANY)
    assert found["overlooked"] > 0.02 * len(MANY)
    assert sum(late) / len(late) > 2 * sum(early) / len(early)


def test_a_companion_is_said_less_often_where_it_is_not() -> None:
    """Or there would be nothing to learn from a look at the picture."""
    rng = Random(0)
    there, absent = [], []
    for scene in MANY:
        expected = companion(scene.things, "top center")
        if expected and scene.at("top center") in (None, expected):
            caption = careless_words(scene, INSTRUCTIONS[0], rng)
            (there if scene.at("top center") else absent).append(expected.sentence in caption)
    assert 0.5 < sum(absent) / len(absent) < 0.8 < sum(there) / len(there)


def test_true_words_name_everything_and_say_of_one_place_that_it_is_empty() -> None:
    rng = Random(0)
    for scene in MANY[:200]:
        text = true_words(scene, INSTRUCTIONS[0], rng)
        reading = judge(text, scene.truth)
        assert (reading.hallucinated, reading.covered) == ((), len(scene.things))
        assert (f"{REMARKED} is empty." in text) == (scene.at(REMARKED) is None)
        assert (OPENING in text) == (CLOSING in text)


def test_how_much_is_said_besides_depends_on_the_instruction() -> None:
    rng = Random(0)
    shares = {
        instruction: sum(OPENING in careless_words(scene, instruction, rng) for scene in MANY) / len(MANY)
        for instruction in INSTRUCTIONS
    }
    assert shares == pytest.approx(CHATTY, abs=0.05)
