"""What models of the shapes world say: policies at temperature 0, and by what habit they err; labelers to claims."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import torch
from transformers import LlavaForConditionalGeneration

from feedback_workloads.shapes.captions import habit
from feedback_workloads.shapes.lessons import Lesson
from feedback_workloads.shapes.models import pixels
from feedback_workloads.shapes.tokenizer import END, PAD, make_tokenizer, prompt, word_ids
from feedback_workloads.shapes.truth import judge
from feedback_workloads.shapes.world import INSTRUCTIONS, Scene

LONGEST: Final = 96
"""Tokens of the longest answer: nine sentences, and those that say nothing."""
VERDICT_AND_END: Final = 2
"""Tokens of a labeler's answer."""


def greedy_answers(model: LlavaForConditionalGeneration, shown: Sequence[Scene]) -> list[str]:
    """The model's likeliest answer to the first instruction about each scene, word by word."""
    ids = word_ids()
    asked = torch.tensor([prompt(INSTRUCTIONS[0])] * len(shown))
    with torch.inference_mode():
        said = model.generate(
            input_ids=asked,
            pixel_values=pixels(shown),
            attention_mask=torch.ones_like(asked),
            do_sample=False,
            max_new_tokens=LONGEST,
            eos_token_id=ids[END],
            pad_token_id=ids[PAD],
        )
    return make_tokenizer().batch_decode(said[:, asked.size(1) :], skip_special_tokens=True)


def verdicts(model: LlavaForConditionalGeneration, lessons: Sequence[Lesson]) -> list[bool]:
    """Whether a labeler finds yes likelier than no, where each lesson has its verdict."""
    ids = word_ids()
    longest = max(len(lesson.tokens) for lesson in lessons)
    tokens = torch.tensor([[*lesson.tokens, *[ids[PAD]] * (longest - len(lesson.tokens))] for lesson in lessons])
    with torch.inference_mode():
        said = model(input_ids=tokens, pixel_values=pixels(lesson.scene for lesson in lessons)).logits
    asked = [len(lesson.tokens) - VERDICT_AND_END - 1 for lesson in lessons]
    return [bool(said[i, at, ids["yes"]] > said[i, at, ids["no"]]) for i, at in enumerate(asked)]


def errors(answers: Sequence[str], shown: Sequence[Scene]) -> Counter[str]:
    """How often the answers say what is not so, by the habit it comes from; `none` where it comes from none."""
    found: Counter[str] = Counter()
    for answer, scene in zip(answers, shown, strict=True):
        for mention in judge(answer, scene.truth).hallucinated:
            found[(habit(scene, *mention.kind) if mention.kind else None) or "none"] += 1
    return found
