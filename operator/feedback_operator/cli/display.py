"""What a person sees while an iteration runs: a live table on a terminal, one line a change elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol

from rich.console import Console, Group, JustifyMethod
from rich.live import Live
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from feedback_operator.api import FeedbackIteration, StageStatus
from feedback_operator.plan.snapshot import Units

STYLES: Final = {"Waiting": "dim", "Running": "cyan", "Suspended": "yellow", "Done": "green", "Failed": "bold red"}
WORDS: Final = {
    "Waiting": "waiting",
    "Running": "running",
    "Suspended": "suspended",
    "Done": "done",
    "Failed": "failed",
}
COLUMNS: Final = {"stage": 8, "state": 12, "": 0, "done": 9, "rate": 7, "left": 5, "time": 5}
"""Headings of the live table and least widths, so that nothing moves while figures grow; the bar takes what is left."""
FIGURES: Final = ("done", "rate", "left", "time")
WIDEST: Final = 100
ECHO: Final = len("^C")
"""Columns left free at the right: a terminal echoes Ctrl-C there, which would otherwise wrap and shift the table."""
PLAIN_INTERVAL_SECONDS: Final = 15.0
WORK_INTERVAL_SECONDS: Final = 30.0
"""Time between plain lines of one long piece of work, which says nothing new but how far it is."""


class Display(Protocol):
    def update(self, iterations: Sequence[FeedbackIteration]) -> None:
        """Show the iterations as they are now."""
        ...


class WorkDisplay(Protocol):
    def update(self, units: Units) -> None:
        """Show one piece of work as it is now."""
        ...


@contextmanager
def display(console: Console) -> Iterator[Display]:
    """A live table if the console is a terminal, plain lines otherwise."""
    if not console.is_terminal:
        yield PlainDisplay(console)
        return
    with Live(console=console, refresh_per_second=8, transient=False) as live:
        yield LiveDisplay(live)


@contextmanager
def work_display(console: Console, name: str) -> Iterator[WorkDisplay]:
    """A bar for one piece of work if the console is a terminal, plain lines otherwise."""
    if not console.is_terminal:
        yield PlainWork(console, name)
        return
    columns = (
        TextColumn(name),
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console) as bars:
        yield LiveWork(bars)


@dataclass(frozen=True)
class Pace:
    """How fast a stage goes. The clock starts when the first unit is seen to be done: before, the stage was loading."""

    done: int
    since: float | None = None

    def seen(self, done: int, now: float) -> Pace:
        """The pace after a look at the stage."""
        return Pace(done, now) if self.since is None and done > self.done else self

    def rate(self, done: int, now: float) -> float:
        """Units a second; 0 while it cannot be told."""
        if self.since is None or now - self.since <= 1:
            return 0.0
        return (done - self.done) / (now - self.since)


class LiveDisplay:
    """One table for all iterations, redrawn in place, and below it in full what is wrong."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._paces: dict[tuple[str, str], Pace] = {}

    def update(self, iterations: Sequence[FeedbackIteration]) -> None:
        self._live.update(self.drawn(iterations))

    def drawn(self, iterations: Sequence[FeedbackIteration]) -> Group:
        """The table, whose lines are never wrapped, and what is wrong."""
        table = Table(box=None, pad_edge=False, header_style="bold", width=min(self._live.console.width - ECHO, WIDEST))
        for heading, least in COLUMNS.items():
            justify: JustifyMethod = "right" if heading in FIGURES else "left"
            table.add_column(heading, justify=justify, min_width=least, no_wrap=True, ratio=None if least else 1)
        troubles: list[Text] = []
        for iteration in iterations:
            if len(iterations) > 1:
                table.add_row(Text(iteration.metadata.name, style="bold"))
            for stage in iteration.status.stages:
                table.add_row(*self._row(iteration.metadata.name, stage))
                if _in_trouble(stage):
                    troubles.append(Text(f"{stage.name}: {stage.message}", style=STYLES[stage.state]))
        return Group(table, *([Text(), *troubles] if troubles else []))

    def _row(self, iteration: str, stage: StageStatus) -> list[Text | ProgressBar]:
        count = rate = left = ""
        shown: Text | ProgressBar = Text("" if _in_trouble(stage) else note(stage), overflow="ellipsis")
        if stage.state == "Running" and stage.total:
            done, total, now = stage.done or 0, stage.total, time.monotonic()
            count = f"{done}/{total}"
            if done:  # until then, what it loads says more than an empty bar
                shown = ProgressBar(total=total, completed=done)
            pace = self._paces.get((iteration, stage.job), Pace(done)).seen(done, now)
            self._paces[iteration, stage.job] = pace
            if units := pace.rate(done, now):
                rate, left = f"{units:.1f}/s", clock((total - done) / units)
        state = Text(_state(stage), style=STYLES[stage.state])
        time_taken = clock(seconds(stage)) if stage.start_time else ""
        return [Text(stage.name), state, shown, Text(count), Text(rate), Text(left), Text(time_taken)]


