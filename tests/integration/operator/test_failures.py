"""Every class of failure: the condition names it, and the message says what to do."""

from __future__ import annotations

import pytest

from tests.cluster.api import NODES, PODS, STRATEGIC, Object
from tests.cluster.control_plane import node
from tests.cluster.operator_process import OperatorProcess
from tests.cluster.pod_agent import (
    Behaviour,
    CannotStart,
    bad_input,
    evicted,
    exits,
    fails,
    oom,
    preempted,
    says_nothing,
    temporary,
)
from tests.cluster.world import READY, STALLED, World, condition, condition_of, iteration, stage_is, stage_of

GIVEN_UP = {
    "spec": {"taints": [{"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"}]}
}
"""Somebody knows that the node is off: its pods may be removed."""


@pytest.mark.parametrize(
    ("stage", "behaviour", "reason", "remedy"),
    [
        pytest.param("sampling", bad_input("row 7 has no picture"), "BadInput", "row 7", id="bad input"),
        pytest.param(
            "sampling", fails("BadInput", "temperature: not a number", 2), "BadInput", "temperature", id="bad config"
        ),
        pytest.param("sampling", exits(1, "Error", "KeyError: 'image'"), "Crashed", "KeyError", id="crashed"),
        pytest.param("sampling", says_nothing(), "ResultMissing", "result", id="no result handed in"),
    ],
)
async def test_a_failure_that_stays_stalls_the_iteration(
    world: World, operator: OperatorProcess, stage: str, behaviour: Behaviour, reason: str, remedy: str
) -> None:
    world.script.on(stage, then=behaviour)
    await world.apply(iteration("demo"))
    stalled = await world.until("demo", STALLED, seconds=240)
    assert condition_of(stalled, "Stalled")["reason"] == reason
    assert remedy in condition_of(stalled, "Stalled")["message"]
    assert condition_of(stalled, "Ready")["status"] == "False"
    assert stage_of(stalled, stage)["state"] == "Failed"
    assert stage_of(stalled, "splitting")["state"] == "Waiting"


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        pytest.param(temporary(), "Temporary", id="temporary"),
        pytest.param(exits(137, "Error"), "Killed", id="killed"),
        pytest.param(evicted(), "Evicted", id="evicted"),
        pytest.param(preempted(), "Evicted", id="preempted"),
    ],
)
async def test_a_failure_that_passes_is_told_and_tried_again(
    world: World, operator: OperatorProcess, behaviour: Behaviour, reason: str
) -> None:
    world.script.on("sampling", behaviour)
    await world.apply(iteration("demo"))
    told = await world.until("demo", condition("Ready", "False", reason))
    assert condition_of(told, "Reconciling")["status"] == "True"
    assert stage_of(told, "sampling")["state"] == "Running", "its Job makes the next pod by itself"
    await world.until("demo", READY)
    assert len([name for name in world.script.played if "-sampling-" in name]) == 2


async def test_training_processes_that_lose_each_other_start_again(world: World, operator: OperatorProcess) -> None:
    lost = exits(1, "Error", "torch.distributed.DistBackendError: NCCL error: remote process exited")
    world.script.on("training", lost)
    await world.apply(iteration("demo", training={"nodes": 2, "globalBatchSize": 8}))
    await world.until("demo", READY)


async def test_training_processes_that_never_find_each_other_get_a_new_job(world: World) -> None:
    lost = exits(1, "Error", "torch.distributed.DistStoreError: rendezvous timed out")
    world.script.on("training", then=lost)
    with world.operator("--retry-seconds", "5"):
        await world.apply(iteration("demo", training={"nodes": 2, "globalBatchSize": 8}))
        told = await world.until("demo", _starts_again, seconds=200)
        assert condition_of(told, "Ready")["reason"] == "Communication"
        assert "network" in condition_of(told, "Ready")["message"]
        world.script.forget("training")
        done = await world.until("demo", READY)
        assert stage_of(done, "training")["attempt"] == 1


