"""Tasks and answers for other tools, and back: CSV for a spreadsheet, JSON lines, and Label Studio's JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from feedback_workloads.contract import BadInput
from feedback_workloads.people.answers import Answers
from feedback_workloads.people.tasks import CHOICES, Kind, Task, Tasks
from feedback_workloads.report.page import picture

TEXTS: Final[Mapping[Kind, tuple[str, str]]] = {"claims": ("answer_text", "claim"), "pairs": ("first", "second")}
"""What the two texts of a task are called."""
CHOSEN: Final = "answer"
"""The column of a sheet, and the name of Label Studio's choices, in which a person's answer stands."""


@dataclass(frozen=True)
class Line:
    """One answer of a sheet, and where it stands in the file."""

    place: str
    task: str
    person: str
    answer: str
    note: str


def write(tasks: Tasks, file: Path) -> None:
    """Write all tasks with what was said to them: a row a person, or one to be filled in where nobody said anything.

    The file's name says as what: `.csv`, `.jsonl`, or `.json` for Label Studio. Raises BadInput for another name.
    """
    match file.suffix:
        case ".csv":
            text = io.StringIO(newline="")
            writer = csv.DictWriter(text, ["task", "person", CHOSEN, "note", "picture", "question", *TEXTS[tasks.kind]])
            writer.writeheader()
            writer.writerows(_rows(tasks))
            content = text.getvalue()
        case ".jsonl":
            content = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in _rows(tasks))
        case ".json":
            content = json.dumps(_label_studio(tasks), ensure_ascii=False, indent=1) + "\n"
        case _:
            raise BadInput(f"{file}: name it .csv, .jsonl, or .json for Label Studio")
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(content, encoding="utf-8", newline="")
    partial.replace(file)


def read(tasks: Tasks, file: Path) -> int:
    """Take the answers of a sheet, whose name says what it is as in `write`; how many were new.

    All or nothing. Rows without an answer are passed over. Raises BadInput naming the row for a task, a person or an
    answer that is none.
    """
    lines = list(_lines(tasks, file))
    answers = Answers(tasks.folder)
    known = {task.id for task in tasks.tasks}
    for line in lines:
        if line.task not in known:
            raise BadInput(f"{line.place}: {tasks.folder} has no task {line.task!r}; keep the column task as it was")
        if line.answer not in CHOICES[tasks.kind]:
            raise BadInput(f"{line.place}: the answer is {line.answer!r}; give one of {', '.join(CHOICES[tasks.kind])}")
        if not line.person:
            raise BadInput(f"{line.place}: nobody is named; give a name in the column person")
    there = {name: answers.of(name) for name in {line.person for line in lines}}
    new = [
        line
        for line in lines
        if (old := there[line.person].get(line.task)) is None or (old.answer, old.note) != (line.answer, line.note)
    ]
    for line in new:
        answers.say(line.person, line.task, line.answer, line.note)
    return len(new)


def _rows(tasks: Tasks) -> Iterator[dict[str, str]]:
    said = Answers(tasks.folder).all()
    for task in tasks.tasks:
        of = [(name, answers[task.id]) for name, answers in said.items() if task.id in answers]
        shown = {"picture": " ".join(task.pictures), "question": task.question, **_texts(tasks.kind, task)}
        for name, one in of:
            yield {"task": task.id, "person": name, CHOSEN: one.answer or "", "note": one.note, **shown}
        if not of:
            yield {"task": task.id, "person": "", CHOSEN: "", "note": "", **shown}


def _texts(kind: Kind, task: Task) -> dict[str, str]:
    return dict(zip(TEXTS[kind], task.texts, strict=True))


def _lines(tasks: Tasks, file: Path) -> Iterator[Line]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{file} cannot be read as UTF-8: {error}") from error
    match file.suffix:
        case ".csv":
            rows: Iterable[tuple[str, Mapping[str, Any]]] = (
                (f"{file}, row {number}", row) for number, row in enumerate(csv.DictReader(io.StringIO(text)), 2)
            )
        case ".jsonl":
            rows = (
                (f"{file}, line {number}", _object(f"{file}, line {number}", line))
                for number, line in enumerate(text.splitlines(), 1)
                if line.strip()
            )
        case ".json":
            yield from _of_label_studio(file, text)
            return
        case _:
            raise BadInput(f"{file}: name it .csv, .jsonl, or .json for Label Studio")
    for place, row in rows:
        if missing := {"task", "person", CHOSEN} - row.keys():
            raise BadInput(f"{place}: there is no column {min(missing)}; keep those that the sheet was written with")
        answer = str(row[CHOSEN] or "").strip().lower()
        if answer:
            yield Line(place, str(row["task"]), str(row["person"] or "").strip(), answer, str(row.get("note") or ""))


def _object(place: str, line: str) -> Mapping[str, Any]:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise BadInput(f"{place}: this is no JSON ({error})") from error
    if not isinstance(found, dict):
        raise BadInput(f"{place}: this is no object; give one a line")
    return found


# ── Label Studio: one task is `data`, what people said are `annotations` with `result` and `value.choices` ───────────


def _label_studio(tasks: Tasks) -> list[dict[str, Any]]:
    """What Label Studio imports. Pictures are within it, so that it needs no storage."""
    return [
        {
            "data": {
                "task": task.id,
                **_label_studio_pictures(tasks.pictures(task)),
                "question": task.question,
                **_texts(tasks.kind, task),
            }
        }
        for task in tasks.tasks
    ]


def _label_studio_pictures(pictures: Sequence[bytes]) -> dict[str, object]:
    """One as `image`; several as `images`, which an Image with a `valueList` shows."""
    urls = [shown.url for data in pictures if (shown := picture(data))]
    return {"image": urls[0]} if len(urls) == 1 else {"images": urls}


def _of_label_studio(file: Path, text: str) -> Iterator[Line]:
    """The answers of Label Studio's export as JSON; cancelled ones are passed over."""
    try:
        exported = json.loads(text)
        for number, one in enumerate(exported, 1):
            for annotation in one.get("annotations", ()):
                if annotation.get("was_cancelled"):
                    continue
                by = annotation.get("completed_by", "")
                person = by["email"].partition("@")[0] if isinstance(by, dict) else f"user {by}"
                for result in annotation["result"]:
                    if result.get("type") == "choices":
                        [choice] = result["value"]["choices"]
                        yield Line(f"{file}, task {number}", one["data"]["task"], person, choice.lower(), "")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadInput(
            f"{file} is no export of Label Studio as JSON ({error!r}); export the project as JSON"
        ) from error
