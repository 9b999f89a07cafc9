"""`feedback run`: iterations on this machine, from the same plan as on a cluster."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from feedback_operator.api import FeedbackIteration
from feedback_operator.api.status import moment_of
from feedback_operator.cli.display import display
from feedback_operator.cli.ending import Ending, ExitStatus, endings, exit_status
from feedback_operator.cluster.local.capacity import Capacity, Held, processor
from feedback_operator.cluster.local.cluster import LocalCluster
from feedback_operator.cluster.local.embedded_s3 import EmbeddedS3
from feedback_operator.cluster.reconciler import reconcile
from feedback_operator.plan.conditions import is_true
from feedback_operator.plan.gate import Checked, checked
from feedback_operator.plan.planner import Images

TICK_SECONDS: Final = 0.5
IMAGES: Final[Images] = {"generate": "local", "train": "local"}
"""Local processes run in this Python environment; the manifests' images are not looked at."""

OWN_S3_VARIABLES: Final = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_PROFILE")


@contextmanager
def s3_environment(state: Path, uris: Sequence[str]) -> Iterator[Mapping[str, str]]:
    """The variables that lead to the S3 server: the person's own, or an embedded one where none is configured."""
    if any(name in os.environ for name in OWN_S3_VARIABLES) or not any(uri.startswith("s3://") for uri in uris):
        yield {}
        return
    with EmbeddedS3(state / "s3") as server:
        yield server.environment


@dataclass(frozen=True)
class Finished:
    """An iteration with its last status, and what its stages held of this machine."""

    iteration: FeedbackIteration
    held: Mapping[str, Held]


def run(iterations: Sequence[FeedbackIteration], state: Path, out: Path, console: Console) -> ExitStatus:
    """Run iterations to their end, leave a report of each below `out`, and of all in it, and say how it went.

    A report is made as soon as its iteration has come to its end, so a run that is interrupted leaves those.
    """
    with (
        s3_environment(state, [iteration.spec.artifacts.uri for iteration in iterations]) as environment,
        Reports(out, len(iterations) > 1, environment, console) as reports,
    ):
        ended, interrupted = asyncio.run(_run(iterations, state, environment, console, reports))
    if len(iterations) > 1 and reports.folders:
        code = _report(out, "--iterations", *map(str, reports.folders))
        which = "all" if len(reports.folders) == len(iterations) else f"{len(reports.folders)} of"
        _say(console, f"{which} {len(iterations)} iterations: {_where(out, code)}")
    if interrupted:
        console.print("interrupted; what is complete is kept, run again to go on")
        return ExitStatus.INTERRUPTED
    return exit_status(ended)


class Reports:
    """Makes the report of each iteration that has come to its end, one after the other, while others go on."""

    def __init__(self, out: Path, several: bool, environment: Mapping[str, str], console: Console) -> None:
        self._out, self._several, self._environment, self._console = out, several, environment, console
        self._asked: dict[Path, Future[None]] = {}
        self._one_by_one = ThreadPoolExecutor(1)

    @property
    def folders(self) -> list[Path]:
        """Where those are that were asked for."""
        return list(self._asked)

    def ask(self, finished: Sequence[Finished], *, whatever: bool = False) -> None:
        """Have those made that are not yet, of iterations that are at their end, or `whatever` they are at."""
        for one, ending in zip(finished, endings([one.iteration for one in finished]), strict=True):
            folder = self._out / ending.name if self._several else self._out
            if folder not in self._asked and (whatever or ending.how != "not finished"):
                self._asked[folder] = self._one_by_one.submit(self._make, one, ending, folder)

    def _make(self, one: Finished, ending: Ending, folder: Path) -> None:
        facts = RunFacts.of(one.iteration, ending, processor(), one.held)
        code = report(one.iteration, folder, self._environment, facts)
        _say(self._console, str(ending))
        _say(self._console, f"{ending.name}: {_where(folder, code)}")

    def __enter__(self) -> Reports:
        return self

    def __exit__(self, *_: object) -> None:
        self._one_by_one.shutdown()
        for made in self._asked.values():
            made.result()


async def _run(
    iterations: Sequence[FeedbackIteration],
    state: Path,
    environment: Mapping[str, str],
    console: Console,
    reports: Reports,
) -> tuple[list[FeedbackIteration], bool]:
    """Reconcile until every iteration is at its end, or a signal asks to stop; returns them, and whether one did."""
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
                settled = _settled(current)
                reports.ask([Finished(one, cluster.held(one.metadata.key)) for one in current], whatever=settled)
                if stop.is_set() or settled:
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

    ending: Mapping[str, str | None]
    """How it ended, see `Ending.to_json`."""
    wallSeconds: float | None  # noqa: N815
    """From the start of its first stage to the end of its last one; None where none began."""
    processor: str = ""
    """Of the machine, where one machine ran all of it."""
    held: Mapping[str, Mapping[str, float]] | None = None
    """What the processes of each stage held of that machine, as `cpuSeconds` and `gpuSeconds`."""
    gate: Sequence[Checked] | None = None
    """Each rule of `spec.evaluation.gate`; None before the aligned policy was scored."""

    @classmethod
    def of(
        cls, iteration: FeedbackIteration, ending: Ending, processor: str = "", held: Mapping[str, Held] | None = None
    ) -> RunFacts:
        """Of an iteration; the processor and what was held are known where this machine ran all of it."""
        said = (
            None
            if held is None
            else {
                stage: {"cpuSeconds": round(one.cpu_seconds, 1), "gpuSeconds": round(one.gpu_seconds, 1)}
                for stage, one in held.items()
            }
        )
        return cls(ending.to_json(), wall_seconds(iteration), processor, said, gate(iteration))


def gate(iteration: FeedbackIteration) -> tuple[Checked, ...] | None:
    """Each rule of the gate, by what was measured; None before the aligned policy was scored."""
    evaluation = next((stage for stage in iteration.status.stages if stage.name == "evaluation"), None)
    if evaluation is None or not evaluation.shards:
        return None
    return checked(iteration.spec.evaluation, evaluation.shards[0].metrics)


def wall_seconds(iteration: FeedbackIteration) -> float | None:
    """From the start of its first stage to the end of its last one; None where none began, or none has ended."""
    starts = [start for stage in iteration.status.stages if (start := moment_of(stage.start_time))]
    ends = [end for stage in iteration.status.stages if (end := moment_of(stage.completion_time))]
    return (max(ends) - min(starts)).total_seconds() if starts and ends else None


def report(iteration: FeedbackIteration, folder: Path, environment: Mapping[str, str], facts: RunFacts) -> int:
    """Write iteration.json into `folder`, and have the workloads make summary.json and report.html beside it.

    Returns the exit code of the workloads' program, which names what it misses.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "iteration.json"
    data = iteration.model_dump(mode="json", by_alias=True, exclude_none=True)
    known = {name: fact for name, fact in asdict(facts).items() if fact is not None}
    file.write_text(json.dumps({**data, **known}, indent=1))
    return _report(folder, "--iteration", str(file), environment=environment)


def _report(folder: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> int:
    """Have the workloads make a report in the folder. What lies there of an earlier one is not taken for it."""
    for name in ("summary.json", "run.json", "report.html"):
        (folder / name).unlink(missing_ok=True)
    command = [sys.executable, "-m", "feedback_workloads.report", *arguments, "--out", str(folder)]
    return subprocess.run(command, env={**os.environ, **(environment or {})}, check=False).returncode


def _where(folder: Path, code: int) -> str:
    return f"no report could be made (exit code {code})" if code else f"report in {folder / 'report.html'}"


def _say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, markup=False)
