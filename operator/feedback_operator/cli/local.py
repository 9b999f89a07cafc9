"""Workload programs that the command line runs on this machine besides stages."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from feedback_operator.cli.display import Pace, work_display
from feedback_operator.cli.ending import ExitStatus
from feedback_operator.cluster.local.capacity import processor
from feedback_operator.cluster.local.ports import free_ports
from feedback_operator.cluster.local.process import StageProcess, alone
from feedback_operator.cluster.progress import scrape
from feedback_operator.plan.snapshot import Units
from feedback_workloads.contract import ShapesConfig

LOOK_SECONDS: Final = 0.5
FORECAST_STEPS: Final = 20
"""Steps of training after which it can be told how long the world takes on this machine."""
ITERATION_OF_WORLD: Final = 1.5
"""Time of the iteration on this world (examples/shapes.yaml) over that of building it, as measured."""


def forecast(pace: Pace, units: Units, now: float) -> str:
    """What building the world, and an iteration on it, will take here; empty before there is a pace to tell it from."""
    rate = pace.rate(units.done, now)  # 0 within the first second, however many steps that had
    if not rate or units.done - pace.done < FORECAST_STEPS:
        return ""
    world = units.total / rate
    return (
        f"on this machine ({processor()}) the world takes about {minutes(world)}, and an iteration on it "
        f"(feedback run examples/shapes.yaml) about {minutes(world * ITERATION_OF_WORLD)} more"
    )


def minutes(seconds: float) -> str:
    """Whole minutes for a person who waits: `1 minute`, `4 minutes`."""
    whole = max(1, round(seconds / 60))
    return f"{whole} minute{'s' * (whole > 1)}"


def workload(module: str, arguments: Sequence[str], state: Path, environment: Mapping[str, str]) -> int:
    """Run a module of the workloads in the foreground and return its exit code.

    It has a session of its own: a Ctrl-C would otherwise reach what it started as well, and end that at once, while the
    SIGTERM that it gets instead lets it finish what it has begun.
    """
    command = [sys.executable, "-m", module, *arguments]
    own = {"FEEDBACK_CACHE": str(state / "cache"), "FEEDBACK_PARENT": str(os.getpid())}
    process = subprocess.Popen(command, env={**os.environ, **own, **environment}, start_new_session=True)

    def forward(_number: int, _frame: object) -> None:
        process.terminate()

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def shapes(world: ShapesConfig, state: Path, environment: Mapping[str, str], console: Console) -> int:
    """Build the shapes world and show how far it is; the exit code of the build, or INTERRUPTED.

    Raises AlreadyRunning.
    """
    with alone(state):
        return asyncio.run(_shapes(world, state, environment, console))


async def _shapes(world: ShapesConfig, state: Path, environment: Mapping[str, str], console: Console) -> int:
    config = state / "configs" / "shapes.json"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(world.model_dump_json())
    port, log = next(free_ports()), state / "logs" / "shapes.log"
    process = await StageProcess.start(
        [sys.executable, "-m", "feedback_workloads", "shapes", "--config", str(config)],
        {
            **os.environ,
            "FEEDBACK_METRICS_PORT": str(port),
            "FEEDBACK_TERMINATION_LOG": os.devnull,
            "FEEDBACK_CACHE": str(state / "cache"),
            **environment,
        },
        log,
        state / "processes",
    )
    interrupted = asyncio.Event()

    def interrupt() -> None:
        interrupted.set()
        process.terminate()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)
    waiting = asyncio.create_task(process.wait())
    console.print(f"building the world in {world.output}; log: {log}", soft_wrap=True, markup=False)
    with work_display(console, "shapes") as shown:
        pace, told = Pace(0), ""
        while not (await asyncio.wait({waiting}, timeout=LOOK_SECONDS))[0]:
            units = await scrape([f"http://127.0.0.1:{port}/metrics"])
            if not units.phase:  # it has not begun, or was too busy to answer
                continue
            shown.update(units)
            now = time.monotonic()
            pace = pace.seen(units.done, now)
            if not told and (told := forecast(pace, units, now)):
                console.print(told, soft_wrap=True, markup=False)
    code = waiting.result()
    if code and interrupted.is_set():
        console.print("interrupted; run again to build what is missing")
        return ExitStatus.INTERRUPTED
    last = (log.read_text(errors="replace").strip().splitlines() or [""])[-1]
    ended = f"{last} (log: {log})" if code else f"shapes world is in {world.output}"
    console.print(ended, soft_wrap=True, markup=False)
    return code
