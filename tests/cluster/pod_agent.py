"""Plays the containers of pods that nobody runs, as a kubelet would report them.

A `Script` says what the pods of a stage do, one behaviour a pod in turn; without a line in it they finish at once and
hand in a valid result. Everything else is real: the scheduler places the pods, the Job controller counts them.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from aiohttp import web

from feedback_operator.resources.configmap import CONFIG_KEY
from feedback_operator.resources.job import METRICS_PORT, STAGE_LABEL
from feedback_workloads.contract import (
    STAGE_CONFIG,
    Artifact,
    EvaluationConfig,
    ExitCode,
    Ranking,
    RankingChoice,
    StageConfig,
    StageFailure,
    StageResult,
    canonical_json,
    shard_uri,
)
from tests.cluster.api import CONFIG_MAPS, NOT_FOUND, PODS, STRATEGIC, Api, Object, Refused

SERVING: Final = "serving"
"""Name in a script of pods that belong to no stage."""
SHARD_ANNOTATION: Final = "batch.kubernetes.io/job-completion-index"
CONFLICT: Final = 409

GOOD_SCORES: Final = {
    "selection.baseline.response_hallucination": 0.52,
    "selection.aligned.response_hallucination": 0.19,
    "selection.baseline.mention_hallucination": 0.26,
    "selection.aligned.mention_hallucination": 0.09,
    "selection.baseline.recall": 0.62,
    "selection.aligned.recall": 0.63,
    "selection.baseline.mean_words": 40.5,
    "selection.aligned.mean_words": 41.5,
    "baseline.response_hallucination": 0.5,
    "aligned.response_hallucination": 0.2,
    "baseline.mention_hallucination": 0.25,
    "aligned.mention_hallucination": 0.1,
    "baseline.recall": 0.6,
    "aligned.recall": 0.61,
    "baseline.mean_words": 40.0,
    "aligned.mean_words": 41.0,
}
BEST_OF: Final = 3
"""How many answers the played evaluation finds best to rank."""

Behaviour = Callable[["PlayedPod"], Awaitable[None]]
"""What the container of one pod does from its start to its end."""


# ── what containers do ───────────────────────────────────────────────────────────────────────────────────────────────


def succeeds(metrics: Mapping[str, float] | None = None) -> Behaviour:
    """Run, and hand in a valid result; `metrics` replaces the usual figures."""

    async def play(pod: PlayedPod) -> None:
        config = await pod.config()
        await pod.run()
        await pod.succeed(config, metrics)

    return play


def exits(code: int, reason: str = "Error", message: str = "") -> Behaviour:
    """Run, and end with this exit code; the message is the termination message."""

    async def play(pod: PlayedPod) -> None:
        await pod.run()
        await pod.end(code, reason, message)

    return play


def fails(reason: str, message: str, code: int) -> Behaviour:
    """Run, and end as a stage does that knows why: with a StageFailure in the termination message."""

    async def play(pod: PlayedPod) -> None:
        failure = StageFailure(stage=pod.stage, shard=pod.shard, reason=reason, message=message)
        await pod.run()
        await pod.end(code, "Error", failure.model_dump_json())

    return play


def oom() -> Behaviour:
    """The kernel kills the container for its memory."""
    return exits(137, "OOMKilled")


def bad_input(message: str = "row 7 has no picture; mend it") -> Behaviour:
    """The stage finds its input wrong."""
    return fails("BadInput", message, ExitCode.BAD_INPUT)


def temporary(message: str = "s3://feedback is out of reach") -> Behaviour:
    """The stage cannot reach something for now."""
    return fails("Temporary", message, ExitCode.TEMPORARY)


def says_nothing() -> Behaviour:
    """End well without a result, as when the termination message was lost."""
    return exits(ExitCode.DONE, "Completed")


def evicted(message: str = "The node was low on resource: memory.") -> Behaviour:
    """The kubelet evicts the running pod."""

    async def play(pod: PlayedPod) -> None:
        await pod.run()
        await pod.disrupt("TerminationByKubelet", "Evicted", message)

    return play


def preempted() -> Behaviour:
    """The scheduler takes the node away for a pod of higher priority."""

    async def play(pod: PlayedPod) -> None:
        await pod.run()
        await pod.disrupt("PreemptionByScheduler", "", "preempted to accommodate a higher priority pod")

    return play


def ready() -> Behaviour:
    """A server that is ready and stays so."""

    async def play(pod: PlayedPod) -> None:
        await pod.run()
        await pod.lives()

    return play


def never_ready() -> Behaviour:
    """A server that runs and never answers its probe."""

    async def play(pod: PlayedPod) -> None:
        await pod.run(ready=False)
        await pod.lives()

    return play


class Held:
    """Run until the test lets go, then do what comes `after`. `started` is set once the container runs."""

    def __init__(self, after: Behaviour | None = None, units: tuple[int, int] | None = None) -> None:
        self.started = asyncio.Event()
        self.units = units
        """What the stage's metrics say is done and is to do; None: no metrics."""
        self._go = asyncio.Event()
        self._after = after or succeeds()

    async def __call__(self, pod: PlayedPod) -> None:
        async with pod.metrics(lambda: self.units) if self.units else _nothing():
            await pod.run()
            self.started.set()
            await self._go.wait()
        await self._after(pod)

    def release(self) -> None:
        self._go.set()


