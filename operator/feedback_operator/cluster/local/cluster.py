"""This machine as a cluster: the same Job manifests, run as local processes.

Does of the Job controller what the manifests ask for: indexed pods side by side as far as the machine goes, retries per
index, podFailurePolicy on exit codes, activeDeadlineSeconds, suspend.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from feedback_operator.api import FeedbackIteration, IterationStatus
from feedback_operator.cluster.jobs import job_of
from feedback_operator.cluster.local.capacity import Account, Capacity, Grant, Held
from feedback_operator.cluster.local.ports import free_ports
from feedback_operator.cluster.local.process import GRACE_SECONDS, StageProcess, alone
from feedback_operator.cluster.progress import scrape
from feedback_operator.plan.chain import parent_of
from feedback_operator.plan.snapshot import Job, Pod, Snapshot
from feedback_operator.resources import Manifest, house_rules
from feedback_operator.resources.job import CONFIG_MOUNT
from feedback_operator.resources.pod import CA_MOUNT, CACHE_MOUNT
from feedback_operator.stages import STAGES

FIRST_BACKOFF_SECONDS: Final = 1.0
"""Wait before the first retry of an index; doubles with each."""


@dataclass
class _LocalJob:
    """A Job that was created, and what became of it so far."""

    manifest: Manifest
    observed: Job
    pods: dict[int, Pod] = field(default_factory=dict)
    processes: dict[int, StageProcess] = field(default_factory=dict)
    ports: dict[int, int] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None

    def metrics_addresses(self) -> list[str]:
        return [f"http://127.0.0.1:{port}/metrics" for port in self.ports.values()]


class LocalCluster:
    """Jobs as processes. Iterations and their status live in memory: artifacts are what outlives a run.

    `changed` is set whenever something happened that a reconciliation should look at.
    """

    def __init__(self, state: Path, environment: Mapping[str, str], capacity: Capacity) -> None:
        self.changed = asyncio.Event()
        self._state = state
        self._environment = environment
        self._capacity = capacity
        self._account = Account()
        self._iterations: dict[str, FeedbackIteration] = {}
        self._configs: dict[str, Path] = {}
        self._jobs: dict[str, _LocalJob] = {}

    @classmethod
    @asynccontextmanager
    async def open(cls, state: Path, environment: Mapping[str, str], capacity: Capacity) -> AsyncIterator[LocalCluster]:
        """A cluster on the folder `state`, alone; ends every process at the end. Raises AlreadyRunning."""
        with alone(state):
            cluster = cls(state, environment, capacity)
            try:
                yield cluster
            finally:
                await cluster._close()

    def add(self, iteration: FeedbackIteration) -> None:
        """As `kubectl apply` of a new iteration."""
        self._iterations[iteration.metadata.key] = iteration
        self.changed.set()

    def iteration(self, key: str) -> FeedbackIteration:
        """As `kubectl get`: the iteration with its latest status."""
        return self._iterations[key]

    def held(self, key: str) -> dict[str, Held]:
        """What the processes of each stage of an iteration held of this machine so far."""
        return self._account.of(key)

    def log_of(self, job: str, index: int) -> Path:
        """File with everything that the pods of one index wrote."""
        return self._state / "logs" / f"{job}-{index}.log"

    # ── the Cluster protocol ────────────────────────────────────────────────────────────────────────────────────────

    async def snapshot(self, key: str) -> Snapshot:
        jobs = [job for job in self._jobs.values() if _owner(job.manifest) == key]
        observed = [
            replace(
                job.observed,
                pods=tuple(job.pods.values()),
                pods_read=True,
                units=await scrape(job.metrics_addresses(), together=STAGES[job.observed.stage].together),
            )
            for job in jobs
        ]
        iteration = self._iterations[key]
        namespace = {
            other.metadata.name: other
            for other in self._iterations.values()
            if other.metadata.namespace == iteration.metadata.namespace
        }
        return Snapshot(
            iteration,
            tuple(observed),
            datetime.now(UTC),
            parent=parent_of(iteration, namespace),
            elsewhere=self._elsewhere(key),
            house=house_rules.LENIENT,  # processes have the rights of whoever starts them
        )

    def _elsewhere(self, key: str) -> dict[str, tuple[Job, ...]]:
        """The Jobs of other iterations by address."""
        found: dict[str, tuple[Job, ...]] = {}
        for job in self._jobs.values():
            if _owner(job.manifest) != key:
                found[job.observed.address] = (*found.get(job.observed.address, ()), job.observed)
        return found

    async def read_pods(self, namespace: str, job: str) -> None:
        """Nothing to do: what is known of processes is never behind."""

    async def ask(self, namespace: str, job: str) -> None:
        """Nothing to ask: a Job has all its pods at once, and they say what they wait for."""

    async def create(self, manifest: Manifest) -> None:
        name = manifest["metadata"]["name"]
        match manifest["kind"]:
            case "ConfigMap" if name not in self._configs:
                folder = self._state / "configs" / name
                folder.mkdir(parents=True, exist_ok=True)
                for file, text in manifest["data"].items():
                    (folder / file).write_text(text)
                self._configs[name] = folder
            case "Job" if name not in self._jobs:
                job = _LocalJob(manifest, replace(job_of(manifest), state="Active", created=datetime.now(UTC)))
                self._jobs[name] = job
                self._start(job)

    async def suspend(self, namespace: str, job: str, suspended: bool) -> None:
        local = self._jobs[job]
        if suspended:
            await self._stop(local)
            local.observed = replace(local.observed, state="Suspended", suspended_by_us=True)
        else:
            self._start(local)
        self.changed.set()

    async def adjust(self, namespace: str, job: str, deadline: int | None, ttl: int | None) -> None:
        raise NotImplementedError("a spec does not change while it runs on this machine")

    async def delete(self, namespace: str, job: str) -> None:
        await self._stop(self._jobs[job])
        del self._jobs[job]
        self.changed.set()

    async def apply(self, manifest: Manifest) -> None:
        raise NotImplementedError("there are no endpoints without a cluster")

    async def write_status(self, iteration: FeedbackIteration, status: IterationStatus) -> None:
        self._iterations[iteration.metadata.key] = iteration.model_copy(update={"status": status})

    # ── what the Job controller and the kubelet do ──────────────────────────────────────────────────────────────────

    def _start(self, job: _LocalJob) -> None:
        job.observed = replace(job.observed, state="Active", suspended_by_us=False, started=datetime.now(UTC))
        job.task = asyncio.create_task(self._run(job))

    async def _run(self, job: _LocalJob) -> None:
        spec = job.manifest["spec"]
        pending = [i for i in range(spec["completions"]) if i not in job.pods or job.pods[i].exit_code != 0]
        job.pods.update({index: Pod(index) for index in pending})
        reason = ""
        try:
            async with asyncio.timeout(spec.get("activeDeadlineSeconds")):
                reason = await self._run_indexes(job, pending)
        except TimeoutError:
            reason = "DeadlineExceeded"
        job.observed = replace(
            job.observed,
            state="Failed" if reason else "Complete",
            reason=reason,
            finished=datetime.now(UTC),
        )
        self.changed.set()

    async def _run_indexes(self, job: _LocalJob, pending: Sequence[int]) -> str:
        """Run the pods of these indexes side by side; the reason to fail the Job, if there is one."""
        reason = ""
        try:
            async with asyncio.TaskGroup() as group:
                for index in pending:
                    group.create_task(self._run_index(job, index))
        except* _IndexFailed:
            reason = "FailedIndexes"
        return reason

    async def _run_index(self, job: _LocalJob, index: int) -> None:
        """Run the pods of one index until one succeeds, or no more may be tried."""
        spec = job.manifest["spec"]
        request = self._capacity.request(_container(job.manifest).get("resources", {}))
        if lacking := self._capacity.lacks(request):
            job.pods[index] = Pod(index, reason="Unschedulable", message=lacking)
            raise _IndexFailed
        for tried in range(spec["backoffLimitPerIndex"] + 1):
            async with self._capacity.granted(request) as grant:
                with self._account.holding(_owner(job.manifest), job.observed.stage, request):
                    pod = await self._run_pod(job, index, grant)
            job.pods[index] = pod
            self.changed.set()
            if pod.exit_code == 0:
                return
            if pod.exit_code in _final_exit_codes(spec):
                break
            if tried < spec["backoffLimitPerIndex"]:
                await asyncio.sleep(FIRST_BACKOFF_SECONDS * 2**tried)
        raise _IndexFailed

    async def _run_pod(self, job: _LocalJob, index: int, grant: Grant) -> Pod:
        name = job.observed.name
        message = self._state / "messages" / f"{name}-{index}"
        message.parent.mkdir(parents=True, exist_ok=True)
        message.unlink(missing_ok=True)
        port = next(free_ports())
        container = _container(job.manifest)
        config = self._configs[_config_name(job.manifest)]
        command = [self._local(word, config) for word in [*container["command"], *container["args"]]]
        environment = {
            "OMP_NUM_THREADS": str(grant.threads),  # what the person has set holds
            **os.environ,
            **{variable["name"]: self._local(variable["value"], config) for variable in local_variables(container)},
            **self._environment,
            "HOME": os.environ.get("HOME", "/"),
            "FEEDBACK_TERMINATION_LOG": str(message),
            "FEEDBACK_METRICS_PORT": str(port),
            "JOB_COMPLETION_INDEX": str(index),
            "MASTER_ADDR": "127.0.0.1",
            "PYTHONUNBUFFERED": "1",
        }
        if grant.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, grant.gpus))
        process = await StageProcess.start(command, environment, self.log_of(name, index), self._state / "processes")
        job.pods[index] = Pod(index, running=True)
        job.processes[index], job.ports[index] = process, port
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            await _end(process)
            raise
        finally:
            del job.processes[index], job.ports[index]
        text = message.read_text() if message.exists() else ""
        return Pod(index, exit_code=code, message=text or f"; see {self.log_of(name, index)}")

    def _local(self, word: str, config: Path) -> str:
        """A word of a command line or a variable, with the pod's paths turned into this machine's."""
        if word == "python":
            return sys.executable
        return word.replace(CONFIG_MOUNT, str(config)).replace(CACHE_MOUNT, str(self._state / "cache"))

    async def _stop(self, job: _LocalJob) -> None:
        if job.task:
            job.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await job.task

    async def _close(self) -> None:
        await asyncio.gather(*(self._stop(job) for job in self._jobs.values()))


class _IndexFailed(Exception):
    """No more pods of an index may be tried."""


async def _end(process: StageProcess) -> None:
    """SIGTERM, then SIGKILL, as the kubelet ends a pod."""
    process.terminate()
    waiting = asyncio.ensure_future(process.wait())
    done, _ = await asyncio.wait({waiting}, timeout=GRACE_SECONDS)
    if not done:
        process.kill()
        await waiting


def _owner(manifest: Manifest) -> str:
    """Key of the iteration that a Job belongs to."""
    meta = manifest["metadata"]
    return f"{meta['namespace']}/{meta['ownerReferences'][0]['name']}"


def _container(job: Manifest) -> Manifest:
    container: Manifest = job["spec"]["template"]["spec"]["containers"][0]
    return container


def local_variables(container: Manifest) -> list[Manifest]:
    """Those of the container that hold here as well: whom to trust, and keys of APIs, are this machine's own matter."""
    return [
        variable for variable in container["env"] if "value" in variable and not variable["value"].startswith(CA_MOUNT)
    ]


def _config_name(job: Manifest) -> str:
    volumes = job["spec"]["template"]["spec"]["volumes"]
    return next(str(volume["configMap"]["name"]) for volume in volumes if "configMap" in volume)


def _final_exit_codes(spec: Manifest) -> set[int]:
    """Exit codes after which podFailurePolicy fails the Job."""
    rules = spec["podFailurePolicy"]["rules"]
    return {code for rule in rules if rule["action"] == "FailJob" for code in rule["onExitCodes"]["values"]}
