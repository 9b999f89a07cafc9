"""A real Kueue decides when Jobs start: what a user of it sees, and what becomes of the stages."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cluster.api import DEPLOYMENTS, ITERATIONS, JOBS, Object
from tests.cluster.kueue.manager import CLUSTER_QUEUES, FLAVOR, LOCAL_QUEUES, PRIORITIES, WORKLOADS, made
from tests.cluster.operator_process import OperatorProcess
from tests.cluster.world import READY, STAGES, World, condition, condition_of, iteration, stage_is, stage_of

QUEUE = "kueue.x-k8s.io/queue-name"
PRIORITY = "kueue.x-k8s.io/priority-class"
CPU = {"resources": {"limits": {"cpu": "1"}}}
"""Of a stage: one pod asks for one of the quota's processors."""
ONE_EACH: dict[str, Any] = dict.fromkeys(STAGES, CPU)


async def add_queue(world: World, name: str = "gpus", *, cpus: int = 1, **spec: Any) -> str:
    """A LocalQueue of a ClusterQueue of its own, with a quota of so many processors; the ClusterQueue's name."""
    whole = f"{world.namespace}-{name}"
    resources = [{"name": "cpu", "nominalQuota": str(cpus)}, {"name": "memory", "nominalQuota": "100Ti"}]
    group = {"coveredResources": ["cpu", "memory"], "flavors": [{"name": FLAVOR, "resources": resources}]}
    of_all = {"namespaceSelector": {}, "resourceGroups": [group], **spec}
    await world.api.create(CLUSTER_QUEUES, "", made(CLUSTER_QUEUES, whole, spec=of_all))
    await world.api.create(LOCAL_QUEUES, world.namespace, made(LOCAL_QUEUES, name, spec={"clusterQueue": whole}))
    await world.api.wait(LOCAL_QUEUES, world.namespace, name, is_active)
    return whole


def is_active(queue: Object) -> bool:
    return condition_of(queue, "Active").get("status") == "True"


def queued(name: str, queue: str = "gpus", priority: str = "", **spec: Any) -> Object:
    """An iteration each of whose stages asks for one processor of the queue."""
    manifest = iteration(name, **{**ONE_EACH, **spec})
    labels = {QUEUE: queue, **({PRIORITY: priority} if priority else {})}
    return {**manifest, "metadata": {**manifest["metadata"], "labels": labels}}


async def label(world: World, name: str, **labels: str | None) -> None:
    known = {"queue": QUEUE, "priority": PRIORITY}
    await world.api.patch(
        ITERATIONS,
        world.namespace,
        name,
        {"metadata": {"labels": {known[key]: value for key, value in labels.items()}}},
    )


async def workload_of(world: World, job: str) -> Object:
    """What Kueue keeps of a Job."""
    uid = (await world.api.get(JOBS, world.namespace, job))["metadata"]["uid"]
    (found,) = await world.api.list(WORKLOADS, world.namespace, f"kueue.x-k8s.io/job-uid={uid}")
    return found


async def job_at(world: World, name: str, stage: str, state: str) -> str:
    """The Job of a stage, as soon as the stage is in this state."""
    return str(stage_of(await world.until(name, stage_is(stage, state)), stage)["job"])


async def test_each_stage_is_admitted_and_gives_its_quota_back(world: World, operator: OperatorProcess) -> None:
    whole = await add_queue(world)
    await world.apply(queued("demo"))
    await world.until("demo", READY)
    assert await world.stages_run("demo") == list(STAGES)
    for job in await world.jobs("demo"):
        workload = await workload_of(world, job)
        assert condition_of(workload, "Admitted")["status"] == "True"
        assert condition_of(workload, "Finished")["reason"] == "Succeeded"
    await world.api.wait(CLUSTER_QUEUES, "", whole, lambda item: item["status"]["reservingWorkloads"] == 0)


async def test_a_stage_waits_for_another_ones_quota_and_says_so(world: World, operator: OperatorProcess) -> None:
    await add_queue(world)
    held = world.script.hold("sampling")
    await world.apply(queued("first"))
    await held.started.wait()
    await world.apply(queued("second", seed=7))
    told = await world.until("second", condition("Reconciling", "True", "Queued"))
    told = await world.until("second", lambda item: "insufficient unused quota" in message(item))
    assert "for cpu in flavor machines" in message(told)
    assert condition_of(told, "Stalled")["status"] == "False"
    held.release()
    await world.until("first", READY)
    await world.until("second", READY)


