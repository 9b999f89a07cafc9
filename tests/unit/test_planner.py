"""The planner as a table: what exists, what should exist next."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback_operator.conditions import is_true
from feedback_operator.snapshot import Parent, Pod, Snapshot
from feedback_operator.stages import GRAPH
from feedback_workloads.contract import STAGE_CONFIG, Source
from tests.unit.worlds import NOW, Simulation, broken, decide, iteration, succeeded

STAGES = [stage.name for stage in GRAPH]
METRICS = {
    "selected_step": 10.0,
    "baseline.response_hallucination": 0.42,
    "aligned.response_hallucination": 0.21,
    "baseline.recall": 0.8,
    "aligned.recall": 0.85,
}
GATE = {
    "benchmarks": [{"name": "shapes", "type": "shapes", "uri": "s3://b/benchmark"}],
    "gate": [
        {"metric": "responseHallucination", "relativeTo": "Baseline", "max": "0.65"},
        {"metric": "recall", "relativeTo": "Baseline", "min": "1"},
    ],
}


def created(simulation: Simulation) -> list[str]:
    return [
        made["metadata"]["labels"]["feedback.rlaif.dev/stage"]
        for made in simulation.step().create
        if made["kind"] == "Job"
    ]


def states(simulation: Simulation) -> dict[str, str]:
    return {stage.name: stage.state for stage in simulation.iteration.status.stages}


def reason(simulation: Simulation, kind: str) -> str:
    return next(c.reason for c in simulation.iteration.status.conditions if c.type == kind)


@pytest.mark.parametrize("stage", STAGES)
def test_stages_start_one_after_the_other(stage: str) -> None:
    simulation = Simulation.of()
    job = simulation.run_until(stage)
    assert [other.stage for other in simulation.active()] == [stage]
    assert states(simulation)[stage] in ("Waiting", "Running")
    assert job.name.startswith(f"it-{stage}-")


def test_a_whole_iteration_ends_ready_and_promoted() -> None:
    simulation = Simulation.of(evaluation=GATE)
    simulation.complete(simulation.run_until("scores"), METRICS)
    simulation.step()
    conditions = simulation.iteration.status.conditions
    assert {c.type: c.status for c in conditions} == {
        "Ready": "True",
        "Reconciling": "False",
        "Stalled": "False",
        "Promoted": "True",
    }
    assert simulation.iteration.status.aligned is not None
    assert simulation.step().create == ()


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        pytest.param({"aligned.response_hallucination": 0.4}, "0.9524, above 0.65", id="rate"),
        pytest.param({"aligned.recall": 0.7}, "recall relative to the baseline is 0.875, below 1", id="recall"),
        pytest.param({"baseline.recall": 0.0}, "recall relative to the baseline was not measured", id="no baseline"),
    ],
)
def test_a_broken_rule_is_not_promoted(metrics: dict[str, float], message: str) -> None:
    simulation = Simulation.of(evaluation=GATE)
    simulation.complete(simulation.run_until("scores"), {**METRICS, **metrics})
    simulation.step()
    promoted = next(c for c in simulation.iteration.status.conditions if c.type == "Promoted")
    assert (promoted.status, promoted.reason) == ("False", "GateFailed")
    assert message in promoted.message
    assert is_true(simulation.iteration.status.conditions, "Ready")


@pytest.mark.parametrize(
    ("pod", "reason_wanted", "message"),
    [
        pytest.param(
            broken("BadInput", "the bucket is missing", 2), "BadInput", "the bucket is missing", id="bad input"
        ),
        pytest.param(Pod(0, 137, "OOMKilled"), "OutOfMemory", "sampling.resources.limits.memory", id="oom"),
        pytest.param(Pod(0, 137), "Killed", "finished parts are kept", id="killed"),
        pytest.param(
            Pod(0, None, "Unschedulable", "64 cores"), "Unschedulable", "sampling.resources.requests", id="too large"
        ),
        pytest.param(Pod(0, 1, message="Traceback"), "Crashed", "exit code 1 Traceback", id="crash"),
    ],
)
def test_a_failed_job_stalls_with_a_remedy(pod: Pod, reason_wanted: str, message: str) -> None:
    simulation = Simulation.of()
    simulation.finish(simulation.run_until("samples"), "Failed", pod)
    simulation.step()
    stalled = next(c for c in simulation.iteration.status.conditions if c.type == "Stalled")
    assert (stalled.status, stalled.reason) == ("True", reason_wanted)
    assert message in stalled.message
    assert simulation.step().create == ()


def test_a_deadline_names_its_field() -> None:
    simulation = Simulation.of(deadlineSeconds=60)
    simulation.finish(simulation.run_until("samples"), "Failed", reason="DeadlineExceeded")
    simulation.step()
    assert reason(simulation, "Stalled") == "DeadlineExceeded"


def test_a_missing_result_is_asked_for_again_and_then_stalls() -> None:
    simulation = Simulation.of()
    simulation.step()
    for attempt in range(3):
        (job,) = simulation.active()
        assert job.attempt == attempt
        simulation.finish(job, "Complete", Pod(0, 0, message="not a result"))
        simulation.step()
    assert reason(simulation, "Stalled") == "ResultMissing"


def test_every_shard_must_hand_in_its_result() -> None:
    simulation = Simulation.of(sampling={"shards": 2})
    simulation.step()
    (job,) = simulation.active()
    simulation.finish(job, "Complete", succeeded("samples", 0))
    assert created(simulation) == ["samples"]
    (job,) = simulation.active()
    simulation.complete(job)
    assert created(simulation) == ["claims"]


def test_suspended_nothing_starts_and_running_jobs_are_suspended() -> None:
    simulation = Simulation.of(suspend=True)
    assert created(simulation) == []
    assert states(simulation)["samples"] == "Suspended"
    simulation = Simulation.of()
    job = simulation.run_until("claims")
    simulation.iteration = simulation.iteration.model_copy(
        update={"spec": simulation.iteration.spec.model_copy(update={"suspend": True})}
    )
    assert simulation.step().suspend == ((job.name, True),)
    assert simulation.step().suspend == ()


def test_a_finished_stage_whose_job_is_gone_does_not_run_again() -> None:
    simulation = Simulation.of(evaluation=GATE)
    simulation.complete(simulation.run_until("scores"), METRICS)
    simulation.step()
    simulation.jobs.clear()
    assert simulation.step().create == ()
    assert set(states(simulation).values()) == {"Done"}


def stage_addresses(**spec: Any) -> dict[str, str]:
    simulation = Simulation.of(**spec)
    simulation.complete(simulation.run_until("scores"), METRICS)
    simulation.step()
    return {stage.name: stage.hash for stage in simulation.iteration.status.stages}


@pytest.mark.parametrize(
    ("change", "reruns"),
    [
        pytest.param({"serving": {"bestOf": 4}}, [], id="serving"),
        pytest.param({"sampling": {"resources": {"limits": {"memory": "8Gi"}}}}, [], id="resources"),
        pytest.param({"training": {"perDeviceBatchSize": 2}}, [], id="batch a device"),
        pytest.param({"training": {"beta": "0.2"}}, ["policy", "scores"], id="beta"),
        pytest.param({"pairs": {"lengthBalance": "Disabled"}}, ["pairs"], id="pairs"),
        pytest.param({"sampling": {"temperature": "0.9"}}, ["samples", "scores"], id="temperature"),
        pytest.param({"seed": 1}, STAGES, id="seed"),
    ],
)
def test_a_change_reaches_the_stages_whose_configuration_it_changes(change: dict[str, Any], reruns: list[str]) -> None:
    before, after = stage_addresses(), stage_addresses(**change)
    assert [stage for stage in STAGES if before[stage] != after[stage]] == reruns


def test_a_chained_iteration_waits_for_its_parent_and_uses_its_model() -> None:
    chained = iteration(model={"from": {"iteration": "first"}})
    assert decide(Snapshot(chained, (), NOW)).create == ()
    parent = Source(uri="s3://b/aligned", sha256="c" * 64)
    configmap, _ = decide(Snapshot(chained, (), NOW, Parent("first", parent))).create
    config = STAGE_CONFIG.validate_json(configmap["data"]["config.json"])
    assert config.model == parent


def test_planning_is_idempotent_and_json() -> None:
    simulation = Simulation.of()
    first, second = decide(simulation.snapshot()), decide(simulation.snapshot())
    assert first == second
    json.dumps(first.create)


Fate = Callable[[Simulation], None]


def _fates(simulation: Simulation) -> dict[str, Fate]:
    def each(state: str, *pods: Pod) -> Fate:
        def act(world: Simulation) -> None:
            for job in world.active():
                world.finish(job, state, *pods)

        return act

    def complete(world: Simulation) -> None:
        for job in world.active():
            world.complete(job, METRICS)

    def forget(world: Simulation) -> None:
        world.jobs = {name: job for name, job in world.jobs.items() if job.state != "Complete"}

    return {
        "complete": complete,
        "lose the result": each("Complete", Pod(0, 0)),
        "fail": each("Failed", Pod(0, 1)),
        "nothing": lambda world: None,
        "forget finished jobs": forget,
    }


@given(
    st.lists(st.sampled_from(["complete", "lose the result", "nothing", "forget finished jobs", "fail"]), max_size=30)
)
def test_from_any_history_planning_converges(history: list[str]) -> None:
    simulation = Simulation.of()
    fates = _fates(simulation)
    done: dict[str, str] = {}
    for event in history:
        simulation.step()
        assert len({job.stage for job in simulation.active()}) == len(simulation.active()), "two live Jobs of one stage"
        now = {stage.name: stage.shards[0].uri for stage in simulation.iteration.status.stages if stage.state == "Done"}
        assert done.items() <= now.items(), "a finished stage's record was lost"
        done = now
        fates[event](simulation)
    simulation.step()  # creates what is due
    simulation.step()  # sees it
    settled = simulation.iteration.status
    simulation.step()
    assert simulation.iteration.status == settled
    assert simulation.step().create == ()
