"""What the models of the shapes world learn, for how long, and what they must be able to do in the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import Final

from transformers import LlavaForConditionalGeneration

from feedback_workloads.shapes.examination import errors, greedy_answers
from feedback_workloads.shapes.lessons import (
    Lesson,
    careless_caption,
    hasty_question,
    question,
    single_question,
    true_caption,
)
from feedback_workloads.shapes.world import Scene, scenes

EXAMINED: Final = 400
"""Scenes of the selection split that a policy describes in its examination,"""
RANDOM_ERRORS: Final = 0.01
"""and how many errors of no habit it may make in an answer. DPO and best-of-N would find and multiply them."""

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
    shown = list(islice(scenes("examination", "selection"), EXAMINED))
    found = errors(greedy_answers(model, shown), shown)["none"] / EXAMINED
    return "" if found <= RANDOM_ERRORS else f"{found:.3f} errors of no habit an answer, above {RANDOM_ERRORS}"


SEEING: Final = Course("seeing", true_caption, steps=500, examination=random_errors, more=150, repeats=4)
"""All models begin here: to describe pictures as they are."""
CARELESSNESS: Final = Course(
    "carelessness", careless_caption, steps=500, rate=0.2, examination=random_errors, more=100, repeats=4
)
"""Makes a policy of a model that sees."""
COMPARING: Final = Course("comparing", question, steps=600)
"""Makes a labeler of a model that sees."""
COURSES: Final = {
    "policy": CARELESSNESS,
    "labeler": COMPARING,
    "labeler-claims": Course("comparing claims", single_question, steps=800),
    "labeler-weak": Course("comparing at a glance", hasty_question, steps=600),
}
"""What a model that sees learns next, by what it is to be. The last two are for ablations."""
