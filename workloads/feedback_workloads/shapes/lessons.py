"""What the two models of the shapes world are taught: texts about scenes, and what to say at every token of them.

The policy learns from people who are often careless, in ways that language alone suggests: they see a shape's usual
companion beside it and mix up certain colors. Models hallucinate for the same reason (co-occurrence bias,
https://arxiv.org/abs/1809.02156). The labeler learns to compare claims with the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from feedback_workloads.shapes.tokenizer import ASSISTANT, END, IMAGE, PICTURE_TOKENS, USER, encode, word_ids
from feedback_workloads.shapes.world import COLORS, INSTRUCTIONS, PLACES, SHAPES, Scene, Thing, question_of

SILENT: Final = -100
"""Target of a token after which nothing is learned; torch's cross entropy leaves it out."""

COMPANIONS: Final = {"circle": "cross", "square": "circle", "triangle": "square", "cross": "triangle"}
MIXED_UP: Final = {"red": "yellow", "yellow": "red", "green": "blue", "blue": "green"}

CARELESS: Final = 0.45
"""Share of captions by someone careless, who then ..."""
OMITTED: Final = 0.11
"""... leaves out a thing with this probability,"""
MIXED: Final = 0.25
"""... takes its color for the one it is mixed up with,"""
MISTAKEN: Final = 0.2
"""... takes its shape for its companion,"""
ADDED: Final = 0.1
"""... and adds the companion of the thing just named to the place after it, where that is empty.

Nearly all mistakes leave the length as it is: where invention makes answers longer, the balance of lengths drops the
very pairs that teach against it, and where silence is common, a policy learns to be silent.
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
    before: Thing | None = None
    for place in PLACES:
        thing = present.get(place)
        named: Thing | None = None
        if thing is None:
            if before is not None and rng.random() < ADDED:
                said.append(Thing(place, before.color, COMPANIONS[before.shape]))
        elif rng.random() >= OMITTED:
            color = MIXED_UP[thing.color] if rng.random() < MIXED else thing.color
            shape = COMPANIONS[thing.shape] if rng.random() < MISTAKEN else thing.shape
            named = Thing(place, color, shape)
            said.append(named)
        before = named
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
    color = rng.choice([color for color in COLORS if color != seen.color])
    shape = rng.choice([shape for shape in SHAPES if shape != seen.shape])
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
