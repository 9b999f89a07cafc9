"""MMHal-Bench (Sun et al., LLaVA-RLHF, arXiv 2309.14525): 96 questions of eight types, whose answers a judge rates.

Answers are the authors' template with `model_answer` filled; or rows in its order with `answer` or `text`, as RLHF-V
has them, whose "Assistant:" is cut out. What the judge said stands beside each in `gpt4_review`; what the authors'
script saves, a list of the API's replies, is read as well. The truth is the template.

A reply has the score s from 0 to 6 if "rating: s" is in it, in any case, for one s only; else it counts as 0. So
"Rating: 10" is a 1, and a reply with two ratings is a 0. An answer hallucinates if its score is below 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from feedback_workloads.apis.asking import Request
from feedback_workloads.apis.replies import content
from feedback_workloads.benchmarks.judging import Judge
from feedback_workloads.benchmarks.official import Option, Scores, Share, Shares, quotients
from feedback_workloads.benchmarks.scripts import Script
from feedback_workloads.contract import BadInput
from feedback_workloads.rows.json_files import Row, read_rows

QUESTIONS: Final = 96
TYPES: Final = ("attribute", "adversarial", "comparison", "counting", "relation", "environment", "holistic", "other")
"""The type of a question, by its place: they take turns."""
REVIEW: Final = "gpt4_review"
SCRIPTS: Final = ("eval_gpt4.py", "eval_gpt_mmhal.py")
TRUE_FROM: Final = 3
"""The lowest score of an answer without a hallucination."""


@dataclass(frozen=True)
class MMHal:
    """See the head of this module."""

    truth: ClassVar[str] = "the authors' response_template.json"
    truth_files: ClassVar[tuple[str, ...]] = ()
    question: ClassVar[str] = ""
    answer: ClassVar[str] = "model_answer"
    options: ClassVar[Mapping[str, Option]] = {}
    prompts: ClassVar[str] = f"the authors' script {SCRIPTS[0]} (RLHF-V's {SCRIPTS[1]}), or its folder"

    def closed(self, question: Row) -> bool:
        return False

    def judged(
        self, answers: Path, truth: Path, options: Mapping[str, str], prompts: Path, judge: Judge
    ) -> list[dict[str, object]]:
        template = Script.at(prompts, *SCRIPTS).text("template")
        rows, questions = _matched(answers, truth)
        said = [said_in(row) for row in rows]
        requests = [
            Request.of(prompt(template, question, text), temperature=0.0)
            for question, text in zip(questions, said, strict=True)
        ]
        replies = judge.replies(requests)
        return [
            {**question.values, "model_answer": text, REVIEW: reply}
            for question, text, reply in zip(questions, said, replies, strict=True)
        ]

    def score(self, answers: Path, truth: Path, options: Mapping[str, str]) -> Scores:
        rows, questions = _matched(answers, truth)
        reviews = [review(row) for row in rows]
        scores = [rating(text) for text in reviews]
        shares = shares_of([one or 0 for one in scores])
        return Scores(
            answers=len(rows),
            metrics=quotients(shares),
            file=f"{answers.name.split('.json')[0]}.mmhal_test_eval.json",
            result=[{"choices": [{"message": {"role": "assistant", "content": text}}]} for text in reviews],
            notes=notes(scores, questions),
            shares=shares,
        )


def prompt(template: str, question: Row, answer: str) -> str:
    """What the judge is told about one answer: the authors' template has four places, in this order."""
    pieces = template.split("{}")
    contents = ", ".join(question.texts("image_content"))
    values = (contents, question.text("question"), question.text("gt_answer"), answer)
    if len(pieces) != len(values) + 1:
        raise BadInput(
            f"the template of the judge has {len(pieces) - 1} places to fill in, where MMHal-Bench's has "
            f"{len(values)}; name its script by --judge-prompts"
        )
    return pieces[0] + "".join(value + piece for value, piece in zip(values, pieces[1:], strict=True))


def said_in(row: Row) -> str:
    """What the model answered: as the template holds it, or RLHF-V's, which names the speaker."""
    if "model_answer" in row.values:
        return row.text("model_answer")
    return row.text("answer", "text").replace("Assistant:", "").strip()


def review(row: Row) -> str:
    """What the judge said about an answer; BadInput where that is not there."""
    if (said := content(row.values)) is not None:
        return said
    if REVIEW not in row.values:
        raise BadInput(
            f"{row.place}: there is no field {REVIEW!r} with what a judge said; name one by --judge, or give what the "
            "authors' script saved of its replies"
        )
    return row.text(REVIEW)


def rating(reply: str) -> int | None:
    """The score that a judge gives; None where it gives none, or several."""
    found = [score for score in range(7) if f"rating: {score}" in reply.lower()]
    return found[0] if len(found) == 1 else None


def informative(score: int) -> int:
    """How much an answer of a score says, from 0 to 3: scores with a hallucination and without are in that order."""
    return score - TRUE_FROM if score >= TRUE_FROM else score


def shares_of(scores: Sequence[int]) -> Shares:
    """Of the numbers of all questions and of each type; informativeness is RLHF-V's, as a fraction of the best."""
    rated = [(str(number), score) for number, score in enumerate(scores, 1)]
    by_type = {kind: rated[number :: len(TYPES)] for number, kind in enumerate(TYPES)}
    return {
        "Average score": [Share(item, score) for item, score in rated],
        "Hallucination rate": [Share(item, score < TRUE_FROM) for item, score in rated],
        "Informativeness": [Share(item, informative(score), 3) for item, score in rated],
        **{f"{kind}.Average score": [Share(item, score) for item, score in of] for kind, of in by_type.items()},
    }


def notes(scores: Sequence[int | None], questions: Sequence[Row]) -> tuple[str, ...]:
    """What a reader of the numbers should know."""
    found = []
    if len(questions) != QUESTIONS:
        found.append(f"these are {len(questions)} answers, where the benchmark has {QUESTIONS}")
    if unrated := [str(number) for number, score in enumerate(scores, 1) if score is None]:
        found.append(
            f"of {len(unrated)} answers the judge gave no rating or several, which counts as 0: {', '.join(unrated)}"
        )
    return tuple(found)


def _matched(answers: Path, truth: Path) -> tuple[list[Row], list[Row]]:
    """Answers and questions, which stand in the same order; BadInput where they do not."""
    rows, questions = read_rows(answers), read_rows(truth)
    if len(rows) != len(questions):
        raise BadInput(
            f"{answers} has {len(rows)} answers to the {len(questions)} questions of {truth}; give one to each, in "
            "their order"
        )
    for number, (row, question) in enumerate(zip(rows, questions, strict=True)):
        if question.text("question_type") != TYPES[number % len(TYPES)]:
            raise BadInput(
                f"{question.place}: the question_type is {question.text('question_type')!r}, where the template has "
                f"{TYPES[number % len(TYPES)]!r}; give the template as the authors have it"
            )
        asked = question.text("question")
        if "question" in row.values or "prompt" in row.values:
            given = row.text("question", "prompt")
            if asked not in given:
                raise BadInput(
                    f"{row.place}: this answers {given[:60]!r}, where {question.place} asks {asked[:60]!r}; give the "
                    "answers in the order of the template"
                )
    return rows, questions
