"""The gate, and who serves an endpoint: take-over, rollback, hand-back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import yaml

from tests.cluster.api import DEPLOYMENTS, SERVICES, Object, Refused
from tests.cluster.operator_process import OperatorProcess
from tests.cluster.pod_agent import GOOD_SCORES, SERVING, never_ready, ready, succeeds
from tests.cluster.world import READY, Expected, World, condition, condition_of, iteration

AUTOSCALER = Path("examples/autoscaling/llava.yaml")
FAILED_SCORES = {**GOOD_SCORES, "selection.aligned.response_hallucination": 0.6}


async def test_gate_failed_the_old_revision_keeps_serving(world: World, operator: OperatorProcess) -> None:
    await world.apply(iteration("old", serving={"endpoint": "answers"}))
    await world.until("old", READY)
    before = await world.api.get(DEPLOYMENTS, world.namespace, "answers")
    world.script.on("evaluation", succeeds(FAILED_SCORES))
    await world.apply(iteration("new", seed=1, serving={"endpoint": "answers"}))
    failed = await world.until("new", condition("Promoted", "False", "GateFailed"))
    assert (
        "responseHallucination relative to the baseline is 1.154 on the selection split, above 0.9"
        in (condition_of(failed, "Promoted")["message"])
    )
    after = await world.api.get(DEPLOYMENTS, world.namespace, "answers")
    assert after["metadata"]["generation"] == before["metadata"]["generation"]


async def test_a_newer_iteration_takes_the_endpoint_over_without_downtime(
    world: World, operator: OperatorProcess
) -> None:
    await world.apply(iteration("old", serving={"endpoint": "answers", "replicas": 2}))
    old = await world.until("old", READY)
    least = asyncio.create_task(_least_available(world))
    await world.apply(iteration("new", seed=1, serving={"endpoint": "answers", "replicas": 2}))
    new = await world.until("new", READY)
    deployment = await world.api.wait(DEPLOYMENTS, world.namespace, "answers", _rolled_out)
    assert served_by(deployment) == new["metadata"]["uid"]
    assert old["status"]["aligned"]["uri"] not in str(deployment["spec"]["template"])
    assert new["status"]["aligned"]["uri"] in str(deployment["spec"]["template"])
    least.cancel()
    assert _LEAST[world.namespace] >= 2
    await world.until("old", condition("Serving", "False"))


async def test_a_third_iteration_takes_over_in_the_middle_of_a_rolling_update(
    world: World, operator: OperatorProcess
) -> None:
    await world.apply(iteration("first", serving={"endpoint": "answers"}))
    await world.until("first", READY)
    world.script.on(SERVING, never_ready())
    await world.apply(iteration("second", seed=1, serving={"endpoint": "answers"}))
    second = await world.until("second", condition("Promoted", "True"))
    await world.api.wait(
        DEPLOYMENTS, world.namespace, "answers", lambda item: served_by(item) == second["metadata"]["uid"]
    )
    await world.apply(iteration("third", seed=2, serving={"endpoint": "answers"}))
    third = await world.until("third", READY)
    deployment = await world.api.wait(DEPLOYMENTS, world.namespace, "answers", _rolled_out)
    assert served_by(deployment) == third["metadata"]["uid"]


async def test_an_object_of_somebody_else_is_not_taken_over(world: World, operator: OperatorProcess) -> None:
    foreign = {"metadata": {"name": "answers"}, "spec": {"selector": {"app": "shop"}, "ports": [{"port": 80}]}}
    before = await world.api.create(SERVICES, world.namespace, foreign)
    await world.apply(iteration("demo", serving={"endpoint": "answers"}))
    stalled = await world.until("demo", condition("Stalled", "True", "NameTaken"))
    message = condition_of(stalled, "Stalled")["message"]
    assert "Service answers exists already" in message
    assert "give spec.serving.endpoint another name" in message
    assert "delete" not in message, "it is not ours to delete"
    after = await world.api.get(SERVICES, world.namespace, "answers")
    assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
    await world.api.delete(SERVICES, world.namespace, "answers")
    await world.until("demo", READY)


async def test_a_revision_that_does_not_become_ready_is_rolled_back(world: World, operator: OperatorProcess) -> None:
    await world.apply(iteration("old", serving={"endpoint": "answers"}))
    old = await world.until("old", READY)
    world.script.on(SERVING, never_ready(), then=ready())
    await world.apply(iteration("new", seed=1, serving={"endpoint": "answers", "progressDeadlineSeconds": 10}))
    told = await world.until("new", condition("Serving", "False", "RolledBack"))
    assert condition_of(told, "Promoted")["status"] == "True"
    deployment = await world.api.wait(
        DEPLOYMENTS,
        world.namespace,
        "answers",
        lambda item: served_by(item) == old["metadata"]["uid"] and _rolled_out(item),
    )
    assert old["status"]["aligned"]["uri"] in str(deployment["spec"]["template"])
    await world.until("old", condition("Serving", "True"))


async def test_an_upgrade_of_the_operator_rolls_no_endpoint_and_no_older_model_comes_back(world: World) -> None:
    with world.operator("--generate-image", "generate:1"):
        await world.apply(iteration("old", serving={"endpoint": "answers"}))
        await world.until("old", READY)
        await world.apply(iteration("new", seed=1, serving={"endpoint": "answers", "progressDeadlineSeconds": 10}))
        new = await world.until("new", READY)
        before = await world.api.wait(DEPLOYMENTS, world.namespace, "answers", _rolled_out)
    with world.operator("--generate-image", "generate:2"):
        await world.edit("new", evaluation={"gate": None})
        await world.until("new", READY)
        after = await world.api.get(DEPLOYMENTS, world.namespace, "answers")
        assert after["metadata"]["generation"] == before["metadata"]["generation"]
        world.script.on(SERVING, then=never_ready())
        await world.edit("new", serving={"bestOf": 2})
        told = await world.until("new", condition("Serving", "False", "RolledBack"))
        assert "no older iteration takes over" in condition_of(told, "Serving")["message"]
        await world.until("old", condition("Serving", "False", "Superseded"))
        kept = await world.api.get(DEPLOYMENTS, world.namespace, "answers")
        assert served_by(kept) == new["metadata"]["uid"]
        assert kept["status"]["availableReplicas"] == 1, "what served before goes on"


async def test_the_next_one_serves_once_the_holder_is_deleted(world: World, operator: OperatorProcess) -> None:
    await world.apply(iteration("old", serving={"endpoint": "answers"}))
    old = await world.until("old", READY)
    await world.apply(iteration("new", seed=1, serving={"endpoint": "answers"}))
    await world.until("new", READY)
    await world.delete("new")
    await world.api.wait(
        DEPLOYMENTS,
        world.namespace,
        "answers",
        lambda item: served_by(item) == old["metadata"]["uid"] and _rolled_out(item),
    )
    await world.until("old", condition("Serving", "True"))


async def test_an_endpoint_with_a_promoted_model_cannot_be_given_up_but_emptied(
    world: World, operator: OperatorProcess
) -> None:
    await world.apply(iteration("demo", serving={"endpoint": "answers"}))
    await world.until("demo", READY)
    with pytest.raises(Refused, match="replicas to 0"):
        await world.edit("demo", serving={"endpoint": "others"})
    await world.edit("demo", serving={"replicas": 0})
    await world.until("demo", condition("Serving", "False", "ScaledToZero"))
    assert (await world.api.get(DEPLOYMENTS, world.namespace, "answers"))["spec"]["replicas"] == 0


async def test_an_autoscaler_is_not_fought_and_no_take_over_loses_its_number(
    world: World, operator: OperatorProcess
) -> None:
    """The one of the examples, by Kubernetes' own controller; without metrics it keeps to its bounds."""
    example = yaml.safe_load(AUTOSCALER.read_text())
    target = {**example["spec"]["scaleTargetRef"], "name": "answers"}
    autoscaler = {**example, "metadata": {"name": "answers"}}
    await world.apply(iteration("old", serving={"endpoint": "answers"}))
    await world.until("old", READY)
    assert (await world.api.get(DEPLOYMENTS, world.namespace, "answers"))["spec"]["replicas"] == 1
    await world.apply({**autoscaler, "spec": {**example["spec"], "minReplicas": 3, "scaleTargetRef": target}})
    await world.until("old", serves(3))
    least = asyncio.create_task(_least_available(world))
    await world.apply(iteration("new", seed=1, serving={"endpoint": "answers"}))
    new = await world.until("new", READY)
    assert new["status"]["serving"]["replicas"] == 3
    least.cancel()
    assert _LEAST[world.namespace] >= 3


