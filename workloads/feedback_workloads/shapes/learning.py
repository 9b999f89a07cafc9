"""How the models of the shapes world learn on a CPU.

Three things make minutes suffice, each measured. Orthogonalised updates (Muon) need a third of AdamW's steps. Patches
and positions that differ from the start, by a wider initialisation than CLIP's, are seen at all. And a middle layer
that must already say the next word gives later layers something to compare claims with, which a plain yes or no does
not teach.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import islice
from random import Random
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import LlavaForConditionalGeneration

from feedback_workloads.shapes.courses import Course
from feedback_workloads.shapes.lessons import SILENT, Lesson
from feedback_workloads.shapes.models import pixels
from feedback_workloads.shapes.muon import Muon
from feedback_workloads.shapes.part import ALL, Part
from feedback_workloads.shapes.tokenizer import PAD, word_ids
from feedback_workloads.shapes.world import scenes

EARLY_LAYER: Final = 2
"""The layer, of the language model's four, after which a lesson's `early` targets are asked for."""
BATCH: Final = 32
WARMUP_STEPS: Final = 20
MUON_LEARNING_RATE: Final = 1e-2
ADAM_LEARNING_RATE: Final = 1e-3


class NotLearned(Exception):
    """A model does not pass the examination of its course, however long it learned."""


def study(
    model: LlavaForConditionalGeneration,
    course: Course,
    seed: int,
    step_done: Callable[[], None],
    *,
    prolonged: Callable[[int], None],
    part: Part = ALL,
) -> None:
    """Learn a course, and more of it until its examination is passed; calls `prolonged` with the steps added.

    Raises NotLearned where that does not help.
    """
    learn(model, course, seed, step_done, part)
    for repeat in range(course.repeats):
        if course.examination is None or not course.examination(model):
            return
        prolonged(course.more)
        learn(model, replace(course, name=f"{course.name} {repeat}", steps=course.more), seed, step_done, part)
    if course.examination and (failing := course.examination(model)):
        raise NotLearned(f"{course.name} with seed {seed}: {failing}; build the world from another seed")


def learn(
    model: LlavaForConditionalGeneration,
    course: Course,
    seed: int,
    step_done: Callable[[], None],
    part: Part = ALL,
) -> None:
    """Train `model` in place on scenes that no evaluation split holds; calls `step_done` after each step.

    Processes that learn `part`s of the same start with equal models and end with equal ones, which are those of one
    process but for rounding.
    """
    rng = Random(f"{course.name}/{seed}")
    lessons = (course.teacher(scene, rng) for scene in scenes(f"{course.name}/{seed}", "training"))
    muon, adam = _optimizers(model)
    model.train()
    for step in range(course.steps):
        # Warm up, hold for half of the course, then go down to nothing.
        rate = course.rate * min(1.0, (step + 1) / WARMUP_STEPS, 2 * (1 - step / course.steps))
        loss(model, list(islice(lessons, BATCH)), part).backward()
        part.add_up(model)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, full_rate in ((muon, MUON_LEARNING_RATE), (adam, ADAM_LEARNING_RATE)):
            optimizer.param_groups[0]["lr"] = rate * full_rate
            optimizer.step()
            optimizer.zero_grad()
        step_done()
    model.eval()


def loss(model: LlavaForConditionalGeneration, batch: Sequence[Lesson], part: Part = ALL) -> Tensor:
    """Mean cross entropy over the targets, plus the same over the early targets at the middle layer.

    Of one part it is a share: those of all parts add up to the mean over the batch.
    """
    lessons = part.of(batch)
    tokens, targets, early = _tensors(lessons)
    shown = pixels(lesson.scene for lesson in lessons)
    output = model.model(input_ids=tokens, pixel_values=shown, output_hidden_states=True)
    middle = model.model.language_model.norm(output.hidden_states[EARLY_LAYER][early != SILENT])
    last = output.last_hidden_state[targets != SILENT]
    said, noticed = (_spoken(lesson.targets for lesson in batch), _spoken(lesson.early for lesson in batch))
    return (
        cross_entropy(model.lm_head(last), targets[targets != SILENT], reduction="sum") / said
        + cross_entropy(model.lm_head(middle), early[early != SILENT], reduction="sum") / noticed
    )


def _optimizers(model: nn.Module) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Muon for the matrices within the layers and the projector, AdamW for embeddings, heads, norms and biases."""
    inner, outer = [], []
    for name, weight in model.named_parameters():
        inside = weight.ndim == 2 and ("layers" in name or "projector" in name)
        (inner if inside else outer).append(weight)
    return (
        Muon(inner, weight_decay=0.01),
        torch.optim.AdamW(outer, betas=(0.9, 0.98), weight_decay=0.01, fused=True),
    )


def _spoken(rows: Iterable[tuple[int, ...]]) -> int:
    """Number of targets that are not silent."""
    return sum(target != SILENT for row in rows for target in row)


def _tensors(lessons: Sequence[Lesson]) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, targets and early targets, (lessons, longest), padded on the right."""

    def padded(rows: list[tuple[int, ...]], value: int) -> Tensor:
        return nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)

    return (
        padded([lesson.tokens for lesson in lessons], word_ids()[PAD]),
        padded([lesson.targets for lesson in lessons], SILENT),
        padded([lesson.early for lesson in lessons], SILENT),
    )
