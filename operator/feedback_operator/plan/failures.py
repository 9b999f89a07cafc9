"""From the state of a Job and its pods to what is wrong: why, whether another attempt can help, and what to do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Literal

from feedback_operator.api import IterationSpec
from feedback_operator.plan.snapshot import Job, Pod, Units
from feedback_workloads.contract import ExitCode


@dataclass(frozen=True)
class Failure:
    """Why a stage did not finish. `reason` is CamelCase for conditions; `message` says what to do. `disruption`: it was
    done to the stage, by nodes and priorities, and says nothing of how its next attempt will go."""

    reason: str
    retryable: bool
    message: str
    disruption: bool = False


@dataclass(frozen=True)
class Trouble:
    """What keeps a pod of a running Job from its work. It may pass: the Job goes on by itself then.

    `since` may lie ahead: until then it is no trouble yet. `over`: when it has passed if nothing more happens; None
    where time alone changes nothing. `waiting`: what it is good for; where it may help, only for so long.
    """

    reason: str
    message: str
    since: datetime
    over: datetime | None = None
    waiting: Literal["Helps", "MayHelp", "CannotHelp"] = "MayHelp"


@dataclass(frozen=True)
class Circumstances:
    """What a message can name: the spec, and how far the stage was when it was last seen at work; and the time."""

    spec: IterationSpec
    reached: Units
    now: datetime | None = None


WORDS: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        ("ImagePullBackOff", "ErrImagePull", "ErrImageNeverPull", "InvalidImageName", "ImageInspectError"), "ImagePull"
    ),
    **dict.fromkeys(("CreateContainerConfigError", "CreateContainerError", "RunContainerError"), "PodConfiguration"),
    "Unschedulable": "Unschedulable",
    "SchedulingGated": "Unschedulable",
    **dict.fromkeys(("NodeLost", "NodeNotReady", "DeletionByTaintManager", "DeletionByPodGC"), "NodeLost"),
    **dict.fromkeys(
        ("Evicted", "EvictionByEvictionAPI", "TerminationByKubelet", "PreemptionByScheduler", "Preempting"), "Evicted"
    ),
    "InjectedContainer": "InjectedContainer",
    "NodeRefused": "NodeRefused",
}
"""What the kubelet, the scheduler and the node controller call it, and the reason it becomes."""

DISRUPTIONS: Final = frozenset(
    (
        "EvictionByEvictionAPI", "TerminationByKubelet", "PreemptionByScheduler", "DeletionByTaintManager",
        "DeletionByPodGC",
    )
)  # fmt: skip
"""Reasons of the condition DisruptionTarget: the pod was taken from its node for what it had not done. A pod that is
merely `Evicted` may have taken more of the node's disk than its own limit."""

COMMUNICATION: Final = re.compile(
    r"NCCL|rendezvous|ProcessGroup|gloo|Dist(Network|Store|Backend)Error|TCPStore|connection (closed|reset) by peer",
    re.I,
)
"""What the words of a training process that lost the others have in common."""

PODS_START: Final = timedelta(minutes=5)
"""Nor is a pod of which nothing is said but that it has not started: images are large."""

MAY_PASS: Final = frozenset({"Evicted", "NodeLost", "NodeRefused", "InjectedContainer"})
"""Of these words those that another attempt may help."""

EVICTIONS: Final = 4
"""So many in a row by nodes that have run out of something, and somebody has to look."""

QUIET: Final = timedelta(minutes=10)
"""What follows such evictions is well after so long, and once it has lived longer than all of them."""

GRAVEST_FIRST: Final = (
    "BadInput", "OutOfMemory", "DiskFull", "Crashed", "Temporary", "Killed", "InjectedContainer", "NodeRefused",
    "Evicted", "NodeLost",
)  # fmt: skip
"""Where several pods failed: the cause comes before what it did to the others."""

AFTERMATH: Final = ("Evicted", "NodeLost", "Communication", "Terminated", "Unknown")
"""What is left of a disruption: the pod itself, and what its end did to the others."""


# ── failed Jobs ──────────────────────────────────────────────────────────────────────────────────────────────────────


def failure_of(job: Job, about: Circumstances) -> Failure:
    """The one failure that explains a failed Job: the deadline, or the gravest of its pods' failures."""
    if job.reason == "DeadlineExceeded":
        limit = f"spec.deadlineSeconds ({about.spec.deadline_seconds})"
        return Failure(
            "DeadlineExceeded",
            retryable=False,
            message=f"{job.stage}: took longer than {limit}{_at(job, about)}; raise it ({kept(job.stage)})",
        )
    gravest = _gravest(job, about)
    disrupted = job.disrupted or any(map(is_disrupted, job.pods))
    return _disruption(job, gravest) if disrupted and gravest.reason in AFTERMATH else gravest


def _gravest(job: Job, about: Circumstances) -> Failure:
    failures = [_pod_failure(job, pod, about) for pod in failed_pods(job)]
    if not failures:
        words = ": ".join(word for word in (job.reason, job.message) if word)
        return Failure("Unknown", True, f"{job.stage}: Job {job.name} failed ({words}) and its pods are gone")
    order = {reason: place for place, reason in enumerate(GRAVEST_FIRST)}
    return min(failures, key=lambda failure: order.get(failure.reason, len(order)))


