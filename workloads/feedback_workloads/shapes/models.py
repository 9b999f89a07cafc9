"""The two models of the shapes world: small LLaVAs (https://arxiv.org/abs/2310.03744), and how they learn on a CPU.

Three things make minutes suffice, each measured. Orthogonalised updates (Muon) need a third of AdamW's steps. Patches
and positions that differ from the start, by a wider initialisation than CLIP's, are seen at all. And a middle layer
that must already say the next word gives later layers something to compare claims with, which a plain yes or no does
not teach.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from feedback_workloads.models.checkpoint import convert_for_vllm
from feedback_workloads.shapes.lessons import SILENT, Lesson, careless_caption, question, true_caption
from feedback_workloads.shapes.muon import Muon
from feedback_workloads.shapes.part import ALL, Part
from feedback_workloads.shapes.tokenizer import END, IMAGE, PAD, PATCH_PIXELS, make_processor, word_ids
from feedback_workloads.shapes.world import PICTURE_PIXELS, Scene, picture, scenes

EARLY_LAYER: Final = 2
"""The layer, of the language model's four, after which a lesson's `early` targets are asked for."""
BATCH: Final = 32
WARMUP_STEPS: Final = 20
MUON_LEARNING_RATE: Final = 1e-2
ADAM_LEARNING_RATE: Final = 1e-3


@dataclass(frozen=True)
class Course:
    """One stretch of training: `steps` batches of what `teacher` gives, at up to `rate` times the learning rates."""

    name: str
    teacher: Callable[[Scene, Random], Lesson]
    steps: int
    rate: float = 1.0


SEEING: Final = Course("seeing", true_caption, steps=500)
"""Both models begin here: to describe pictures as they are."""
CARELESSNESS: Final = Course("carelessness", careless_caption, steps=300, rate=0.3)
"""Makes a policy of a model that sees."""
COMPARING: Final = Course("comparing", question, steps=1100)
"""Makes a labeler of a model that sees."""
COURSES: Final = {"policy": CARELESSNESS, "labeler": COMPARING}
"""What a model that sees learns next, by what it is to be."""


@dataclass(frozen=True)
class Curriculum:
    """What makes models of a seed: one that knows nothing learns `seeing`, and a copy of it for each name a course."""

    seed: int
    seeing: Course
    courses: Mapping[str, Course]

    @property
    def steps(self) -> int:
        """Steps of training in all."""
        return self.seeing.steps + sum(course.steps for course in self.courses.values())


def new_model(seed: int) -> LlavaForConditionalGeneration:
    """A model of 0.8 million parameters that knows nothing. The same seed gives the same weights."""
    ids = word_ids()
    vision = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=PICTURE_PIXELS,
        patch_size=PATCH_PIXELS,
        projection_dim=64,
    )
    special = {"pad_token_id": ids[PAD], "eos_token_id": ids[END], "bos_token_id": None}
    text = LlamaConfig(
        vocab_size=len(ids),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        **special,
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=vision,
            text_config=text,
            image_token_index=ids[IMAGE],
            tie_word_embeddings=False,
            **special,
        )
    )
    for name, weight in model.named_parameters():
        if "patch_embedding" in name:
            nn.init.normal_(weight, std=0.05)
        elif "position_embedding" in name:
            nn.init.normal_(weight, std=0.3)
    return model


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


def pixels(shown: Iterable[Scene]) -> Tensor:
    """Pictures as the saved processor makes them: float32, (scenes, 3, 48, 48), from -1 to 1."""
    drawn = np.stack([np.asarray(picture(scene), dtype=np.float32) for scene in shown])
    return torch.from_numpy(drawn.transpose(0, 3, 1, 2) / 127.5 - 1.0)


def save(model: LlavaForConditionalGeneration, folder: Path) -> None:
    """Write weights, configuration, tokenizer and processor as both transformers and vLLM load them."""
    model.save_pretrained(folder)
    make_processor().save_pretrained(folder)
    convert_for_vllm(folder)


def load(folder: Path) -> LlavaForConditionalGeneration:
    """Read a model that `save` wrote."""
    return LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, local_files_only=True)


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
