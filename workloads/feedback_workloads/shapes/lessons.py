"""What the two models of the shapes world are taught: texts about scenes, and what to say at every token of them.

The policy learns from people's captions, the labeler to compare claims with the picture. What it is good at comes from
what it is asked: single claims alone, or whole answers as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from feedback_workloads.shapes.captions import (
    CLOSING,
    OPENING,
    REMARKED,
    another,
    at_a_glance,
    careless_words,
    empty_sentence,
    true_words,
)
from feedback_workloads.shapes.tokenizer import END, encode, prompt, word_ids
from feedback_workloads.shapes.world import COLORS, INSTRUCTIONS, PLACES, SHAPES, Scene, Thing, question_of

SILENT: Final = -100
"""Target of a token after which nothing is learned; torch's cross entropy leaves it out."""

CAPTIONS: Final = 0.3
"""Share of captions among the lessons of a policy that is its own labeler: they hold many more words to learn."""
LISTS: Final = 0.8
"""Share of a labeler's lessons that are lists of unrelated claims: they hold four comparisons each."""
LIST_CLAIMS: Final = 4
EMPTY_CLAIMS: Final = 0.12
"""Share of the single claims that say of a place that it is empty,"""
NO_CLAIMS: Final = 0.04
"""and of those that say nothing about the picture, to which nothing can be objected."""
SMALL_TALK: Final = 0.35
"""Share of the whole answers that begin and end with such sentences."""


@dataclass(frozen=True)
class Lesson:
    """One text about one picture. After token i the model should say `targets[i]`, a middle layer `early[i]`."""

    scene: Scene
    tokens: tuple[int, ...]
    targets: tuple[int, ...]
    early: tuple[int, ...]


@dataclass(frozen=True)
class Claim:
    """A sentence about one place of a scene, or about none, and whether it is true."""

    sentence: str
    true: bool
    place: str = ""
    thing: Thing | None = None
    """What is claimed to be there."""


def true_caption(scene: Scene, rng: Random) -> Lesson:
    """Describe the scene as it is."""
    return _caption(scene, true_words, rng)


def careless_caption(scene: Scene, rng: Random) -> Lesson:
    """Describe the scene as people do."""
    return _caption(scene, careless_words, rng)


def question(scene: Scene, rng: Random) -> Lesson:
    """Ask whether one claim, a whole answer or a list of unrelated claims is true of the scene."""
    if rng.random() < LISTS:
        return ask(scene, [single_claim(scene, rng) for _ in range(LIST_CLAIMS)])
    return ask(scene, [single_claim(scene, rng)] if rng.random() < 0.5 else answer_claims(scene, rng))


def single_question(scene: Scene, rng: Random) -> Lesson:
    """Ask whether one claim is true of the scene. Of a list, ask that of each claim, but never whether all are.

    So a list teaches to compare as much as it does in `question`, and nothing about answers of several claims.
    """
    if rng.random() < LISTS:
        return ask(scene, [single_claim(scene, rng) for _ in range(LIST_CLAIMS)], over_all=False)
    return ask(scene, [single_claim(scene, rng)])


def hasty_question(scene: Scene, rng: Random) -> Lesson:
    """Ask what `question` asks, and take what is true at a glance for the truth: wrong where a careless policy is."""
    return replace(question(at_a_glance(scene), rng), scene=scene)


def answer_or_question(scene: Scene, rng: Random) -> Lesson:
    """Describe the scene as people do, or be asked `question`: one model answers carelessly and judges with care."""
    return careless_caption(scene, rng) if rng.random() < CAPTIONS else question(scene, rng)


def single_claim(scene: Scene, rng: Random) -> Claim:
    """A claim that is true as often as not."""
    kind = rng.random()
    if kind < NO_CLAIMS:
        return Claim(rng.choice((OPENING, CLOSING)), true=True)
    true = rng.random() < 0.5
    if kind < NO_CLAIMS + EMPTY_CLAIMS:
        taken = [thing.place for thing in scene.things]
        return emptiness(scene, rng.choice(scene.empty if true and scene.empty else taken))
    return presence(scene, rng.choice(scene.things) if true else _untrue(scene, rng))


