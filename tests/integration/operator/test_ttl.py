"""Finished Jobs are removed after a while, and are not run again for it."""

from __future__ import annotations

from tests.cluster.api import JOBS
from tests.cluster.operator_process import OperatorProcess
from tests.cluster.world import READY, STAGES, World, iteration, stage_is, stage_of


async def test_jobs_go_after_their_time_and_nothing_runs_again(world: World, operator: OperatorProcess) -> None:
    await world.apply(iteration("demo", ttlSecondsAfterFinished=1))
    done = await world.until("demo", READY)
    for stage in STAGES:
        await world.api.wait_gone(JOBS, world.namespace, stage_of(done, stage)["job"])
    await world.edit("demo", ttlSecondsAfterFinished=2)  # another look at it
    again = await world.until(
        "demo", lambda item: item["status"]["observedGeneration"] == item["metadata"]["generation"]
    )
    assert [stage_of(again, stage)["state"] for stage in STAGES] == ["Done"] * len(STAGES)
    assert await world.jobs("demo") == {}


async def test_a_finished_job_that_somebody_deletes_is_not_run_again(world: World, operator: OperatorProcess) -> None:
    held = world.script.hold("training")
    await world.apply(iteration("demo"))
    running = await world.until("demo", stage_is("pairing", "Done"))
    await held.started.wait()
    await world.api.delete(JOBS, world.namespace, stage_of(running, "sampling")["job"])
    held.release()
    await world.until("demo", READY)
    assert await world.stages_run("demo") == list(STAGES[1:])
