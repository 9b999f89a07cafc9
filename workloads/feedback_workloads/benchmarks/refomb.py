"""RefoMB (Yu et al., RLAIF-V, arXiv 2405.17220): a judge compares answers with GPT-4V's, by a written description.

Answers are rows with `image_url`, `question` (or `prompt`) and `answer` (or `text`); the truth is the authors' file of
GPT-4V's answers, with the descriptions. The judge is asked twice: which of two answers is better, and then, by its own
review alone, which has fewer hallucinations. Its answers are [[A]], [[B]] or [[C]], of which the first in a reply
counts. As published, the model is always B; `positions=both` asks with the answers exchanged as well, and `repeats`
asks several times, which the authors advise.

What the judge said stands in `review` and `review_res`, as in the files that the authors' scripts write, which are read
as well: one has the reviews, the other (.hall.json) what was made of them.

Numbers are (wins + ties / 2) / judgements, for the model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from feedback_workloads.apis.asking import Request
from feedback_workloads.benchmarks.judging import Judge
from feedback_workloads.benchmarks.official import Option, Scores, Share, Shares, quotients
from feedback_workloads.benchmarks.scripts import Script
from feedback_workloads.contract import BadInput
from feedback_workloads.rows.json_files import Row, read_rows

QUESTIONS: Final = 99
REFERENCE: Final = "GPT-4V"
"""The authors' name of the model that all are compared with."""
OVERALL: Final = ("Overall", "review")
TRUSTWORTHINESS: Final = ("Trustworthiness", "review_res")
"""A number, and the field of the reply that it comes from."""
COMPARING: Final = "eval_RefoMB_p0.py"
SUMMING_UP: Final = "eval_hallucination.py"
CALLING: Final = "gpt4.py"
_VERDICT: Final = re.compile(r"\[\[([ABC])\]\]")
_VALUES: Final = {"A": -1, "B": 1, "C": 0}


@dataclass(frozen=True)
class Comparison:
    """A question with two answers, of which the judge sees the first as A; `run` counts repeats."""

    number: int
    row: Row
    first: str
    second: str
    models: tuple[str, str]
    run: int


@dataclass(frozen=True)
class Judgement:
    """Of a question of type `kind`: `value` is 1 where the model won, -1 where it lost, 0 where neither did."""

    question: str
    kind: str
    value: int


class RefoMB:
    """See the head of this module."""

    truth: ClassVar[str] = "the authors' gpt4v_RefoMB_dev_0521.jsonl"
    truth_files: ClassVar[tuple[str, ...]] = ()
    question: ClassVar[str] = ""
    answer: ClassVar[str] = "answer"
    options: ClassVar[Mapping[str, Option]] = {
        "positions": Option(
            "which answer the judge sees first: GPT-4V's, as published, or each in turn", ("published", "both")
        ),
        "repeats": Option("how often the judge is asked the same", ("1", "3", "5")),
    }
    prompts: ClassVar[str] = f"RLAIF-V's folder eval, with {COMPARING}, {SUMMING_UP} and {CALLING}"

    def closed(self, question: Row) -> bool:
        return False

    def judged(
        self, answers: Path, truth: Path, options: Mapping[str, str], prompts: Path, judge: Judge
    ) -> list[dict[str, object]]:
        comparing, summing_up = Script.at(prompts, COMPARING), Script.at(prompts, SUMMING_UP)
        system = Script.at(prompts, CALLING).text("chat_gpt_system")
        name = answers.name.partition(".json")[0]
        compared = list(comparisons(_answers(answers), read_rows(truth), name, options))
        told = [prompt(comparing, one) for one in compared]
        runs = [one.run for one in compared]
        reviews = judge.replies(
            [_request(text, system, run, 1e-5) for text, run in zip(told, runs, strict=True)], has_verdict
        )
        system = summing_up.text("chat_gpt_system")
        questions = [summing_up.filled("construct_gpt4_query", {"review_text": review}) for review in reviews]
        sums = judge.replies(
            [_request(text, system, run, 0.0) for text, run in zip(questions, runs, strict=True)], has_verdict
        )
        return [
            to_json(one, text, review, summed)
            for one, text, review, summed in zip(compared, told, reviews, sums, strict=True)
        ]

    def score(self, answers: Path, truth: Path, options: Mapping[str, str]) -> Scores:
        rows = read_rows(answers)
        found = {name: judgements(rows, field) for name, field in (OVERALL, TRUSTWORTHINESS) if field in rows[0].values}
        if not found:
            raise BadInput(
                f"{rows[0].place}: there is no field 'review' or 'review_res' with what a judge said; name one by "
                "--judge, or give what the authors' scripts saved"
            )
        asked = len(read_rows(truth))
        shares = {number: of for name, judged in found.items() for number, of in shares_of(name, judged).items()}
        return Scores(
            answers=len(rows),
            metrics=quotients(shares),
            file="refomb.json",
            result={name: table(of) for name, of in found.items()},
            notes=notes(asked, len(rows)),
            shares=shares,
        )


