"""The operator at scale: from a Job's completion to the next Job, its processor time, memory and API calls.

`python -m benchmarks.operator [ITERATIONS ...]` runs each number of live iterations on a control plane of its own,
whose pods KWOK plays, and after it the floor: a loop that watches Jobs and creates the next one, and does nothing else.
Prints tables and keeps the figures in build/bench-operator.json. Both are watched from outside: by a third process's
watch of Jobs, by the kernel's account of each process, and by the API server's audit log.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.__main__ import table
from benchmarks.accounts import (
    CHAIN,
    PROGRAM,
    STAGE,
    Latency,
    Transitions,
    calls_of,
    is_complete,
    peak_mib,
    place_of,
    processes,
    processor_seconds,
)
from benchmarks.table import Ratio
from tests.cluster.accounts import operator_token
from tests.cluster.api import ITERATIONS, JOBS, NAMESPACES, SERVICE_ACCOUNTS, Api, Object
from tests.cluster.control_plane import ControlPlane, Options, Program
from tests.cluster.operator_process import OperatorProcess
from tests.cluster.setup import prepare
from tests.cluster.world import iteration

OUTPUT: Final = Path("build/bench-operator.json")
KWOK_STAGES: Final = Path(__file__).parent / "operator_stages.yaml"
NAMESPACE: Final = "bench"


@dataclass(frozen=True)
class Scale:
    """So many live iterations, whose stages take between these seconds, measured for so long."""

    iterations: int
    shortest: float
    longest: float
    window: float
    floors: float
    """The goal: the median is at most so many times the floor's."""

    @property
    def ramp(self) -> float:
        """Seconds over which the iterations are created, so that their stages do not end at once."""
        return (self.shortest + self.longest) / 2


SCALES: Final = (
    Scale(10, 4.5, 5.5, 20, floors=15),
    Scale(100, 4.5, 5.5, 20, floors=15),
    Scale(1000, 50, 70, 120, floors=4),
    Scale(2000, 100, 140, 150, floors=4),
)


@dataclass(frozen=True)
class Measured:
    """One program at one scale. Figures `a transition` are means over the window."""

    transitions: int
    seconds: float
    latencies: Sequence[Latency]
    processor: Mapping[str, float]
    """Milliseconds a transition, by process."""
    peak_mib: float
    calls: Mapping[str, float]
    """A transition, by verb and resource; leader election is not in it."""
    lists: int

    @property
    def p50(self) -> float:
        return statistics.median(latency.total for latency in self.latencies)

    @property
    def p99(self) -> float:
        return self.latencies[int(len(self.latencies) * 0.99)].total

    @property
    def slowest(self) -> Sequence[Latency]:
        """The slowest hundredth."""
        return self.latencies[int(len(self.latencies) * 0.99) :]

    @property
    def cpu_ms(self) -> float:
        return self.processor[PROGRAM]

    @property
    def calls_each(self) -> float:
        return sum(self.calls.values())


# ── the floor ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def floor(kubeconfig: Path) -> None:
    """The least that can be done: watch Jobs, and create the next one for each that completes."""
    async with Api.connect(kubeconfig) as api:
        done: set[str] = set()
        async for event, job in api.watch(JOBS, NAMESPACE):
            uid = job["metadata"]["uid"]
            if event == "MODIFIED" and uid not in done and is_complete(job):
                done.add(uid)
                chain, step = place_of(job)
                await api.create(JOBS, NAMESPACE, floor_job(chain, step + 1))


def floor_job(chain: str, step: int) -> Object:
    labels = {CHAIN: chain, STAGE: str(step)}
    container = {"name": "stage", "image": "stage", "command": ["stage"]}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": f"{chain}-{step}", "labels": labels},
        "spec": {
            "completionMode": "Indexed",
            "completions": 1,
            "parallelism": 1,
            "template": {"metadata": {"labels": labels}, "spec": {"restartPolicy": "Never", "containers": [container]}},
        },
    }


