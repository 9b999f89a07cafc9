"""Pods that try things out as the stages would: which ones, their Jobs, and what follows from their reports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Final

from pydantic import ValidationError

from feedback_operator.api import FeedbackIteration, Metadata, PodOverrides
from feedback_operator.doctor.facts import Facts, Finding, Object, Outcome, Trial, Unknown, condition, listed, quantity
from feedback_operator.doctor.needs import Need, order_of, queue_labels
from feedback_operator.resources import Manifest
from feedback_operator.resources.house_rules import HouseRules
from feedback_operator.resources.pod import container_settings, environment, mounts, pod_metadata, pod_settings, volumes
from feedback_workloads.contract import TrialOrder, TrialReport, counted_gpus

REQUESTS: Final = {"cpu": "100m", "memory": "256Mi"}
"""What it takes to try; what a stage asks for may all be in use."""
SHORTEST_SHARED_MEMORY: Final = 1 << 30
"""What NCCL may take where several processes share a machine: NVIDIA's images are to be given as much."""
UNLIMITED: Final = "1E"
KEPT_SECONDS: Final = 300
MOST_SECONDS: Final = 3600
"""For one that nobody takes away."""
NEVER: Final = ("ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError")
"""Reasons for which a container waits that do not pass by themselves."""
IMAGE_UNKNOWN: Final = "its image is not known, since no operator of the namespace was seen"
LABELS: Final = {
    "app.kubernetes.io/name": "feedback-doctor",
    "app.kubernetes.io/managed-by": "feedback-operator",
}
"""NetworkPolicies choose pods of stages by the second one."""


@dataclass(frozen=True)
class Group:
    """Sections whose pods are alike in all that is tried, and one of them to make the pod of."""

    needs: tuple[Need, ...]
    order: TrialOrder

    @property
    def sections(self) -> tuple[str, ...]:
        return tuple(need.name for need in self.needs)


def groups(iteration: FeedbackIteration, needs: Sequence[Need]) -> tuple[Group, ...]:
    """As few pods as there are different ones: by image, account, Secrets, environment and nodes."""
    found: dict[str, list[Need]] = {}
    for need in needs:
        found.setdefault(f"{need.image} {_tried(need.section.pod).model_dump_json()}", []).append(need)
    return tuple(
        Group(tuple(alike), order_of(iteration.spec, [need.name for need in alike])) for alike in found.values()
    )


def groups_of_images(needs: Sequence[Need]) -> tuple[Group, ...]:
    """One pod an image, where no iteration says more."""
    return tuple(Group((need,), TrialOrder(hub=True)) for need in needs)


def _tried(pod: PodOverrides) -> PodOverrides:
    """Without the volumes, of which some can be mounted once only, and others take long to come."""
    return pod.model_copy(update={"cache": None, "scratch": None, "volumes": [], "volume_mounts": []})


def job(group: Group, owner: Metadata, name: str, house: HouseRules) -> Manifest:
    """A Job with one pod that tries what the group's pods would use, as they would."""
    need = _told_by(group)
    limits = {name: text for name, text in need.section.resources.limits.items() if "/" not in name}
    requests = {name: text for name, text in REQUESTS.items() if quantity(limits.get(name, text)) >= quantity(text)}
    resources = need.section.resources.model_copy(update={"requests": requests, "limits": limits, "claims": []})
    section = need.section.model_copy(update={"resources": resources, "pod": _tried(need.section.pod)})
    template = {
        "metadata": pod_metadata(LABELS, section.pod),
        "spec": {
            "restartPolicy": "Never",
            **pod_settings(section),
            "containers": [
                {
                    "name": "stage",
                    "image": need.image,
                    "command": ["python", "-m", "feedback_workloads.stages.trial"],
                    "args": [group.order.model_dump_json()],
                    "env": environment(section.pod),
                    **container_settings(section),
                    "terminationMessagePolicy": "FallbackToLogsOnError",
                    "volumeMounts": mounts(section.pod),
                }
            ],
            "volumes": volumes(section.pod),
        },
    }
    made = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "namespace": owner.namespace,
            "labels": {**LABELS, **queue_labels(owner)},
        },
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": MOST_SECONDS,
            "ttlSecondsAfterFinished": KEPT_SECONDS,
            **({"suspend": True} if queue_labels(owner) else {}),
            "template": template,
        },
    }
    return house.followed(made, owner)


