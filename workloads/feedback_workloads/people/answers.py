"""What each person said, a line an answer: the latest counts, and nothing that was said is ever overwritten."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from feedback_workloads.contract import BadInput

ANSWERS: Final = "answers"
NAME: Final = re.compile(r"[\w][\w. -]{0,39}")
"""Of a person: it becomes a file's name."""


@dataclass(frozen=True)
class Answer:
    """What a person said to a task; None where it was taken back. `at` is when, RFC 3339."""

    task: str
    answer: str | None
    note: str = ""
    at: str = ""


class Answers:
    """The answers of a folder of tasks. Safe for threads of one process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / ANSWERS
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """Who has said something."""
        return sorted(file.stem for file in self._folder.glob("*.jsonl"))

    def of(self, name: str) -> dict[str, Answer]:
        """What counts, by task, that which was said last at the end; a line that a crash has cut short does not.

        Raises BadInput for a name that is none, and for a damaged file.
        """
        file = self._file(name)
        *lines, _ = file.read_text(encoding="utf-8").split("\n") if file.exists() else [""]
        said: dict[str, Answer] = {}
        for number, line in enumerate(lines, 1):
            try:
                one = Answer(**json.loads(line))
            except (ValueError, TypeError) as error:
                raise BadInput(f"{file}, line {number}: this is no answer ({error}); remove the line") from error
            said.pop(one.task, None)
            if one.answer is not None:
                said[one.task] = one
        return said

    def say(self, name: str, task: str, answer: str | None, note: str = "") -> None:
        """Keep an answer, on disk when this returns."""
        file = self._file(name)
        line = json.dumps(asdict(Answer(task, answer, note, datetime.now(UTC).isoformat(timespec="seconds"))))
        with self._lock:
            self._folder.mkdir(parents=True, exist_ok=True)
            with file.open("ab+") as stream:
                if stream.tell():
                    stream.seek(-1, os.SEEK_END)
                    if stream.read(1) != b"\n":  # it was being written when a process was killed
                        self._cut(file)
                stream.write(f"{line}\n".encode())
                stream.flush()
                os.fsync(stream.fileno())

    def all(self) -> dict[str, Mapping[str, Answer]]:
        """What counts, by person and task."""
        return {name: self.of(name) for name in self.names()}

    def _file(self, name: str) -> Path:
        if not NAME.fullmatch(name):
            raise BadInput(f"{name!r} is no name; give up to 40 letters, digits, blanks, dots and hyphens")
        return self._folder / f"{name}.jsonl"

    @staticmethod
    def _cut(file: Path) -> None:
        whole, _, _ = file.read_bytes().rpartition(b"\n")
        os.truncate(file, len(whole) + 1 if whole else 0)