# ── one run ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def cluster(folder: Path, scale: Scale) -> AsyncIterator[tuple[ControlPlane, Api, str]]:
    """A control plane whose pods take as long as the scale says, a client of it, and the operator's token."""
    folder.mkdir()
    stages = folder / "stages.yaml"
    text = KWOK_STAGES.read_text()
    for word, seconds in (("SHORTEST", scale.shortest), ("LONGEST", scale.longest)):
        text = text.replace(f"{word}_MILLISECONDS", str(int(seconds * 1000)))
    stages.write_text(text + "---\n" + Options().stages.read_text())
    with ControlPlane(folder / "control-plane", Options(stages, audit="Metadata")) as control_plane:
        await prepare(control_plane)
        async with Api.connect(control_plane.kubeconfig) as api:
            await api.create(NAMESPACES, "", {"metadata": {"name": NAMESPACE}})
            await api.wait(SERVICE_ACCOUNTS, NAMESPACE, "default", bool)
            yield control_plane, api, await operator_token(api, NAMESPACE)


async def measure_operator(folder: Path, scale: Scale) -> Measured:
    async with cluster(folder, scale) as (control_plane, api, token):
        kubeconfig = control_plane.kubeconfig_for("operator", token, namespace=NAMESPACE)
        with OperatorProcess(kubeconfig, NAMESPACE, folder / "operator.log") as operator:

            async def start(number: int) -> None:
                await api.create(ITERATIONS, NAMESPACE, iteration(f"iteration-{number}", seed=number))

            return await measure(control_plane, api, operator.process.pid, scale, start)


async def measure_floor(folder: Path, scale: Scale) -> Measured:
    async with cluster(folder, scale) as (control_plane, api, token):
        kubeconfig = control_plane.kubeconfig_for("floor", token, namespace=NAMESPACE)
        command = [sys.executable, "-m", "benchmarks.operator", "floor", str(kubeconfig)]
        program = Program(command, folder / "floor.log")
        try:

            async def start(number: int) -> None:
                await api.create(JOBS, NAMESPACE, floor_job(f"chain-{number}", 0))

            return await measure(control_plane, api, program.process.pid, scale, start)
        finally:
            program.end()


async def measure(control_plane: ControlPlane, api: Api, pid: int, scale: Scale, start: Any) -> Measured:
    """Start everything bit by bit, and then look on for the scale's window."""
    transitions, measured = Transitions(), processes(control_plane, pid)
    watching = asyncio.create_task(transitions.follow(api, NAMESPACE))
    began = time.monotonic()
    for number in range(scale.iterations):
        await start(number)
        await asyncio.sleep(began + scale.ramp * (number + 1) / scale.iterations - time.monotonic())
    since, before = time.time(), processor_seconds(measured)
    await asyncio.sleep(scale.window)
    until, after = time.time(), processor_seconds(measured)
    peak = peak_mib(pid)
    await asyncio.sleep(2)  # what completed last may be followed yet
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    count = sum(since <= moment <= until for moment in transitions.completed.values())
    calls = calls_of(control_plane.audit_log, NAMESPACE)
    made = Counter(call.what for call in calls if since <= call.received <= until)
    return Measured(
        transitions=count,
        seconds=until - since,
        latencies=transitions.latencies(calls, since, until),
        processor={name: 1000 * (after[name] - before[name]) / count for name in after},
        peak_mib=peak,
        calls={name: number / count for name, number in sorted(made.items())},
        lists=sum(number for name, number in made.items() if name.startswith("list ")),
    )


# ── all of them ──────────────────────────────────────────────────────────────────────────────────────────────────────


def ratios(scale: Scale, ours: Measured, least: Measured) -> list[Ratio]:
    """Ours against the floor of the same run, and against the limits that the operator is built to keep."""
    n = f"{scale.iterations} iterations"

    def limit(name: str, value: float, bound: float) -> Ratio:
        return Ratio(f"{name}, {n}, against its limit", value, bound, value / bound, "<= 1")

    median = Ratio(
        f"Job complete to next Job, p50 in s, {n}", ours.p50, least.p50, ours.p50 / least.p50, f"<= {scale.floors}"
    )
    found = [median]
    if scale.iterations <= 1000:
        found += [
            limit("Job complete to next Job, p99 in s", ours.p99, 0.25),
            limit("processor time a transition in ms", ours.cpu_ms, 25),
            limit("API calls a transition", ours.calls_each, 6),
        ]
    found += [limit("peak memory in MiB", ours.peak_mib, 200), Ratio(f"lists, {n}", ours.lists, 0, ours.lists, "<= 0")]
    return found


