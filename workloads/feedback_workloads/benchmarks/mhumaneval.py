"""MHumanEval (Yu et al., RLHF-V, arXiv 2312.00849): people mark what is hallucinated in 146 answers.

Answers are rows in the order of the authors' file of questions, which is the truth, with `answer` or `text`. They
become a sheet to fill in: `hallucinated` is yes or no, and of what is hallucinated each part of the answer stands under
its kind, object, position, number or other, as it is in the answer, several divided by "|". The sheet, filled in, is
given as the answers, and its numbers come out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from feedback_workloads.benchmarks.official import Option, Scores, Share, Shares, quotients
from feedback_workloads.benchmarks.tables import csv_text, read_table
from feedback_workloads.contract import BadInput
from feedback_workloads.rows.json_files import Row, read_rows

QUESTIONS: Final = 146
KINDS: Final = ("object", "position", "number", "other")
COLUMNS: Final = ("row", "picture", "question", "answer", "hallucinated", *KINDS)
PICTURE: Final = ("image_id", "image_url", "image_path")
"""Fields of the official file that say which picture a question is about."""
SHEET: Final = "sheet.csv"
BETWEEN: Final = "|"


@dataclass(frozen=True)
class Label:
    """What a person found in one answer: the parts that are hallucinated, by their kind."""

    parts: Mapping[str, tuple[str, ...]]

    @property
    def hallucinated(self) -> bool:
        return any(self.parts.values())


class MHumanEval:
    """See the head of this module."""

    truth: ClassVar[str] = "the authors' obj_halbench_mhumaneval_data_with_image.jsonl"
    truth_files: ClassVar[tuple[str, ...]] = ()
    question: ClassVar[str] = ""
    answer: ClassVar[str] = "answer"
    options: ClassVar[Mapping[str, Option]] = {}

    def closed(self, question: Row) -> bool:
        return False

    def score(self, answers: Path, truth: Path, options: Mapping[str, str]) -> Scores:
        questions, rows = read_rows(truth), read_table(answers)
        if len(rows) != len(questions):
            raise BadInput(
                f"{answers} has {len(rows)} rows for the {len(questions)} questions of {truth}; give one to each, in "
                "their order"
            )
        for row, question in zip(rows, questions, strict=True):
            check_question(row, question)
        notes = () if len(rows) == QUESTIONS else (f"these are {len(rows)} answers, where there are {QUESTIONS}",)
        if "hallucinated" not in rows[0].values:
            to_do = f"{SHEET} is to be filled in by people; give it as --answers then"
            return Scores(len(rows), {}, SHEET, sheet(rows, questions), (*notes, to_do))
        labels = [read_label(row) for row in rows]
        shares = shares_of(labels)
        return Scores(len(rows), quotients(shares), "mhumaneval.json", [to_json(one) for one in labels], notes, shares)


def sheet(rows: Sequence[Row], questions: Sequence[Row]) -> str:
    """What people fill in, as CSV."""
    lines = [
        {
            **dict.fromkeys(COLUMNS, ""),
            "row": number,
            "picture": next((question.values[name] for name in PICTURE if name in question.values), ""),
            "question": question.text("question"),
            "answer": row.text("answer", "text"),
        }
        for number, (row, question) in enumerate(zip(rows, questions, strict=True), 1)
    ]
    return csv_text(lines, COLUMNS)


def check_question(row: Row, question: Row) -> None:
    """Raise BadInput where a row says that it is of another question."""
    if "question" not in row.values and "prompt" not in row.values:
        return
    given, asked = row.text("question", "prompt"), question.text("question")
    if _plain(asked) not in _plain(given):
        raise BadInput(
            f"{row.place}: this is of {given[:60]!r}, where {question.place} asks {asked[:60]!r}; give the rows in the "
            "order of the questions"
        )


def read_label(row: Row) -> Label:
    """What stands in a row of the sheet; BadInput where it contradicts itself, or was not filled in."""
    said = str(row.values["hallucinated"]).strip().lower()
    if said not in ("yes", "no"):
        raise BadInput(f"{row.place}: 'hallucinated' is {said!r}; say yes or no of each answer")
    answer = _plain(row.text("answer"))
    label = Label({kind: _parts(row, kind) for kind in KINDS})
    for kind, parts in label.parts.items():
        for part in parts:
            if _plain(part) not in answer:
                raise BadInput(f"{row.place}: {part[:60]!r}, under {kind!r}, is not in the answer; copy it from there")
    if label.hallucinated and said == "no":
        raise BadInput(f"{row.place}: 'hallucinated' is no, but parts of the answer are marked; say yes, or clear them")
    if said == "yes" and not label.hallucinated:
        raise BadInput(
            f"{row.place}: 'hallucinated' is yes, but no part of the answer is marked; copy it under one of "
            f"{', '.join(KINDS)}"
        )
    return label


def _parts(row: Row, kind: str) -> tuple[str, ...]:
    parts = (part.strip() for part in str(row.values.get(kind, "")).split(BETWEEN))
    return tuple(part for part in parts if part)


def _plain(text: str) -> str:
    """A text by its words alone: spreadsheets change blanks, and keep a formula off by an apostrophe."""
    return " ".join(text.removeprefix("'").lower().split())


def shares_of(labels: Sequence[Label]) -> Shares:
    """Of answers with a hallucination, and with one of each kind."""
    rows = [(str(number), label) for number, label in enumerate(labels, 1)]
    of_kinds = {kind: [Share(item, bool(label.parts[kind])) for item, label in rows] for kind in KINDS}
    return {
        "Hallucination rate": [Share(item, label.hallucinated) for item, label in rows],
        **{f"{kind}.Hallucination rate": of for kind, of in of_kinds.items()},
    }


def to_json(label: Label) -> dict[str, object]:
    """What a person found, as the result keeps it."""
    return {"hallucinated": label.hallucinated, **{kind: list(parts) for kind, parts in label.parts.items()}}
