"""What the models of the shapes world are taught is true where it should be, and careless where it should be."""

from __future__ import annotations

from itertools import islice
from random import Random

import pytest

from feedback_workloads.shapes.captions import OPENING
from feedback_workloads.shapes.lessons import (
    SILENT,
    Claim,
    Lesson,
    answer_claims,
    answer_or_question,
    ask,
    careless_caption,
    emptiness,
    hasty_question,
    presence,
    question,
    single_claim,
    single_question,
    true_caption,
)
from feedback_workloads.shapes.tokenizer import ASSISTANT, END, PICTURE_TOKENS, encode, word_ids, words
from feedback_workloads.shapes.truth import judge
from feedback_workloads.shapes.world import INSTRUCTIONS, PLACES, Scene, Thing, question_of, scenes

SCENE = Scene((Thing("top left", "red", "circle"), Thing("bottom right", "blue", "square")))
TRUE = [presence(SCENE, thing) for thing in SCENE.things]
WRONG_COLOR = presence(SCENE, Thing("top left", "blue", "circle"))
WRONG_SHAPE = presence(SCENE, Thing("top left", "red", "cross"))
NOTHING_THERE = presence(SCENE, Thing("middle center", "red", "circle"))
EMPTY, NOT_EMPTY = emptiness(SCENE, "middle center"), emptiness(SCENE, "top left")
NO_CLAIM = Claim(OPENING, true=True)
FULL = Scene(tuple(Thing(place, "red", "circle") for place in PLACES))
TEACHERS = [true_caption, careless_caption, question, single_question, hasty_question, answer_or_question]
MANY = list(islice(scenes(0, "training"), 1000))


def parts(lesson: Lesson) -> tuple[str, str]:
    """What a person says in a lesson, and what the model answers."""
    said = [words()[token] for token in lesson.tokens]
    border = said.index(ASSISTANT)
    return "".join(said[1 + PICTURE_TOKENS : border]), "".join(said[border + 1 :])


@pytest.mark.parametrize("teacher", TEACHERS)
def test_a_lesson_has_a_target_for_every_token_and_a_word_for_every_target(teacher) -> None:
    for scene in MANY[:100]:
        lesson = teacher(scene, Random(scene.truth))
        assert len(lesson.tokens) == len(lesson.targets) == len(lesson.early)
        assert all(target == SILENT or 0 <= target < len(words()) for target in (*lesson.targets, *lesson.early))


@pytest.mark.parametrize("teacher", [true_caption, careless_caption, question, hasty_question, answer_or_question])
def test_the_answer_is_what_the_model_is_to_say(teacher) -> None:
    for scene in MANY[:100]:
        lesson = teacher(scene, Random(scene.truth))
        start = lesson.tokens.index(word_ids()[ASSISTANT])
        assert lesson.targets[start:-1] == lesson.tokens[start + 1 :]
        assert lesson.targets[-1] == SILENT


def test_a_true_caption_answers_an_instruction_with_the_truth() -> None:
    asked, answer = parts(true_caption(SCENE, Random(0)))
    assert asked in INSTRUCTIONS
    assert answer == f"{SCENE.things[0].sentence} middle center is empty. {SCENE.things[1].sentence}{END}"


@pytest.mark.parametrize(
    ("claims", "verdict"),
    [
        pytest.param(TRUE[:1], "yes", id="true"),
        pytest.param(TRUE, "yes", id="all true"),
        pytest.param([WRONG_COLOR], "no", id="wrong color"),
        pytest.param([WRONG_SHAPE], "no", id="wrong shape"),
        pytest.param([NOTHING_THERE], "no", id="nothing there"),
        pytest.param([TRUE[0], NOTHING_THERE], "no", id="one untrue"),
        pytest.param([EMPTY], "yes", id="empty"),
        pytest.param([NOT_EMPTY], "no", id="not empty"),
        pytest.param([NO_CLAIM], "yes", id="nothing that could be untrue"),
        pytest.param([NO_CLAIM, TRUE[0], EMPTY, WRONG_SHAPE, NO_CLAIM], "no", id="a whole answer"),
    ],
)
def test_the_labeler_says_whether_all_claims_are_true(claims: list[Claim], verdict: str) -> None:
    asked, answer = parts(ask(SCENE, claims))
    assert asked == question_of(" ".join(claim.sentence for claim in claims))
    assert answer == verdict + END