def message(item: Object, kind: str = "Reconciling") -> str:
    return str(condition_of(item, kind).get("message", ""))


async def test_a_stage_that_is_preempted_in_its_middle_goes_on_later(world: World, operator: OperatorProcess) -> None:
    await add_queue(world, preemption={"withinClusterQueue": "LowerPriority"})
    urgent = f"{world.namespace}-urgent"
    await world.api.create(PRIORITIES, "", made(PRIORITIES, urgent, value=1000))
    held = world.script.hold("training")
    await world.apply(queued("demo"))
    await held.started.wait()
    job = await job_at(world, "demo", "training", "Running")
    other = world.script.hold("sampling")
    await world.apply(queued("rush", priority=urgent, seed=7))
    waiting = await world.until("demo", stage_is("training", "Suspended"))
    assert stage_of(waiting, "training")["job"] == job
    await other.started.wait()
    told = await world.until("demo", condition("Reconciling", "True", "Queued"))
    assert condition_of(told, "Stalled")["status"] == "False"
    other.release()
    await world.until("rush", READY)
    done = await world.until("demo", READY)
    assert (stage_of(done, "training")["job"], stage_of(done, "training").get("retries", 0)) == (job, 0)
    assert len([name for name in world.script.played if name.startswith(job)]) == 2


async def test_a_quota_that_never_fits_stalls_with_the_remedy_and_a_correction_holds(
    world: World, operator: OperatorProcess
) -> None:
    await add_queue(world, cpus=4)
    await world.apply(queued("demo", sampling={"resources": {"limits": {"cpu": "8"}}}))
    told = await world.until("demo", condition("Reconciling", "True", "ExceedsQuota"))
    assert "maximum capacity (4)" in message(told)
    assert "lower spec.sampling.resources, or have the quota of its queue raised" in message(told)
    await world.until("demo", condition("Stalled", "True", "ExceedsQuota"))
    await world.edit("demo", sampling={"resources": {"limits": {"cpu": "4"}}})
    await world.until("demo", READY)


async def test_a_quota_that_is_raised_lets_a_stalled_iteration_go_on(world: World, operator: OperatorProcess) -> None:
    whole = await add_queue(world, cpus=4)
    await world.apply(queued("demo", sampling={"resources": {"limits": {"cpu": "8"}}}))
    await world.until("demo", condition("Stalled", "True", "ExceedsQuota"))
    raised = (await world.api.get(CLUSTER_QUEUES, "", whole))["spec"]["resourceGroups"]
    raised[0]["flavors"][0]["resources"][0]["nominalQuota"] = "8"
    await world.api.patch(CLUSTER_QUEUES, "", whole, {"spec": {"resourceGroups": raised}})
    await world.until("demo", READY)


async def test_an_admitted_iteration_that_is_suspended_by_hand_gives_its_quota_back(
    world: World, operator: OperatorProcess
) -> None:
    whole = await add_queue(world)
    held = world.script.hold("sampling")
    await world.apply(queued("demo"))
    await held.started.wait()
    job = await job_at(world, "demo", "sampling", "Running")
    await world.edit("demo", suspend=True)
    await world.api.wait_gone(JOBS, world.namespace, job)
    await world.api.wait(CLUSTER_QUEUES, "", whole, lambda item: item["status"]["reservingWorkloads"] == 0)
    await world.until("demo", condition("Ready", "False", "Suspended"))
    assert await world.jobs("demo") == {}
    await world.edit("demo", suspend=False)
    await world.until("demo", READY)


async def test_a_job_that_is_suspended_by_hand_while_admitted_is_kueues_to_resume(
    world: World, operator: OperatorProcess
) -> None:
    await add_queue(world)
    held = world.script.hold("sampling")
    await world.apply(queued("demo"))
    await held.started.wait()
    job = await job_at(world, "demo", "sampling", "Running")
    await world.api.patch(JOBS, world.namespace, job, {"spec": {"suspend": True}})
    done = await world.until("demo", READY)
    assert stage_of(done, "sampling")["job"] == job
    assert stage_of(done, "sampling").get("retries", 0) == 0


