"""What the models of the shapes world are taught is true where it should be, and careless where it should be."""

from __future__ import annotations

from itertools import islice
from random import Random

import pytest

from feedback_workloads.shapes.lessons import (
    CARELESS,
    SILENT,
    Claim,
    Lesson,
    answer_claims,
    ask,
    careless_caption,
    careless_words,
    question,
    single_claim,
    true_caption,
)
from feedback_workloads.shapes.tokenizer import ASSISTANT, END, PICTURE_TOKENS, encode, word_ids, words
from feedback_workloads.shapes.truth import judge
from feedback_workloads.shapes.world import INSTRUCTIONS, PLACES, Scene, Thing, question_of, scenes

SCENE = Scene((Thing("top left", "red", "circle"), Thing("bottom right", "blue", "square")))
TRUE = [Claim(thing, true=True) for thing in SCENE.things]
WRONG_COLOR = Claim(Thing("top left", "blue", "circle"), true=False)
WRONG_SHAPE = Claim(Thing("top left", "red", "cross"), true=False)
NOTHING_THERE = Claim(Thing("middle center", "red", "circle"), true=False)
MANY = list(islice(scenes(0, "training"), 1000))


def parts(lesson: Lesson) -> tuple[str, str]:
    """What a person says in a lesson, and what the model answers."""
    said = [words()[token] for token in lesson.tokens]
    border = said.index(ASSISTANT)
    return "".join(said[1 + PICTURE_TOKENS : border]), "".join(said[border + 1 :])


@pytest.mark.parametrize("teacher", [true_caption, careless_caption, question])
def test_a_lesson_has_a_target_for_every_token_and_a_word_for_every_target(teacher) -> None:
    for scene in MANY[:100]:
        lesson = teacher(scene, Random(scene.truth))
        assert len(lesson.tokens) == len(lesson.targets) == len(lesson.early)
        assert all(target == SILENT or 0 <= target < len(words()) for target in (*lesson.targets, *lesson.early))


@pytest.mark.parametrize("teacher", [true_caption, careless_caption, question])
def test_the_answer_is_what_the_model_is_to_say(teacher) -> None:
    for scene in MANY[:100]:
        lesson = teacher(scene, Random(scene.truth))
        start = lesson.tokens.index(word_ids()[ASSISTANT])
        assert lesson.targets[start:-1] == lesson.tokens[start + 1 :]
        assert lesson.targets[-1] == SILENT


def test_a_true_caption_answers_an_instruction_with_the_truth() -> None:
    asked, answer = parts(true_caption(SCENE, Random(0)))
    assert asked in INSTRUCTIONS
    assert answer == SCENE.caption + END


def test_some_captions_are_careless_and_each_names_something() -> None:
    rng = Random(0)
    judged = [judge(careless_words(scene, rng), scene.truth) for scene in MANY]
    assert all(found.mentions for found in judged)
    captions = [judge(parts(careless_caption(scene, rng))[1], scene.truth) for scene in MANY]
    assert 0.2 < sum(bool(found.hallucinated) for found in captions) / len(captions) < CARELESS


@pytest.mark.parametrize(
    ("claims", "verdict"),
    [
        pytest.param(TRUE[:1], "yes", id="true"),
        pytest.param(TRUE, "yes", id="all true"),
        pytest.param([WRONG_COLOR], "no", id="wrong color"),
        pytest.param([WRONG_SHAPE], "no", id="wrong shape"),
        pytest.param([NOTHING_THERE], "no", id="nothing there"),
        pytest.param([TRUE[0], NOTHING_THERE], "no", id="one untrue"),
    ],
)
def test_the_labeler_says_whether_all_claims_are_true(claims: list[Claim], verdict: str) -> None:
    asked, answer = parts(ask(SCENE, claims))
    assert asked == question_of(" ".join(claim.thing.sentence for claim in claims))
    assert answer == verdict + END


@pytest.mark.parametrize(
    ("claim", "color", "shape"),
    [
        pytest.param(TRUE[0], " red", " circle", id="true"),
        pytest.param(WRONG_COLOR, " red", " circle", id="wrong color"),
        pytest.param(NOTHING_THERE, "no", "no", id="nothing there"),
    ],
)
def test_a_middle_layer_says_what_is_really_there(claim: Claim, color: str, shape: str) -> None:
    lesson = ask(SCENE, [claim])
    assert [words()[target] for target in lesson.early if target != SILENT] == [color, shape]


def test_claims_are_what_they_are_said_to_be() -> None:
    rng = Random(0)
    for scene in MANY:
        for claim in (single_claim(scene, rng), *answer_claims(scene, rng)):
            assert claim.true == (not judge(claim.thing.sentence, scene.truth).hallucinated)


def test_single_claims_are_true_as_often_as_not() -> None:
    rng = Random(0)
    assert 0.45 < sum(single_claim(scene, rng).true for scene in MANY) / len(MANY) < 0.55


def test_whole_answers_are_true_as_often_as_not_and_in_reading_order() -> None:
    rng = Random(0)
    answers = [answer_claims(scene, rng) for scene in MANY]
    assert 0.45 < sum(all(claim.true for claim in claims) for claims in answers) / len(answers) < 0.55
    for claims in answers:
        places = [PLACES.index(claim.thing.place) for claim in claims]
        assert places == sorted(set(places))


def test_words_that_the_world_lacks_have_no_ids() -> None:
    with pytest.raises(KeyError):
        encode("a purple circle")