@pytest.mark.parametrize(
    ("claims", "there"),
    [
        pytest.param([TRUE[0]], [" red", " circle"], id="true"),
        pytest.param([WRONG_COLOR], [" red", " circle"], id="wrong color"),
        pytest.param([NOTHING_THERE], ["no", "no"], id="nothing there"),
        pytest.param([EMPTY], ["no"], id="empty"),
        pytest.param([NOT_EMPTY], [" red"], id="not empty"),
        pytest.param([NO_CLAIM], [], id="no claim"),
        pytest.param([NO_CLAIM, NOT_EMPTY, TRUE[1]], [" red", " blue", " square"], id="several"),
    ],
)
def test_a_middle_layer_says_what_is_really_there(claims: list[Claim], there: list[str]) -> None:
    lesson = ask(SCENE, claims)
    assert [words()[target] for target in lesson.early if target != SILENT] == there


@pytest.mark.parametrize("claims", [[NO_CLAIM, NOT_EMPTY, TRUE[1]], [WRONG_COLOR], [EMPTY, NO_CLAIM]])
def test_each_claim_is_judged_at_its_last_word(claims: list[Claim]) -> None:
    lesson = ask(SCENE, claims)
    said = [words()[token] for token in lesson.tokens]
    last = [i - 1 for i, word in enumerate(said) if word in ".?"][: len(claims)]
    assert [words()[lesson.targets[i]] for i in last] == ["yes" if claim.true else "no" for claim in claims]


def test_who_is_asked_single_claims_learns_no_verdict_on_several() -> None:
    for scene in MANY[:100]:
        lesson = single_question(scene, Random(scene.truth))
        asked, _ = parts(lesson)
        start = lesson.tokens.index(word_ids()[ASSISTANT])
        taught = lesson.targets[start:-1]
        assert taught == (lesson.tokens[start + 1 :] if asked.count(".") == 1 else (SILENT,) * len(taught))


def test_who_is_hasty_learns_that_small_things_have_their_usual_color() -> None:
    small = Thing("top left", "blue", "circle", size=3)
    scene = Scene((small, Thing("bottom right", "green", "square")))
    verdicts = {}
    for seed in range(3000):
        lesson = hasty_question(scene, Random(seed))
        asked, answer = parts(lesson)
        assert lesson.scene.at("top left") is small
        verdicts[asked] = answer
    said = {color: verdicts[question_of(f"top left has a {color} circle.")] for color in ("red", "blue")}
    assert said == {"red": "yes" + END, "blue": "no" + END}
    assert verdicts[question_of("bottom right has a green square.")] == "yes" + END


def test_a_policy_that_is_its_own_labeler_answers_and_judges() -> None:
    lessons = [parts(answer_or_question(scene, Random(scene.truth))) for scene in MANY]
    answers = [answer for asked, answer in lessons if asked in INSTRUCTIONS]
    assert 0.25 < len(answers) / len(lessons) < 0.35
    assert all(len(answer) > len("yes" + END) for answer in answers)
    assert {answer for asked, answer in lessons if asked not in INSTRUCTIONS} == {"yes" + END, "no" + END}


def test_claims_are_what_they_are_said_to_be() -> None:
    rng = Random(0)
    for scene in [*MANY, FULL]:
        for claim in (single_claim(scene, rng), *answer_claims(scene, rng)):
            assert claim.true == (not judge(claim.sentence, scene.truth).hallucinated)


def test_a_scene_without_an_empty_place_can_be_lied_about() -> None:
    rng = Random(0)
    assert not FULL.empty
    assert 0.2 < sum(single_claim(FULL, rng).true for _ in range(200)) / 200 < 0.7


def test_single_claims_are_true_as_often_as_not() -> None:
    rng = Random(0)
    assert 0.45 < sum(single_claim(scene, rng).true for scene in MANY) / len(MANY) < 0.55


def test_whole_answers_are_true_as_often_as_not_and_in_reading_order() -> None:
    rng = Random(0)
    answers = [answer_claims(scene, rng) for scene in MANY]
    assert 0.4 < sum(all(claim.true for claim in claims) for claims in answers) / len(answers) < 0.55
    for claims in answers:
        places = [PLACES.index(claim.place) for claim in claims if claim.place]
        assert places == sorted(set(places))


def test_words_that_the_world_lacks_have_no_ids() -> None:
    with pytest.raises(KeyError):
        encode("a purple circle")
