"""From objects as the API server gives them to what snapshots are made of. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from feedback_operator.api import KIND
from feedback_operator.api.status import moment_of
from feedback_operator.plan.snapshot import Evictions, Pod, Words
from feedback_operator.resources import ITERATION_LABEL
from feedback_operator.resources.deployment import sets_replicas

Body = Mapping[str, Any]
"""An object as parsed JSON."""

INDEX_LABEL: Final = "batch.kubernetes.io/job-completion-index"
OURS: Final = ("stage", "serving")
"""Names of the containers that are ours; whatever else runs in a pod was put there by a webhook."""

STARTING: Final = ("ContainerCreating", "PodInitializing")
"""Reasons of a container that waits and says nothing of it."""

OUSTED: Final = ("Evicted", "NodeLost", "Preempting")
"""A pod's own reasons, where its node had taken it before."""

PRESSURE: Final = "low on resource"
"""What the kubelet says of a node that has run out of memory, disk or processes, and of nothing else."""

UNSPECIFIC: Final = ("Completed", "Error")
"""Reasons of a container's end that say no more than its exit code does."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Which object it is, and which version of it."""

    namespace: str
    name: str
    uid: str
    version: int

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"


def identity_of(body: Body) -> Identity:
    """Versions of one object, and of all objects of one kind, grow with time."""
    meta = body["metadata"]
    return Identity(meta.get("namespace", ""), meta["name"], meta["uid"], int(meta["resourceVersion"]))


@dataclass(frozen=True, slots=True)
class Owner:
    """The controller of an object."""

    kind: str
    name: str
    uid: str


NOBODY: Final = Owner("", "", "")


def owner_of(body: Body) -> Owner:
    """Who controls an object."""
    for reference in body["metadata"].get("ownerReferences", ()):
        if reference.get("controller"):
            return Owner(reference["kind"], reference["name"], reference["uid"])
    return NOBODY


# ── iterations ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class ObservedIteration:
    """An iteration, kept as text: parsed it takes ten times the room, and most are at rest most of the time.

    `parent` and `endpoint` are names that it mentions; `visible_hash` is over all that other iterations look at, so
    that they need another look only if it changed.
    """

    text: bytes
    parent: str
    endpoint: str
    state: str
    visible_hash: int
    hallucination: tuple[str, str] | None


READ_METADATA: Final = (
    "name",
    "namespace",
    "uid",
    "generation",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "labels",
)


def iteration_of(body: Body) -> ObservedIteration:
    """Whatever the API server let in, read without trust: its validity is judged where it is reconciled."""
    meta, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    read = {
        "apiVersion": body["apiVersion"],
        "kind": KIND,
        "metadata": {key: meta[key] for key in READ_METADATA if key in meta},
        "spec": spec,
        "status": status,
    }
    conditions = {c["type"]: c for c in status.get("conditions", ())}
    seen_by_others = (
        status.get("observedGeneration") == meta.get("generation"),
        {kind: conditions.get(kind) for kind in ("Promoted", "Stalled")},
        status.get("aligned"),
        status.get("promoted"),
        status.get("serving"),
        spec.get("serving"),
        (spec.get("model") or {}).get("from"),
        meta.get("deletionTimestamp"),
    )
    return ObservedIteration(
        text=json.dumps(read, separators=(",", ":"), ensure_ascii=False).encode(),
        parent=((spec.get("model") or {}).get("from") or {}).get("iteration", ""),
        endpoint=(spec.get("serving") or {}).get("endpoint") or "",
        state=_state(meta, conditions),
        visible_hash=hash(json.dumps(seen_by_others, sort_keys=True)),
        hallucination=_hallucination(status),
    )


def _state(meta: Mapping[str, Any], conditions: Mapping[str, Mapping[str, Any]]) -> str:
    """One word for metrics."""
    if meta.get("deletionTimestamp"):
        return "Deleting"
    statuses = {kind: condition["status"] for kind, condition in conditions.items()}
    if statuses.get("Stalled") == "True":
        return "Stalled"
    if statuses.get("Ready") == "True":
        return "Promoted" if statuses.get("Promoted") == "True" else "Ready"
    if conditions.get("Reconciling", {}).get("reason") == "Suspended":
        return "Suspended"
    return "Running" if statuses.get("Reconciling") == "True" else "New"


def _hallucination(status: Mapping[str, Any]) -> tuple[str, str] | None:
    """Share of answers with a hallucination, of the baseline and of the aligned policy."""
    share = status.get("hallucination") or {}
    return (share["baseline"], share["aligned"]) if share.get("baseline") and share.get("aligned") else None


# ── pods ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class ObservedPod:
    """A pod of a stage or of an endpoint. `address` is its IP address, empty until it has one. `pressed_out`: what was
    said when its node, which had run out of something, took it; empty for any other."""

    pod: Pod
    iteration: str
    address: str
    created: str
    pressed_out: str = ""

    @property
    def told(self) -> tuple[int | None, str, str, bool, str]:
        """All that can change a plan: how it ended, or what is the matter with it; not that it is well."""
        pod = self.pod
        return pod.exit_code, pod.reason, pod.message, pod.running and bool(pod.reason), pod.beside


