"""Kueue decides when Jobs start: done to the Jobs here is what Kueue does to them."""

from __future__ import annotations

from tests.cluster.api import ITERATIONS, JOBS, Object
from tests.cluster.operator_process import OperatorProcess
from tests.cluster.world import READY, STAGES, World, condition, condition_of, iteration, stage_is, stage_of

QUEUE = "kueue.x-k8s.io/queue-name"


def queued(name: str) -> Object:
    manifest = iteration(name)
    manifest["metadata"]["labels"] = {QUEUE: "gpus"}
    return manifest


async def admit(world: World, job: str, *, admitted: bool = True) -> None:
    await world.api.patch(JOBS, world.namespace, job, {"spec": {"suspend": not admitted}})


async def queued_job(world: World, stage: str) -> Object:
    """The stage's Job, as soon as it is there and waits for admission."""
    async for _, job in world.api.watch(JOBS, world.namespace):
        if job["metadata"]["labels"]["feedback.rlaif.dev/stage"] == stage:
            return job
    raise AssertionError("a watch has no end")


async def test_jobs_wait_for_admission_one_after_the_other(world: World, operator: OperatorProcess) -> None:
    await world.apply(queued("demo"))
    for stage in STAGES:
        job = await queued_job(world, stage)
        assert job["spec"]["suspend"] is True
        assert job["metadata"]["labels"][QUEUE] == "gpus"
        assert not any(f"-{stage}-" in name for name in world.script.played)
        await admit(world, job["metadata"]["name"])
    await world.until("demo", READY)
    assert await world.stages_run("demo") == list(STAGES)


async def test_a_preempted_job_waits_and_goes_on_when_it_is_admitted_again(
    world: World, operator: OperatorProcess
) -> None:
    held = world.script.hold("sampling")
    await world.apply(queued("demo"))
    job = (await queued_job(world, "sampling"))["metadata"]["name"]
    await admit(world, job)
    await held.started.wait()
    await admit(world, job, admitted=False)
    waiting = await world.until("demo", stage_is("sampling", "Suspended"))
    assert stage_of(waiting, "sampling")["job"] == job
    await world.api.wait(JOBS, world.namespace, job, lambda item: not item["status"].get("active"))
    await admit(world, job)
    await world.until("demo", stage_is("sampling", "Done"))
    assert len(await world.jobs("demo")) == 2  # sampling, and splitting in the queue


async def test_a_queued_job_takes_corrections_of_its_resources_and_of_its_queue(
    world: World, operator: OperatorProcess
) -> None:
    await world.apply(queued("demo"))
    first = await queued_job(world, "sampling")
    await world.edit("demo", sampling={"resources": {"limits": {"memory": "64Gi"}}})
    second = await successor(world, first)
    assert second["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"] == {"memory": "64Gi"}
    await world.api.patch(ITERATIONS, world.namespace, "demo", {"metadata": {"labels": {QUEUE: "others"}}})
    third = await successor(world, second)
    assert third["metadata"]["labels"][QUEUE] == "others"
    await admit(world, third["metadata"]["name"])
    done = await world.until("demo", stage_is("sampling", "Done"))
    assert (stage_of(done, "sampling").get("attempt", 0), stage_of(done, "sampling").get("retries", 0)) == (0, 0)


async def successor(world: World, job: Object) -> Object:
    """The Job of the same name that comes after this one."""
    meta = job["metadata"]
    return await world.api.wait(
        JOBS, world.namespace, meta["name"], lambda item: bool(item["metadata"]["uid"] != meta["uid"])
    )


async def test_a_job_that_somebody_else_suspends_is_left_so(world: World, operator: OperatorProcess) -> None:
    """As Kueue does where it manages Jobs without a queue, or as a person does."""
    held = world.script.hold("sampling")
    await world.apply(iteration("demo"))
    await held.started.wait()
    job = stage_of(await world.until("demo", stage_is("sampling", "Running")), "sampling")["job"]
    before = await world.api.patch(JOBS, world.namespace, job, {"spec": {"suspend": True}})
    told = await world.until("demo", condition("Reconciling", "True", "JobSuspended"))
    assert f"kubectl patch job {job}" in condition_of(told, "Ready")["message"]
    await world.edit("demo", training={"resources": {"limits": {"memory": "64Gi"}}})  # another look
    await world.until("demo", condition("Reconciling", "True", "JobSuspended"))
    after = await world.api.get(JOBS, world.namespace, job)
    assert (after["metadata"]["generation"], after["spec"]["suspend"]) == (before["metadata"]["generation"], True)
    await admit(world, job)
    await world.until("demo", READY)
