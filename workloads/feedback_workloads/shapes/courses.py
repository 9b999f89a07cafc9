"""What the models of the shapes world learn, for how long, and what they must be able to do in the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import Final

from transformers import LlavaForConditionalGeneration

from feedback_workloads.shapes.examination import errors, greedy_answers, verdicts
from feedback_workloads.shapes.lessons import (
    Lesson,
    answer_or_question,
    ask,
    careless_caption,
    hasty_question,
    question,
    single_claim,
    single_question,
    true_caption,
)
from feedback_workloads.shapes.world import Scene, scenes

EXAMINED: Final = 400
"""Scenes of the selection split that are shown in an examination."""
RANDOM_ERRORS: Final = 0.01
"""How many errors of no habit a policy may make in an answer. DPO and best-of-N would find and multiply them."""

MISJUDGED: Final = 0.1
"""The share of claims about them, half of which are true, that a labeler may get wrong.

It learns to compare all at once, though not at the same step with every seed; of what policies claim it then gets far
fewer wrong.
"""

Examination = Callable[[LlavaForConditionalGeneration], str]
"""Says what a model cannot do yet; nothing where it has passed."""


@dataclass(frozen=True)
class Course:
    """One stretch of training: `steps` batches of what `teacher` gives, at up to `rate` times the learning rates.

    Where there is an examination, `more` steps are added each time a model does not pass, at most `repeats` times.
    """

    name: str
    teacher: Callable[[Scene, Random], Lesson]
    steps: int
    rate: float = 1.0
    examination: Examination | None = None
    more: int = 0
    repeats: int = 0


@dataclass(frozen=True)
class Curriculum:
    """What makes models of a seed: one that knows nothing learns `seeing`, and a copy of it for each name a course."""

    seed: int
    seeing: Course
    courses: Mapping[str, Course]

    @property
    def steps(self) -> int:
        """Steps of training in all, where every examination is passed at once."""
        return self.seeing.steps + sum(course.steps for course in self.courses.values())


def random_errors(model: LlavaForConditionalGeneration) -> str:
    """The examination of a policy: it describes what it sees, but for the habits that it has learned from people."""
    shown = _examined()
    found = errors(greedy_answers(model, shown), shown)["none"] / EXAMINED
    return "" if found <= RANDOM_ERRORS else f"{found:.3f} errors of no habit an answer, above {RANDOM_ERRORS}"


def misjudged(model: LlavaForConditionalGeneration) -> str:
    """The examination of a labeler: it tells claims that are true of what it sees from others."""
    rng = Random("examination")
    shown = _examined()
    claims = [single_claim(scene, rng) for scene in shown]
    said = verdicts(model, [ask(scene, [claim]) for scene, claim in zip(shown, claims, strict=True)])
    wrong = sum(verdict != claim.true for verdict, claim in zip(said, claims, strict=True)) / EXAMINED
    return "" if wrong <= MISJUDGED else f"{wrong:.1%} of single claims misjudged, more than {MISJUDGED:.0%}"


def errors_or_misjudged(model: LlavaForConditionalGeneration) -> str:
    """The examination of a policy that is its own labeler."""
    return random_errors(model) or misjudged(model)


def _examined() -> list[Scene]:
    return list(islice(scenes("examination", "selection"), EXAMINED))


SEEING: Final = Course("seeing", true_caption, steps=500, examination=random_errors, more=150, repeats=4)
"""All models begin here: to describe pictures as they are."""
CARELESSNESS: Final = Course(
    "carelessness", careless_caption, steps=500, rate=0.2, examination=random_errors, more=100, repeats=4
)
"""Makes a policy of a model that sees."""
COMPARING: Final = Course("comparing", question, steps=600, examination=misjudged, more=200, repeats=4)
"""Makes a labeler of a model that sees."""
COURSES: Final = {
    "policy": CARELESSNESS,
    "labeler": COMPARING,
    "labeler-claims": Course(
        "comparing claims", single_question, steps=800, examination=misjudged, more=200, repeats=4
    ),
    "labeler-weak": Course("comparing at a glance", hasty_question, steps=600),
    "policy-labeler": Course(
        "carelessness and comparing",
        answer_or_question,
        steps=1000,
        examination=errors_or_misjudged,
        more=200,
        repeats=4,
    ),
}
"""What a model that sees learns next, by what it is to be. The last three are for ablations."""
