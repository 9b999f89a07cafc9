"""Asks a model a benchmark's questions, and writes its answers as the benchmark's authors have them.

The model is one that is loaded here, or behind an API that speaks OpenAI's chat completions. It answers greedily. What
it has said is kept line by line, so that an interrupted command goes on where it was.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from feedback_workloads.apis.asking import Asking, Request
from feedback_workloads.apis.client import Client, Names, Refused
from feedback_workloads.apis.kept import Forgotten
from feedback_workloads.apis.ledger import Ledger
from feedback_workloads.apis.replies import content, vote_shares
from feedback_workloads.benchmarks.judging import KEY_VARIABLE
from feedback_workloads.benchmarks.official import Official
from feedback_workloads.benchmarks.tables import read_table
from feedback_workloads.contract import APIModel, BadInput, Decoding, EngineConfig, Model
from feedback_workloads.models.pictures import data_url
from feedback_workloads.rows.json_files import Row
from feedback_workloads.rows.rejected import BadRow

if TYPE_CHECKING:
    from feedback_workloads.engine import Engine, Prompt
    from feedback_workloads.models.family import Family
    from feedback_workloads.storage.artifacts import ArtifactStore

ANSWERS: Final = "answers.json"
SAID: Final = "said.jsonl"
"""Who is asked what, in the first line, and then what was said so far: number of the question, and the reply."""
QUESTION: Final = ("question", "query", "prompt", "text")
"""Fields of the official files that hold what is asked."""
NOT_KEPT: Final = frozenset({*QUESTION, "image_base64", "label", "truth"})
"""Fields of a question that are none of its answer."""
NAMED: Final = ("image", "image_src", "image_url", "image_id")
"""Fields of the official files that name a picture or its address."""
SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp"})

NAMES_OF_API: Final = Names(api="the model's API", address="--api", model="--model", key=KEY_VARIABLE)

Reply = Mapping[str, Any]
"""`text`; to a question that yes or no is the answer to, `p_yes` and `p_no`, too."""


@dataclass(frozen=True)
class Asked:
    """Whom to ask what: the rows of `questions`, or about each picture of a folder where there is no such file."""

    model: Model | APIModel
    questions: Path | None
    pictures: Path | None
    max_new_tokens: int

    def rows(self) -> list[Row]:
        """One for each question. Raises BadInput where there is none."""
        if self.questions:
            return read_table(self.questions)
        if self.pictures is None or not self.pictures.is_dir():
            raise BadInput(f"there is no folder of pictures {self.pictures}; name it by --pictures")
        files = sorted(file for file in self.pictures.iterdir() if file.suffix.lower() in SUFFIXES)
        if not files:
            raise BadInput(f"{self.pictures}: there is no picture in it; name the folder of the benchmark's pictures")
        return [Row(str(file), {"image": file.name}) for file in files]

    def identity(self) -> dict[str, Any]:
        """All that a reply depends on."""
        digest = self.questions and hashlib.sha256(self.questions.read_bytes()).hexdigest()
        return {**self.model.model_dump(), "questions": digest, "max_new_tokens": self.max_new_tokens}


@dataclass(frozen=True)
class Question:
    """A row of the file of questions, and what it asks; `closed` where only yes or no can be right."""

    row: Row
    text: str
    closed: bool

    def prompt(self, engine: Engine, folder: Path | None) -> Prompt:
        """What the model is given. Raises BadInput where it cannot be."""
        try:
            data = picture(self.row, folder)
            prompt = engine.family.prompt(self.text, data, "verdict" if self.closed else "answer")
            engine.check(prompt)
        except BadRow as bad:
            raise BadInput(f"{self.row.place}: the model cannot be asked this ({bad.reason}): {bad.detail}") from bad
        return prompt

    def request(self, model: APIModel, folder: Path | None, max_new_tokens: int) -> Request:
        """What an API is asked: a chat of one message, picture first. Raises BadInput where there is no picture."""
        try:
            shown = {"type": "image_url", "image_url": {"url": data_url(picture(self.row, folder))}}
        except BadRow as bad:
            raise BadInput(f"{self.row.place}: the model cannot be asked this ({bad.reason}): {bad.detail}") from bad
        parameters = {"max_completion_tokens": max_new_tokens, "temperature": 0.0, **model.parameters}
        message = {"role": "user", "content": [shown, {"type": "text", "text": self.text}]}
        return Request((message,), parameters)

    def answer(self, reply: Reply, field: str) -> dict[str, Any]:
        """A row of the file of answers: what names the question, the question, and the reply in `field`."""
        values = self.row.values.items()
        kept = {name: value for name, value in values if name not in NOT_KEPT and not _is_data(name, value)}
        probabilities = {name: reply[name] for name in ("p_yes", "p_no") if name in reply}
        return {**kept, "question": self.text, field: reply["text"], **probabilities}


def ask(asked: Asked, benchmark: Official, out: Path, store: ArtifactStore) -> Path:
    """Have every question answered, and return the file of answers in `out`.

    Raises BadInput where a question has no text or no picture, where the model sees none or cannot read a question, and
    where `out` has what another model said.
    """
    questions = [_question(row, benchmark) for row in asked.rows()]
    out.mkdir(parents=True, exist_ok=True)
    replies = _read(out / SAID, asked.identity())
    if todo := {number: one for number, one in enumerate(questions) if number not in replies}:
        for number, reply in _replies(asked, todo, store):
            replies[number] = reply
            _append(out / SAID, {"number": number, **reply})
    answers = [question.answer(replies[number], benchmark.answer) for number, question in enumerate(questions)]
    partial = out / f"{ANSWERS}.partial"
    partial.write_text(json.dumps(answers, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return partial.replace(out / ANSWERS)


def _question(row: Row, benchmark: Official) -> Question:
    named = any(name in row.values for name in QUESTION)
    if not named and not benchmark.question:
        raise BadInput(f"{row.place}: there is no field {' or '.join(QUESTION)}; name the benchmark's file --questions")
    return Question(row, row.text(*QUESTION) if named else benchmark.question, benchmark.closed(row))


def picture(row: Row, folder: Path | None) -> bytes:
    """The encoded picture of a question: base64 in the row, or a file of the folder.

    That is named by the row, as the end of its address does, or by COCO's number.
    """
    for name, value in row.values.items():
        if _is_data(name, value):
            try:
                return base64.b64decode(str(value), validate=True)
            except ValueError as error:
                raise BadInput(f"{row.place}: the field {name!r} is no base64 ({error}); mend the file") from error
    named = next((row.values[name] for name in NAMED if name in row.values), None)
    file = str(named).rpartition("/")[2]
    names = [f"COCO_val2014_{named:012d}.jpg", f"{named:012d}.jpg"] if isinstance(named, int) else [file]
    if found := folder and next((folder / name for name in names if (folder / name).is_file()), None):
        return found.read_bytes()
    where = f"in {folder}" if folder else "without --pictures"
    raise BadInput(f"{row.place}: the picture {named!r} is not found {where}; name the folder of the pictures")


def _replies(asked: Asked, questions: Mapping[int, Question], store: ArtifactStore) -> Iterator[tuple[int, Reply]]:
    """What the model says to each question, by its number, in any order."""
    if isinstance(asked.model, APIModel):
        yield from _replies_of_api(asked.model, asked, questions)
    else:
        yield from _replies_of_model(asked.model, asked, questions, store)


def _replies_of_api(model: APIModel, asked: Asked, questions: Mapping[int, Question]) -> Iterator[tuple[int, Reply]]:
    """Of a model behind an API. Raises BadInput where it refuses a request; Temporary where it is out of reach."""
    requests = (
        (number, question.request(model, asked.pictures, asked.max_new_tokens))
        for number, question in questions.items()
    )
    with Client(model.url, model.model, os.environ.get(KEY_VARIABLE), NAMES_OF_API) as client:
        for number, reply in Asking(client, Forgotten(), Ledger()).replies(requests):
            if isinstance(reply, Refused):
                raise reply
            yield number, {"text": _first_word(reply) if questions[number].closed else _said(reply)}


def _said(reply: Reply) -> str:
    """What a model behind an API said; nothing where it would not."""
    return (content(reply) or "").strip()


def _first_word(reply: Reply) -> str:
    """ "Yes" or "No", where the reply begins with one of them; else the reply."""
    try:
        yes, no = vote_shares(reply["choices"][:1])
    except BadRow:
        return _said(reply)
    return "Yes" if yes else "No" if no else _said(reply)


def _replies_of_model(
    model: Model, asked: Asked, questions: Mapping[int, Question], store: ArtifactStore
) -> Iterator[tuple[int, Reply]]:
    """Of a model that is loaded here."""
    from feedback_workloads.engine import Draw, Engine
    from feedback_workloads.models.families import check, family_of
    from feedback_workloads.models.sources import fetch

    def say(what: str) -> None:
        sys.stderr.write(f"evaluate: {what}\n")

    family = family_of(fetch(store, model, "", say), model)
    check(family, "sample", model.uri)
    with Engine.load(family, EngineConfig()) as engine:

        def prompts(*, closed: bool) -> Iterator[tuple[int, Prompt]]:
            asked_so = ((number, question) for number, question in questions.items() if question.closed is closed)
            return ((number, question.prompt(engine, asked.pictures)) for number, question in asked_so)

        draws = ((number, prompt, Draw(0, 0.0)) for number, prompt in prompts(closed=False))
        decoding = Decoding(temperature=0.0, max_new_tokens=asked.max_new_tokens)
        for number, sampled in engine.sample(draws, decoding):
            yield number, {"text": _text(family, sampled.token_ids)}
        for number, verdict in engine.yes_no(prompts(closed=True)):
            said = "Yes" if verdict.p_yes > verdict.p_no else "No"
            yield number, {"text": said, "p_yes": verdict.p_yes, "p_no": verdict.p_no}


def _text(family: Family, token_ids: Iterable[int]) -> str:
    """What the model said; nothing where all of it was a thought that has no end."""
    try:
        return family.answer(list(token_ids)).strip()
    except BadRow:
        return ""


def _is_data(name: str, value: object) -> bool:
    """Whether a field is a picture itself, in base64, not the name of one."""
    return name == "image_base64" or (name == "image" and isinstance(value, str) and len(value) > 256)


def _read(file: Path, identity: Mapping[str, Any]) -> dict[int, Reply]:
    """What was said before, by number; begins the file where there is none."""
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    *lines, cut = text.split("\n")
    if cut:  # it was being written when the command was killed
        file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    if not lines:
        _append(file, identity)
        return {}
    if json.loads(lines[0]) != identity:
        raise BadInput(
            f"{file} has what another model, or this one to other questions, said; name another folder by --out"
        )
    said = [json.loads(line) for line in lines[1:]]
    return {one.pop("number"): one for one in said}


def _append(file: Path, value: Mapping[str, Any]) -> None:
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(value, ensure_ascii=False) + "\n")