async def test_a_workload_that_is_deactivated_by_hand_is_told_and_queued_anew_by_suspend_and_resume(
    world: World, operator: OperatorProcess
) -> None:
    await add_queue(world)
    held = world.script.hold("sampling")
    await world.apply(queued("demo"))
    await held.started.wait()
    job = await job_at(world, "demo", "sampling", "Running")
    workload = await workload_of(world, job)
    await world.api.patch(WORKLOADS, world.namespace, workload["metadata"]["name"], {"spec": {"active": False}})
    told = await world.until("demo", condition("Stalled", "True", "Deactivated"))
    assert "suspend and resume the iteration" in message(told, "Stalled")
    await world.edit("demo", suspend=True)
    await world.api.wait_gone(JOBS, world.namespace, job)
    await world.edit("demo", suspend=False)
    await world.until("demo", READY)


async def test_a_job_that_waits_moves_to_another_queue(world: World, operator: OperatorProcess) -> None:
    await add_queue(world, "full", cpus=0)
    whole = await add_queue(world, "free")
    await world.apply(queued("demo", queue="full"))
    await world.until("demo", condition("Reconciling", "True", "ExceedsQuota"))
    held = world.script.hold("sampling")
    await label(world, "demo", queue="free")
    await held.started.wait()
    await world.api.wait(CLUSTER_QUEUES, "", whole, lambda item: item["status"]["reservingWorkloads"] == 1)
    held.release()
    await world.until("demo", READY)


async def test_an_admitted_job_stays_where_it_is_and_the_next_stage_moves(
    world: World, operator: OperatorProcess
) -> None:
    await add_queue(world, "old")
    await add_queue(world, "new")
    held = world.script.hold("sampling")
    await world.apply(queued("demo", queue="old"))
    await held.started.wait()
    await label(world, "demo", queue="new")
    await world.edit("demo", ttlSecondsAfterFinished=86400)  # another look
    held.release()
    await world.until("demo", READY)
    queues = {job["metadata"]["labels"][QUEUE] for job in (await world.jobs("demo")).values()}
    assert queues == {"old", "new"}
    assert (await workload_of(world, await job_at(world, "demo", "sampling", "Done")))["spec"]["queueName"] == "old"


@pytest.mark.parametrize("stopped", [False, True])
async def test_a_queue_that_cannot_admit_is_told(world: World, operator: OperatorProcess, stopped: bool) -> None:
    if stopped:
        whole = await add_queue(world)
        await world.api.patch(CLUSTER_QUEUES, "", whole, {"spec": {"stopPolicy": "Hold"}})
        await world.api.wait(CLUSTER_QUEUES, "", whole, lambda item: not is_active(item))
    await world.apply(queued("demo"))
    told = await world.until("demo", condition("Reconciling", "True", "QueueStopped" if stopped else "QueueMissing"))
    assert "gpus" in message(told)
    if stopped:
        await world.api.patch(CLUSTER_QUEUES, "", whole, {"spec": {"stopPolicy": "None"}})
    else:
        await add_queue(world)
    await world.until("demo", READY)


async def test_a_namespace_with_a_default_queue_queues_what_names_none(world: World, operator: OperatorProcess) -> None:
    """Kueue's webhook gives such Jobs the label, which their iteration has not."""
    await add_queue(world, "default")
    held = world.script.hold("sampling")
    await world.apply(iteration("first", **ONE_EACH))
    await held.started.wait()
    await world.apply(iteration("demo", seed=7, **ONE_EACH, serving={"endpoint": "llava"}))
    await world.until("demo", lambda item: "insufficient unused quota" in message(item), seconds=60)
    held.release()
    await world.until("demo", condition("Serving", "True"))
    assert {job["metadata"]["labels"][QUEUE] for job in (await world.jobs("demo")).values()} == {"default"}
    assert await world.stages_run("demo") == list(STAGES)
    endpoint = await world.api.get(DEPLOYMENTS, world.namespace, "llava")
    assert endpoint["metadata"]["labels"][QUEUE] == "default"


async def test_all_shards_are_admitted_together_or_not_at_all(world: World, operator: OperatorProcess) -> None:
    whole = await add_queue(world, cpus=3)
    await world.apply(queued("demo", sampling={**CPU, "shards": 4}))
    told = await world.until("demo", condition("Reconciling", "True", "ExceedsQuota"))
    assert "current podset request (4)" in message(told)
    assert not any("-sampling-" in pod for pod in world.script.played)
    raised = (await world.api.get(CLUSTER_QUEUES, "", whole))["spec"]["resourceGroups"]
    raised[0]["flavors"][0]["resources"][0]["nominalQuota"] = "4"
    await world.api.patch(CLUSTER_QUEUES, "", whole, {"spec": {"resourceGroups": raised}})
    await world.until("demo", READY)