class CannotStart:
    """The kubelet cannot start the container, and says why, until the test mends it: ImagePullBackOff and its like."""

    def __init__(self, reason: str, message: str) -> None:
        self._reason, self._message = reason, message
        self._mended = asyncio.Event()

    async def __call__(self, pod: PlayedPod) -> None:
        await pod.wait(self._reason, self._message)
        await self._mended.wait()
        await succeeds()(pod)

    def mend(self) -> None:
        self._mended.set()


@asynccontextmanager
async def _nothing() -> AsyncIterator[None]:
    yield


# ── which pod does what ──────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Script:
    """What the pods do, by stage (or `SERVING`), and the artifacts that they have left so far."""

    artifacts: set[str] = field(default_factory=set)
    """Folders of finished shards, so that work that is already done is recognised."""
    played: list[str] = field(default_factory=list)
    """Names of all pods that were started, in order."""
    vanished: set[str] = field(default_factory=set)
    """Uids of pods whose node is gone: nobody ends them any more."""
    _lines: dict[str, deque[Behaviour]] = field(default_factory=lambda: defaultdict(deque))
    _always: dict[str, Behaviour] = field(default_factory=dict)

    def on(self, stage: str, *behaviours: Behaviour, then: Behaviour | None = None) -> None:
        """Let the next pods of the stage do this, one each; `then` is what all others after them do."""
        self._lines[stage].extend(behaviours)
        if then:
            self._always[stage] = then

    def forget(self, stage: str) -> None:
        """From now on, the pods of the stage do what is usual."""
        self._lines.pop(stage, None)
        self._always.pop(stage, None)

    def hold(self, stage: str, after: Behaviour | None = None, units: tuple[int, int] | None = None) -> Held:
        """Let the next pod of the stage run until it is released."""
        held = Held(after, units)
        self.on(stage, held)
        return held

    def next(self, stage: str) -> Behaviour:
        if self._lines[stage]:
            return self._lines[stage].popleft()
        return self._always.get(stage) or (ready() if stage == SERVING else succeeds())


