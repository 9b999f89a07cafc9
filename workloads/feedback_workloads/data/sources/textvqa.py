"""TextVQA (textvqa.org): questions about what is written in a picture; questions and answers are in one file."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from feedback_workloads.data.drafts import Draft, Drafts, Published, number, rejected, text
from feedback_workloads.data.records import items
from feedback_workloads.data.sources.vqa import most_common
from feedback_workloads.data.trees import Tree
from feedback_workloads.rows.rejected import BadRow

QUESTIONS: Final = "TextVQA_0*.json"
"""Not the file of OCR tokens beside it (TextVQA_Rosetta_OCR_...)."""


def rows(tree: Tree, _: Mapping[str, str]) -> Drafts:
    """Each question, with the answer that most people gave as reference; the file of test has none."""
    for name in tree.need("file of questions", QUESTIONS):
        for row, asked in enumerate(items(tree, name, "data.item"), 1):
            try:
                yield _draft(tree, asked)
            except BadRow as bad:
                yield rejected(f"{name}:{row}", bad)


def _draft(tree: Tree, asked: Mapping[str, Any]) -> Draft:
    path = f"{text(asked, 'image_id')}.jpg"
    columns = {"question": text(asked, "question").strip(), "reference": most_common(asked.get("answers") or ())}
    return Draft(str(number(asked, "question_id")), partial(tree.picture, path), path, columns)


TEXTVQA = Published(
    title="TextVQA",
    home="https://textvqa.org/dataset/",
    licence="cc-by-4.0",
    terms="CC BY 4.0; pictures are OpenImages', CC BY 2.0",
    files="TextVQA_0.5.1_*.json and train_val_images.zip",
    kind="instructions",
    rows=rows,
)