def _told_by(group: Group) -> Need:
    """The section whose limits the pod has: of those with several GPUs that with the least memory, and so the least
    shared memory; else that with the most."""

    def memory(need: Need) -> Decimal:
        return quantity(need.section.resources.limits.get("memory", UNLIMITED))

    if several := [need for need in group.needs if counted_gpus(need.section.resources.limits) > 1]:
        return min(several, key=memory)
    return max(group.needs, key=memory)


# ── how a pod fares ──────────────────────────────────────────────────────────────────────────────────────────────────


def ended(group: Group, pod: Object) -> Trial | None:
    """What became of the pod; None as long as something may still come of it."""
    trial = Trial(group.sections, group.needs[0].image)
    status = pod.get("status", {})
    state = _state(pod)
    if over := state.get("terminated"):
        return _over(trial, over)
    waiting = state.get("waiting", {})
    if waiting.get("reason") in NEVER:
        return replace(trial, trouble=f"{waiting['reason']}: {waiting.get('message', '')}")
    if status.get("phase") == "Failed":
        return replace(trial, trouble=f"{status.get('reason', 'failed')}: {status.get('message', '')}")
    return None


def _state(pod: Object) -> Object:
    statuses = pod.get("status", {}).get("containerStatuses") or ()
    return next((one.get("state", {}) for one in statuses if one["name"] == "stage"), {})


def _over(trial: Trial, over: Object) -> Trial:
    said = " ".join(str(over.get("message") or over.get("reason", "")).split())
    if over["exitCode"] == 0:
        try:
            return replace(trial, report=TrialReport.model_validate_json(over.get("message", "")))
        except ValidationError:
            return replace(trial, trouble="ended without a report; is the image of another version than this client?")
    if "No module named" in said:
        return replace(trial, trouble=f"the image is of another version than this client: {said[-200:]}")
    return replace(trial, trouble=f"ended with exit code {over['exitCode']}: {said[-300:]}")


def waits_for(pod: Object | None, job_: Object) -> str:
    """Why the pod has not ended yet, for one whose time is over."""
    if job_["spec"].get("suspend"):
        return "its Job was not admitted by Kueue"
    if pod is None:
        return f"no pod was made: {condition(job_, 'Failed').get('message') or 'kubectl get events says why'}"
    scheduled = condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        return f"no node takes it: {scheduled.get('message', '')}"
    waiting = _state(pod).get("waiting", {})
    return f"{waiting.get('reason', 'running')}: {waiting.get('message', 'it has not ended')}"


# ── what is found ────────────────────────────────────────────────────────────────────────────────────────────────────


def check_trials(facts: Facts, needs: Sequence[Need]) -> Iterator[Finding]:
    """What the pods that tried have found."""
    if isinstance(facts.trials, Unknown):
        yield Finding("pods", "not looked at", facts.trials.why)
        return
    for trial in facts.trials:
        yield from _of(trial, [need for need in needs if need.name in trial.sections])


def _of(trial: Trial, needs: Sequence[Need]) -> Iterator[Finding]:
    where = listed(list(trial.sections), 3)
    if not trial.image:
        yield Finding(f"{where}: pod runs", "not looked at", IMAGE_UNKNOWN)
        return
    if trial.report is None:
        yield Finding(f"{where}: pod runs", "failed", trial.trouble, f"see {trial.image} and spec.*.pod of {where}")
        return
    yield Finding(f"{where}: pod runs", "ok", f"{trial.image} was pulled and ran")
    for look in trial.report.looks:
        if not look.problem:
            yield Finding(f"{where}: {look.what}", "ok", "works from a pod")
            continue
        told, _, remedy = look.problem.rpartition("; ")
        outcome: Outcome = "failed" if look.severe else "warning"
        yield Finding(f"{where}: {look.what}", outcome, told or remedy, remedy if told else "")
    yield _shared_memory(trial, needs, where)


def _shared_memory(trial: Trial, needs: Sequence[Need], where: str) -> Finding:
    assert trial.report is not None
    size = Decimal(trial.report.shared_memory_bytes)
    told = f"/dev/shm has {size / 2**30:.1f} GiB"
    several = [need.name for need in needs if counted_gpus(need.section.resources.limits) > 1]
    if size < SHORTEST_SHARED_MEMORY and several:
        return Finding(
            f"{where}: shared memory",
            "failed",
            f"{told}, and the GPUs of {listed(several)} talk through it",
            "raise resources.limits.memory, of which it is a part, to some GiB more than 1Gi",
        )
    return Finding(f"{where}: shared memory", "ok", told)