def pod_of(body: Body) -> ObservedPod:
    """What a pod tells; see snapshot.Pod for the order of precedence."""
    meta, status = body["metadata"], body.get("status") or {}
    labels = meta.get("labels", {})
    ended, running = _our_container(status)
    reason, message, since = next(_reports(status, ended, running), ("", "", None))
    return ObservedPod(
        pod=Pod(
            index=int(labels.get(INDEX_LABEL, 0)),
            exit_code=ended.get("exitCode") if ended else None,
            reason=reason,
            message=_termination_message(ended) or message,
            name=meta["name"],
            since=moment_of(since or _scheduled(status) or meta.get("creationTimestamp")),
            running=running,
            beside=_running_beside(status) if ended and not running else "",
        ),
        iteration=labels.get(ITERATION_LABEL, ""),
        address=status.get("podIP", ""),
        created=meta.get("creationTimestamp", ""),
        pressed_out=_pressed_out(status),
    )


def _pressed_out(status: Mapping[str, Any]) -> str:
    told = [c for c in status.get("conditions", ()) if c["type"] == "DisruptionTarget" and c["status"] == "True"]
    words = (str(one.get("message", "")) for one in (*told, status))
    return next((text for text in words if PRESSURE in text), "")


def _scheduled(status: Mapping[str, Any]) -> str | None:
    """When it found its node."""
    found = (c for c in status.get("conditions", ()) if c["type"] == "PodScheduled" and c["status"] == "True")
    return next((c.get("lastTransitionTime") for c in found), None)


def _termination_message(ended: Mapping[str, Any] | None) -> str:
    return str(ended.get("message", "")) if ended else ""


def _our_container(status: Mapping[str, Any]) -> tuple[Mapping[str, Any] | None, bool]:
    """How our container ended, if it did, and whether it runs now."""
    for container in status.get("containerStatuses", ()):
        if container["name"] in OURS:
            state = container.get("state", {})
            running = "running" in state
            return state.get("terminated") or (
                None if running else container.get("lastState", {}).get("terminated")
            ), running
    return None, False


def _running_beside(status: Mapping[str, Any]) -> str:
    """The name of a container that is not ours and runs; a sidecar among the init containers ends with the others."""
    others = (one for one in status.get("containerStatuses", ()) if one["name"] not in OURS)
    return next((str(one["name"]) for one in others if "running" in one.get("state", {})), "")


def _reports(
    status: Mapping[str, Any], ended: Mapping[str, Any] | None, running: bool
) -> Iterator[tuple[str, str, str | None]]:
    """What there is to tell of a pod as (reason, message, since), the most specific first."""
    if ended and ended.get("reason") not in UNSPECIFIC:
        yield ended.get("reason", ""), ended.get("message", ""), ended.get("finishedAt")
    for container in status.get("containerStatuses", ()):
        waiting = _waits(container)
        if container["name"] in OURS and waiting:
            yield waiting["reason"], waiting.get("message", ""), None
    conditions = {c["type"]: c for c in status.get("conditions", ())}
    disrupted = conditions.get("DisruptionTarget", {})
    if disrupted.get("status") == "True":
        yield disrupted.get("reason", ""), disrupted.get("message", ""), disrupted.get("lastTransitionTime")
    if status.get("reason") in OUSTED:
        yield status["reason"], status.get("message", ""), None
    if not ended and not running:
        yield from _of_others(status)
    if status.get("reason"):
        yield from _of_the_pod(status)
    if ended:
        yield ended.get("reason", ""), ended.get("message", ""), ended.get("finishedAt")
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        yield scheduled.get("reason", ""), scheduled.get("message", ""), scheduled.get("lastTransitionTime")
    ready = conditions.get("Ready", {})
    if ready.get("status") == "False" and _says_ready(status):
        yield "NodeNotReady", "its node is not heard of", ready.get("lastTransitionTime")


def _of_others(status: Mapping[str, Any]) -> Iterator[tuple[str, str, str | None]]:
    """What containers that are not ours say, as long as ours has not begun."""
    for container in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
        name = container["name"]
        ended, waiting = container.get("state", {}).get("terminated") or {}, _waits(container)
        if name in OURS:
            continue
        if ended.get("exitCode"):
            words = (
                f"{name} ended with exit code {ended['exitCode']}: {ended.get('message') or ended.get('reason', '')}"
            )
            yield "InjectedContainer", words, ended.get("finishedAt")
        if waiting:
            yield "InjectedContainer", f"{name} waits: {waiting['reason']}: {waiting.get('message', '')}", None


