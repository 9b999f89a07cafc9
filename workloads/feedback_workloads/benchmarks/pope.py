"""POPE (Li et al., arXiv 2305.10355): is there such an object in the image? Three samplings of what is asked.

Answers are rows in the order of the questions, with `answer` or `text`. The truth is one file of questions with their
labels, or the folder of three (coco_pope_random.json, coco_pope_popular.json, coco_pope_adversarial.json); then the
answers are of all three, as LLaVA has them, and a file llava_pope_test.jsonl in the folder says by `category` which
question_id is of which sampling. There are two releases of the questions, of which the first has 2,910 random ones.

An answer means no where its first sentence, without commas, has the word No, no or not, and else yes, which is the
positive class. Numbers have the names that the authors' script prints, below the name of their sampling.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Final

from feedback_workloads.benchmarks.official import Option, Scores, Share, Shares, ratio
from feedback_workloads.contract import BadInput
from feedback_workloads.method.judgement import Closed, Judgement
from feedback_workloads.rows.json_files import Row, read_rows
from feedback_workloads.rows.rejected import BadRow

CATEGORIES: Final = "llava_pope_test.jsonl"
SAMPLINGS: Final = ("random", "popular", "adversarial")
QUESTIONS: Final = re.compile(rf".*pope.*_({'|'.join(SAMPLINGS)})\.json(\.gz)?")
"""Names of files of questions, with the sampling."""
_NO: Final = frozenset({"No", "no", "not"})


@dataclass(frozen=True)
class Confusion:
    """True and false positives and negatives, by the authors' names."""

    TP: int
    FP: int
    TN: int
    FN: int

    def metrics(self) -> dict[str, float | None]:
        precision, recall = ratio(self.TP, self.TP + self.FP), ratio(self.TP, self.TP + self.FN)
        answers = self.TP + self.FP + self.TN + self.FN
        return {
            "Accuracy": ratio(self.TP + self.TN, answers),
            "Precision": precision,
            "Recall": recall,
            "F1 score": 2 * precision * recall / (precision + recall) if precision and recall else None,
            "Yes ratio": ratio(self.TP + self.FP, answers),
        }


class Pope:
    """See the head of this module."""

    truth: ClassVar[str] = f"a file of POPE's questions, or the folder of three with {CATEGORIES} beside them"
    truth_files: ClassVar[tuple[str, ...]] = (*(f"*pope*_{sampling}.json*" for sampling in SAMPLINGS), f"{CATEGORIES}*")
    options: ClassVar[Mapping[str, Option]] = {}
    question: ClassVar[str] = ""
    answer: ClassVar[str] = "answer"

    def closed(self, question: Row) -> bool:
        return False

    def judge(self, answer: str, truth: str) -> Judgement:
        """Judge by the truth that is `yes` or `no`; a yes names the object that is asked for. BadRow of another."""
        if truth not in ("yes", "no"):
            raise BadRow("bad-truth", f"the truth is {truth[:80]!r}; give yes or no")
        said, there = says_yes(answer), truth == "yes"
        return Judgement(
            mentions=int(said),
            hallucinated=int(said and not there),
            covered=int(said and there),
            truth_total=int(there),
            closed=Closed(right=said == there, said=said, true=there),
        )

    def score(self, answers: Path, truth: Path, options: Mapping[str, str]) -> Scores:
        rows = read_rows(answers)
        by_sampling = of_folder(rows, truth) if truth.is_dir() else {_sampling(truth): (rows, read_rows(truth))}
        judged = {sampling: verdicts(said, asked) for sampling, (said, asked) in by_sampling.items()}
        found = {sampling: confusion(of) for sampling, of in judged.items()}
        metrics = {
            f"{sampling}.{name}": value for sampling, one in found.items() for name, value in one.metrics().items()
        }
        return Scores(
            answers=len(rows),
            metrics=metrics,
            file="pope.json",
            result={sampling: asdict(one) | one.metrics() for sampling, one in found.items()},
            shares={
                f"{sampling}.{name}": of
                for sampling, verdicts_of in judged.items()
                for name, of in shares_of(verdicts_of, sampling).items()
            },
        )