def is_disrupted(pod: Pod) -> bool:
    """It was evicted, preempted or lost with its node."""
    return pod.reason in DISRUPTIONS


def _disruption(job: Job, gravest: Failure) -> Failure:
    """What befell one pod, in the place of what its end did to the others."""
    if gravest.reason in ("Evicted", "NodeLost"):
        return replace(gravest, disruption=True)
    message = f"{job.stage}: a pod was taken from its node, and the others ended with it; it runs again"
    return Failure("Evicted", True, f"{message} ({kept(job.stage)})", disruption=True)


def failed_pods(job: Job) -> list[Pod]:
    """The pods that say why a Job failed, by index."""
    return sorted(filter(_has_failed, job.pods), key=lambda pod: pod.index)


def _has_failed(pod: Pod) -> bool:
    return not pod.running and bool(pod.exit_code or pod.reason) and pod.exit_code != ExitCode.DONE


def _pod_failure(job: Job, pod: Pod, about: Circumstances) -> Failure:
    if left := pod.failure():
        return _told(job, pod, left.reason, left.message)
    if pod.reason == "OOMKilled":
        return _out_of_memory(job, pod, about)
    if word := WORDS.get(pod.reason):
        return Failure(word, word in MAY_PASS, f"{_where(job, pod)}: {_explained(word, job, pod, about)}")
    if job.stage == "training" and COMMUNICATION.search(pod.message):
        return _communication(job, pod, pod.message)
    return _ended(job, pod, about)


def _out_of_memory(job: Job, pod: Pod, about: Circumstances) -> Failure:
    limit = about.spec.section(job.stage).resources.limits.get("memory")
    amount = f"its memory limit ({limit})" if limit else "the memory of its node"
    remedy = f"raise spec.{job.stage}.resources.limits.memory"
    if job.stage == "training":
        remedy += ", or lower spec.training.perDeviceBatchSize"
    message = f"{_where(job, pod)}: the container exceeded {amount}{_at(job, about)}; {remedy} ({kept(job.stage)})"
    return Failure("OutOfMemory", False, message)


def _ended(job: Job, pod: Pod, about: Circumstances) -> Failure:
    """A container that ended without a word of ours: by its exit code, negative where a signal ended a process."""
    where, at = _where(job, pod), _at(job, about)
    match pod.exit_code:
        case 137 | -9:
            message = f"{where}: the process was killed (SIGKILL){at}; it runs again ({kept(job.stage)})"
            return Failure("Killed", True, message)
        case ExitCode.TERMINATED | -15:
            message = f"{where}: was asked to end (SIGTERM){at}; it runs again ({kept(job.stage)})"
            return Failure("Terminated", True, message)
        case code:
            last = _last_line(pod.message)
            message = f"{where}: ended with exit code {code}{at}{': ' if last else ''}{last}"
            return Failure("Crashed", False, f"{message}; see its log: {job.logs_command}")


def _told(job: Job, pod: Pod, reason: str, message: str) -> Failure:
    """What the stage itself said of its end."""
    lost = reason == "Internal" and job.stage == "training" and COMMUNICATION.search(message)
    if reason == "Communication" or lost:
        return _communication(job, pod, message)
    named = "Crashed" if reason == "Internal" else reason
    return Failure(named, pod.exit_code == ExitCode.TEMPORARY, f"{_where(job, pod)}: {message}")


def _communication(job: Job, pod: Pod, message: str) -> Failure:
    remedy = "it runs again; if it comes back, see that the network lets pods of one Job reach each other on all ports"
    text = f"{_where(job, pod)}: the training processes lost each other ({_last_line(message)}); {remedy}"
    return Failure("Communication", True, f"{text} ({kept(job.stage)})")


# ── Jobs that run, or would ──────────────────────────────────────────────────────────────────────────────────────────


def trouble_of(job: Job, about: Circumstances) -> Trouble | None:
    """What has kept a pod of an active Job from its work for longest; None where all is well. Of pods that are not
    there at all: missing_pods.py."""
    began = job.started or job.created
    if began is None:
        return None
    found = [trouble for pod in job.pods if (trouble := _pod_trouble(job, pod, pod.since or began, about))]
    found += _repeated_evictions(job, about)
    return min(found, key=lambda trouble: trouble.since, default=None)


def _repeated_evictions(job: Job, about: Circumstances) -> list[Trouble]:
    """What a Job that makes pod after pod for a node without room never ends of: there since the first one."""
    evictions, pod = job.evictions, job.evictions.latest
    if evictions.times < EVICTIONS or pod is None or evictions.first is None or evictions.last is None:
        return []
    over = evictions.last + max(QUIET, evictions.longest)
    words = f"{evictions.times} pods in a row were evicted ({pod.message[:1000]})"
    message = f"{_where(job, pod)}: {words}; {_against_eviction(job, pod)} ({kept(job.stage)})"
    return [] if about.now and about.now >= over else [Trouble("Evicted", message, evictions.first, over)]