class LiveWork:
    """One bar, with the phase beside it."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._bar: TaskID = bars.add_task("starting", total=None)

    def update(self, units: Units) -> None:
        self._bars.update(self._bar, description=units.phase, total=units.total or None, completed=units.done)


class PlainWork:
    """A line when a phase begins, and now and then one for progress and what is left."""

    def __init__(self, console: Console, name: str) -> None:
        self._console = console
        self._name = name
        self._phase = ""
        self._pace = Pace(0)
        self._told_at = 0.0

    def update(self, units: Units) -> None:
        now = time.monotonic()
        self._pace = self._pace.seen(units.done, now)
        begins = units.phase != self._phase
        if not begins and now - self._told_at < WORK_INTERVAL_SECONDS:
            return
        self._phase, self._told_at = units.phase, now
        words = [self._name + ":", units.phase, "" if begins else self._progress(units, now)]
        _plain_line(self._console, " ".join(word for word in words if word))

    def _progress(self, units: Units, now: float) -> str:
        """`312/1900, 02:10 left`; the first half alone until a pace is known, nothing where nothing is counted."""
        rate, left = self._pace.rate(units.done, now), units.total - units.done
        forecast = f", {clock(left / rate)} left" if rate and left else ""
        return f"{units.done}/{units.total}{forecast}" if units.total else ""


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
        if stage.state == "Waiting" and not _in_trouble(stage):
            return
        if self._shown.get(key) != stage.state:
            self._shown[key] = stage.state
            self._progress_at[key] = time.monotonic()
            words = [f"{iteration}: {stage.name} {_state(stage)}", note(stage)]
            if stage.state in ("Done", "Failed"):
                words.insert(1, f"in {clock(seconds(stage))}")
            _plain_line(self._console, " ".join(word for word in words if word))
        elif stage.state == "Running" and time.monotonic() - self._progress_at[key] > PLAIN_INTERVAL_SECONDS:
            self._progress_at[key] = time.monotonic()
            count = f"{stage.done}/{stage.total}" if stage.total else ""
            if news := " ".join(word for word in (stage.message, count) if word):
                _plain_line(self._console, f"{iteration}: {stage.name} {news}")


def _plain_line(console: Console, text: str) -> None:
    console.print(f"{datetime.now(UTC):%H:%M:%S} {text}", soft_wrap=True, markup=False, highlight=False)


def _state(stage: StageStatus) -> str:
    return "already done" if stage.state == "Done" and stage.was_there else WORDS[stage.state]


def _in_trouble(stage: StageStatus) -> bool:
    """Failed, or to be tried again."""
    return stage.state == "Failed" or (stage.state == "Waiting" and bool(stage.job))


def note(stage: StageStatus) -> str:
    """What there is to say beside the state: rows when done, the phase or the reason otherwise."""
    if stage.state != "Done":
        return stage.message
    rows, rejected = stage.count("rows"), stage.count("rejected")
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
