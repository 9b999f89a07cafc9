"""Suspended, resumed and deleted at every stage."""

from __future__ import annotations

import pytest

from tests.cluster.api import (
    BUDGETS,
    CONFIG_MAPS,
    DEPLOYMENTS,
    ITERATIONS,
    JOBS,
    NETWORK_POLICIES,
    PODS,
    REPLICA_SETS,
    SERVICES,
)
from tests.cluster.operator_process import OperatorProcess
from tests.cluster.pod_agent import SERVING, never_ready
from tests.cluster.world import READY, STAGES, World, condition, condition_of, iteration, stage_is, stage_of
from tests.long import first_of

OWNED = (JOBS, PODS, CONFIG_MAPS, SERVICES, DEPLOYMENTS, REPLICA_SETS, BUDGETS, NETWORK_POLICIES)
NOT_OURS = ("kube-root-ca.crt",)


@pytest.mark.parametrize("stage", first_of(["training", *(stage for stage in STAGES if stage != "training")]))
async def test_suspended_and_resumed_at(world: World, operator: OperatorProcess, stage: str) -> None:
    held = world.script.hold(stage)
    await world.apply(iteration("demo"))
    await held.started.wait()
    await world.edit("demo", suspend=True)
    suspended = await world.until("demo", stage_is(stage, "Suspended"))
    assert condition_of(suspended, "Ready")["reason"] == "Suspended"
    job = stage_of(suspended, stage)["job"]
    await world.api.wait(JOBS, world.namespace, job, lambda item: not item["status"].get("active"))
    await world.edit("demo", suspend=False)
    done = await world.until("demo", READY)
    assert stage_of(done, stage)["job"] == job
    assert await world.stages_run("demo") == list(STAGES)


async def test_suspended_before_the_first_stage_nothing_starts(world: World, operator: OperatorProcess) -> None:
    await world.apply(iteration("demo", suspend=True))
    await world.until("demo", condition("Ready", "False", "Suspended"))
    assert await world.jobs("demo") == {}
    await world.edit("demo", suspend=False)
    await world.until("demo", READY)


async def test_suspended_when_it_is_done_it_goes_on_serving(world: World, operator: OperatorProcess) -> None:
    await world.apply(iteration("demo", serving={"endpoint": "answers"}))
    await world.until("demo", READY)
    await world.edit("demo", suspend=True)
    await world.until("demo", lambda item: item["status"]["observedGeneration"] == item["metadata"]["generation"])
    deployment = await world.api.get(DEPLOYMENTS, world.namespace, "answers")
    assert deployment["spec"]["replicas"] == 1


@pytest.mark.parametrize("stage", first_of(["training", *(stage for stage in STAGES if stage != "training")]))
async def test_deleted_at_nothing_is_left(world: World, operator: OperatorProcess, stage: str) -> None:
    held = world.script.hold(stage)
    await world.apply(iteration("demo", training={"nodes": 2, "globalBatchSize": 8}))
    await held.started.wait()
    await world.delete("demo")
    await nothing_is_left(world)


async def test_deleted_while_it_is_rolled_out_nothing_is_left(world: World, operator: OperatorProcess) -> None:
    world.script.on(SERVING, then=never_ready())
    await world.apply(iteration("demo", serving={"endpoint": "answers"}))
    await world.api.wait(DEPLOYMENTS, world.namespace, "answers", lambda item: item["status"].get("replicas") == 1)
    await world.delete("demo")
    await nothing_is_left(world)


async def test_deleted_while_it_serves_nothing_is_left(world: World, operator: OperatorProcess) -> None:
    await world.apply(iteration("demo", serving={"endpoint": "answers"}))
    await world.until("demo", READY)
    await world.delete("demo")
    await nothing_is_left(world)


async def nothing_is_left(world: World) -> None:
    """Wait until all that an iteration owned is gone, whatever its kind."""
    await world.api.wait_gone(ITERATIONS, world.namespace, "demo")
    for kind in OWNED:
        for item in await world.api.list(kind, world.namespace):
            if item["metadata"]["name"] not in NOT_OURS:
                await world.api.wait_gone(kind, world.namespace, item["metadata"]["name"])