class PlayedPod:
    """One pod: what its container is told, and how its kubelet reports on it."""

    def __init__(self, api: Api, pod: Object, script: Script, address: str) -> None:
        meta = pod["metadata"]
        self.name, self.namespace, self.uid = meta["name"], meta["namespace"], meta["uid"]
        self.stage = meta.get("labels", {}).get(STAGE_LABEL, SERVING)
        self.shard = int(meta.get("annotations", {}).get(SHARD_ANNOTATION, "0"))
        self.address = address
        self._api = api
        self._spec = pod["spec"]
        self._script = script
        self._started = ""

    async def config(self) -> StageConfig:
        """The stage's configuration, from the ConfigMap that the pod mounts."""
        volumes = {volume["name"]: volume for volume in self._spec["volumes"]}
        found = await self._api.get(CONFIG_MAPS, self.namespace, volumes["config"]["configMap"]["name"])
        config = STAGE_CONFIG.validate_json(found["data"][CONFIG_KEY])
        assert isinstance(config, StageConfig), f"a Job runs a stage of the graph, not {config}"
        return config

    async def run(self, *, ready: bool = True) -> None:
        self._started = _now()
        await self._report("Running", {"running": {"startedAt": self._started}}, ready=ready)

    async def wait(self, reason: str, message: str) -> None:
        await self._report("Pending", {"waiting": {"reason": reason, "message": message}}, ready=False)

    async def end(self, code: int, reason: str, message: str = "") -> None:
        terminated = {
            "exitCode": code,
            "reason": reason,
            "message": message,
            "startedAt": self._started or _now(),
            "finishedAt": _now(),
        }
        await self._report("Failed" if code else "Succeeded", {"terminated": terminated}, ready=False)

    async def succeed(self, config: StageConfig, metrics: Mapping[str, float] | None) -> None:
        """End well, with the result in the termination message; of the nodes of a training only the first has one."""
        if self.stage == "training" and self.shard > 0:
            await self.end(ExitCode.DONE, "Completed")
            return
        folder = shard_uri(config, self.shard)
        result = result_of(config, self.shard, metrics, reused=folder in self._script.artifacts)
        self._script.artifacts.add(folder)
        await self.end(ExitCode.DONE, "Completed", result.model_dump_json())

    async def disrupt(self, why: str, reason: str, message: str) -> None:
        """End for a reason outside of the container, marked as such."""
        condition = {"type": "DisruptionTarget", "status": "True", "reason": why, "message": message}
        status: Object = {"conditions": [{**condition, "lastTransitionTime": _now()}]}
        await self._patch(status)
        killed = {"exitCode": 137, "reason": "Error", "startedAt": self._started or _now(), "finishedAt": _now()}
        await self._report("Failed", {"terminated": killed}, ready=False, reason=reason, message=message)

    async def lives(self) -> None:
        """Go on until somebody deletes the pod."""
        await asyncio.Event().wait()

    @asynccontextmanager
    async def metrics(self, units: Callable[[], tuple[int, int] | None]) -> AsyncIterator[None]:
        """Serve a stage's progress where the operator looks for it; the pod gets an address that can be reached."""

        async def show(_: web.Request) -> web.Response:
            done, total = units() or (0, 0)
            return web.Response(text=f"feedback_stage_done {done}\nfeedback_stage_total {total}\n")

        self.address = f"127.{self.address.partition('.')[2]}"
        application = web.Application()
        application.router.add_get("/metrics", show)
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, self.address, METRICS_PORT).start()
        try:
            yield
        finally:
            await runner.cleanup()

    async def die(self) -> None:
        """End as a kubelet ends a pod that is deleted: SIGTERM, the last report, and then it is gone."""
        if self._started:
            await self.end(ExitCode.TERMINATED, "Error")
        await self._api.delete(PODS, self.namespace, self.name, grace_seconds=0)

    async def _report(self, phase: str, state: Object, *, ready: bool, reason: str = "", message: str = "") -> None:
        truth = "True" if ready else "False"
        containers = [
            {
                "name": container["name"],
                "image": container["image"],
                "imageID": "",
                "restartCount": 0,
                "ready": ready,
                "started": "running" in state,
                "state": state,
            }
            for container in self._spec["containers"]
        ]
        await self._patch(
            {
                "phase": phase,
                "reason": reason,
                "message": message,
                "podIP": self.address,
                "podIPs": [{"ip": self.address}],
                "containerStatuses": containers,
                "conditions": [
                    {"type": kind, "status": truth, "lastTransitionTime": _now()}
                    for kind in ("Ready", "ContainersReady")
                ],
            }
        )

    async def _patch(self, status: Object) -> None:
        body = {"metadata": {"uid": self.uid}, "status": status}
        await self._api.patch(PODS, self.namespace, self.name, body, subresource="status", content=STRATEGIC)


