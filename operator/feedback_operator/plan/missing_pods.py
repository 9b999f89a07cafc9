"""Why a Job has no pods, or not all of them: what the API server and Kueue say of it, and what to do.

They are asked by name where pods do not appear (`asks_at`), since events are too many to be watched.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, Literal

from feedback_operator.api.base import amount
from feedback_operator.plan.failures import Trouble
from feedback_operator.plan.snapshot import Job, Words
from feedback_operator.resources.job import QUEUE_LABEL

PODS_APPEAR: Final = timedelta(seconds=60)
"""A Job without pods of which nothing is said is no trouble before."""

ASKED_AFTER: Final = timedelta(seconds=10)
"""A Job that has no pods by then, or not all, or waits in a queue, is asked about."""

ASKED_AGAIN: Final = (timedelta(seconds=15), timedelta(minutes=5))
"""And again after a quarter of the time that it has waited, within these bounds."""


@dataclass(frozen=True)
class Refusal:
    """A kind of words: what they have in common, whether waiting helps, and what does. `{section}` is the stage's in
    the spec, `{job}` its Job."""

    pattern: re.Pattern[str]
    final: bool
    remedy: str


QUOTA: Final = re.compile(r"exceeded quota: (\S+), requested: (\S+), used: \S+, limited: (\S+)")

REFUSALS: Final = (
    Refusal(re.compile(r"failed quota: .* must specify"), True, "give {section}.resources what it asks for"),
    Refusal(
        re.compile(r"(maximum|minimum) \S+ (usage|limit|request)|max limit to request ratio"),
        True,
        "correct {section}.resources, or have the LimitRange of the namespace changed",
    ),
    Refusal(
        re.compile(r"service ?account .*not found", re.I),
        True,
        "create it, or correct {section}.pod.serviceAccountName",
    ),
    Refusal(re.compile(r"no PriorityClass"), True, "create it, or correct {section}.pod.priorityClassName"),
    Refusal(re.compile(r"RuntimeClass"), True, "create it, or correct {section}.pod.runtimeClassName"),
    Refusal(
        re.compile(r"violates PodSecurity"),
        True,
        "leave out {section}.pod.capabilities, or see which webhook changes the pods",
    ),
    Refusal(
        re.compile(r"denied (the )?request|denied by"),
        True,
        "correct what it names in {section}, or have the policy changed",
    ),
    Refusal(re.compile(r"failed calling webhook"), False, "see that the webhook's pods run"),
)
"""What the API server says of pods that it does not take, quotas apart; the first that is found is it."""


@dataclass(frozen=True)
class Obstacle:
    """A kind of Kueue's words that waiting does not change: the reason that it becomes, and what helps. `{section}` is
    the stage's in the spec."""

    pattern: re.Pattern[str]
    reason: str
    remedy: str


ANOTHER_QUEUE: Final = f"name another queue in the iteration's label {QUEUE_LABEL}"

MAY_FIT: Final = re.compile(r"insufficient unused quota")
"""Of one flavor, whatever keeps the others from it."""

OBSTACLES: Final = (
    Obstacle(
        re.compile(r"maximum capacity"),
        "ExceedsQuota",
        "lower {section}.resources, or have the quota of its queue raised",
    ),
    Obstacle(
        re.compile(r"resource \S+ unavailable in ClusterQueue"),
        "ExceedsQuota",
        f"its queue has no quota of that at all: correct {{section}}.resources, or {ANOTHER_QUEUE}",
    ),
    Obstacle(
        re.compile(r"resources validation failed|didn't satisfy LimitRange"),
        "ExceedsQuota",
        "correct {section}.resources, or have the LimitRange of the namespace changed",
    ),
    Obstacle(
        re.compile(r"doesn't match node affinity|untolerated taint"),
        "Unschedulable",
        f"correct {{section}}.pod.nodeSelector or {{section}}.pod.tolerations, or {ANOTHER_QUEUE}",
    ),
    Obstacle(
        re.compile(r"doesn't exist|not found|terminating or missing"), "QueueMissing", f"create it, or {ANOTHER_QUEUE}"
    ),
    Obstacle(
        re.compile(r"doesn't match ClusterQueue selector"),
        "QueueStopped",
        f"have the namespace admitted to it, or {ANOTHER_QUEUE}",
    ),
    Obstacle(
        re.compile(r"is inactive|is stopped"),
        "QueueStopped",
        f"`kubectl describe localqueue,clusterqueue` says why; or {ANOTHER_QUEUE}",
    ),
)
"""The first that is found is it."""

