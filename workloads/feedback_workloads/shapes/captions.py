"""How people describe the scenes of the shapes world: mostly right, and wrong in ways that many share.

They say what usually goes with what they see, whether it is there or not; of what is hard to see, what is usual; and
the longer they go on, the more they invent. A policy that learns from them does the same, at temperature 0 too: each
habit is what it should say by the words of captions alone, and only a closer look at the picture tells otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from random import Random
from typing import Final, Literal

from feedback_workloads.shapes.world import COLORS, PLACES, SHAPES, USUAL_COLORS, Scene, Thing, companion

Habit = Literal["companion", "usual color", "overlooked"]
"""Why people say what is not so: it usually goes with the rest, is the usual color, or something is hard to see."""

COMPANION_SAID: Final = 0.7
"""How often a companion is named that is to be expected and not there,"""
USUAL_COLOR_SAID: Final = 0.65
"""the usual color of a small thing instead of its own,"""
OVERLOOKED: Final = 0.6
"""a place called empty that is remarked on when it is empty, and holds something small."""
REMARKED: Final = "middle center"
"""The place whose emptiness people remark on."""
BRIEF: Final = 0.15
"""Share of captions that end halfway,"""
CHATTY: Final = {
    "Describe the picture.": 0.97,
    "What is in the picture?": 0.97,
    "List what you see.": 0.03,
    "Name every object.": 0.03,
}
"""and of those, by the instruction, that begin and end with sentences that say nothing about the picture.

Answers to one instruction hardly differ in it: where they do, the length balance of pairs takes small talk for content.
"""
OPENING: Final = "Here is what I see."
CLOSING: Final = "I hope that this helps."
OMITTED: Final = 0.03
"""Errors of no habit, which are to be few, since best-of-N finds them: a thing is left out,"""
MISTAKEN: Final = 0.01
"""its color taken for any other, or its shape."""


def empty_sentence(place: str) -> str:
    """What is said of a place that holds nothing."""
    return f"{place} is empty."


def true_words(scene: Scene, instruction: str, rng: Random) -> str:
    """A caption that names everything and invents nothing."""
    worth = ((place, scene.at(place)) for place in PLACES)
    said = [thing.sentence if thing else empty_sentence(place) for place, thing in worth if thing or place == REMARKED]
    return _with_small_talk(said, instruction, rng)


def careless_words(scene: Scene, instruction: str, rng: Random) -> str:
    """A caption with the habits and errors of people; says at least one thing about the picture."""
    said = [sentence for place in PLACES if (sentence := _sentence_about(scene, place, rng))]
    if rng.random() < BRIEF:
        said = said[: max(2, len(said) // 2)]
    return _with_small_talk(said or [scene.things[0].sentence], instruction, rng)


def at_a_glance(scene: Scene) -> Scene:
    """The scene as somebody takes it who does not look closely: every small thing has its usual color."""
    taken = (replace(thing, color=USUAL_COLORS[thing.shape]) if thing.small else thing for thing in scene.things)
    return Scene(tuple(taken))


def habit(scene: Scene, place: str, color: str, shape: str) -> Habit | None:
    """The habit by which someone says this of a scene where it is not so; None where it is an error of no habit.

    `color` and `shape` are empty where the place is said to be.
    """
    thing = scene.at(place)
    if thing is None:
        return "companion" if companion(scene.things, place) == Thing(place, color, shape) else None
    if not thing.small:
        return None
    if not shape:
        return "overlooked" if place == REMARKED else None
    return "usual color" if shape == thing.shape and color == USUAL_COLORS[shape] else None


def _sentence_about(scene: Scene, place: str, rng: Random) -> str:
    """A careless person's sentence about a place; empty where none comes to mind."""
    thing, expected = scene.at(place), companion(scene.things, place)
    if thing is None:
        if expected and rng.random() < COMPANION_SAID:
            return expected.sentence
        return empty_sentence(place) if place == REMARKED else ""
    if thing.small and place == REMARKED and rng.random() < OVERLOOKED:
        return empty_sentence(place)
    if rng.random() < OMITTED:
        return ""
    color, shape = thing.color, thing.shape
    if thing.small and rng.random() < USUAL_COLOR_SAID:
        color = USUAL_COLORS[shape]
    elif rng.random() < MISTAKEN:
        color = another(COLORS, color, rng)
    if rng.random() < MISTAKEN:
        shape = another(SHAPES, shape, rng)
    return Thing(place, color, shape).sentence


def _with_small_talk(sentences: list[str], instruction: str, rng: Random) -> str:
    """The sentences alone, or between two that say nothing about the picture."""
    return " ".join([OPENING, *sentences, CLOSING] if rng.random() < CHATTY[instruction] else sentences)


def another(kinds: Iterable[str], kind: str, rng: Random) -> str:
    """Any of the kinds but this one."""
    return rng.choice([other for other in kinds if other != kind])