def prompt(script: Script, one: Comparison) -> str:
    """What the judge is told about two answers, in the words of the authors' script."""
    values = {
        "text_instruction": one.row.text("question"),
        "image_descriptsion": one.row.text("description", "gt_description"),
        "modelA_answer": one.first,
        "modelB_answer": one.second,
    }
    return script.filled("construct_gpt4_query", values)


def comparisons(
    said: Mapping[tuple[str, str], str], questions: Sequence[Row], model: str, options: Mapping[str, str]
) -> Iterator[Comparison]:
    """What the judge is to compare, of each question in turn; BadInput where the model did not answer one."""
    for run in range(1, int(options["repeats"]) + 1):
        for number, row in enumerate(questions):
            key = row.text("question"), row.text("image_url")
            if key not in said:
                raise BadInput(
                    f"{row.place}: there is no answer to {key[0][:60]!r} about {key[1]}; give one to each question, "
                    "with its image_url"
                )
            reference, answer = row.text("answer"), said[key]
            yield Comparison(number, row, reference, answer, (REFERENCE, model), run)
            if options["positions"] == "both":
                yield Comparison(number, row, answer, reference, (model, REFERENCE), run)


def to_json(one: Comparison, told: str, review: str, summed: str) -> dict[str, object]:
    """A row of the file that the authors' first script writes, with what their second adds in `review_res`."""
    return {
        "score": verdict(review),
        "review": review,
        "review_res": summed,
        "prompt": told,
        "image": one.number,
        "modelA": one.models[0],
        "modelB": one.models[1],
        "type_name": one.row.text("type"),
        "question": one.row.text("question"),
        "image_path_list": one.row.text("image_url"),
        "run": one.run,
    }


def has_verdict(reply: str) -> bool:
    """Whether a reply says which answer it is for."""
    return _VERDICT.search(reply) is not None


def verdict(reply: str) -> int | None:
    """1 for B, -1 for A, 0 for neither, by the first that the reply names; None where it names none."""
    found = _VERDICT.search(reply)
    return _VALUES[found[1]] if found else None


def judgements(rows: Iterable[Row], field: str) -> list[Judgement]:
    """What the judge said of each row, by the reply in `field`; BadInput where that says nothing."""
    found = []
    for number, row in enumerate(rows):
        value = verdict(row.text(field))
        if value is None:
            raise BadInput(f"{row.place}: the reply in {field!r} has no [[A]], [[B]] or [[C]]; ask the judge again")
        exchanged = row.text("modelB") == REFERENCE
        question = str(row.values.get("image", number))  # the authors count from the first question
        found.append(Judgement(question, row.text("type_name"), -value if exchanged else value))
    return found


def shares_of(name: str, found: Sequence[Judgement]) -> Shares:
    """Of (wins + ties / 2) / judgements: in all, by the name of the number, and of each type."""
    shares: dict[str, list[Share]] = {name: []}
    for one in found:
        for number in (name, f"{one.kind}.{name}"):
            shares.setdefault(number, []).append(Share(one.question, (one.value + 1) / 2))
    return shares


def table(found: Sequence[Judgement]) -> dict[str, object]:
    """Wins, losses and ties, in all and of each type."""
    kinds = dict.fromkeys(one.kind for one in found)
    by_kind = {kind: _counts([one.value for one in found if one.kind == kind]) for kind in kinds}
    return {**_counts([one.value for one in found]), "types": by_kind}


def _counts(values: Sequence[int]) -> dict[str, int]:
    return {"win": values.count(1), "loss": values.count(-1), "tie": values.count(0)}


def notes(asked: int, judged: int) -> tuple[str, ...]:
    """What a reader of the numbers should know."""
    found = []
    if asked != QUESTIONS:
        found.append(f"these are {asked} questions, where the benchmark has {QUESTIONS}")
    if judged % asked:
        found.append(f"{judged} judgements are no whole number of rounds over {asked} questions")
    elif judged == asked:
        found.append("each question was judged once; the authors advise the mean of three rounds or more")
    return tuple(found)


def _answers(file: Path) -> dict[tuple[str, str], str]:
    """What the model said, by question and picture."""
    found: dict[tuple[str, str], str] = {}
    for row in read_rows(file):
        key = row.text("question", "prompt"), row.text("image_url")
        if key in found:
            raise BadInput(f"{row.place}: {key[0][:60]!r} about {key[1]} is answered before, too; remove one of them")
        found[key] = row.text("answer", "text").replace("<|endoftext|>", "<EOT>")
    return found


def _request(text: str, system: str, run: int, temperature: float) -> Request:
    return Request.of(text, system=system, run=run, temperature=temperature, max_tokens=2048, top_p=1.0)