KNOWN: Final[Mapping[str, tuple[str, str]]] = {
    "NoKueue": (
        "QueueMissing",
        f"install Kueue, or take the label {QUEUE_LABEL} off the iteration, suspend and resume it",
    ),
    "Deactivated": ("Deactivated", "suspend and resume the iteration, whose Job is queued anew then"),
}
"""By the reason of Kueue's words, where that says it: the reason that it becomes, and what helps."""


def asks_at(job: Job) -> datetime | None:
    """When to ask what keeps a Job's pods away; None where nothing does."""
    began = job.started or job.created
    if began is None or job.deleting or not (waits_in_queue(job) or _lacking(job)):
        return None
    if job.words is None:
        return began + ASKED_AFTER
    soonest, latest = ASKED_AGAIN
    return job.words.asked + min(max((job.words.asked - began) / 4, soonest), latest)


def waits_in_queue(job: Job) -> bool:
    """Kueue has not admitted it, or not again."""
    return job.state == "Suspended" and job.queued and not job.suspended_by_us


def trouble_in_queue(job: Job) -> Trouble | None:
    """Why Kueue will never admit a Job that waits for it, unless a person does something; None where it may."""
    began = job.started or job.created
    if began is None or not waits_in_queue(job) or not job.words or not (found := _blocked(job, job.words)):
        return None
    reason, remedy = found
    message = f"{job.stage}: Kueue does not admit Job {job.name} ({job.words.text}); {remedy}"
    return Trouble(reason, message, began, waiting="CannotHelp")


def _blocked(job: Job, words: Words) -> tuple[str, str] | None:
    """Reason and remedy."""
    if known := KNOWN.get(words.reason):
        return known
    if MAY_FIT.search(words.text):
        return None
    found = next((obstacle for obstacle in OBSTACLES if obstacle.pattern.search(words.text)), None)
    return (found.reason, found.remedy.format(section=f"spec.{job.stage}")) if found else None


def trouble_of_missing(job: Job) -> Trouble | None:
    """What keeps pods of an active Job from being made; None where all are there."""
    began = job.started or job.created
    if began is None or not (lacking := _lacking(job)):
        return None
    if job.words and job.words.text:
        return _refused(job, job.words, lacking, job.words.since or began)
    if job.pods:
        return None  # the Job controller is about to make them, or they have ended and are gone
    message = (
        f"{job.stage}: Job {job.name} has no pods, and no event says why; `kubectl describe job {job.name}`, and see "
        "that the cluster's controller manager is well"
    )
    return Trouble("PodsNotCreated", message, began + PODS_APPEAR)


def _refused(job: Job, words: Words, lacking: int, since: datetime) -> Trouble:
    final, remedy = _what_helps(words.text)
    told = f"{lacking} of {job.pods_wanted} pods are not made" if job.pods else "its pods are not made"
    message = f"{job.stage}: {told} ({words.text}); {remedy.format(section=f'spec.{job.stage}', job=job.name)}"
    return Trouble("PodsNotCreated", message, since, waiting=_worth_of_waiting(job, final))


def _worth_of_waiting(job: Job, final: bool) -> Literal["Helps", "MayHelp", "CannotHelp"]:
    """Pods that are there make room for the others when they end."""
    if final:
        return "CannotHelp"
    return "Helps" if job.pods else "MayHelp"


def _what_helps(text: str) -> tuple[bool, str]:
    """Whether waiting is in vain, and what is not."""
    if quota := QUOTA.search(text):
        name, requested, limited = quota.groups()
        if _exceeds(requested, limited):
            return (
                True,
                f"one pod asks for more than the whole quota: lower {{section}}.resources, or have {name} raised",
            )
        return False, f"it goes on once others have ended: `kubectl describe quota {name}`"
    found = next((refusal for refusal in REFUSALS if refusal.pattern.search(text)), None)
    return (found.final, found.remedy) if found else (False, "`kubectl describe job {job}` shows what has come of it")


def _exceeds(requested: str, limited: str) -> bool:
    """Of lists such as `pods=1,requests.nvidia.com/gpu=8`, an amount is greater than its limit."""
    limits = _amounts(limited)
    return any(value > limits[name] for name, value in _amounts(requested).items() if name in limits)


def _amounts(text: str) -> dict[str, Decimal]:
    pairs = re.findall(r"([^=,]+)=(\d+(?:\.\d+)?(?:m|k|Ki|M|Mi|G|Gi|T|Ti)?)(?=,|$)", text)
    return {name: amount(quantity) for name, quantity in pairs}


def _lacking(job: Job) -> int:
    """How many pods an active Job has not."""
    return max(0, job.pods_wanted - len({pod.index for pod in job.pods})) if job.state == "Active" else 0
