"""`feedback run`: iterations on this machine, from the same plan as on a cluster."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import IntEnum
from pathlib import Path
from typing import Final

from rich.console import Console

from feedback_operator.api import FeedbackIteration
from feedback_operator.cli.display import display
from feedback_operator.cluster.local.capacity import Capacity, processor
from feedback_operator.cluster.local.cluster import LocalCluster
from feedback_operator.cluster.local.embedded_s3 import EmbeddedS3
from feedback_operator.cluster.reconciler import reconcile
from feedback_operator.plan.conditions import is_true
from feedback_operator.plan.planner import Images

TICK_SECONDS: Final = 0.5
IMAGES: Final[Images] = {"generate": "local", "train": "local"}
"""Local processes run in this Python environment; the manifests' images are not looked at."""

OWN_S3_VARIABLES: Final = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_PROFILE")


class ExitStatus(IntEnum):
    """How `feedback run` ends."""

    PROMOTED = 0
    FAILED = 1
    INVALID = 2
    GATE_FAILED = 3
    INTERRUPTED = 130


@contextmanager
def s3_environment(state: Path, uris: Sequence[str]) -> Iterator[Mapping[str, str]]:
    """The variables that lead to the S3 server: the person's own, or an embedded one where none is configured."""
    if any(name in os.environ for name in OWN_S3_VARIABLES) or not any(uri.startswith("s3://") for uri in uris):
        yield {}
        return
    with EmbeddedS3(state / "s3") as server:
        yield server.environment


def run(iterations: Sequence[FeedbackIteration], state: Path, out: Path, console: Console) -> ExitStatus:
    """Run iterations to their end, leave a report of each below `out`, and say how it went."""
    began = time.monotonic()
    with s3_environment(state, [iteration.spec.artifacts.uri for iteration in iterations]) as environment:
        finished, interrupted = asyncio.run(_run(iterations, state, environment, console))
        if interrupted:
            console.print("interrupted; what is complete is kept, run again to go on")
            return ExitStatus.INTERRUPTED
        for iteration in finished:
            folder = out / iteration.metadata.name if len(finished) > 1 else out
            facts = RunFacts(time.monotonic() - began, processor())
            report(iteration, folder, environment, facts)
            _conclude(iteration, folder, console)
    return exit_status(finished)


async def _run(
    iterations: Sequence[FeedbackIteration], state: Path, environment: Mapping[str, str], console: Console
) -> tuple[list[FeedbackIteration], bool]:
    """Reconcile until every iteration is at its end, or a signal asks to stop."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with LocalCluster.open(state, environment, Capacity.of_this_machine()) as cluster:
        for iteration in iterations:
            cluster.add(iteration)
        with display(console) as shown:
            while True:
                cluster.changed.clear()
                current = [await _step(cluster, iteration.metadata.key) for iteration in iterations]
                shown.update(current)
                if stop.is_set() or _settled(current):
                    return current, stop.is_set()
                await _first_of(TICK_SECONDS, cluster.changed, stop)


async def _step(cluster: LocalCluster, key: str) -> FeedbackIteration:
    await reconcile(cluster, key, IMAGES)
    return cluster.iteration(key)


async def _first_of(seconds: float, *events: asyncio.Event) -> None:
    """Wait until one of the events is set, at most `seconds`."""
    tasks = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


def _settled(iterations: Sequence[FeedbackIteration]) -> bool:
    """Nothing more will happen: each is ready, stalled, suspended, or waits for a parent that will not be promoted."""
    return not any(
        stage.state == "Running" for iteration in iterations for stage in iteration.status.stages
    ) and not any(_can_go_on(iteration, iterations) for iteration in iterations)


def _can_go_on(iteration: FeedbackIteration, others: Sequence[FeedbackIteration]) -> bool:
    conditions = iteration.status.conditions
    if is_true(conditions, "Ready") or is_true(conditions, "Stalled") or iteration.spec.suspend:
        return False
    parent = iteration.spec.model.from_
    if parent is None:
        return True
    above = next(other for other in others if other.metadata.name == parent.iteration)
    return _can_go_on(above, others) or is_true(above.status.conditions, "Promoted")


@dataclass(frozen=True)
class RunFacts:
    """What iteration.json says of a run beside the resource, in these words."""

    wallSeconds: float  # noqa: N815
    processor: str = ""
    """Of the machine, where one machine ran all of it."""


def report(iteration: FeedbackIteration, folder: Path, environment: Mapping[str, str], facts: RunFacts) -> int:
    """Write iteration.json into `folder`, and have the workloads make summary.json and report.html beside it.

    Returns the exit code of the workloads' program, which names what it misses.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "iteration.json"
    data = iteration.model_dump(mode="json", by_alias=True, exclude_none=True)
    file.write_text(json.dumps({**data, **asdict(facts)}, indent=1))
    command = [sys.executable, "-m", "feedback_workloads.report", "--iteration", str(file), "--out", str(folder)]
    return subprocess.run(command, env={**os.environ, **environment}, check=False).returncode


def _conclude(iteration: FeedbackIteration, folder: Path, console: Console) -> None:
    name = iteration.metadata.name
    told = [c for c in iteration.status.conditions if c.type in ("Stalled", "Promoted") and c.message]
    for condition in told:
        if condition.type == "Promoted" or condition.status == "True":
            console.print(
                f"{name}: {condition.type}={condition.status}: {condition.message}", soft_wrap=True, markup=False
            )
    console.print(f"{name}: report in {folder / 'report.html'}", soft_wrap=True, markup=False)


def exit_status(iterations: Sequence[FeedbackIteration]) -> ExitStatus:
    if not all(is_true(iteration.status.conditions, "Ready") for iteration in iterations):
        return ExitStatus.FAILED
    if not all(is_true(iteration.status.conditions, "Promoted") for iteration in iterations):
        return ExitStatus.GATE_FAILED
    return ExitStatus.PROMOTED