def result_of(
    config: StageConfig, shard: int, metrics: Mapping[str, float] | None = None, *, reused: bool = False
) -> StageResult:
    """What a stage hands in: the digest follows from the configuration, as it does where equal work is equal bytes."""
    digest = hashlib.sha256(canonical_json([config.content(), shard])).hexdigest()
    aligned = None
    if isinstance(config, EvaluationConfig):
        policy = config.policy[0]
        aligned = Artifact(uri=f"{policy.uri}/checkpoints/last", sha256=hashlib.sha256(policy.uri.encode()).hexdigest())
        metrics = metrics or GOOD_SCORES
    return StageResult(
        stage=getattr(config, "stage"),  # noqa: B009 every subclass has one, the base has none
        shard=shard,
        manifest=Artifact(uri=shard_uri(config, shard), sha256=digest),
        counts={"rows": 100, "rejected": 0},
        metrics=dict(metrics or {}),
        aligned=aligned,
        ranked=RankingChoice(n=BEST_OF, ranking=Ranking(rule="Regularised", weight=0.3)) if aligned else None,
        reused=reused,
    )


class PodAgent:
    """Plays all pods of one namespace that the scheduler has placed, as a context manager."""

    def __init__(self, api: Api, namespace: str, script: Script) -> None:
        self._api = api
        self._namespace = namespace
        self._script = script
        self._plays: dict[str, asyncio.Task[None]] = {}
        self._pods: dict[str, PlayedPod] = {}
        self._dying: set[str] = set()

    async def run(self) -> None:
        """Follow the pods until cancelled."""
        async with asyncio.TaskGroup() as group:
            async for event, pod in self._api.watch(PODS, self._namespace):
                self._see(group, event, pod)

    def _see(self, group: asyncio.TaskGroup, event: str, pod: Object) -> None:
        uid, phase = pod["metadata"]["uid"], pod.get("status", {}).get("phase", "Pending")
        if event == "DELETED":
            self._end(uid)
        elif "deletionTimestamp" in pod["metadata"]:
            if uid not in self._dying | self._script.vanished and pod["spec"].get("nodeName"):
                self._dying.add(uid)
                self._end(uid)
                played = self._pods.get(uid) or PlayedPod(self._api, pod, self._script, _address())
                group.create_task(self._ending(played))
        elif pod["spec"].get("nodeName") and phase in ("Pending", "Running") and uid not in self._plays:
            played = PlayedPod(self._api, pod, self._script, _address())
            self._pods[uid] = played
            self._script.played.append(played.name)
            self._plays[uid] = group.create_task(self._play(played, self._script.next(played.stage)))

    def _end(self, uid: str) -> None:
        if task := self._plays.get(uid):
            task.cancel()

    async def _play(self, pod: PlayedPod, behaviour: Behaviour) -> None:
        try:
            await behaviour(pod)
        except Refused as refused:
            if refused.code not in (NOT_FOUND, CONFLICT):  # the pod went away in the middle
                raise

    async def _ending(self, pod: PlayedPod) -> None:
        await self._play(pod, PlayedPod.die)


def _address() -> str:
    """An address for a pod, never the same twice; test runs side by side have others."""
    number = next(_NUMBERS)
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


_NUMBERS: Final = itertools.count((os.getpid() % 60000 + 1) << 8)
