"""The shapes world is the same for the same seed, and its splits share nothing."""

from __future__ import annotations

import hashlib
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
    Scene,
    Split,
    Thing,
    draw_scene,
    picture,
    png,
    question_of,
    rows,
    scenes,
)

SPLITS: tuple[Split, ...] = ("training", "instructions", "selection", "report")


def digest(seed: int) -> str:
    return hashlib.sha256(b"".join(png(row.scene) + repr(row).encode() for row in rows(seed, "report", 40))).hexdigest()


def test_same_seed_same_rows_and_pictures() -> None:
    assert digest(3) == digest(3)


def test_other_seed_other_rows() -> None:
    assert digest(3) != digest(4)


@pytest.mark.parametrize(("one", "other"), list(combinations(SPLITS, 2)))
def test_splits_share_no_scene(one: Split, other: Split) -> None:
    def truths(split: Split, seed: int) -> set[str]:
        return {scene.truth for scene in islice(scenes(seed, split), 300)}

    assert not truths(one, seed=0) & truths(other, seed=0)
    assert not truths(one, seed=0) & truths(other, seed=1)


def test_no_scene_twice_in_a_split() -> None:
    drawn = rows(0, "report", 400)
    assert len({row.scene.truth for row in drawn}) == 400
    assert len({row.id for row in drawn}) == 400


def test_scenes_hold_two_to_four_things_in_reading_order() -> None:
    rng = Random(0)
    for _ in range(200):
        places = [PLACES.index(thing.place) for thing in draw_scene(rng).things]
        assert 2 <= len(places) <= 4
        assert places == sorted(set(places))


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
