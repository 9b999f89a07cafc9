"""What a person sees while an iteration runs: a live table on a terminal, one line a change elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from feedback_operator.api import FeedbackIteration, StageStatus

STYLES: Final = {"Waiting": "dim", "Running": "cyan", "Suspended": "yellow", "Done": "green", "Failed": "bold red"}
WORDS: Final = {
    "Waiting": "waiting",
    "Running": "running",
    "Suspended": "suspended",
    "Done": "done",
    "Failed": "failed",
}
PLAIN_INTERVAL_SECONDS: Final = 15.0


class Display(Protocol):
    def update(self, iterations: Sequence[FeedbackIteration]) -> None:
        """Show the iterations as they are now."""
        ...


@contextmanager
def display(console: Console) -> Iterator[Display]:
    """A live table if the console is a terminal, plain lines otherwise."""
    if not console.is_terminal:
        yield PlainDisplay(console)
        return
    with Live(console=console, refresh_per_second=8, transient=False) as live:
        yield LiveDisplay(live)


@dataclass(frozen=True)
class Pace:
    """How fast a stage goes, from what it had done when it was first seen at work."""

    done: int
    at: float

    def rate(self, done: int, now: float) -> float:
        """Units a second; 0 while it cannot be told."""
        return (done - self.done) / (now - self.at) if now - self.at > 1 and done > self.done else 0.0


class LiveDisplay:
    """One table for all iterations, redrawn in place."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._paces: dict[tuple[str, str], Pace] = {}

    def update(self, iterations: Sequence[FeedbackIteration]) -> None:
        table = Table(box=None, pad_edge=False, header_style="bold", expand=False)
        for heading in ("stage", "state", "", "done", "rate", "left", "time"):
            table.add_column(heading, justify="right" if heading in ("done", "rate", "left", "time") else "left")
        for iteration in iterations:
            if len(iterations) > 1:
                table.add_row(Text(iteration.metadata.name, style="bold"))
            for stage in iteration.status.stages:
                table.add_row(*self._row(iteration.metadata.name, stage))
        self._live.update(table)

    def _row(self, iteration: str, stage: StageStatus) -> list[Text | ProgressBar]:
        done, total = stage.done or 0, stage.total or 0
        rate = left = ""
        if stage.state == "Running" and total:
            pace = self._paces.setdefault((iteration, stage.job), Pace(done, time.monotonic()))
            if units := pace.rate(done, time.monotonic()):
                rate, left = f"{units:.1f}/s", clock((total - done) / units)
        state = Text(_state(stage), style=STYLES[stage.state])
        bar = (
            ProgressBar(total=total, completed=done, width=24)
            if stage.state == "Running" and total
            else Text(note(stage))
        )
        count = f"{done}/{total}" if stage.state == "Running" and total else ""
        return [Text(stage.name), state, bar, Text(count), Text(rate), Text(left), Text(clock(seconds(stage)))]


class PlainDisplay:
    """A line for each change of state, and now and then one for progress."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: dict[tuple[str, str], str] = {}
        self._progress_at: dict[tuple[str, str], float] = {}

    def update(self, iterations: Sequence[FeedbackIteration]) -> None:
        for iteration in iterations:
            for stage in iteration.status.stages:
                self._show(iteration.metadata.name, stage)

    def _show(self, iteration: str, stage: StageStatus) -> None:
        key = (iteration, stage.name)
        if stage.state == "Waiting" and not stage.job:  # one with a Job failed, and is tried again
            return
        if self._shown.get(key) != stage.state:
            self._shown[key] = stage.state
            self._progress_at[key] = time.monotonic()
            words = [f"{iteration}: {stage.name} {_state(stage)}", note(stage)]
            if stage.state in ("Done", "Failed"):
                words.insert(1, f"in {clock(seconds(stage))}")
            self._line(" ".join(word for word in words if word))
        elif stage.state == "Running" and time.monotonic() - self._progress_at[key] > PLAIN_INTERVAL_SECONDS:
            self._progress_at[key] = time.monotonic()
            self._line(f"{iteration}: {stage.name} {stage.message} {stage.done}/{stage.total}")

    def _line(self, text: str) -> None:
        self._console.print(f"{datetime.now(UTC):%H:%M:%S} {text}", soft_wrap=True, markup=False, highlight=False)


def _state(stage: StageStatus) -> str:
    reused = stage.state == "Done" and all(shard.reused for shard in stage.shards)
    return "already done" if reused else WORDS[stage.state]


def note(stage: StageStatus) -> str:
    """What there is to say beside the state: rows when done, the phase or the reason otherwise."""
    if stage.state != "Done":
        return stage.message
    rows = sum(shard.counts.get("rows", 0) for shard in stage.shards)
    rejected = sum(shard.counts.get("rejected", 0) for shard in stage.shards)
    return f"{rows} rows" + (f", {rejected} rejected" if rejected else "")


def seconds(stage: StageStatus) -> float:
    """Time since the stage's Job started, or that it took."""
    if not stage.start_time:
        return 0.0
    end = datetime.fromisoformat(stage.completion_time) if stage.completion_time else datetime.now(UTC)
    return max(0.0, (end - datetime.fromisoformat(stage.start_time)).total_seconds())


def clock(duration: float) -> str:
    """`1:02:03`, or `02:03` under an hour."""
    hours, rest = divmod(round(duration), 3600)
    text = f"{rest // 60:02d}:{rest % 60:02d}"
    return f"{hours}:{text}" if hours else text