def _waits(container: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Why a container waits, where it says more than that it is about to start."""
    waiting = container.get("state", {}).get("waiting") or {}
    return waiting if waiting.get("reason") and waiting["reason"] not in STARTING else None


def _of_the_pod(status: Mapping[str, Any]) -> Iterator[tuple[str, str, str | None]]:
    """The pod's own word; of one that failed before any container had begun, that is the kubelet's refusal."""
    containers = (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ()))
    begun = any({"running", "terminated"} & container.get("state", {}).keys() for container in containers)
    if status.get("phase") == "Failed" and not begun:
        yield "NodeRefused", f"{status['reason']}: {status.get('message', '')}", None
    else:
        yield status["reason"], status.get("message", ""), None


def _says_ready(status: Mapping[str, Any]) -> bool:
    """Its kubelet last said that all containers are ready: if the pod is not, the kubelet is not heard of any more."""
    containers = status.get("containerStatuses", ())
    return bool(containers) and all(c.get("ready") and "running" in c.get("state", {}) for c in containers)


def pods_by_index(pods: Iterator[ObservedPod]) -> tuple[Pod, ...]:
    """Of each completion index the pod that says most: one that succeeded, else the newest one."""
    chosen: dict[int, ObservedPod] = {}
    for seen in pods:
        rival = chosen.get(seen.pod.index)
        if rival is None or _rank(seen) > _rank(rival):
            chosen[seen.pod.index] = seen
    return tuple(chosen[index].pod for index in sorted(chosen))


def evictions_of(pods: Iterable[ObservedPod]) -> Evictions:
    """How often nodes that ran out of something took the pods of one completion index, the one that they took most."""
    by_index: dict[int, list[ObservedPod]] = {}
    for seen in pods:
        if seen.pressed_out and seen.pod.since:
            by_index.setdefault(seen.pod.index, []).append(seen)
    if not by_index:
        return Evictions()
    index = max(by_index, key=lambda one: len(by_index[one]))
    taken = sorted(by_index[index], key=lambda seen: (seen.created, seen.pod.name))
    moments = [seen.pod.since for seen in taken if seen.pod.since]
    lived = [end - begun for seen in taken if (end := seen.pod.since) and (begun := moment_of(seen.created))]
    latest = replace(taken[-1].pod, message=taken[-1].pressed_out)
    return Evictions(len(taken), latest, min(moments), max(moments), max(lived, default=timedelta()))


def _rank(seen: ObservedPod) -> tuple[bool, str, str]:
    return seen.pod.exit_code == 0, seen.created, seen.pod.name


# ── what is said of a Job without pods ───────────────────────────────────────────────────────────────────────────────

REFUSALS_LAST: Final = timedelta(minutes=10)
"""A refusal that was not told of again for so long is over: the Job controller tries again every minute at the latest,
and its events are thinned out to one in five minutes."""

SAID_BEFORE: Final = ("(combined from similar events): ", "Error creating: ")
"""What the Job controller puts before the API server's words."""

LONGEST_WORDS: Final = 1000


def words_of_events(events: Iterable[Body], asked: datetime) -> Words:
    """Why the API server refused a pod of a Job last, from the Job's events `FailedCreate`."""
    told = [(last, event) for event in events if (last := _last_told(event)) and asked - last < REFUSALS_LAST]
    if not told:
        return Words(asked)
    _, latest = max(told, key=lambda one: one[0])
    text = str(latest.get("note", ""))
    for prefix in SAID_BEFORE:
        text = text.removeprefix(prefix)
    since = min(filter(None, (_first_told(event) for _, event in told)), default=None)
    return Words(asked, str(latest.get("reason", "")), text[:LONGEST_WORDS], since)


def _last_told(event: Body) -> datetime | None:
    series = event.get("series") or {}
    return moment_of(series.get("lastObservedTime") or event.get("deprecatedLastTimestamp") or event.get("eventTime"))


def _first_told(event: Body) -> datetime | None:
    return moment_of(event.get("deprecatedFirstTimestamp") or event.get("eventTime"))


def words_of_workloads(workloads: Sequence[Body], asked: datetime) -> Words:
    """Why Kueue has not admitted a Job, from the newest of its Workloads."""
    if not workloads:
        return Words(asked, "NoWorkload", "Kueue has not taken it up; see that its controller manager runs")
    newest = max(workloads, key=lambda one: str(one["metadata"].get("creationTimestamp", "")))
    conditions = {c["type"]: c for c in (newest.get("status") or {}).get("conditions", ())}
    if (newest.get("spec") or {}).get("active") is False:
        evicted = conditions.get("Evicted", {}).get("message", "")
        return Words(asked, "Deactivated", str(evicted or "its Workload was deactivated")[:LONGEST_WORDS])
    pending = conditions.get("QuotaReserved", {})
    if pending.get("status") != "False":
        return Words(asked)
    return Words(asked, str(pending.get("reason", "")), str(pending.get("message", ""))[:LONGEST_WORDS])


# ── everything else ──────────────────────────────────────────────────────────────────────────────────────────────────


def whole(body: Body) -> dict[str, Any]:
    """The object without the bookkeeping of server-side apply, which is half of it, but for who set its replicas."""
    meta = {key: value for key, value in body["metadata"].items() if key != "managedFields"}
    scaled_by = [
        {"manager": entry["manager"], "operation": entry["operation"], "fieldsV1": {"f:spec": {"f:replicas": {}}}}
        for entry in body["metadata"].get("managedFields", ())
        if sets_replicas(entry)
    ]
    return {**body, "metadata": {**meta, "managedFields": scaled_by} if scaled_by else meta}
