"""What the two models of the shapes world are taught: texts about scenes, and what to say at every token of them.

The policy learns from people who are often careless: they take a thing's color or shape for another, now and then leave
a thing out, or name one that is not there. The labeler learns to compare claims with the picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from feedback_workloads.shapes.tokenizer import ASSISTANT, END, IMAGE, PICTURE_TOKENS, USER, encode, word_ids
from feedback_workloads.shapes.world import COLORS, INSTRUCTIONS, PLACES, SHAPES, Scene, Thing, question_of

SILENT: Final = -100
"""Target of a token after which nothing is learned; torch's cross entropy leaves it out."""

CARELESS: Final = 0.8
"""Share of captions by someone careless, who then ..."""
WRONG_COLOR: Final = 0.25
"""... takes a thing's color for any other, with this probability,"""
WRONG_SHAPE: Final = 0.2
"""... its shape for any other,"""
OMITTED: Final = 0.03
"""... leaves the thing out,"""
ADDED: Final = 0.02
"""... and names a thing that is not there, at each empty place.

No color, shape or place is mistaken for another more often than the other way round. Where some are, a policy learns
from a few hundred pairs to say the one and not the other whatever it sees, and best-of-N prefers what it over-learned.
"""

LISTS: Final = 0.8
"""Share of the labeler's lessons that are lists of unrelated claims: they hold four comparisons each."""
LIST_CLAIMS: Final = 4


@dataclass(frozen=True)
class Lesson:
    """One text about one picture. After token i the model should say `targets[i]`, a middle layer `early[i]`."""

    scene: Scene
    tokens: tuple[int, ...]
    targets: tuple[int, ...]
    early: tuple[int, ...]


@dataclass(frozen=True)
class Claim:
    """What someone says about one place of a scene, and whether it is so."""

    thing: Thing
    true: bool


def true_caption(scene: Scene, rng: Random) -> Lesson:
    """Describe the scene as it is."""
    return _caption(scene, scene.caption, rng)


def careless_caption(scene: Scene, rng: Random) -> Lesson:
    """Describe the scene as one of many people would, of whom some are careless."""
    return _caption(scene, careless_words(scene, rng) if rng.random() < CARELESS else scene.caption, rng)


def careless_words(scene: Scene, rng: Random) -> str:
    """A careless person's answer; names at least one thing."""
    present = {thing.place: thing for thing in scene.things}
    said: list[Thing] = []
    for place in PLACES:
        thing = present.get(place)
        if thing is None:
            if rng.random() < ADDED:
                said.append(Thing(place, rng.choice(tuple(COLORS)), rng.choice(SHAPES)))
        elif rng.random() >= OMITTED:
            color = _another(COLORS, thing.color, rng) if rng.random() < WRONG_COLOR else thing.color
            shape = _another(SHAPES, thing.shape, rng) if rng.random() < WRONG_SHAPE else thing.shape
            said.append(Thing(place, color, shape))
    return " ".join(thing.sentence for thing in said or scene.things)


def question(scene: Scene, rng: Random) -> Lesson:
    """Ask whether one claim, a whole answer or a list of unrelated claims is true of the scene."""
    if rng.random() < LISTS:
        return ask(scene, [single_claim(scene, rng) for _ in range(LIST_CLAIMS)])
    return ask(scene, [single_claim(scene, rng)] if rng.random() < 0.5 else answer_claims(scene, rng))


def single_claim(scene: Scene, rng: Random) -> Claim:
    """A claim that is true as often as not."""
    if rng.random() < 0.5:
        return Claim(rng.choice(scene.things), true=True)
    return Claim(_untrue(scene, rng), true=False)


def answer_claims(scene: Scene, rng: Random) -> list[Claim]:
    """The claims of a whole answer, in reading order; every claim is true in half of the answers."""
    named = [thing for thing in scene.things if rng.random() < 0.85] or [scene.things[0]]
    claims = {thing.place: Claim(thing, true=True) for thing in named}
    if rng.random() < 0.5:
        for _ in range(rng.choice((1, 1, 2))):
            thing = _untrue(scene, rng)
            claims[thing.place] = Claim(thing, true=False)
    return [claims[place] for place in PLACES if place in claims]


def ask(scene: Scene, claims: Sequence[Claim]) -> Lesson:
    """The question whether all claims are true, with its answer.

    Yes or no alone teaches a small model next to nothing. So it is also to say, after each color and each shape,
    whether that is right, and a middle layer is to say what is really there, for later layers to compare with.
    """
    ids = word_ids()
    text = question_of(" ".join(claim.thing.sentence for claim in claims))
    tokens = [*_prompt(text), ids["yes" if all(claim.true for claim in claims) else "no"], ids[END]]
    targets, early = _silence(tokens), _silence(tokens)
    verdict, end, no = tokens[-2], tokens[-1], ids["no"]
    targets[-3:-1] = [verdict, end]
    present = {thing.place: thing for thing in scene.things}
    remaining = iter(claims)
    claim: Claim | None = next(remaining)
    for i, token in enumerate(tokens[:-3]):
        if claim is None:
            targets[i] = verdict
            continue
        there = present.get(claim.thing.place)
        if token == ids[" a"]:
            early[i] = ids[f" {there.color}"] if there else no
        elif token == ids[f" {claim.thing.color}"]:
            early[i] = ids[f" {there.shape}"] if there else no
            targets[i] = ids["yes"] if there and there.color == claim.thing.color else no
        elif token == ids[f" {claim.thing.shape}"]:
            targets[i] = ids["yes"] if claim.true else no
            claim = next(remaining, None)
    return Lesson(scene, tuple(tokens), tuple(targets), tuple(early))


def _caption(scene: Scene, caption: str, rng: Random) -> Lesson:
    prompt = _prompt(rng.choice(INSTRUCTIONS))
    answer = [*encode(caption), word_ids()[END]]
    tokens = [*prompt, *answer]
    targets = _silence(tokens)
    targets[len(prompt) - 1 : -1] = answer
    return Lesson(scene, tuple(tokens), tuple(targets), tuple(targets))


def _prompt(text: str) -> list[int]:
    ids = word_ids()
    return [ids[USER], *([ids[IMAGE]] * PICTURE_TOKENS), *encode(text), ids[ASSISTANT]]


def _silence(tokens: Sequence[int]) -> list[int]:
    return [SILENT] * len(tokens)


def _untrue(scene: Scene, rng: Random) -> Thing:
    """Something that is not in the scene: another color or shape at a taken place, or anything at an empty one."""
    seen = rng.choice(scene.things)
    empty = [place for place in PLACES if all(thing.place != place for thing in scene.things)]
    color, shape = _another(COLORS, seen.color, rng), _another(SHAPES, seen.shape, rng)
    match rng.randrange(20):
        case 0 | 1 | 2 | 3:
            return Thing(seen.place, color, seen.shape)
        case 4 | 5 | 6 | 7:
            return Thing(seen.place, seen.color, shape)
        case 8 | 9:
            return Thing(seen.place, color, shape)
        case 10 | 11 | 12 | 13 | 14:  # right, but elsewhere
            return Thing(rng.choice(empty), seen.color, seen.shape)
        case _:
            return Thing(rng.choice(empty), rng.choice(tuple(COLORS)), rng.choice(SHAPES))


def _another(kinds: Iterable[str], kind: str, rng: Random) -> str:
    return rng.choice([other for other in kinds if other != kind])
