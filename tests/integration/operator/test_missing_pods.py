"""Pods that are not made: the user is told in the words of who refuses them."""

from __future__ import annotations

from tests.cluster.api import LIMIT_RANGES, NODES, QUOTAS
from tests.cluster.control_plane import node
from tests.cluster.operator_process import OperatorProcess
from tests.cluster.world import READY, World, condition, condition_of, iteration

NOT_CREATED = condition("Reconciling", "True", "PodsNotCreated")


async def test_a_quota_that_can_never_fit_stalls_until_it_is_raised(world: World, operator: OperatorProcess) -> None:
    device = f"example.com/{world.namespace}"
    limited = {"metadata": {"name": "devices"}, "spec": {"hard": {f"requests.{device}": "4"}}}
    await world.api.create(QUOTAS, world.namespace, limited)
    await world.apply(iteration("demo", sampling={"resources": {"limits": {device: "8"}}}))
    stalled = await world.until("demo", condition("Stalled", "True", "PodsNotCreated"))
    message = condition_of(stalled, "Stalled")["message"]
    assert f"exceeded quota: devices, requested: requests.{device}=8" in message
    assert "lower spec.sampling.resources, or have devices raised" in message
    await world.api.create(NODES, "", node(f"big-{world.namespace}", **{device: "8"}))
    await world.api.patch(QUOTAS, world.namespace, "devices", {"spec": {"hard": {f"requests.{device}": "8"}}})
    await world.until("demo", READY, seconds=200)


async def test_what_the_api_server_refuses_pods_for_is_told(world: World, operator: OperatorProcess) -> None:
    most = {"metadata": {"name": "most"}, "spec": {"limits": [{"type": "Container", "max": {"memory": "64Gi"}}]}}
    await world.api.create(LIMIT_RANGES, world.namespace, most)
    await world.apply(iteration("large", sampling={"resources": {"limits": {"memory": "65Gi"}}}))
    await world.apply(iteration("nobody", sampling={"pod": {"serviceAccountName": "trainer"}}))
    await world.apply(iteration("urgent", sampling={"pod": {"priorityClassName": "urgent"}}))
    for name, words, remedy in (
        ("large", "maximum memory usage per Container is 64Gi", "correct spec.sampling.resources"),
        ("nobody", 'serviceaccount "trainer" not found', "spec.sampling.pod.serviceAccountName"),
        ("urgent", "no PriorityClass with name urgent was found", "spec.sampling.pod.priorityClassName"),
    ):
        message = condition_of(await world.until(name, NOT_CREATED), "Reconciling")["message"]
        assert words in message
        assert remedy in message


async def test_a_part_of_the_pods_that_is_missing_is_told(world: World, operator: OperatorProcess) -> None:
    few = {"metadata": {"name": "few"}, "spec": {"hard": {"pods": "1"}}}
    await world.api.create(QUOTAS, world.namespace, few)
    held = world.script.hold("sampling")
    await world.apply(iteration("demo", sampling={"shards": 2}))
    told = await world.until("demo", NOT_CREATED)
    assert condition_of(told, "Reconciling")["message"].startswith("sampling: 1 of 2 pods are not made (pods ")
    await held.started.wait()
    held.release()
    await world.until("demo", READY, seconds=200)


async def test_a_queue_without_kueue_is_told(world: World, operator: OperatorProcess) -> None:
    manifest = iteration("demo")
    manifest["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "gpus"}
    await world.apply(manifest)
    told = await world.until("demo", condition("Reconciling", "True", "QueueMissing"))
    assert "the cluster has no Kueue" in condition_of(told, "Reconciling")["message"]
