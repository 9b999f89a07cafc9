"""The Cluster protocol on a real API server: what is written once, what is refused, what a cache may not believe."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from feedback_operator.api import calls
from feedback_operator.cluster.kubernetes.apiserver import ApiServer, Conflict, NotLeading
from feedback_operator.cluster.kubernetes.caches import Caches, Store
from feedback_operator.cluster.kubernetes.cluster import HTTP_ROUTE, SILENCE_SECONDS, KubernetesCluster
from feedback_operator.cluster.kubernetes.progress_board import ProgressBoard
from feedback_operator.cluster.protocol import Blocked
from feedback_operator.plan.planner import plan
from feedback_operator.plan.snapshot import Limits, Snapshot
from tests.cluster.api import ITERATIONS, JOBS, Object
from tests.cluster.world import World, iteration
from tests.unit.worlds import IMAGES

Manifest = dict[str, Any]


def long_ago() -> float:
    return time.monotonic() - SILENCE_SECONDS - 1


@pytest.fixture
async def client(world: World) -> AsyncIterator[ApiClient]:
    """The operator's own rights in the test's namespace."""
    configuration = Configuration()
    file = world.control_plane.kubeconfig_for("operator", world.token, namespace=world.namespace)
    await config.load_kube_config(config_file=str(file), client_configuration=configuration)  # type: ignore[no-untyped-call]
    async with ApiClient(configuration) as client:
        yield client


def cluster_on(client: ApiClient, caches: Caches, **options: Any) -> KubernetesCluster:
    board = ProgressBoard(caches, lambda key: None)
    return KubernetesCluster(ApiServer(client, **options), caches, board, Limits(), lambda key: None)


async def seen(world: World, caches: Caches, cluster: KubernetesCluster, name: str = "demo") -> Snapshot:
    """The snapshot of an iteration that a watch has just shown."""
    caches.put("FeedbackIteration", await world.look(name))
    snapshot = await cluster.snapshot(f"{world.namespace}/{name}")
    assert snapshot
    return snapshot


def first_job(snapshot: Snapshot) -> tuple[Manifest, ...]:
    """What the plan of a new iteration creates, its Job suspended, so that nothing comes of it."""
    made = plan(snapshot, IMAGES).create
    return tuple({**m, "spec": {**m["spec"], "suspend": True}} if m["kind"] == "Job" else m for m in made)


async def test_creating_twice_is_creating_once_and_both_are_read_back_at_once(world: World, client: ApiClient) -> None:
    await world.apply(iteration("demo"))
    for _ in range(2):  # the second one is an operator with empty caches
        caches = Caches()
        cluster = cluster_on(client, caches)
        for manifest in first_job(await seen(world, caches, cluster)):
            await cluster.create(manifest)
        snapshot = await cluster.snapshot(f"{world.namespace}/demo")
        assert snapshot
        assert [job.stage for job in snapshot.jobs] == ["sampling"]
    assert len(await world.jobs("demo")) == 1


async def test_a_cluster_without_the_gateway_api_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """To somebody who may do everything: who may not is told that."""
    absent = replace(HTTP_ROUTE, api_version="gateway.example.com/v1")
    monkeypatch.setitem(calls.BY_NAME, "HTTPRoute", absent)
    monkeypatch.setattr("feedback_operator.cluster.kubernetes.cluster.HTTP_ROUTE", absent)
    configuration = Configuration()
    file = str(world.control_plane.kubeconfig)
    await config.load_kube_config(config_file=file, client_configuration=configuration)  # type: ignore[no-untyped-call]
    route = {"apiVersion": absent.api_version, "kind": "HTTPRoute"}
    async with ApiClient(configuration) as client:
        with pytest.raises(Blocked, match=r"no gateway\.example\.com/v1 HTTPRoute; install the Gateway API") as refusal:
            await cluster_on(client, Caches()).apply(
                {**route, "metadata": {"name": "answers", "namespace": world.namespace}}
            )
    assert refusal.value.reason == "HTTPRouteRefused"


async def test_a_name_that_belongs_to_somebody_else_is_not_taken(world: World, client: ApiClient) -> None:
    await world.apply(iteration("demo"))
    caches = Caches()
    cluster = cluster_on(client, caches)
    job = next(m for m in first_job(await seen(world, caches, cluster)) if m["kind"] == "Job")
    strangers = {**job, "metadata": {key: job["metadata"][key] for key in ("name", "namespace", "labels")}}
    await world.api.create(JOBS, world.namespace, strangers)
    with pytest.raises(Blocked, match=r"exists already and belongs to nobody.*left alone.*another name") as refusal:
        await cluster.create(job)
    assert refusal.value.reason == "NameTaken"
    assert "delete" not in str(refusal.value), "it is not ours to delete"


async def test_what_the_api_server_refuses_comes_with_its_reason(world: World, client: ApiClient) -> None:
    await world.apply(iteration("demo"))
    caches = Caches()
    cluster = cluster_on(client, caches)
    job = next(m for m in first_job(await seen(world, caches, cluster)) if m["kind"] == "Job")
    job["spec"] = {**job["spec"], "parallelism": -1}
    with pytest.raises(Blocked, match=r"spec\.parallelism.*greater than or equal to 0"):
        await cluster.create(job)


async def test_a_status_for_a_version_that_is_past_is_not_written(world: World, client: ApiClient) -> None:
    await world.apply(iteration("demo"))
    caches = Caches()
    cluster = cluster_on(client, caches)
    stale = await seen(world, caches, cluster)
    edited = await world.edit("demo", suspend=True)
    with pytest.raises(Conflict):
        await cluster.write_status(stale.iteration, plan(stale, IMAGES).status)
    assert "status" not in await world.look("demo")
    fresh = await cluster.snapshot(f"{world.namespace}/demo")
    assert fresh
    assert fresh.iteration.metadata.resource_version == edited["metadata"]["resourceVersion"]
    await cluster.write_status(fresh.iteration, plan(fresh, IMAGES).status)


async def test_who_does_not_lead_sends_nothing(world: World, client: ApiClient) -> None:
    await world.apply(iteration("demo"))
    caches = Caches()
    calls: list[str] = []
    cluster = cluster_on(
        client, caches, may_write=lambda: False, meter=lambda kind, verb, code, seconds: calls.append(verb)
    )
    snapshot = await seen(world, caches, cluster)
    with pytest.raises(NotLeading):
        await cluster.create(first_job(snapshot)[0])
    with pytest.raises(NotLeading):
        await cluster.write_status(snapshot.iteration, plan(snapshot, IMAGES).status)
    assert calls == []


async def created_job(world: World) -> Object:
    """A suspended Job of the iteration."""
    caches = Caches()
    job = next(m for m in first_job(await snapshot_of(world, caches)) if m["kind"] == "Job")
    return await world.api.create(JOBS, world.namespace, job)


async def snapshot_of(world: World, caches: Caches) -> Snapshot:
    async with ApiClient(Configuration()) as unused:
        return await seen(world, caches, cluster_on(unused, caches))


async def test_a_job_that_vanished_unseen_is_not_believed_in_for_ever(world: World, client: ApiClient) -> None:
    """A watch that was away for longer than the API server remembers shows what is there, and not what has gone."""
    await world.apply(iteration("demo"))
    caches = Caches(jobs=Store(long_ago))
    cluster = cluster_on(client, caches)
    await seen(world, caches, cluster)
    job = await created_job(world)
    caches.put("Job", job)
    await world.api.delete(JOBS, world.namespace, job["metadata"]["name"])
    await world.api.wait_gone(JOBS, world.namespace, job["metadata"]["name"])
    snapshot = await cluster.snapshot(f"{world.namespace}/demo")
    assert snapshot
    assert snapshot.jobs == ()


async def test_nothing_is_done_for_an_iteration_that_vanished_unseen(world: World, client: ApiClient) -> None:
    await world.apply(iteration("demo"))
    caches = Caches(jobs=Store(long_ago))
    cluster = cluster_on(client, caches)
    await seen(world, caches, cluster)
    caches.put("Job", await created_job(world))
    await world.delete("demo")
    await world.api.wait_gone(ITERATIONS, world.namespace, "demo")
    assert await cluster.snapshot(f"{world.namespace}/demo") is None
