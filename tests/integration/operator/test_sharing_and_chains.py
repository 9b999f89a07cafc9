"""Iterations that share work, and iterations that follow each other."""

from __future__ import annotations

from tests.cluster.operator_process import OperatorProcess
from tests.cluster.pod_agent import GOOD_SCORES, succeeds
from tests.cluster.world import READY, STAGES, World, condition, condition_of, iteration, stage_of


async def test_two_iterations_share_the_artifacts_that_they_have_in_common(
    world: World, operator: OperatorProcess
) -> None:
    await world.apply(iteration("first"))
    first = await world.until("first", READY)
    await world.apply(iteration("second", training={"beta": "0.2"}))
    second = await world.until("second", READY)
    same = [stage for stage in STAGES if stage_of(first, stage)["hash"] == stage_of(second, stage)["hash"]]
    assert same == ["sampling", "splitting", "labeling", "pairing"]
    reused = [stage for stage in STAGES if stage_of(second, stage)["shards"][0].get("reused")]
    assert reused == same


async def test_a_recreated_iteration_finds_its_artifacts(world: World, operator: OperatorProcess) -> None:
    await world.apply(iteration("demo"))
    first = await world.until("demo", READY)
    await world.delete("demo")
    await world.apply(iteration("demo"))
    again = await world.until("demo", READY)
    assert again["metadata"]["uid"] != first["metadata"]["uid"]
    assert all(stage_of(again, stage)["shards"][0].get("reused") for stage in STAGES)
    assert again["status"]["aligned"] == first["status"]["aligned"]


async def test_a_chain_of_four_applied_at_once_runs_in_order(world: World, operator: OperatorProcess) -> None:
    await world.apply(iteration("fourth", model={"uri": None, "from": {"iteration": "third"}}))
    await world.apply(iteration("third", model={"uri": None, "from": {"iteration": "second"}}))
    await world.apply(iteration("second", model={"uri": None, "from": {"iteration": "first"}}))
    await world.until("fourth", lambda item: bool(item.get("status", {}).get("conditions")))
    assert await world.jobs("fourth") == {}
    await world.apply(iteration("first"))
    done = [await world.until(name, READY) for name in ("first", "second", "third", "fourth")]
    finished = [condition_of(item, "Promoted")["lastTransitionTime"] for item in done]
    assert finished == sorted(finished)
    assert len({item["status"]["aligned"]["uri"] for item in done}) == 4


async def test_a_child_waits_for_ever_where_the_gate_of_its_parent_failed(
    world: World, operator: OperatorProcess
) -> None:
    world.script.on("evaluation", succeeds({**GOOD_SCORES, "selection.aligned.response_hallucination": 0.6}))
    await world.apply(iteration("parent"))
    await world.apply(iteration("child", model={"uri": None, "from": {"iteration": "parent"}}))
    await world.until("parent", condition("Promoted", "False", "GateFailed"))
    told = await world.until("child", condition("Ready", "False", "ParentGateFailed"))
    assert "parent" in condition_of(told, "Ready")["message"]
    assert await world.jobs("child") == {}


async def test_a_child_never_trains_from_what_its_parent_was_before_an_edit_of_the_same_commit(world: World) -> None:
    """The operator finds the edited parent and its new child at once, with all that was said of the parent before."""
    await world.apply(iteration("parent"))
    with world.operator():
        before = await world.until("parent", READY)
    await world.edit("parent", training={"beta": "0.2"})
    await world.apply(iteration("child", model={"uri": None, "from": {"iteration": "parent"}}))
    with world.operator():
        after = await world.until("parent", READY)
        child = await world.until("child", READY)
    assert after["status"]["aligned"]["uri"] != before["status"]["aligned"]["uri"]
    assert child["status"]["model"]["uri"] == after["status"]["aligned"]["uri"]


async def test_a_cycle_is_refused_with_its_names(world: World, operator: OperatorProcess) -> None:
    await world.apply(iteration("hen", model={"uri": None, "from": {"iteration": "egg"}}))
    await world.apply(iteration("egg", model={"uri": None, "from": {"iteration": "hen"}}))
    told = await world.until("hen", condition("Ready", "False", "ParentCycle"))
    assert "hen -> egg -> hen" in condition_of(told, "Ready")["message"]


async def test_a_parent_that_is_not_there_is_named_and_waited_for(world: World, operator: OperatorProcess) -> None:
    await world.apply(iteration("child", model={"uri": None, "from": {"iteration": "parent"}}))
    told = await world.until("child", condition("Ready", "False", "ParentMissing"))
    assert "parent" in condition_of(told, "Ready")["message"]
    await world.apply(iteration("parent"))
    await world.until("child", READY)


async def test_of_two_that_train_the_same_policy_one_waits_and_takes_what_the_other_made(
    world: World, operator: OperatorProcess
) -> None:
    held = world.script.hold("training")
    await world.apply(iteration("first"))
    await held.started.wait()
    await world.apply(iteration("second", evaluation={"bestOf": 4}))
    told = await world.until("second", condition("Ready", "False", "SharedWork"))
    assert "first-training-" in condition_of(told, "Ready")["message"]
    held.release()
    second = await world.until("second", READY)
    assert stage_of(second, "training")["shards"][0]["reused"]
    assert len(await world.jobs("second")) == len(STAGES)
