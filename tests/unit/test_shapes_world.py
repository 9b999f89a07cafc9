"""The shapes world is the same for the same seed, and its splits share nothing."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from io import BytesIO
from itertools import combinations, islice
from random import Random

import pytest
from PIL import Image

from feedback_workloads.shapes.world import (
    BACKGROUND,
    CELL_PIXELS,
    COLORS,
    PICTURE_PIXELS,
    PLACES,
    SHAPES,
    USUAL_COLORS,
    Scene,
    Split,
    Thing,
    companion,
    draw_scene,
    picture,
    png,
    question_of,
    rows,
    scenes,
)

MANY = [draw_scene(rng) for rng in [Random(0)] for _ in range(2000)]
FIVE = [f"{place} cross" for place in ("top left", "top center", "top right", "middle left", "middle right")]
SPLITS: tuple[Split, ...] = ("training", "instructions", "selection", "report")


def digest(seed: int) -> str:
    return hashlib.sha256(b"".join(png(row.scene) + repr(row).encode() for row in rows(seed, "report", 40))).hexdigest()


def test_same_seed_same_rows_and_pictures() -> None:
    assert digest(3) == digest(3)


def test_other_seed_other_rows() -> None:
    assert digest(3) != digest(4)


@cache
def truths(split: Split, seed: int) -> set[str]:
    return {scene.truth for scene in islice(scenes(seed, split), 300)}


@pytest.mark.parametrize(("one", "other"), list(combinations(SPLITS, 2)))
def test_splits_share_no_scene(one: Split, other: Split) -> None:
    assert not truths(one, seed=0) & truths(other, seed=0)
    assert not truths(one, seed=0) & truths(other, seed=1)


def test_no_scene_twice_in_a_split() -> None:
    drawn = rows(0, "report", 400)
    assert len({row.scene.truth for row in drawn}) == 400
    assert len({row.id for row in drawn}) == 400


def test_scenes_hold_three_things_and_more_in_reading_order() -> None:
    numbers = []
    for scene in MANY:
        places = [PLACES.index(thing.place) for thing in scene.things]
        assert places == sorted(set(places))
        assert [PLACES.index(place) for place in scene.empty] == [i for i in range(9) if i not in places]
        numbers.append(len(places))
    assert min(numbers) == 3
    assert max(numbers) > 6


@pytest.mark.parametrize(
    ("things", "place", "expected"),
    [
        pytest.param(["top left circle"], "top center", "blue square", id="right of a circle"),
        pytest.param(["top right circle"], "middle left", None, id="in another row"),
        pytest.param(["top left square"], "top center", None, id="right of something else"),
        pytest.param(FIVE, "bottom right", "yellow triangle", id="after many things"),
        pytest.param(FIVE[1:], "bottom right", None, id="after few things"),
        pytest.param([*FIVE, "bottom center circle"], "bottom right", "blue square", id="both"),
    ],
)
def test_companion(things: list[str], place: str, expected: str | None) -> None:
    found = companion([Thing(text.rpartition(" ")[0], "red", text.rpartition(" ")[2]) for text in things], place)
    assert (f"{found.color} {found.shape}" if found else None) == expected


def test_companions_are_there_more_often_than_other_things_and_are_known_as_expected() -> None:
    places = [(scene, place, found) for scene in MANY for place in PLACES if (found := companion(scene.things, place))]
    there = [scene.at(place) == found for scene, place, found in places]
    assert 3 / 16 < sum(there) / len(there) < 0.4
    known = sum(thing.get("expected", False) for scene in MANY for thing in json.loads(scene.truth)["objects"])
    assert known == sum(there)


def test_what_is_small_has_its_usual_color_more_often() -> None:
    def usual(things: list[Thing]) -> float:
        return sum(thing.color == USUAL_COLORS[thing.shape] for thing in things) / len(things)

    things = [thing for scene in MANY for thing in scene.things]
    small = [thing for thing in things if thing.small]
    assert 0.15 < len(small) / len(things) < 0.3
    assert usual(small) > 0.5 > usual([thing for thing in things if not thing.small])


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_thing_is_drawn_at_its_place_only(place: str, shape: str) -> None:
    drawn = picture(Scene((Thing(place, "red", shape),)))
    row, column = divmod(PLACES.index(place), 3)
    x, y = column * CELL_PIXELS, row * CELL_PIXELS
    assert drawn.getpixel((x + CELL_PIXELS // 2, y + CELL_PIXELS // 2)) == COLORS["red"]
    drawn.paste(BACKGROUND, (x, y, x + CELL_PIXELS, y + CELL_PIXELS))
    assert drawn.getcolors() == [(PICTURE_PIXELS**2, BACKGROUND)]


def test_png_is_the_picture() -> None:
    scene = next(scenes(0, "report"))
    assert Image.open(BytesIO(png(scene))).convert("RGB").tobytes() == picture(scene).tobytes()


@pytest.mark.parametrize(
    ("claim", "question"),
    [
        ("top left has a red circle.", "Is it true that top left has a red circle? Please answer yes or no."),
        ("top left has a red circle", "Is it true that top left has a red circle? Please answer yes or no."),
    ],
)
def test_question_of(claim: str, question: str) -> None:
    assert question_of(claim) == question


def test_the_question_is_what_splitting_asks() -> None:
    from feedback_workloads.contract import SplittingConfig
    from feedback_workloads.shapes.world import QUESTION_TEMPLATE

    assert SplittingConfig.model_fields["question_template"].default == QUESTION_TEMPLATE
