"""MMStar (Chen et al., arXiv 2403.20330): 1,500 questions with four options each, in six categories of three kinds.

Answers are rows with the question's `index` and, in `prediction`, what the model said; a workbook, as the authors'
script keeps them, or any other table. The truth has `index`, `answer` (a letter), `category` and `l2_category`: the
data set's parquet file, VLMEvalKit's TSV, or the workbook of answers itself.

An answer is right by its beginning: the letter, "(" and the letter, "option " or "the answer is " and the letter, in
any case. So "A photo" answers A, and "The correct answer is B" is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from feedback_workloads.benchmarks.official import Option, Scores, Share, Shares, quotients
from feedback_workloads.benchmarks.tables import read_table
from feedback_workloads.contract import BadInput
from feedback_workloads.method.judgement import Closed, Judgement
from feedback_workloads.rows.json_files import Row
from feedback_workloads.rows.rejected import BadRow

QUESTIONS: Final = 1500
BEGINNINGS: Final = ("", "(", "option ", "the answer is ")
"""What may stand before the letter."""


@dataclass(frozen=True)
class Question:
    """The right letter, in lower case, and of which category and kind the question is."""

    letter: str
    category: str
    kind: str


class MMStar:
    """See the head of this module."""

    truth: ClassVar[str] = "the data set's mmstar.parquet, VLMEvalKit's MMStar.tsv, or the workbook of answers"
    truth_files: ClassVar[tuple[str, ...]] = ()
    question: ClassVar[str] = ""
    answer: ClassVar[str] = "prediction"
    options: ClassVar[Mapping[str, Option]] = {}

    def closed(self, question: Row) -> bool:
        return False

    def judge(self, answer: str, truth: str) -> Judgement:
        """Judge by the truth that is the letter of the right option; BadRow where it is none."""
        if not is_letter(truth):
            raise BadRow("bad-truth", f"the truth is {truth[:80]!r}; give the letter of the right option")
        return Judgement(0, 0, 0, 0, closed=Closed(right=is_right(answer, truth.strip().lower())))

    def score(self, answers: Path, truth: Path, options: Mapping[str, str]) -> Scores:
        questions = read_questions(truth)
        said = read_predictions(answers, questions, truth)
        shares = shares_of(
            {index: (question, is_right(said[index], question.letter)) for index, question in questions.items()}
        )
        metrics = quotients(shares)
        note = f"these are {len(questions)} questions, where the benchmark has {QUESTIONS}"
        return Scores(
            answers=len(said),
            metrics=metrics,
            file=f"{answers.name.split('.')[0]}_score.json",
            result=metrics,
            notes=() if len(questions) == QUESTIONS else (note,),
            shares=shares,
        )


def is_letter(text: str) -> bool:
    return len(text.strip()) == 1 and text.strip().isalpha()


def is_right(prediction: str, letter: str) -> bool:
    """Whether an answer begins with the letter, given in lower case, in one of the forms that count."""
    said = prediction.lower().strip().replace("\n", " ")
    return any(said.startswith(f"{beginning}{letter}") for beginning in BEGINNINGS)


def shares_of(answered: Mapping[int, tuple[Question, bool]]) -> Shares:
    """Of right answers by the names that the authors' script writes: in all, of categories, of kinds."""
    found: dict[str, list[Share]] = {"final score": []}
    for index, (question, right) in answered.items():
        for name in ("final score", question.category, f"{question.category}({question.kind})"):
            found.setdefault(name, []).append(Share(str(index), right))
    return found


def read_questions(file: Path) -> dict[int, Question]:
    """The questions by their indices."""
    found: dict[int, Question] = {}
    for row in read_table(file):
        letter = row.text("answer").strip().lower()
        if not is_letter(letter):
            raise BadInput(f"{row.place}: the answer is {row.text('answer')!r}; give the letter of the right option")
        if (index := _index(row)) in found:
            raise BadInput(f"{row.place}: there is a question {index} before; remove one of them")
        found[index] = Question(letter, row.text("category"), row.text("l2_category"))
    return found


def read_predictions(file: Path, questions: Mapping[int, Question], truth: Path) -> dict[int, str]:
    """What the model said to each question; BadInput where it said nothing to one, or there is no such question."""
    found: dict[int, str] = {}
    for row in read_table(file):
        index = _index(row)
        if index not in questions:
            raise BadInput(f"{row.place}: there is no question {index} in {truth}; give the truth of these answers")
        if index in found:
            raise BadInput(f"{row.place}: question {index} is answered before, too; remove one of the answers")
        if "prediction" not in row.values:
            raise BadInput(f"{row.place}: there is no field 'prediction' with what the model said; name it so")
        found[index] = str(row.values["prediction"])
    if missing := questions.keys() - found.keys():
        raise BadInput(f"{file}: question {min(missing)} is not answered, and {len(missing) - 1} others; answer each")
    return found


def _index(row: Row) -> int:
    """The index of a question: a number, which CSV has as a text."""
    value = row.values.get("index")
    return int(value) if isinstance(value, str) and value.isdigit() else row.integer("index")
