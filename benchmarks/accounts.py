"""Where time goes on a control plane, seen from outside: the processor's by process, a transition's by part."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import psutil

from tests.cluster.api import JOBS, Api, Object
from tests.cluster.control_plane import ControlPlane
from tests.cluster.world import STAGES, condition_of

CHAIN: Final = "feedback.rlaif.dev/iteration"
STAGE: Final = "feedback.rlaif.dev/stage"
PROGRAM: Final = "the program"
BENCHMARK: Final = "the benchmark"
OTHERS: Final = "others"
"""All else on the machine. What is much here has disturbed the run."""


# ── the processor ────────────────────────────────────────────────────────────────────────────────────────────────────


def processes(control_plane: ControlPlane, pid: int) -> dict[str, psutil.Process]:
    """Those that share the machine with the program `pid` for its sake."""
    pids = {**control_plane.pids(), PROGRAM: pid, BENCHMARK: os.getpid()}
    return {name: psutil.Process(number) for name, number in pids.items()}


def processor_seconds(measured: Mapping[str, psutil.Process]) -> dict[str, float]:
    """What each has used so far, and the rest of the machine."""
    used = {name: sum(process.cpu_times()[:2]) for name, process in measured.items()}
    machine = psutil.cpu_times()
    busy = sum(machine) - machine.idle - machine.iowait
    return {**used, OTHERS: busy - sum(used.values())}


def peak_mib(pid: int) -> float:
    """The most memory that the process ever held at once (Linux: VmHWM)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


# ── calls ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Call:
    """A call to the API server, of which object, and when it was received and answered."""

    what: str
    name: str
    received: float
    answered: float


def calls_of(audit_log: Path, namespace: str) -> list[Call]:
    """All calls of the namespace's service accounts that were answered, without those of leader election."""
    mine = f'"username":"system:serviceaccount:{namespace}:'
    with audit_log.open() as lines:
        events = [json.loads(line) for line in lines if mine in line and '"resource":"leases"' not in line]
    return [_call(event) for event in events if event["stage"] == "ResponseComplete"]


def _call(event: dict[str, Any]) -> Call:
    reference = event.get("objectRef", {})
    words = (event["verb"], reference.get("resource"), reference.get("subresource"))
    times = (datetime.fromisoformat(event[key]).timestamp() for key in ("requestReceivedTimestamp", "stageTimestamp"))
    return Call(" ".join(word for word in words if word), reference.get("name", ""), *times)


# ── transitions ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Latency:
    """Seconds from a Job's completion to the next Job of its chain, both as a watch shows them, and their parts."""

    noticing: float
    """Until the API server receives the first call that makes the next Job: the watch, the queue, the plan."""
    creating: float
    """Until it has answered the last one."""
    showing: float
    """Until the watch shows the Job."""

    @property
    def total(self) -> float:
        return self.noticing + self.creating + self.showing


@dataclass
class Transitions:
    """When Jobs were seen to complete and to be there, by chain and place in it; and the name of each."""

    completed: dict[tuple[str, int], float] = field(default_factory=dict)
    created: dict[tuple[str, int], float] = field(default_factory=dict)
    names: dict[tuple[str, int], str] = field(default_factory=dict)

    async def follow(self, api: Api, namespace: str) -> None:
        async for event, job in api.watch(JOBS, namespace):
            key, now = place_of(job), time.time()
            if event == "ADDED":
                self.created.setdefault(key, now)
                self.names[key] = job["metadata"]["name"]
            if is_complete(job):
                self.completed.setdefault(key, now)

    def latencies(self, calls: Sequence[Call], since: float, until: float) -> list[Latency]:
        """Of all completions in this time that another Job was to follow, the shortest first."""
        creations = {call.name: call for call in calls if call.what == "create jobs"}
        configs = {call.name.rpartition("-")[0]: call for call in calls if call.what == "create configmaps"}
        found = []
        for (chain, step), moment in self.completed.items():
            following = (chain, step + 1)
            if since <= moment <= until and following in self.created:
                last = creations[self.names[following]]
                first = configs.get(last.name, last)
                shown = self.created[following]
                found.append(Latency(first.received - moment, last.answered - first.received, shown - last.answered))
        return sorted(found, key=lambda latency: latency.total)


def place_of(job: Object) -> tuple[str, int]:
    """The chain that a Job belongs to, and its place in it."""
    labels = job["metadata"]["labels"]
    stage = labels[STAGE]
    return labels[CHAIN], STAGES.index(stage) if stage in STAGES else int(stage)


def is_complete(job: Object) -> bool:
    return condition_of(job, "Complete").get("status") == "True"
