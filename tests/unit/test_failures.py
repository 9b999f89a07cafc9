"""Failure classes as a table: what is observed, the reason in the condition, whether it is tried again, what to do."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from feedback_operator.plan.failures import PODS_START, Circumstances, failure_of, trouble_of
from feedback_operator.plan.snapshot import Job, Pod, Units
from feedback_operator.resources.job import build_job
from tests.unit.test_job import run_of
from tests.unit.worlds import NOW, broken, iteration

OPERATIONS = Path("docs/operations.md")

SPEC = iteration(
    training={"resources": {"limits": {"memory": "64Gi"}}},
    sampling={"pod": {"image": "generate:typo"}},
    deadlineSeconds=60,
).spec
STEP_312 = Units(312, 2668)
REMEDY = (
    "it runs again; if it comes back, see that the network lets pods of one Job reach each other on all ports "
    "(goes on from its last checkpoint)"
)
NCCL = "RuntimeError: NCCL error in: ProcessGroupNCCL.cpp:2251, remote process exited or there was a network error"


def job(stage: str, *pods: Pod, reason: str = "FailedIndexes", state: str = "Failed") -> Job:
    return Job(f"it-{stage}-x-0", stage, "a" * 64, 0, state, reason=reason, pods=pods, started=NOW)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "reached", "reason", "retryable", "message"),
    [
        pytest.param(
            job("training", Pod(0, 137, "OOMKilled")),
            STEP_312,
            "OutOfMemory",
            False,
            "training: the container exceeded its memory limit (64Gi) at step 312 of 2668; "
            "raise spec.training.resources.limits.memory, or lower spec.training.perDeviceBatchSize "
            "(goes on from its last checkpoint)",
            id="out of memory: the trainer",
        ),
        pytest.param(
            job("labeling", Pod(3, 137, "OOMKilled")),
            Units(10, 40),
            "OutOfMemory",
            False,
            "labeling, shard 3: the container exceeded the memory of its node at 10 of 40; "
            "raise spec.labeling.resources.limits.memory (finished parts are kept)",
            id="out of memory: a shard without a limit",
        ),
        pytest.param(
            job("sampling", broken("BadInput", "s3://b/x has no column question; rename it", 2)),
            Units(),
            "BadInput",
            False,
            "sampling: s3://b/x has no column question; rename it",
            id="bad input",
        ),
        pytest.param(
            job("sampling", broken("Temporary", "S3 is out of reach", 75)),
            Units(),
            "Temporary",
            True,
            "sampling: S3 is out of reach",
            id="temporary",
        ),
        pytest.param(
            job("sampling", broken("DiskFull", "no space left on /tmp", 75)),
            Units(),
            "DiskFull",
            True,
            "sampling: no space left on /tmp",
            id="disk full",
        ),
        pytest.param(
            job("splitting", broken("Internal", "KeyError: 'x'", 1, "splitting")),
            Units(),
            "Crashed",
            False,
            "splitting: KeyError: 'x'",
            id="a bug of ours",
        ),
        pytest.param(
            job("training", broken("Internal", NCCL, 1, "training", 1)),
            STEP_312,
            "Communication",
            True,
            f"training, node 1: the training processes lost each other ({NCCL}); {REMEDY}",
            id="NCCL, told by the stage",
        ),
        pytest.param(
            job("training", broken("Communication", "the 2 nodes did not meet", 75, "training")),
            Units(),
            "Communication",
            True,
            f"training: the training processes lost each other (the 2 nodes did not meet); {REMEDY}",
            id="nodes that never met",
        ),
        pytest.param(
            job("training", Pod(0, 1, "Error", "Traceback\n  ...\ntorch.distributed.DistStoreError: Timed out")),
            Units(),
            "Communication",
            True,
            "training: the training processes lost each other (torch.distributed.DistStoreError: Timed out); " + REMEDY,
            id="rendezvous, from the log",
        ),
        pytest.param(
            job("sampling", Pod(0, 1, "Error", "Traceback (most recent call last):\nValueError: x\n")),
            Units(),
            "Crashed",
            False,
            "sampling: ended with exit code 1: ValueError: x; see its log: feedback logs sampling -i it",
            id="crash",
        ),
        pytest.param(
            job("sampling", Pod(0, 137, "Error")),
            Units(),
            "Killed",
            True,
            "sampling: the process was killed (SIGKILL); it runs again (finished parts are kept)",
            id="killed",
        ),
        pytest.param(
            job("sampling", Pod(0, 143, "Error")),
            Units(),
            "Terminated",
            True,
            "sampling: was asked to end (SIGTERM); it runs again (finished parts are kept)",
            id="terminated",
        ),
        pytest.param(
            job("sampling", Pod(0, 137, "Evicted", "The node was low on resource: ephemeral-storage.")),
            Units(),
            "Evicted",
            True,
            "sampling: the pod was evicted (The node was low on resource: ephemeral-storage.); it is started again; to "
            "keep that from coming back, give spec.sampling.pod.cache, or raise "
            "spec.sampling.resources.requests.ephemeral-storage and its limit (finished parts are kept)",
            id="evicted",
        ),
        pytest.param(
            job("sampling", Pod(0, 137, "PreemptionByScheduler", "preempting to accommodate a higher priority pod")),
            Units(),
            "Evicted",
            True,
            "sampling: the pod was evicted (preempting to accommodate a higher priority pod); it is started again "
            "(finished parts are kept)",
            id="preempted",
        ),
        pytest.param(
            job("sampling", Pod(0, 137, "DeletionByTaintManager", "deleting due to NoExecute taint")),
            Units(),
            "NodeLost",
            True,
            "sampling: its node was lost (deleting due to NoExecute taint); it is started elsewhere "
            "(finished parts are kept)",
            id="node lost",
        ),
        pytest.param(
            job("labeling", Pod(0, reason="NodeRefused", message="UnexpectedAdmissionError: Allocate failed")),
            Units(),
            "NodeRefused",
            True,
            "labeling: the node refused the pod (UnexpectedAdmissionError: Allocate failed); it is tried again; if it "
            "comes back, see that the node's device plugin runs, and that what spec.labeling.resources asks for is "
            "free there",
            id="refused by the kubelet",
        ),
        pytest.param(
            job(
                "labeling",
                Pod(0, reason="InjectedContainer", message="vault ended with exit code 1: 403", name="p"),
            ),
            Units(),
            "InjectedContainer",
            True,
            "labeling: a container that is not ours keeps the pod from its work (vault ended with exit code 1: 403); "
            "`kubectl logs p -c CONTAINER` says why; mend it, or have the webhook that adds it leave this namespace's "
            "Jobs alone",
            id="an init container that somebody added",
        ),
        pytest.param(
            job("training", reason="DeadlineExceeded"),
            STEP_312,
            "DeadlineExceeded",
            False,
            "training: took longer than spec.deadlineSeconds (60) at step 312 of 2668; raise it "
            "(goes on from its last checkpoint)",
            id="deadline",
        ),
        pytest.param(
            job("sampling", reason="BackoffLimitExceeded"),
            Units(),
            "Unknown",
            True,
            "sampling: Job it-sampling-x-0 failed (BackoffLimitExceeded) and its pods are gone",
            id="nothing left to tell",
        ),
    ],
)
def test_failure(given: Job, reached: Units, reason: str, retryable: bool, message: str) -> None:
    found = failure_of(given, Circumstances(SPEC, reached))
    assert (found.reason, found.retryable, found.message) == (reason, retryable, message)


EACH = {
    "BadInput": broken("BadInput", "no such bucket", 2),
    "OutOfMemory": Pod(0, 137, "OOMKilled"),
    "Crashed": Pod(0, 1, "Error", "ValueError: x"),
    "DeadlineExceeded": Pod(0, 143),
    "DiskFull": broken("DiskFull", "no space left", 75),
    "Temporary": broken("Temporary", "S3", 75),
    "Communication": broken("Communication", "NCCL", 75, "training"),
    "NodeRefused": Pod(0, reason="NodeRefused"),
    "InjectedContainer": Pod(0, reason="InjectedContainer"),
    "Evicted": Pod(0, 137, "Evicted"),
    "NodeLost": Pod(0, 137, "DeletionByTaintManager"),
    "Killed": Pod(0, 137, "Error"),
    "Terminated": Pod(0, 143, "Error"),
    "Unknown": None,
}
"""A pod of each class of failure, by its reason; None where none is left."""

UNSEEN = {"JobDeleted", "ResultMissing"}
"""No Job says these: see test_planner.py."""


def documented() -> dict[str, str]:
    """What docs/operations.md says of each class: whether it is tried again."""
    table = OPERATIONS.read_text().partition("**A stage failed**")[2].partition("\n\n| ")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return {reason: row[1] for row in rows for reason in re.findall(r"`(\w+)`", row[0])}


def test_the_docs_say_of_each_class_whether_it_is_tried_again() -> None:
    final = build_job(run_of())["spec"]["podFailurePolicy"]["rules"][1]["onExitCodes"]["values"]
    done = {}
    for reason, pod in EACH.items():
        pods, why = (pod,) if pod else (), "DeadlineExceeded" if reason == "DeadlineExceeded" else "FailedIndexes"
        found = failure_of(job("training", *pods, reason=why), Circumstances(SPEC, Units()))
        assert found.reason == reason
        by_its_job = why != "DeadlineExceeded" and pod is not None and pod.exit_code not in final
        done[reason] = "yes" if found.retryable else "by its Job" if by_its_job else "no"
    assert {reason: word for reason, word in documented().items() if reason not in UNSEEN} == done


@pytest.mark.parametrize(
    ("pods", "reason"),
    [
        pytest.param((Pod(0, 143), Pod(1, 137, "OOMKilled"), Pod(2, 143)), "OutOfMemory", id="not the others' ends"),
        pytest.param((Pod(0, 1, message=NCCL), Pod(1, 137, "OOMKilled")), "OutOfMemory", id="not the lost connection"),
        pytest.param((Pod(0, 137), broken("BadInput", "no", 2, index=1)), "BadInput", id="bad input before all"),
        pytest.param(
            (Pod(0, 0), Pod(1, running=True), Pod(2, 1)), "Crashed", id="not those that did well or still run"
        ),
    ],
)
def test_the_cause_comes_before_what_it_did_to_others(pods: tuple[Pod, ...], reason: str) -> None:
    assert failure_of(job("training", *pods), Circumstances(SPEC, Units())).reason == reason


PREEMPTED = Pod(0, 137, "PreemptionByScheduler", "preempting to accommodate a higher priority pod")
LOST = Pod(1, 1, "Error", NCCL)


@pytest.mark.parametrize(
    ("pods", "gone", "reason", "disruption"),
    [
        pytest.param((PREEMPTED, LOST), False, "Evicted", True, id="the preempted pod is still there"),
        pytest.param((LOST,), True, "Evicted", True, id="it is gone"),
        pytest.param((Pod(0), LOST), True, "Evicted", True, id="another one is to follow it"),
        pytest.param((Pod(0, 143, "Error"), LOST), True, "Evicted", True, id="that one was asked to end"),
        pytest.param((), True, "Evicted", True, id="all are gone"),
        pytest.param((LOST,), False, "Communication", False, id="none was disrupted"),
        pytest.param((PREEMPTED, Pod(1, 137, "OOMKilled")), False, "OutOfMemory", False, id="another one's own fault"),
        pytest.param((broken("Temporary", "S3", 75),), True, "Temporary", False, id="S3"),
        pytest.param((Pod(0, 137, "Evicted", "exceeds its limit of ephemeral storage"),), False, "Evicted", False,
                     id="evicted for its own limit"),
    ],
)  # fmt: skip
def test_the_disruption_of_a_pod_is_no_failure_of_its_peers(
    pods: tuple[Pod, ...], gone: bool, reason: str, disruption: bool
) -> None:
    given = replace(job("training", *pods), disrupted=gone)
    found = failure_of(given, Circumstances(SPEC, Units()))
    assert (found.reason, found.disruption) == (reason, disruption)


@pytest.mark.parametrize(
    ("pod", "reason", "message"),
    [
        pytest.param(
            Pod(0, reason="ImagePullBackOff", message='Back-off pulling image "generate:typo"'),
            "ImagePull",
            'sampling: the image cannot be pulled (Back-off pulling image "generate:typo"); correct '
            "spec.sampling.pod.image (generate:typo), or name a pull secret in spec.sampling.pod.imagePullSecrets",
            id="image pull",
        ),
        pytest.param(
            Pod(2, reason="CreateContainerConfigError", message='secret "s3" not found'),
            "PodConfiguration",
            'sampling, shard 2: the container cannot be made (secret "s3" not found); create what is missing, or '
            "correct spec.sampling.pod",
            id="a Secret that is not there",
        ),
        pytest.param(
            Pod(0, reason="Unschedulable", message='persistentvolumeclaim "models" not found'),
            "Unschedulable",
            'sampling: its volume is not there (persistentvolumeclaim "models" not found); create the claim, or '
            "correct spec.sampling.pod.cache.claimName",
            id="a claim that is not there",
        ),
        pytest.param(
            Pod(0, reason="Unschedulable", message="0/3 nodes are available: 3 Insufficient nvidia.com/gpu."),
            "Unschedulable",
            "sampling: no node takes the pod (0/3 nodes are available: 3 Insufficient nvidia.com/gpu.); lower "
            "spec.sampling.resources, correct spec.sampling.pod, or add nodes",
            id="no room",
        ),
        pytest.param(
            Pod(0, reason="NodeNotReady", message="node-1", running=True, name="p"),
            "NodeLost",
            "sampling: its node is not heard of (node-1), and nothing starts in the pod's place as long as it may "
            "still run there: bring the node back, delete its object, or `kubectl delete pod p --force` if it is off "
            "(finished parts are kept)",
            id="node lost",
        ),
        pytest.param(
            Pod(0, 1, message="ValueError: x", beside="istio-proxy", name="p"),
            "Crashed",
            "sampling: ended with exit code 1: ValueError: x; see its log: feedback logs sampling -i it; no other pod "
            "follows it, since container istio-proxy, which is not ours, runs on in pod p: delete the pod, and have "
            "the webhook that adds it leave this namespace's Jobs alone",
            id="failed beside a sidecar that does not end",
        ),
        pytest.param(
            broken("Temporary", "S3 is out of reach", 75),
            "Temporary",
            "sampling: S3 is out of reach",
            id="failed, and no pod has followed yet",
        ),
    ],
)
def test_trouble(pod: Pod, reason: str, message: str) -> None:
    found = trouble_of(job("sampling", replace(pod, since=NOW), state="Active"), Circumstances(SPEC, Units()))
    assert found is not None
    assert (found.reason, found.message, found.since) == (reason, message, NOW)


def test_a_pod_that_says_nothing_and_does_not_start_is_trouble_after_a_while() -> None:
    pod = Pod(1, name="it-sampling-1", since=NOW)
    found = trouble_of(job("sampling", pod, state="Active"), Circumstances(SPEC, Units()))
    assert found is not None
    assert (found.reason, found.since) == ("NotStarted", NOW + PODS_START)
    assert found.message.startswith("sampling, shard 1: the pod has not started; `kubectl describe pod it-sampling-1`")


def test_the_trouble_that_has_lasted_longest_is_told() -> None:
    pods = (
        Pod(0, reason="Unschedulable", since=NOW + timedelta(seconds=5)),
        Pod(1, reason="ImagePullBackOff", since=NOW),
        Pod(2, 1, reason="Error", since=NOW + timedelta(seconds=5)),
        Pod(3, 0, reason="Completed", since=NOW - timedelta(seconds=5)),
        Pod(4, running=True),
    )
    found = trouble_of(job("sampling", *pods, state="Active"), Circumstances(SPEC, Units()))
    assert found is not None
    assert found.reason == "ImagePull"