def says_yes(answer: str) -> bool:
    """What an answer means. Only blanks part words, so that "NO", "none" and a "No" in a second line mean yes."""
    return _NO.isdisjoint(answer.partition(".")[0].replace(",", "").split(" "))


Verdict = tuple[bool, bool]
"""Whether an answer says that the object is there, and whether it is."""


def confusion(found: Sequence[Verdict]) -> Confusion:
    counts = Counter(found)
    return Confusion(TP=counts[True, True], FP=counts[True, False], TN=counts[False, False], FN=counts[False, True])


def shares_of(found: Sequence[Verdict], sampling: str) -> Shares:
    """Of the numbers of `Confusion`. F1 is one of twice the true positives, and of what is said and what is there."""
    items = [f"{sampling} {number}" for number in range(1, len(found) + 1)]
    parts: dict[str, Callable[[bool, bool], tuple[float, float]]] = {
        "Accuracy": lambda said, there: (said == there, 1),
        "Precision": lambda said, there: (said and there, said),
        "Recall": lambda said, there: (said and there, there),
        "F1 score": lambda said, there: (2 * (said and there), said + there),
        "Yes ratio": lambda said, there: (said, 1),
    }
    return {
        name: [Share(item, *part(*one)) for item, one in zip(items, found, strict=True)] for name, part in parts.items()
    }


def verdicts(answers: Sequence[Row], questions: Sequence[Row]) -> list[Verdict]:
    """Of answers to questions that stand in the same order; BadInput where they are answers to others."""
    if len(answers) != len(questions):
        raise BadInput(
            f"there are {len(answers)} answers to the {len(questions)} questions from {questions[0].place} on; give "
            "one to each, in their order, and the questions of the release that was asked"
        )
    return [
        (says_yes(answer.text("answer", "text")), _is_there(question, answer))
        for answer, question in zip(answers, questions, strict=True)
    ]


def _is_there(question: Row, answer: Row) -> bool:
    """The label of a question; BadInput where the answer says that it was given to another one."""
    asked = question.text("text")
    if "question" in answer.values or "prompt" in answer.values:
        given = answer.text("question", "prompt")
        if asked not in given:
            raise BadInput(
                f"{answer.place}: this answers {given[:60]!r}, where {question.place} asks {asked!r}; give the "
                "questions of the release that was asked, in the order of the answers"
            )
    if question.text("label") not in ("yes", "no"):
        raise BadInput(f"{question.place}: the label is {question.text('label')!r}; give yes or no")
    return question.text("label") == "yes"


def _sampling(questions: Path) -> str:
    """How the objects of a file were sampled, by its name; the name itself where that does not say it."""
    named = QUESTIONS.fullmatch(questions.name)
    return named[1] if named else questions.name


def of_folder(answers: Sequence[Row], folder: Path) -> dict[str, tuple[list[Row], list[Row]]]:
    """Answers and questions of each sampling, by the category of each answer's question."""
    files = sorted(file for file in folder.iterdir() if QUESTIONS.fullmatch(file.name))
    listed = [file for file in (folder / CATEGORIES, folder / f"{CATEGORIES}.gz") if file.exists()]
    if not files or not listed:
        raise BadInput(
            f"{folder}: there is no {CATEGORIES if files else 'coco_pope_*.json'} in it; give the questions of one "
            f"sampling, or a folder with all and {CATEGORIES}, which says of which sampling a question_id is"
        )
    categories = {row.integer("question_id"): row.text("category") for row in read_rows(listed[0])}
    grouped: dict[str, list[Row]] = {_sampling(file): [] for file in files}
    for answer in answers:
        category = categories.get(answer.integer("question_id"))
        if category not in grouped:
            raise BadInput(
                f"{answer.place}: question_id {answer.integer('question_id')} is of none of the samplings in {folder}; "
                f"give the {CATEGORIES} of these answers"
            )
        grouped[category].append(answer)
    return {_sampling(file): (grouped[_sampling(file)], read_rows(file)) for file in files}
