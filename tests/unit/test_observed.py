"""What snapshots are made of, from objects as the API server gives them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from feedback_operator.cluster.jobs import job_of
from feedback_operator.cluster.kubernetes.observed import (
    ObservedPod,
    evictions_of,
    iteration_of,
    owner_of,
    pod_of,
    pods_by_index,
    whole,
)
from feedback_operator.plan.snapshot import Evictions, Job, Pod

CREATED = "2026-01-01T00:00:00Z"
LATER = "2026-01-01T00:05:00Z"
Body = dict[str, Any]


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def job(status: Body | None = None, spec: Body | None = None, **metadata: Any) -> Body:
    return {
        "metadata": {
            "name": "it-sampling-01234567-0",
            "creationTimestamp": CREATED,
            "labels": {"feedback.rlaif.dev/stage": "sampling", "feedback.rlaif.dev/attempt": "2"},
            "annotations": {
                "feedback.rlaif.dev/address": "a" * 64,
                "feedback.rlaif.dev/generation": "3",
                "feedback.rlaif.dev/retries": "1",
            },
            **metadata,
        },
        "spec": spec or {},
        **({"status": status} if status is not None else {}),
    }


def expected(**changes: Any) -> Job:
    known: Body = {
        "name": "it-sampling-01234567-0",
        "stage": "sampling",
        "address": "a" * 64,
        "attempt": 2,
        "state": "Active",
        "generation": 3,
        "retries": 1,
        "created": at(CREATED),
    }
    return Job(**{**known, **changes})


def ended(kind: str, reason: str = "", message: str = "") -> Body:
    condition = {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": LATER}
    return {"startTime": CREATED, "conditions": [{"type": "FailureTarget", "status": "True", "reason": "x"}, condition]}


@pytest.mark.parametrize(
    ("body", "seen"),
    [
        pytest.param(job(), expected(started=at(CREATED)), id="new: starts as it is created"),
        pytest.param(job({"startTime": LATER, "active": 1}), expected(started=at(LATER)), id="running"),
        pytest.param(
            job({"startTime": "2026-01-01T00:00:02Z"}), expected(started=at(CREATED)), id="a little later is no news"
        ),
        pytest.param(job(None, {"suspend": True}), expected(state="Suspended"), id="created suspended"),
        pytest.param(
            job({"conditions": [{"type": "Suspended", "status": "True"}]}, {"suspend": True}),
            expected(state="Suspended"),
            id="suspended",
        ),
        pytest.param(
            job({"conditions": [{"type": "Suspended", "status": "False"}]}), expected(), id="resumed, not yet started"
        ),
        pytest.param(
            job(ended("Complete")), expected(state="Complete", started=at(CREATED), finished=at(LATER)), id="complete"
        ),
        pytest.param(
            job(ended("Failed", "DeadlineExceeded", "too slow"), {"suspend": True}),
            expected(
                state="Failed",
                reason="DeadlineExceeded",
                message="too slow",
                started=at(CREATED),
                finished=at(LATER),
            ),
            id="failed, whatever else it is",
        ),
        pytest.param(
            job({"startTime": CREATED}, deletionTimestamp=LATER),
            expected(started=at(CREATED), deleting=True),
            id="being deleted",
        ),
    ],
)
def test_job_of(body: Body, seen: Job) -> None:
    assert job_of(body) == seen


def test_a_job_with_a_queue_name_is_queued() -> None:
    body = job()
    body["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "gpus"
    assert job_of(body).queued


def pod(status: Body, index: int = 0, name: str = "p", created: str = CREATED) -> Body:
    labels = {"batch.kubernetes.io/job-completion-index": str(index), "feedback.rlaif.dev/iteration": "it"}
    return {"metadata": {"name": name, "creationTimestamp": created, "labels": labels}, "status": status}


def container(state: Body, name: str = "stage", **more: Any) -> Body:
    return {"containerStatuses": [{"name": name, "state": state, **more}]}


def condition(kind: str, status: str, reason: str = "", message: str = "") -> Body:
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": LATER}


DENIED = {"terminated": {"exitCode": 1, "reason": "Error", "message": "denied", "finishedAt": LATER}}
SIDECAR_WITHOUT_IMAGE = {"name": "sidecar", "state": {"waiting": {"reason": "ImagePullBackOff"}}}
OOM = {"terminated": {"exitCode": 137, "reason": "OOMKilled", "finishedAt": LATER}}
DONE = {"terminated": {"exitCode": 0, "reason": "Completed", "message": "{}", "finishedAt": LATER}}


@pytest.mark.parametrize(
    ("status", "seen"),
    [
        pytest.param({}, Pod(0, since=at(CREATED)), id="new"),
        pytest.param(
            {"conditions": [condition("PodScheduled", "False", "Unschedulable", "no GPU")]},
            Pod(0, reason="Unschedulable", message="no GPU", since=at(LATER)),
            id="unschedulable",
        ),
        pytest.param(
            container({"waiting": {"reason": "ContainerCreating"}}), Pod(0, since=at(CREATED)), id="nothing to tell yet"
        ),
        pytest.param(
            container({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}),
            Pod(0, reason="ImagePullBackOff", message="no such image", since=at(CREATED)),
            id="image pull",
        ),
        pytest.param(container({"running": {}}, ready=True), Pod(0, running=True, since=at(CREATED)), id="running"),
        pytest.param(
            container({"running": {}}, lastState=OOM), Pod(0, running=True, since=at(CREATED)), id="running again"
        ),
        pytest.param(container(OOM), Pod(0, exit_code=137, reason="OOMKilled", since=at(LATER)), id="out of memory"),
        pytest.param(
            container(DONE), Pod(0, exit_code=0, reason="Completed", message="{}", since=at(LATER)), id="done"
        ),
        pytest.param(
            {
                "containerStatuses": [
                    {"name": "sidecar", "state": {"running": {}}},
                    {"name": "stage", "state": DONE},
                ]
            },
            Pod(0, exit_code=0, reason="Completed", message="{}", since=at(LATER), beside="sidecar"),
            id="done beside a sidecar",
        ),
        pytest.param(
            {"containerStatuses": [SIDECAR_WITHOUT_IMAGE, {"name": "stage", "state": {"running": {}}}]},
            Pod(0, running=True, since=at(CREATED)),
            id="at work beside a sidecar that does not start",
        ),
        pytest.param(
            {"containerStatuses": [{"name": "sidecar", "state": OOM}, {"name": "stage", "state": {"running": {}}}]},
            Pod(0, running=True, since=at(CREATED)),
            id="at work beside a sidecar that is out of memory",
        ),
        pytest.param(
            {
                "initContainerStatuses": [{"name": "istio-init", "state": DENIED}],
                "containerStatuses": [{"name": "stage", "state": {"waiting": {"reason": "PodInitializing"}}}],
                "phase": "Failed",
            },
            Pod(0, reason="InjectedContainer", message="istio-init ended with exit code 1: denied", since=at(LATER)),
            id="an init container failed",
        ),
        pytest.param(
            {
                "initContainerStatuses": [
                    {"name": "proxy", "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s"}}}
                ],
                "containerStatuses": [{"name": "stage", "state": {"waiting": {"reason": "PodInitializing"}}}],
            },
            Pod(
                0, reason="InjectedContainer", message="proxy waits: CrashLoopBackOff: back-off 40s", since=at(CREATED)
            ),
            id="a native sidecar that does not start",
        ),
        pytest.param(
            {"phase": "Failed", "reason": "UnexpectedAdmissionError", "message": "Allocate failed: nvidia.com/gpu"},
            Pod(
                0,
                reason="NodeRefused",
                message="UnexpectedAdmissionError: Allocate failed: nvidia.com/gpu",
                since=at(CREATED),
            ),
            id="refused by the kubelet",
        ),
        pytest.param(
            {"conditions": [condition("PodScheduled", "True")]}, Pod(0, since=at(LATER)), id="since it has its node"
        ),
        pytest.param(
            {"reason": "Evicted", "message": "low on memory", "phase": "Failed"},
            Pod(0, reason="Evicted", message="low on memory", since=at(CREATED)),
            id="evicted",
        ),
        pytest.param(
            {"conditions": [condition("DisruptionTarget", "True", "PreemptionByScheduler", "made room")]},
            Pod(0, reason="PreemptionByScheduler", message="made room", since=at(LATER)),
            id="preempted",
        ),
        pytest.param(
            {**container({"running": {}}, ready=True), "conditions": [condition("Ready", "False")]},
            Pod(0, reason="NodeNotReady", message="its node is not heard of", running=True, since=at(LATER)),
            id="node lost",
        ),
        pytest.param(
            {**container({"running": {}}, ready=False), "conditions": [condition("Ready", "False")]},
            Pod(0, running=True, since=at(CREATED)),
            id="not ready by its own probe",
        ),
    ],
)
def test_pod_of(status: Body, seen: Pod) -> None:
    observed = pod_of(pod(status))
    assert observed.pod == Pod(**{**vars(seen), "name": "p"})


def test_of_each_index_the_pod_that_says_most() -> None:
    def observed(status: Body, index: int, name: str, created: str) -> ObservedPod:
        return pod_of(pod(status, index, name, created))

    pods = [
        observed(container(DONE), 0, "first-done", CREATED),
        observed(container({"running": {}}), 0, "started-later", LATER),
        observed(container(OOM), 1, "failed", CREATED),
        observed(container({"running": {}}), 1, "again", LATER),
    ]
    assert [chosen.name for chosen in pods_by_index(iter(pods))] == ["first-done", "again"]
    assert [chosen.name for chosen in pods_by_index(reversed(pods))] == ["first-done", "again"]


def test_evictions_by_nodes_without_room_are_counted_by_index() -> None:
    """Whatever the stage itself said last; a node that is drained, or shuts down, has not run out of anything."""

    def taken(index: int, name: str, words: str) -> ObservedPod:
        said = {"exitCode": 143, "reason": "Error", "message": "flushed", "finishedAt": LATER}
        disrupted = {**condition("DisruptionTarget", "True", "TerminationByKubelet", words)}
        return pod_of(pod({**container({"terminated": said}), "conditions": [disrupted]}, index, name))

    full = "The node was low on resource: memory."
    pods = [taken(0, "a", full), taken(1, "b", full), taken(1, "c", full), taken(0, "d", "imminent node shutdown")]
    found = evictions_of(pods)
    assert found.latest
    assert (found.times, found.latest.name, found.latest.message) == (2, "c", full)
    assert (found.first, found.last, found.longest) == (at(LATER), at(LATER), timedelta(minutes=5))
    assert evictions_of([]) == Evictions()


def test_owner_is_the_controller() -> None:
    references = [
        {"kind": "Other", "name": "o", "uid": "1"},
        {"kind": "FeedbackIteration", "name": "it", "uid": "2", "controller": True},
    ]
    owner = owner_of({"metadata": {"ownerReferences": references}})
    assert (owner.kind, owner.name, owner.uid) == ("FeedbackIteration", "it", "2")
    assert owner_of({"metadata": {}}).uid == ""


def set_by(manager: str, **fields: Any) -> Body:
    """An entry of managedFields."""
    return {"manager": manager, "operation": "Update", "time": "2026-01-01T00:00:00Z", "fieldsV1": {"f:spec": fields}}


def test_managed_fields_are_not_kept() -> None:
    body = {"kind": "Service", "metadata": {"name": "s", "managedFields": [set_by("m", **{"f:type": {}})]}, "spec": {}}
    assert whole(body) == {"kind": "Service", "metadata": {"name": "s"}, "spec": {}}


def test_of_managed_fields_who_set_the_replicas_is_kept() -> None:
    entries = [
        {"manager": "kube-controller-manager", "operation": "Update", "fieldsV1": {"f:status": {}}},
        set_by("m", **{"f:replicas": {}, "f:template": {"f:spec": {}}}),
    ]
    kept = {"manager": "m", "operation": "Update", "fieldsV1": {"f:spec": {"f:replicas": {}}}}
    assert whole({"metadata": {"managedFields": entries}}) == {"metadata": {"managedFields": [kept]}}


def observed_iteration(**changes: Any) -> Body:
    body: Body = {
        "apiVersion": "feedback.rlaif.dev/v1alpha1",
        "kind": "FeedbackIteration",
        "metadata": {"name": "it", "namespace": "ns", "uid": "u", "resourceVersion": "1", "managedFields": [{}]},
        "spec": {"model": {"from": {"iteration": "parent"}}, "serving": {"endpoint": "answers"}},
    }
    return {**body, **changes}


def test_iteration_of() -> None:
    seen = iteration_of(observed_iteration())
    assert (seen.parent, seen.endpoint, seen.state) == ("parent", "answers", "New")
    assert b"managedFields" not in seen.text


@pytest.mark.parametrize(
    ("conditions", "state"),
    [
        ({"Stalled": ("True", "OutOfMemory"), "Ready": ("False", "OutOfMemory")}, "Stalled"),
        ({"Ready": ("True", "Complete"), "Promoted": ("True", "GatePassed")}, "Promoted"),
        ({"Ready": ("True", "Complete"), "Promoted": ("False", "GateFailed")}, "Ready"),
        ({"Reconciling": ("True", "Suspended")}, "Suspended"),
        ({"Reconciling": ("True", "StageRunning")}, "Running"),
        ({}, "New"),
    ],
)
def test_state_for_metrics(conditions: dict[str, tuple[str, str]], state: str) -> None:
    status = {"conditions": [{"type": kind, "status": s, "reason": r} for kind, (s, r) in conditions.items()]}
    assert iteration_of(observed_iteration(status=status)).state == state


@pytest.mark.parametrize(
    ("change", "concerns_others"),
    [
        pytest.param({"stages": [{"name": "sampling", "state": "Done"}]}, False, id="a stage"),
        pytest.param(
            {"conditions": [{"type": "Reconciling", "status": "True", "reason": "x"}]}, False, id="its course"
        ),
        pytest.param({"conditions": [{"type": "Promoted", "status": "True", "reason": "x"}]}, True, id="promotion"),
        pytest.param({"promoted": {"uri": "s3://b/p"}}, True, id="the promoted model"),
        pytest.param({"serving": {"rolledBackRevision": "0123456789"}}, True, id="a rollback"),
        pytest.param({"observedGeneration": 1}, True, id="the operator has looked at its edit"),
    ],
)
def test_what_is_visible_changes_with_what_others_look_at(change: Body, concerns_others: bool) -> None:
    before, after = iteration_of(observed_iteration(status={})), iteration_of(observed_iteration(status=change))
    assert (before.visible_hash != after.visible_hash) is concerns_others