@pytest.mark.parametrize(
    ("trouble", "reason", "remedy"),
    [
        pytest.param(
            CannotStart("ImagePullBackOff", 'Back-off pulling image "nowhere/generate:1"'),
            "ImagePull",
            "spec.sampling.pod.image",
            id="image pull",
        ),
        pytest.param(
            CannotStart("CreateContainerConfigError", 'secret "s3" not found'),
            "PodConfiguration",
            'secret "s3" not found',
            id="container configuration",
        ),
    ],
)
async def test_a_pod_that_cannot_start_is_told_and_recovers_by_itself(
    world: World, operator: OperatorProcess, trouble: CannotStart, reason: str, remedy: str
) -> None:
    world.script.on("sampling", trouble)
    await world.apply(iteration("demo"))
    told = await world.until("demo", condition("Ready", "False", reason))
    assert remedy in condition_of(told, "Ready")["message"]
    assert condition_of(told, "Reconciling")["status"] == "True"
    trouble.mend()
    await world.until("demo", READY)


async def test_an_unschedulable_pod_is_told_and_starts_once_a_node_has_room(
    world: World, operator: OperatorProcess
) -> None:
    extended = f"example.com/{world.namespace}"
    await world.apply(iteration("demo", sampling={"resources": {"limits": {extended: "8"}}}))
    told = await world.until("demo", condition("Ready", "False", "Unschedulable"))
    assert "spec.sampling" in condition_of(told, "Ready")["message"]
    await world.api.create(NODES, "", node(f"big-{world.namespace}", **{extended: "8"}))
    await world.until("demo", READY)


async def test_a_lost_node_is_told_and_its_pod_starts_elsewhere(world: World, operator: OperatorProcess) -> None:
    name = f"lost-{world.namespace}"
    await world.api.create(NODES, "", _own_node(name))
    await world.api.patch(NODES, "", name, _heard_of("True"), subresource="status", content=STRATEGIC)
    held = world.script.hold("sampling")
    await world.apply(iteration("demo", sampling={"pod": {"nodeSelector": {"feedback.test/place": world.namespace}}}))
    await held.started.wait()
    (lost,) = [pod for pod in await world.api.list(PODS, world.namespace) if pod["spec"]["nodeName"] == name]
    world.script.vanished.add(lost["metadata"]["uid"])

    await world.api.patch(NODES, "", name, _heard_of("Unknown"), subresource="status", content=STRATEGIC)
    await world.until("demo", condition("Ready", "False", "NodeLost"))
    spare = node(f"spare-{world.namespace}")
    spare["metadata"]["labels"]["feedback.test/place"] = world.namespace
    await world.api.create(NODES, "", spare)
    await world.api.patch(NODES, "", name, GIVEN_UP, content=STRATEGIC)
    await world.until("demo", READY)


async def test_a_stage_that_outlives_its_deadline_stalls_it(world: World, operator: OperatorProcess) -> None:
    world.script.hold("sampling")
    await world.apply(iteration("demo", deadlineSeconds=3))
    stalled = await world.until("demo", STALLED)
    assert condition_of(stalled, "Stalled")["reason"] == "DeadlineExceeded"
    assert "spec.deadlineSeconds" in condition_of(stalled, "Stalled")["message"]


async def test_out_of_memory_stalls_it_and_more_memory_starts_it_again(world: World, operator: OperatorProcess) -> None:
    world.script.on("sampling", then=oom())
    await world.apply(iteration("demo"))
    stalled = await world.until("demo", STALLED, seconds=240)
    assert condition_of(stalled, "Stalled")["reason"] == "OutOfMemory"
    assert "spec.sampling.resources.limits.memory" in condition_of(stalled, "Stalled")["message"]
    world.script.forget("sampling")
    await world.edit("demo", sampling={"resources": {"limits": {"memory": "8Gi"}}})
    await world.until("demo", READY)


async def test_suspend_and_resume_start_a_failed_stage_again(world: World, operator: OperatorProcess) -> None:
    world.script.on("sampling", bad_input())
    await world.apply(iteration("demo"))
    await world.until("demo", STALLED)
    await world.edit("demo", suspend=True)
    await world.until("demo", stage_is("sampling", "Suspended"))
    await world.edit("demo", suspend=False)
    await world.until("demo", READY)


def _starts_again(item: Object) -> bool:
    """Another Job is to follow the one that failed."""
    return "; again at " in condition_of(item, "Ready").get("message", "")


def _own_node(name: str) -> Object:
    """A node that nobody keeps ready: the test says how it is."""
    made = node(name)
    del made["metadata"]["annotations"]
    made["metadata"]["labels"]["feedback.test/place"] = name.removeprefix("lost-")
    return made


def _heard_of(status: str) -> Object:
    return {"status": {"conditions": [{"type": "Ready", "status": status, "reason": "Test"}]}}