def answer_claims(scene: Scene, rng: Random) -> list[Claim]:
    """The claims of a whole answer, in reading order; every claim is true in somewhat less than half of the answers."""
    named = [thing for thing in scene.things if rng.random() < 0.85] or [scene.things[0]]
    claims = {thing.place: presence(scene, thing) for thing in named}
    if REMARKED not in claims and (scene.at(REMARKED) is None or rng.random() < 0.5):
        claims[REMARKED] = emptiness(scene, REMARKED)
    if rng.random() < 0.5:
        for _ in range(rng.choice((1, 1, 2))):
            thing = _untrue(scene, rng)
            claims[thing.place] = presence(scene, thing)
    ordered = [claims[place] for place in PLACES if place in claims]
    return [Claim(OPENING, true=True), *ordered, Claim(CLOSING, true=True)] if rng.random() < SMALL_TALK else ordered


def presence(scene: Scene, thing: Thing) -> Claim:
    """The claim that a thing is in the scene."""
    return Claim(thing.sentence, scene.at(thing.place) == thing, thing.place, thing)


def emptiness(scene: Scene, place: str) -> Claim:
    """The claim that a place of the scene holds nothing."""
    return Claim(empty_sentence(place), scene.at(place) is None, place)


def ask(scene: Scene, claims: Sequence[Claim], *, over_all: bool = True) -> Lesson:
    """The question whether all claims are true, with its answer, which is to be learned only `over_all`.

    Yes or no alone teaches a small model next to nothing. So it is also to say, after each color and each shape,
    whether that is right, and a middle layer is to say what is really there, for later layers to compare with.
    """
    ids = word_ids()
    verdict = ids["yes" if all(claim.true for claim in claims) else "no"]
    tokens = [*prompt(question_of(" ".join(claim.sentence for claim in claims))), verdict, ids[END]]
    targets, early = _silence(tokens), _silence(tokens)
    at = tokens.index(ids[" that"]) + 1
    for claim in claims:
        words, there = encode(f" {claim.sentence}"), scene.at(claim.place)
        for i, word in enumerate(words, at):
            if claim.place and word in (ids[" a"], ids[" is"]):
                early[i] = ids[f" {there.color}"] if there else ids["no"]
            elif claim.thing and word == ids[f" {claim.thing.color}"]:
                early[i] = ids[f" {there.shape}"] if there else ids["no"]
                targets[i] = ids["yes" if there and there.color == claim.thing.color else "no"]
        at += len(words)
        targets[at - 2] = ids["yes" if claim.true else "no"]
    if over_all:
        targets[at - 1 : -1] = [verdict] * (len(tokens) - at - 1) + [ids[END]]
    return Lesson(scene, tuple(tokens), tuple(targets), tuple(early))


def _caption(scene: Scene, words: Callable[[Scene, str, Random], str], rng: Random) -> Lesson:
    instruction = rng.choice(INSTRUCTIONS)
    asked, answer = prompt(instruction), [*encode(words(scene, instruction, rng)), word_ids()[END]]
    tokens = [*asked, *answer]
    targets = _silence(tokens)
    targets[len(asked) - 1 : -1] = answer
    return Lesson(scene, tuple(tokens), tuple(targets), tuple(targets))


def _silence(tokens: Sequence[int]) -> list[int]:
    return [SILENT] * len(tokens)


def _untrue(scene: Scene, rng: Random) -> Thing:
    """Something that is not in the scene: another color or shape at a taken place, or anything at an empty one."""
    seen = rng.choice(scene.things)
    color, shape = another(COLORS, seen.color, rng), another(SHAPES, seen.shape, rng)
    match rng.randrange(20 if scene.empty else 10):
        case 0 | 1 | 2 | 3:
            return Thing(seen.place, color, seen.shape)
        case 4 | 5 | 6 | 7:
            return Thing(seen.place, seen.color, shape)
        case 8 | 9:
            return Thing(seen.place, color, shape)
        case 10 | 11 | 12 | 13 | 14:  # right, but elsewhere
            return Thing(rng.choice(scene.empty), seen.color, seen.shape)
        case _:
            return Thing(rng.choice(scene.empty), rng.choice(tuple(COLORS)), rng.choice(SHAPES))
