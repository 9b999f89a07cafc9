"""Pictures of simple shapes whose content is known exactly, and the sentences that people say about them.

A picture is a grid of 3 x 3 places, each 16 x 16 pixels; three and more of them hold a coloured shape. As in the real
world, some things go together more often than by chance, and some are hard to see. Everything here is a pure function
of a seed, and no two splits share a scene.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from io import BytesIO
from itertools import product
from random import Random
from typing import Final, Literal

from PIL import Image, ImageDraw

CELL_PIXELS: Final = 16
PICTURE_PIXELS: Final = 3 * CELL_PIXELS
PLACES: Final = tuple(
    f"{row} {column}" for row, column in product(("top", "middle", "bottom"), ("left", "center", "right"))
)
"""The nine places in reading order."""
COLORS: Final = {"red": (214, 40, 40), "green": (46, 140, 60), "blue": (36, 84, 200), "yellow": (240, 190, 30)}
SHAPES: Final = ("circle", "square", "triangle", "cross")
USUAL_COLORS: Final = {"circle": "red", "square": "blue", "triangle": "yellow", "cross": "green"}
BACKGROUND: Final = (244, 244, 240)

INSTRUCTIONS: Final = ("Describe the picture.", "What is in the picture?", "List what you see.", "Name every object.")
QUESTION_TEMPLATE: Final = "Is it true that {claim}? Please answer yes or no."
"""How a claim, given without its final period, becomes a question; the labeler knows no other wording."""

Split = Literal["training", "instructions", "selection", "report"]
SMALL: Final = 0.22
"""Share of the things that are small: half as wide as others, and hard to see."""
USUAL_IF_SMALL: Final = 0.4
"""Share of the small things that have the usual color of their shape for that reason; the others have any color."""
COMPANIONS: Final = 0.33
"""How often a companion is put where one is to be expected and nothing else is."""
MANY: Final = 5
"""So many things are expected to have one more after them."""
_SMALL_PIXELS: Final = 3
_HELD_OUT: Final[tuple[Split, ...]] = ("instructions", "selection", "report")
_BUCKETS: Final = 16


@dataclass(frozen=True)
class Thing:
    """One shape at one place. `size` is half its width, `dx` and `dy` how far it is off the middle, all in pixels.

    Things that are called the same are equal, however they are drawn.
    """

    place: str
    color: str
    shape: str
    size: int = field(default=6, compare=False)
    dx: int = field(default=0, compare=False)
    dy: int = field(default=0, compare=False)

    @property
    def sentence(self) -> str:
        return f"{self.place} has a {self.color} {self.shape}."

    @property
    def small(self) -> bool:
        return self.size == _SMALL_PIXELS


@dataclass(frozen=True)
class Scene:
    """What one picture shows, in reading order of the places."""

    things: tuple[Thing, ...]

    @property
    def truth(self) -> str:
        """The picture's content as JSON text: `{"objects": [{"place", "color", "shape"}, ...]}`.

        Things that one would also expect there without looking have `"expected": true` besides.
        """
        objects = [
            {"place": thing.place, "color": thing.color, "shape": thing.shape}
            | ({"expected": True} if companion(self.things, thing.place) == thing else {})
            for thing in self.things
        ]
        return json.dumps({"objects": objects}, separators=(",", ":"))

    @property
    def empty(self) -> tuple[str, ...]:
        """The places that hold nothing, in reading order."""
        return tuple(place for place in PLACES if self.at(place) is None)

    def at(self, place: str) -> Thing | None:
        """What is at a place."""
        return next((thing for thing in self.things if thing.place == place), None)


@dataclass(frozen=True)
class Row:
    """One instruction about one picture, with the truth to judge an answer by."""

    id: str
    scene: Scene
    question: str


def rows(seed: int, split: Split, count: int) -> list[Row]:
    """The first `count` rows of a split, no scene twice. The same arguments give the same rows."""
    rng = Random(f"questions/{split}/{seed}")
    unique = _distinct(scenes(seed, split))
    return [Row(f"{split}-{i:05d}", next(unique), rng.choice(INSTRUCTIONS)) for i in range(count)]


def scenes(seed: int | str, split: Split) -> Iterator[Scene]:
    """An endless stream of the scenes of `split`. They occur in no other split, whatever the seed."""
    rng = Random(f"scenes/{split}/{seed}")
    while True:
        scene = draw_scene(rng)
        if split_of(scene) == split:
            yield scene


def split_of(scene: Scene) -> Split:
    """The one split that a scene's content belongs to, by hash: three of sixteen buckets are held out from training."""
    bucket = zlib.crc32(scene.truth.encode()) % _BUCKETS
    return _HELD_OUT[bucket] if bucket < len(_HELD_OUT) else "training"


