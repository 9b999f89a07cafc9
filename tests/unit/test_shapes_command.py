"""`feedback shapes` where there is no terminal: what it says while the world is built, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import nullcontext
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from feedback_operator.cli import local
from feedback_operator.cli.ending import ExitStatus
from feedback_operator.cluster.local.process import AlreadyRunning, alone
from feedback_operator.plan.snapshot import Units
from feedback_workloads.contract import ShapesConfig


class Build:
    """A process that is at these units at each look, `seconds` apart, and then ends."""

    def __init__(self, looks: list[Units], code: int, monkeypatch: pytest.MonkeyPatch, seconds: float = 20.0) -> None:
        self.now, self.code, self.ended = 0.0, code, asyncio.Event()
        self._looks: Iterator[Units] = iter(looks)
        self._seconds = seconds
        monkeypatch.setattr(local.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(local, "LOOK_SECONDS", 0.0)
        monkeypatch.setattr(local, "scrape", self.scrape)
        monkeypatch.setattr(local.StageProcess, "start", self.start)

    async def start(self, command: list[str], environment: object, log: Path, records: object) -> Build:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("it begins\nno space left on the disk\n")
        return self

    async def scrape(self, addresses: list[str]) -> Units:
        self.now += self._seconds
        try:
            return next(self._looks)
        except StopIteration:
            self.ended.set()
            return Units()

    async def wait(self) -> int:
        await self.ended.wait()
        return self.code

    def terminate(self) -> None:
        self.ended.set()


def built(code: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, list[str]]:
    """Exit code and lines of a build that trains 100 steps in 80 seconds."""
    steps = [Units(phase="training", total=100, done=done) for done in (0, 25, 50, 75, 100)]
    Build([Units(), *steps, Units(100, 100, "publishing the models")], code, monkeypatch)
    text = StringIO()
    console = Console(file=text, width=200)
    found = local.shapes(ShapesConfig(), folder, {}, console)
    return found, text.getvalue().splitlines()


def told(lines: list[str]) -> list[str]:
    """What is said of progress, without the time of day."""
    return [line.partition(" ")[2] for line in lines if " shapes: " in line]


def test_a_build_without_a_terminal_says_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, lines = built(0, tmp_path, monkeypatch)
    assert code == 0
    assert lines[0].startswith("building the world in s3://feedback/shapes; log: ")
    assert told(lines) == [
        "shapes: training",
        "shapes: training 50/100, 00:40 left",
        "shapes: training 100/100",
        "shapes: publishing the models",
    ]
    assert sum("on this machine" in line for line in lines) == 1
    assert lines[-1] == "shapes world is in s3://feedback/shapes"


def test_a_build_that_is_too_busy_to_answer_has_not_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[int] = []

    class Work:
        def update(self, units: Units) -> None:
            shown.append(units.done)

    monkeypatch.setattr(local, "work_display", lambda _console, _name: nullcontext(Work()))
    Build([Units(), Units(5, 100, "training"), Units(), Units(9, 100, "training")], 0, monkeypatch)
    local.shapes(ShapesConfig(), tmp_path, {}, Console(file=StringIO(), width=200))
    assert shown == [5, 9]


def test_a_build_that_fails_says_the_last_line_of_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, lines = built(2, tmp_path, monkeypatch)
    assert code == 2
    assert lines[-1] == f"no space left on the disk (log: {tmp_path / 'logs' / 'shapes.log'})"


def test_an_interrupted_build_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os
    import signal

    build: Any = Build([Units(1, 100, "training")] * 100, 143, monkeypatch)

    async def interrupt(addresses: list[str]) -> Units:
        os.kill(os.getpid(), signal.SIGINT)
        return Units()

    monkeypatch.setattr(local, "scrape", interrupt)
    text = StringIO()
    assert local.shapes(ShapesConfig(), tmp_path, {}, Console(file=text, width=200)) == (ExitStatus.INTERRUPTED)
    assert build.ended.is_set()
    assert text.getvalue().splitlines()[-1] == "interrupted; run again to build what is missing"


def test_a_build_and_another_command_in_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run begins by ending what a killed one left; a world at work in its folder was taken for that, and ended."""
    with alone(tmp_path), pytest.raises(AlreadyRunning, match="another command works in"):
        built(0, tmp_path, monkeypatch)
