"""Edits of a spec in the middle of a run."""

from __future__ import annotations

import pytest

from tests.cluster.api import JOBS, Refused
from tests.cluster.operator_process import OperatorProcess
from tests.cluster.world import READY, STAGES, World, condition, iteration, stage_is, stage_of


async def test_what_determines_artifacts_cannot_be_edited_while_it_runs(
    world: World, operator: OperatorProcess
) -> None:
    held = world.script.hold("splitting")
    await world.apply(iteration("demo"))
    await held.started.wait()
    await world.until("demo", condition("Reconciling", "True"))
    with pytest.raises(Refused, match="suspend"):
        await world.edit("demo", sampling={"temperature": "0.9"})
    held.release()
    await world.until("demo", READY)


async def test_an_edit_while_suspended_runs_the_stages_that_it_changes(world: World, operator: OperatorProcess) -> None:
    held = world.script.hold("training")
    await world.apply(iteration("demo"))
    await held.started.wait()
    await world.edit("demo", suspend=True)
    before = await world.until("demo", stage_is("training", "Suspended"))
    await world.edit("demo", pairing={"perInstruction": 4})
    await world.edit("demo", suspend=False)
    done = await world.until("demo", READY)
    for stage in ("sampling", "splitting", "labeling"):
        assert stage_of(done, stage)["job"] == stage_of(before, stage)["job"]
    for stage in ("pairing", "training"):
        assert stage_of(done, stage)["hash"] != stage_of(before, stage)["hash"]


async def test_an_edit_of_a_finished_iteration_runs_the_stages_that_it_changes(
    world: World, operator: OperatorProcess
) -> None:
    await world.apply(iteration("demo"))
    before = await world.until("demo", READY)
    await world.edit("demo", training={"beta": "0.2"})
    done = await world.until("demo", READY)
    changed = [stage for stage in STAGES if stage_of(done, stage)["hash"] != stage_of(before, stage)["hash"]]
    assert changed == ["training", "evaluation"]


async def test_more_memory_for_a_later_stage_can_be_given_at_any_time(world: World, operator: OperatorProcess) -> None:
    held = world.script.hold("sampling")
    await world.apply(iteration("demo"))
    await held.started.wait()
    await world.edit("demo", training={"resources": {"limits": {"memory": "64Gi"}}})
    held.release()
    done = await world.until("demo", READY)
    job = (await world.jobs("demo"))[stage_of(done, "training")["job"]]
    assert job["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"] == "64Gi"
    assert await world.stages_run("demo") == list(STAGES)


async def test_a_change_of_serving_runs_no_stage_again(world: World, operator: OperatorProcess) -> None:
    await world.apply(iteration("demo"))
    await world.until("demo", READY)
    await world.edit("demo", serving={"endpoint": "answers"})
    await world.until("demo", condition("Serving", "True"))
    assert await world.stages_run("demo") == list(STAGES)


async def test_a_deadline_that_is_raised_reaches_the_job_that_runs(world: World, operator: OperatorProcess) -> None:
    held = world.script.hold("sampling")
    await world.apply(iteration("demo", deadlineSeconds=3600))
    await held.started.wait()
    job = stage_of(await world.until("demo", stage_is("sampling", "Running")), "sampling")["job"]
    await world.edit("demo", deadlineSeconds=7200, ttlSecondsAfterFinished=600)
    await world.api.wait(
        JOBS,
        world.namespace,
        job,
        lambda item: item["spec"]["activeDeadlineSeconds"] == 7200 and item["spec"]["ttlSecondsAfterFinished"] == 600,
    )
    held.release()
    await world.until("demo", READY)
    assert await world.stages_run("demo") == list(STAGES)