def shown(results: Sequence[tuple[Scale, Measured, Measured]]) -> Table:
    """How it grows."""
    grows = Table(
        *("iterations", "program", "transitions/s", "p50 ms", "p99 ms", "CPU ms", "peak MiB", "calls", "lists"),
        box=None,
        header_style="bold",
    )
    for scale, program, found in rows(results):
        grows.add_row(
            str(scale.iterations),
            program,
            f"{found.transitions / found.seconds:.1f}",
            f"{found.p50 * 1000:.0f}",
            f"{found.p99 * 1000:.0f}",
            f"{found.cpu_ms:.1f}",
            f"{found.peak_mib:.0f}",
            f"{found.calls_each:.2f}",
            str(found.lists),
        )
    return grows


def spent(results: Sequence[tuple[Scale, Measured, Measured]]) -> Table:
    """Milliseconds of processor time a transition, by process, and how busy the machine is with all of it."""
    names = tuple(results[0][1].processor)
    heads = (name.removeprefix("kube-") for name in names)
    shown = Table("iterations", "program", *heads, "sum", "busy", box=None, header_style="bold")
    for scale, name, found in rows(results):
        total = sum(found.processor.values())
        busy = total / 1000 * found.transitions / found.seconds / (os.cpu_count() or 1)
        each = (f"{found.processor[process]:.1f}" for process in names)
        shown.add_row(str(scale.iterations), name, *each, f"{total:.0f}", f"{busy:.0%}")
    return shown


def waited(results: Sequence[tuple[Scale, Measured, Measured]]) -> Table:
    """Milliseconds of a transition by part: the mean of all, and of the slowest hundredth."""
    shown = Table("iterations", "program", "of", "noticing", "creating", "showing", box=None, header_style="bold")
    for scale, name, found in rows(results):
        for which, latencies in (("all", found.latencies), ("slowest 1%", found.slowest)):
            parts = (
                statistics.mean(getattr(latency, part) for latency in latencies) * 1000
                for part in ("noticing", "creating", "showing")
            )
            shown.add_row(str(scale.iterations), name, which, *(f"{part:.0f}" for part in parts))
    return shown


def rows(results: Sequence[tuple[Scale, Measured, Measured]]) -> Iterator[tuple[Scale, str, Measured]]:
    for scale, ours, least in results:
        yield scale, "operator", ours
        yield scale, "floor", least


async def main(numbers: Sequence[int]) -> int:
    results: list[tuple[Scale, Measured, Measured]] = []
    with tempfile.TemporaryDirectory(prefix="bench-operator-") as folder:
        for scale in SCALES:
            if numbers and scale.iterations not in numbers:
                continue
            print(f"{scale.iterations} iterations ...", flush=True)
            ours = await measure_operator(Path(folder) / f"operator-{scale.iterations}", scale)
            least = await measure_floor(Path(folder) / f"floor-{scale.iterations}", scale)
            results.append((scale, ours, least))
            print(f"  calls a transition: {', '.join(f'{name} {n:.2f}' for name, n in ours.calls.items())}", flush=True)
    found = [ratio for result in results for ratio in ratios(*result)]
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(json.dumps([asdict(ratio) for ratio in found], indent=1) + "\n")
    console = Console(width=130)
    for account in (shown, spent, waited):
        console.print(account(results))
    console.print(table(found))
    return 0 if all(ratio.met() for ratio in found) else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["floor"]:
        asyncio.run(floor(Path(sys.argv[2])))
    else:
        raise SystemExit(asyncio.run(main([int(word) for word in sys.argv[1:]])))