async def test_a_number_of_pods_holds_while_it_is_given_and_stays_when_it_is_not(
    world: World, operator: OperatorProcess
) -> None:
    await world.apply(iteration("demo", serving={"endpoint": "answers"}))
    await world.until("demo", READY)
    await scale(world, 3)
    await world.until("demo", serves(3))
    await world.edit("demo", serving={"replicas": 2})
    await world.until("demo", serves(2))
    await scale(world, 5)
    await world.api.wait(DEPLOYMENTS, world.namespace, "answers", lambda item: item["spec"]["replicas"] == 2)
    await world.edit("demo", serving={"replicas": None, "bestOf": 2})
    rolled_out = await world.api.wait(
        DEPLOYMENTS, world.namespace, "answers", lambda item: "--best-of=2" in str(item["spec"]) and _rolled_out(item)
    )
    assert rolled_out["spec"]["replicas"] == 2
    await scale(world, 4)
    await world.until("demo", serves(4))
    await world.edit("demo", serving={"bestOf": 4})
    rolled_out = await world.api.wait(
        DEPLOYMENTS, world.namespace, "answers", lambda item: "--best-of=4" in str(item["spec"]) and _rolled_out(item)
    )
    assert rolled_out["spec"]["replicas"] == 4


async def scale(world: World, replicas: int) -> None:
    """What `kubectl scale` does."""
    await world.api.patch(
        DEPLOYMENTS, world.namespace, "answers", {"spec": {"replicas": replicas}}, subresource="scale"
    )


def serves(pods: int) -> Expected:
    """All of this number of pods are ready."""

    def holds(item: Object) -> bool:
        serving = item["status"].get("serving", {})
        return READY(item) and serving.get("replicas") == serving.get("readyReplicas") == pods

    return holds


_LEAST: dict[str, int] = {}


async def _least_available(world: World) -> None:
    """Keep the least number of available pods that the endpoint ever had."""
    async for _, item in world.api.watch(DEPLOYMENTS, world.namespace):
        available = item["status"].get("availableReplicas", 0)
        _LEAST[world.namespace] = min(available, _LEAST.get(world.namespace, available))


def served_by(deployment: Object) -> str:
    """Uid of the iteration that controls the Deployment."""
    owners = deployment["metadata"].get("ownerReferences", [])
    return next((owner["uid"] for owner in owners if owner.get("controller")), "")


def _rolled_out(deployment: Object) -> bool:
    status, replicas = deployment.get("status", {}), deployment["spec"]["replicas"]
    return (
        status.get("observedGeneration") == deployment["metadata"]["generation"]
        and status.get("updatedReplicas") == status.get("availableReplicas") == status.get("replicas") == replicas
    )