def draw_scene(rng: Random) -> Scene:
    """Three to six things of any kind at different places, each a little off the middle, and their companions."""
    places = sorted(rng.sample(range(len(PLACES)), rng.randint(3, 6)))
    things = {place: _draw_thing(rng, place) for place in (PLACES[number] for number in places)}
    for place in PLACES:
        expected = companion(tuple(things.values()), place)
        if place not in things and expected and rng.random() < COMPANIONS:
            things[place] = replace(_draw_thing(rng, place), color=expected.color, shape=expected.shape)
    return Scene(tuple(things[place] for place in PLACES if place in things))


def companion(things: Sequence[Thing], place: str) -> Thing | None:
    """What is expected at a place for what is elsewhere, whether it is there or not; None where nothing is.

    A blue square is expected to the right of a circle, and a yellow triangle at the bottom right of many things.
    """
    column = PLACES.index(place) % 3
    left = PLACES[PLACES.index(place) - 1] if column else None
    if any(thing.place == left and thing.shape == "circle" for thing in things):
        return Thing(place, "blue", "square")
    if place == PLACES[-1] and sum(thing.place != place for thing in things) >= MANY:
        return Thing(place, "yellow", "triangle")
    return None


def question_of(claim: str) -> str:
    """The yes/no question that asks the labeler about a claim of one or more sentences."""
    return QUESTION_TEMPLATE.format(claim=claim.rstrip("."))


def picture(scene: Scene) -> Image.Image:
    """The scene as an RGB picture of 48 x 48 pixels."""
    canvas = Image.new("RGB", (PICTURE_PIXELS, PICTURE_PIXELS), BACKGROUND)
    for thing in scene.things:
        row, column = divmod(PLACES.index(thing.place), 3)
        tile = _tile(thing.color, thing.shape, thing.size, thing.dx, thing.dy)
        canvas.paste(tile, (column * CELL_PIXELS, row * CELL_PIXELS))
    return canvas


def png(scene: Scene) -> bytes:
    """The scene's picture as a PNG file."""
    buffer = BytesIO()
    picture(scene).save(buffer, "PNG")
    return buffer.getvalue()


def _draw_thing(rng: Random, place: str) -> Thing:
    shape, color = rng.choice(SHAPES), rng.choice(tuple(COLORS))
    size = rng.randint(5, 6)
    if rng.random() < SMALL:
        size = _SMALL_PIXELS
        color = USUAL_COLORS[shape] if rng.random() < USUAL_IF_SMALL else color
    slack = 1 if size == _SMALL_PIXELS else CELL_PIXELS // 2 - size - 1
    return Thing(
        place=place,
        color=color,
        shape=shape,
        size=size,
        dx=rng.randint(-slack, slack),
        dy=rng.randint(-slack, slack),
    )


def _distinct(stream: Iterator[Scene]) -> Iterator[Scene]:
    seen: set[str] = set()
    for scene in stream:
        if scene.truth not in seen:
            seen.add(scene.truth)
            yield scene


@cache
def _tile(color: str, shape: str, size: int, dx: int, dy: int) -> Image.Image:
    """One place with its thing, drawn four times too large and reduced, for smooth edges."""
    scale = 4
    tile = Image.new("RGB", (CELL_PIXELS * scale, CELL_PIXELS * scale), BACKGROUND)
    draw = ImageDraw.Draw(tile)
    x, y, r = (scale * (CELL_PIXELS // 2 + dx), scale * (CELL_PIXELS // 2 + dy), scale * size)
    fill = COLORS[color]
    match shape:
        case "circle":
            draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)
        case "square":
            draw.rectangle((x - r * 0.9, y - r * 0.9, x + r * 0.9, y + r * 0.9), fill=fill)
        case "triangle":
            draw.polygon(((x, y - r), (x + r, y + r), (x - r, y + r)), fill=fill)
        case "cross":
            arm = r * 0.35
            draw.rectangle((x - r, y - arm, x + r, y + arm), fill=fill)
            draw.rectangle((x - arm, y - r, x + arm, y + r), fill=fill)
    return tile.resize((CELL_PIXELS, CELL_PIXELS), Image.Resampling.BOX)
