"""What a user is told of pods that are not made, in the words of the API server and of Kueue."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from feedback_operator.cluster.kubernetes.observed import words_of_events, words_of_workloads
from feedback_operator.plan.missing_pods import asks_at
from feedback_operator.plan.snapshot import Pod, Words
from tests.unit.worlds import NOW, Simulation, with_metadata

FORBIDDEN = 'pods "it-sampling-0-x" is forbidden: '
GPUS = "requests.nvidia.com/gpu"
FULL = f"{FORBIDDEN}exceeded quota: gpus, requested: {GPUS}=1, used: {GPUS}=4, limited: {GPUS}=4"
NEVER = f"{FORBIDDEN}exceeded quota: gpus, requested: {GPUS}=8,requests.memory=64Gi, used: {GPUS}=0, limited: {GPUS}=4"
BYTES = "requests.memory"
MEMORY = f"{FORBIDDEN}exceeded quota: q, requested: {BYTES}=64Gi, used: {BYTES}=0, limited: {BYTES}=65G"
POLICY = "ValidatingAdmissionPolicy 'images' with binding 'images' denied request: from our registry only"
SMALL = "couldn't assign flavors to pod set main: insufficient quota for nvidia.com/gpu in flavor a, "
TOO_SMALL = f"{SMALL}request > maximum capacity (8 > 4)"
FULL_QUEUE = "insufficient unused quota for nvidia.com/gpu in flavor b, 2 more needed"


def unmade(text: str, *, pods: tuple[Pod, ...] = (), shards: int = 1) -> Simulation:
    """Sampling, of whose pods only these are there, and what the API server says of the others."""
    world = Simulation.of(sampling={"shards": shards})
    job = world.run_until("sampling")
    world.change(job, pods=pods)
    world.said[job.name] = ("FailedCreate", text)
    world.wait(10)
    world.step()
    return world


@pytest.mark.parametrize(
    ("text", "remedy", "final"),
    [
        pytest.param(FULL, "`kubectl describe quota gpus`", False, id="a quota that is used up"),
        pytest.param(NEVER, "lower spec.sampling.resources, or have gpus raised", True, id="a quota that never fits"),
        pytest.param(MEMORY, "lower spec.sampling.resources, or have q raised", True, id="units are compared"),
        pytest.param(
            f"{FORBIDDEN}failed quota: q: must specify limits.memory for: stage", "give spec.sampling.resources", True,
            id="a quota that asks for limits",
        ),
        pytest.param(
            f"{FORBIDDEN}maximum memory usage per Container is 1Gi, but limit is 64Gi", "LimitRange", True,
            id="a LimitRange",
        ),
        pytest.param(
            'error looking up service account team/trainer: serviceaccount "trainer" not found',
            "spec.sampling.pod.serviceAccountName", True, id="a ServiceAccount that is not there",
        ),
        pytest.param(
            f"{FORBIDDEN}no PriorityClass with name urgent was found", "spec.sampling.pod.priorityClassName", True,
            id="a PriorityClass that is not there",
        ),
        pytest.param(
            f'{FORBIDDEN}pod rejected: RuntimeClass "kata" not found', "spec.sampling.pod.runtimeClassName", True,
            id="a RuntimeClass that is not there",
        ),
        pytest.param(
            f"{FORBIDDEN}{POLICY}",
            "have the policy changed", True, id="a policy",
        ),
        pytest.param(
            'admission webhook "validate.kyverno.svc" denied the request: label team is required',
            "have the policy changed", True, id="a policy's webhook",
        ),
        pytest.param(
            'Internal error occurred: failed calling webhook "x": context deadline exceeded', "webhook's pods", False,
            id="a webhook that does not answer",
        ),
        pytest.param("something new", "`kubectl describe job ", False, id="anything else"),
    ],
)  # fmt: skip
def test_why_no_pods_are_made_is_told_in_the_api_servers_words(text: str, remedy: str, final: bool) -> None:
    world = unmade(text)
    status, reason, message = world.told("Reconciling")
    assert (status, reason) == ("True", "PodsNotCreated")
    assert text in message
    assert remedy in message
    world.wait(50)
    world.step()
    assert world.conditions()["Stalled"] == ("True" if final else "False"), "where waiting cannot help, for a minute"
    world.wait(600)
    world.step()
    assert world.conditions()["Stalled"] == "True"


def test_a_part_of_the_pods_that_is_missing_shows_and_stalls_nothing_that_works() -> None:
    world = unmade(FULL, pods=(Pod(0, running=True), Pod(2, running=True)), shards=4)
    assert world.told("Reconciling")[2].startswith("sampling: 2 of 4 pods are not made (pods ")
    world.wait(3600)
    world.step()
    assert world.told("Reconciling")[:2] == ("True", "PodsNotCreated")


def test_pods_of_which_nothing_is_said_are_about_to_come() -> None:
    world = unmade("", pods=(Pod(0, running=True),), shards=2)
    assert world.told("Reconciling")[:2] == ("True", "StageRunning")


def test_a_stage_that_gets_its_pods_after_all_goes_on() -> None:
    world = unmade(NEVER)
    world.wait(60)
    world.step()
    (job,) = world.active()
    world.change(job, pods=(Pod(0, running=True),))
    assert world.step().wake_at is None
    assert world.told("Reconciling")[:2] == ("True", "StageRunning")


def test_the_cluster_is_asked_ever_more_seldom() -> None:
    world = Simulation.of()
    job = world.run_until("sampling")
    world.change(job, pods=())
    moments = []
    for _ in range(12):
        moment = asks_at(world.jobs[job.name])
        assert moment is not None
        moments.append((moment - NOW).total_seconds())
        world.change(job, words=Words(moment))
    assert moments[:4] == [10, 25, 40, 55]
    assert moments[-1] - moments[-2] > 60
    world.change(job, words=Words(NOW + timedelta(days=1)))
    assert asks_at(world.jobs[job.name]) == NOW + timedelta(days=1, minutes=5)


@pytest.mark.parametrize(
    ("said", "reason", "remedy"),
    [
        pytest.param(
            ("Pending", TOO_SMALL), "ExceedsQuota", "spec.sampling.resources",
            id="more than the queue can ever give",
        ),
        pytest.param(
            ("Pending", "couldn't assign flavors to pod set main: resource nvidia.com/gpu unavailable in ClusterQueue"),
            "ExceedsQuota", "correct spec.sampling.resources", id="of which the queue has nothing",
        ),
        pytest.param(
            ("Pending", "resources didn't satisfy LimitRange constraints: podsets[0]: 65Gi: exceeds maximum"),
            "ExceedsQuota", "LimitRange", id="more than a LimitRange admits",
        ),
        pytest.param(
            ("Pending", "couldn't assign flavors to pod set main: flavor spot doesn't match node affinity"),
            "Unschedulable", "spec.sampling.pod.nodeSelector", id="other machines than the queue has",
        ),
        pytest.param(
            ("Pending", "untolerated taint {gpu true NoSchedule <nil>} in flavor a"),
            "Unschedulable", "spec.sampling.pod.tolerations", id="machines that take none such",
        ),
        pytest.param(
            ("Pending", "Workload namespace doesn't match ClusterQueue selector"), "QueueStopped",
            "have the namespace admitted", id="a queue of others",
        ),
        pytest.param(
            ("Inadmissible", "ClusterQueue gpus is terminating or missing"), "QueueMissing", "create it",
            id="a queue that goes",
        ),
        pytest.param(
            ("Inadmissible", "LocalQueue gpus doesn't exist"), "QueueMissing", "kueue.x-k8s.io/queue-name",
            id="no such queue",
        ),
        pytest.param(
            ("Inadmissible", "ClusterQueue gpus is inactive"), "QueueStopped",
            "`kubectl describe localqueue,clusterqueue`",
            id="a queue that was stopped",
        ),
        pytest.param(
            ("Deactivated", "exceeded the maximum number of re-queuing retries"), "Deactivated", "suspend and resume",
            id="deactivated",
        ),
        pytest.param(("NoKueue", "the cluster has no Kueue"), "QueueMissing", "install Kueue", id="no Kueue"),
    ],
)  # fmt: skip
def test_what_kueue_will_never_admit_stalls(said: tuple[str, str], reason: str, remedy: str) -> None:
    world = in_queue(*said)
    assert world.told("Reconciling")[:2] == ("True", reason), "the queue may come a moment after the iteration"
    world.wait(50)
    world.step()
    status, told, message = world.told("Stalled")
    assert (status, told) == ("True", reason)
    assert said[1] in message
    assert remedy in message
    (job,) = world.jobs.values()
    world.said[job.name] = ("Pending", "waits")
    world.wait(15)
    world.step()
    assert world.told("Reconciling")[:2] == ("True", "Queued"), "it recovers by itself"


@pytest.mark.parametrize(
    "text",
    [FULL_QUEUE, f"{TOO_SMALL}, {FULL_QUEUE}"],
    ids=["full", "too small in one flavor, full in another"],
)
def test_what_may_be_admitted_waits_in_kueues_words(text: str) -> None:
    world = in_queue("Pending", text)
    world.wait(86400)
    world.step()
    assert world.told("Reconciling") == ("True", "Queued", f"stage sampling waits for Kueue to admit its Job: {text}")


def in_queue(*said: str) -> Simulation:
    world = Simulation.of()
    world.iteration = with_metadata(world.iteration, labels={"kueue.x-k8s.io/queue-name": "gpus"})
    world.step()
    (job,) = world.jobs.values()
    world.said[job.name] = (said[0], said[1])
    world.wait(10)
    world.step()
    return world


# ── as the API server gives it ───────────────────────────────────────────────────────────────────────────────────────


STAMPS = ("deprecatedFirstTimestamp", "deprecatedLastTimestamp")


def event(note: str, seconds: float, **more: Any) -> dict[str, Any]:
    at = (NOW - timedelta(seconds=seconds)).isoformat()
    return {
        "reason": "FailedCreate",
        "note": note,
        "deprecatedLastTimestamp": at,
        "deprecatedFirstTimestamp": at,
        **more,
    }


@pytest.mark.parametrize(
    ("events", "text"),
    [
        pytest.param([], "", id="none"),
        pytest.param([event("Error creating: no", 5)], "no", id="one"),
        pytest.param([event("Error creating: then", 60), event("Error creating: now", 5)], "now", id="the latest"),
        pytest.param(
            [event("(combined from similar events): Error creating: no", 5)], "no", id="of many that are alike"
        ),
        pytest.param([event("Error creating: no", 3600)], "", id="over"),
        pytest.param(
            [event("no", 3600, series={"count": 9, "lastObservedTime": (NOW - timedelta(seconds=9)).isoformat()})],
            "no",
            id="a series that goes on",
        ),
        pytest.param([{"reason": "FailedCreate", "note": "no", "eventTime": NOW.isoformat()}], "no", id="the new way"),
    ],
)
def test_words_of_events(events: list[dict[str, Any]], text: str) -> None:
    assert words_of_events(events, NOW).text == text


def workload(
    created: str = "2026-01-01T00:00:00Z", active: bool = True, **conditions: dict[str, str]
) -> dict[str, Any]:
    told = [{"type": kind, **condition} for kind, condition in conditions.items()]
    meta = {"name": "w", "creationTimestamp": created}
    return {"metadata": meta, "spec": {"active": active}, "status": {"conditions": told}}


PENDING = {"status": "False", "reason": "Pending", "message": "2 more needed"}
RESERVED = {"status": "True", "reason": "QuotaReserved", "message": "reserved in gpus"}
EVICTED = {"status": "True", "reason": "Deactivated", "message": "too many retries"}


@pytest.mark.parametrize(
    ("workloads", "words"),
    [
        pytest.param([], ("NoWorkload", "Kueue has not taken it up; see that its controller manager runs"), id="none"),
        pytest.param([workload()], ("", ""), id="a new one"),
        pytest.param([workload(QuotaReserved=PENDING)], ("Pending", "2 more needed"), id="pending"),
        pytest.param([workload(QuotaReserved=RESERVED)], ("", ""), id="about to be admitted"),
        pytest.param(
            [workload(active=False, QuotaReserved=PENDING, Evicted=EVICTED)], ("Deactivated", "too many retries"),
            id="deactivated",
        ),
        pytest.param(
            [workload("2026-01-02T00:00:00Z", QuotaReserved=PENDING), workload(QuotaReserved=RESERVED)],
            ("Pending", "2 more needed"), id="the newest",
        ),
    ],
)  # fmt: skip
def test_words_of_workloads(workloads: list[dict[str, Any]], words: tuple[str, str]) -> None:
    said = words_of_workloads(workloads, NOW)
    assert (said.reason, said.text) == words
