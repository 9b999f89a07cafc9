"""VQA v2 (visualqa.org) and OK-VQA (okvqa.allenai.org): questions in one file, answers in another."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from feedback_workloads.data.drafts import Draft, Drafts, Published, number, rejected, text
from feedback_workloads.data.lookups import Lookup
from feedback_workloads.data.records import items, value
from feedback_workloads.data.sources.coco import picture_names
from feedback_workloads.data.trees import Tree
from feedback_workloads.rows.rejected import BadRow

_SUBSET: Final = re.compile(r"(?:train|val|test)20\d\d")


def rows(answer: str, questions: str, annotations: str, tree: Tree, _: Mapping[str, str]) -> Drafts:
    """Each question, with the answer that most people gave as reference; files of test have none.

    `answer` is the field of an answer that is meant: OK-VQA's `answer` is stemmed, its `raw_answer` is not.
    """
    names = tree.need("file of questions", questions)
    with TemporaryDirectory(prefix="feedback-vqa-") as scratch:
        answers = Lookup(Path(scratch) / "answers", _answers(tree, tree.find(annotations), answer))
        for name in names:
            subset = _subset(tree, name)
            for row, asked in enumerate(items(tree, name, "questions.item"), 1):
                try:
                    yield _draft(tree, asked, subset, answers)
                except BadRow as bad:
                    yield rejected(f"{name}:{row}", bad)


def _draft(tree: Tree, asked: Mapping[str, Any], subset: str, answers: Lookup) -> Draft:
    key = number(asked, "question_id")
    names = picture_names(subset, number(asked, "image_id"))
    columns = {"question": text(asked, "question").strip(), "reference": answers.one(key)}
    return Draft(str(key), partial(tree.picture, *names), names[0], columns)


def _answers(tree: Tree, names: Sequence[str], field: str) -> Iterator[tuple[int, str | None]]:
    for name in names:
        for one in items(tree, name, "annotations.item"):
            yield one["question_id"], most_common(given[field] for given in one["answers"])


def most_common(answers: Iterator[str] | Sequence[str]) -> str | None:
    """The answer that most gave, the first of several; None of none."""
    counted = Counter(answer for answer in answers if answer and answer.strip())
    return counted.most_common(1)[0][0] if counted else None


def _subset(tree: Tree, name: str) -> str:
    """`train2014`: what the file says of itself, or its name."""
    found = _SUBSET.search(name)
    return str(found[0] if found else value(tree, name, "data_subtype"))


VQA_V2 = Published(
    title="VQA v2",
    home="https://visualqa.org/download.html",
    licence="cc-by-4.0",
    terms="annotations CC BY 4.0; pictures are MSCOCO's, under their Flickr licences",
    files="v2_Questions_*_mscoco.zip, v2_Annotations_*_mscoco.zip and MSCOCO's pictures of 2014",
    kind="instructions",
    rows=partial(rows, "answer", "v2_OpenEnded_*_questions.json", "v2_mscoco_*_annotations.json"),
)
OK_VQA = Published(
    title="OK-VQA",
    home="https://okvqa.allenai.org/download.html",
    licence="cc-by-4.0",
    terms="annotations CC BY 4.0; pictures are MSCOCO's, under their Flickr licences",
    files="OpenEnded_mscoco_*_questions.json, mscoco_*_annotations.json (version 1.1) and MSCOCO's pictures of 2014",
    kind="instructions",
    rows=partial(rows, "raw_answer", "OpenEnded_mscoco_*_questions.json", "mscoco_*_annotations.json"),
)