def _pod_trouble(job: Job, pod: Pod, since: datetime, about: Circumstances) -> Trouble | None:
    if is_in_trouble(pod):
        word = WORDS[pod.reason]
        return Trouble(word, f"{_where(job, pod)}: {_explained(word, job, pod, about)}", since)
    if _has_failed(pod):  # the newest of its index: the one that follows it is not there yet
        failure = _pod_failure(job, pod, about)
        return Trouble(failure.reason, failure.message + _held_up(pod), since)
    if pod.running or pod.reason or pod.exit_code is not None:
        return None
    message = (
        f"{_where(job, pod)}: the pod has not started; `kubectl describe pod {pod.name}` says why "
        "(an image that is still pulled, a volume that is not mounted, or a node without a network)"
    )
    return Trouble("NotStarted", message, since + PODS_START)


def is_in_trouble(pod: Pod) -> bool:
    """Something keeps it from its work, and it has not ended."""
    return pod.exit_code is None and pod.reason in WORDS


def _explained(word: str, job: Job, pod: Pod, about: Circumstances) -> str:
    """What is wrong with a pod that does not run, and what to do, after `where: `."""
    section, said = f"spec.{job.stage}", f" ({pod.message[:1000]})" if pod.message else ""
    match word:
        case "ImagePull":
            image = about.spec.section(job.stage).pod.image
            remedy = f"correct {section}.pod.image" + (f" ({image})" if image else "")
            return (
                f"the image cannot be pulled{said}; {remedy}, or name a pull secret in {section}.pod.imagePullSecrets"
            )
        case "PodConfiguration":
            return f"the container cannot be made{said}; create what is missing, or correct {section}.pod"
        case "Unschedulable" if "persistentvolumeclaim" in pod.message.lower():
            return f"its volume is not there{said}; create the claim, or correct {section}.pod.cache.claimName"
        case "Unschedulable":
            return f"no node takes the pod{said}; lower {section}.resources, correct {section}.pod, or add nodes"
        case "InjectedContainer":
            return (
                f"a container that is not ours keeps the pod from its work{said}; `kubectl logs {pod.name} -c "
                "CONTAINER` says why; mend it, or have the webhook that adds it leave this namespace's Jobs alone"
            )
        case _:
            return _explained_by_node(word, job, pod, said)


def _explained_by_node(word: str, job: Job, pod: Pod, said: str) -> str:
    """The same of what its node did to a pod."""
    match word:
        case "NodeLost" if pod.exit_code is None:
            return (
                f"its node is not heard of{said}, and nothing starts in the pod's place as long as it may still run "
                f"there: bring the node back, delete its object, or `kubectl delete pod {pod.name} --force` if it is "
                f"off ({kept(job.stage)})"
            )
        case "NodeLost":
            return f"its node was lost{said}; it is started elsewhere ({kept(job.stage)})"
        case "NodeRefused":
            return (
                f"the node refused the pod{said}; it is tried again; if it comes back, see that the node's device "
                f"plugin runs, and that what spec.{job.stage}.resources asks for is free there"
            )
        case _:
            found = _against_eviction(job, pod)
            remedy = f"; to keep that from coming back, {found}" if found else ""
            return f"the pod was evicted{said}; it is started again{remedy} ({kept(job.stage)})"


def _against_eviction(job: Job, pod: Pod) -> str:
    """What keeps pods from being evicted, by what the node had run out of; empty where it was nothing of theirs."""
    section, words = f"spec.{job.stage}", pod.message.lower()
    if "storage" in words or "emptydir" in words or "inodes" in words:
        return f"give {section}.pod.cache, or raise {section}.resources.requests.ephemeral-storage and its limit"
    if "memory" in words:
        return f"raise {section}.resources.requests.memory: who uses more than that is evicted first"
    return "add nodes, or see what fills them" if "low on resource" in words else ""


def _held_up(pod: Pod) -> str:
    """What keeps a pod whose stage has ended from ending, so that no other one follows it."""
    if not pod.beside:
        return ""
    return (
        f"; no other pod follows it, since container {pod.beside}, which is not ours, runs on in pod {pod.name}: "
        "delete the pod, and have the webhook that adds it leave this namespace's Jobs alone"
    )


# ── words ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def kept(stage: str) -> str:
    """What is not lost when the stage runs again."""
    return "goes on from its last checkpoint" if stage == "training" else "finished parts are kept"


def _where(job: Job, pod: Pod) -> str:
    if job.stage == "training":
        return f"training, node {pod.index}" if pod.index else "training"
    return f"{job.stage}, shard {pod.index}" if pod.index else job.stage


def _at(job: Job, about: Circumstances) -> str:
    """` at step 312 of 2668`; empty where it was never seen at work."""
    unit = "step " if job.stage == "training" else ""
    return f" at {unit}{about.reached.done} of {about.reached.total}" if about.reached.total else ""


def _last_line(text: str) -> str:
    """The last line that says something: a traceback ends with its error."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][-500:] if lines else ""
