"""What a person sees: plain lines without a terminal, a table with bars on one."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console
from rich.live import Live

from feedback_operator.api import FeedbackIteration, IterationStatus, ShardResult, StageStatus
from feedback_operator.cli import display as display_module
from feedback_operator.cli.display import LiveDisplay, Pace, PlainDisplay, PlainWork, clock, display, note, work_display
from feedback_operator.cluster.progress import joined, parse
from feedback_operator.plan.snapshot import Units
from feedback_workloads.process.progress import Progress
from tests.unit.worlds import iteration


def at(*stages: StageStatus) -> FeedbackIteration:
    return iteration().model_copy(update={"status": IterationStatus(stages=list(stages))})


def done(rows: int, rejected: int = 0, reused: bool = False) -> StageStatus:
    shard = ShardResult(
        shard=0, uri="s3://b/x", sha256="a" * 64, counts={"rows": rows, "rejected": rejected}, reused=reused
    )
    times = {"start_time": "2026-01-01T00:00:00Z", "completion_time": "2026-01-01T00:01:05Z"}
    return StageStatus(name="sampling", state="Done", shards=[shard], **times)


@pytest.mark.parametrize(
    ("stage", "line"),
    [
        pytest.param(done(10), "it: sampling done in 01:05 10 rows", id="done"),
        pytest.param(done(10, rejected=2), "it: sampling done in 01:05 10 rows, 2 rejected", id="rejected"),
        pytest.param(done(10, reused=True), "it: sampling already done in 01:05 10 rows", id="reused"),
        pytest.param(
            StageStatus(name="sampling", state="Failed", message="the bucket is gone"),
            "it: sampling failed in 00:00 the bucket is gone",
            id="failed",
        ),
        pytest.param(StageStatus(name="sampling", state="Waiting", message="waits for x"), "", id="waiting is silent"),
        pytest.param(
            StageStatus(name="sampling", state="Waiting", job="it-sampling-x-0", message="S3 is away; again at noon"),
            "it: sampling waiting S3 is away; again at noon",
            id="unless for another try",
        ),
    ],
)
def test_plain_lines(stage: StageStatus, line: str) -> None:
    text = StringIO()
    PlainDisplay(Console(file=text, width=200)).update([at(stage)])
    assert text.getvalue().strip()[9:] == line


def test_a_plain_line_is_not_repeated() -> None:
    text = StringIO()
    shown = PlainDisplay(Console(file=text, width=200))
    for _ in range(3):
        shown.update([at(done(1))])
    assert len(text.getvalue().splitlines()) == 1


@pytest.mark.parametrize(
    ("update", "line"),
    [
        ({"message": "sampling", "done": 3, "total": 10}, "it: sampling sampling 3/10"),
        ({"message": "loading the engine"}, "it: sampling loading the engine"),
        ({}, ""),
    ],
)
def test_progress_on_plain_lines(update: dict[str, object], line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display_module, "PLAIN_INTERVAL_SECONDS", -1.0)
    running, text = StageStatus(name="sampling", state="Running", job="j"), StringIO()
    shown = PlainDisplay(Console(file=text, width=200))
    shown.update([at(running)])
    shown.update([at(running.model_copy(update=update))])
    assert [told[9:] for told in text.getvalue().splitlines()[1:]] == [line] * bool(line)


def work(monkeypatch: pytest.MonkeyPatch, *looks: tuple[float, Units]) -> list[str]:
    """The plain lines of a piece of work that was looked at at these moments, in seconds."""
    text, now = StringIO(), 0.0
    monkeypatch.setattr(display_module.time, "monotonic", lambda: now)
    shown = PlainWork(Console(file=text, width=200), "shapes")
    for now, units in looks:  # noqa: B007  the clock reads it
        shown.update(units)
    return [line[9:] for line in text.getvalue().splitlines()]


def training(done: int) -> Units:
    return Units(done, 1900, "training")


def test_a_long_work_says_its_phases_and_every_30_seconds_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = [
        (0.0, training(0)),
        (5.0, training(1)),
        (29.0, training(240)),
        (30.0, training(251)),
        (59.0, training(541)),
    ]
    ending = [(65.0, training(601)), (80.0, Units(1900, 1900, "publishing")), (115.0, Units(1900, 1900, "publishing"))]
    assert work(monkeypatch, *looks, *ending) == [
        "shapes: training",
        "shapes: training 251/1900, 02:45 left",
        "shapes: training 601/1900, 02:10 left",
        "shapes: publishing",
        "shapes: publishing 1900/1900",
    ]


def test_a_work_without_a_count_says_its_phase_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = [(0.0, Units(phase="downloading")), (31.0, Units(phase="downloading"))]
    assert work(monkeypatch, *looks) == ["shapes: downloading", "shapes: downloading"]


def test_a_work_on_a_terminal_has_a_bar() -> None:
    console = Console(file=StringIO(), width=100, force_terminal=True, color_system=None)
    with console.capture() as captured, work_display(console, "shapes") as shown:
        shown.update(training(950))
    assert "shapes" in captured.get()
    assert "50%" in captured.get()
    assert "training" in captured.get()


def test_the_live_table_shows_every_stage_and_the_reason_of_a_failure() -> None:
    text = StringIO()
    console = Console(file=text, width=100, force_terminal=True)
    with display(console) as shown:
        running = StageStatus(name="splitting", state="Running", job="j", done=3, total=10)
        failed = StageStatus(name="labeling", state="Failed", message="out of memory; raise the limit")
        shown.update([at(done(10), running, failed)])
    written = text.getvalue()
    for part in (
        "sampling",
        "done",
        "splitting",
        "running",
        "3/10",
        "labeling",
        "failed",
        "out of memory; raise the limit",
    ):
        assert part in written


def drawn(width: int, *stages: StageStatus) -> list[str]:
    """The lines of the live table on a terminal of that width."""
    console = Console(file=StringIO(), width=width, force_terminal=True, color_system=None)
    with console.capture() as captured:
        console.print(LiveDisplay(Live(console=console)).drawn([at(*stages)]))
    return [line.rstrip() for line in captured.get().splitlines()]


@pytest.mark.parametrize("width", [80, 100, 200])
def test_nothing_moves_while_figures_grow(width: int) -> None:
    running = StageStatus(name="evaluation", state="Running", job="j", message="loading the engine")
    looks = [running, *(running.model_copy(update={"done": n, "total": 4200}) for n in (0, 7, 1200, 4200))]
    tables = [drawn(width, done(4000), look) for look in looks]
    assert {table[0] for table in tables} == {tables[0][0]}
    assert {len(table) for table in tables} == {3}
    assert max(len(line) for table in tables for line in table) <= width - len("^C")
    assert "loading the engine" in tables[1][2]  # before the first unit it says more than an empty bar


def test_a_long_note_is_cut_but_trouble_is_told_in_full() -> None:
    phase = StageStatus(name="evaluation", state="Running", message="checkpoint-000120 answers shapes/report")
    reason = "the length balance dropped all 12 pairs; set length_balance to false"
    table = drawn(80, phase, StageStatus(name="pairing", state="Failed", message=reason))
    assert "…" in table[1]
    assert table[-1] == f"pairing: {reason}"


def test_the_pace_is_that_of_the_work_and_not_of_the_loading_before_it() -> None:
    pace = Pace(done=0).seen(0, now=30.0)
    assert pace.rate(0, now=30.0) == 0.0
    pace = pace.seen(1, now=60.0).seen(5, now=64.0)
    assert pace.rate(5, now=64.0) == 1.0


@pytest.mark.parametrize(("seconds", "text"), [(0, "00:00"), (65.4, "01:05"), (3600, "1:00:00"), (86399, "23:59:59")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_a_running_stage_says_what_it_does() -> None:
    assert note(StageStatus(name="sampling", state="Running", message="loading the engine")) == "loading the engine"


def test_progress_is_read_back_from_what_a_stage_serves() -> None:
    from prometheus_client import generate_latest

    progress = Progress("sampling", 1)
    progress.phase("loading the engine")
    progress.phase("sampling")
    progress.start(total=10, done=2)
    progress.advance(3)
    progress.resume(1)
    assert parse(generate_latest(progress.registry).decode()) == Units(done=6, total=10, phase="sampling")
    assert str(progress.account()) == "3 of 10 done here, 3 before"


def test_progress_of_shards_is_summed() -> None:
    parts = [Units(1, 4, ""), Units(3, 4, "sampling")]
    assert joined(parts, together=False) == Units(4, 8, "sampling")
    assert joined(parts, together=True) == Units(3, 4, "sampling"), "of those that train together, the step"
    assert joined([], together=True) == Units()
    assert parse("") == Units()
