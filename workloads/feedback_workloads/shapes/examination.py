"""What a policy of the shapes world says at temperature 0, and which of its errors come from no habit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import torch
from transformers import LlavaForConditionalGeneration

from feedback_workloads.shapes.captions import habit
from feedback_workloads.shapes.models import pixels
from feedback_workloads.shapes.tokenizer import END, PAD, make_tokenizer, prompt, word_ids
from feedback_workloads.shapes.truth import judge
from feedback_workloads.shapes.world import INSTRUCTIONS, Scene

LONGEST: Final = 96
"""Tokens of the longest answer: nine sentences, and those that say nothing."""


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


def errors(answers: Sequence[str], shown: Sequence[Scene]) -> Counter[str]:
    """How often the answers say what is not so, by the habit it comes from; `none` where it comes from none."""
    found: Counter[str] = Counter()
    for answer, scene in zip(answers, shown, strict=True):
        for mention in judge(answer, scene.truth).hallucinated:
            found[(habit(scene, *mention.kind) if mention.kind else None) or "none"] += 1
    return found
