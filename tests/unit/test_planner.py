"""The planner as tables: what exists, and what should exist next."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from feedback_operator.api.status import timestamp
from feedback_operator.plan.observe import PARENTS_SETTLE, PODS_FOLLOW
from feedback_operator.plan.planner import PODS_END
from feedback_operator.plan.snapshot import Evictions, Parent, Pod, Units
from feedback_operator.resources.job import STAGE_LABEL
from feedback_operator.stages import GRAPH
from feedback_workloads.contract import STAGE_CONFIG, Model, SamplingConfig
from tests.unit.worlds import METRICS, NOW, Simulation, broken, decide, succeeded, with_metadata

STAGES = [stage.name for stage in GRAPH]
GATE = {
    "benchmarks": [{"name": "shapes", "type": "shapes", "uri": "s3://b/benchmark"}],
    "gate": [
        {"metric": "responseHallucination", "relativeTo": "Baseline", "max": "0.65"},
        {"metric": "recall", "relativeTo": "Baseline", "min": "1"},
    ],
}


def created(simulation: Simulation) -> list[str]:
    return [made["metadata"]["labels"][STAGE_LABEL] for made in simulation.step().create if made["kind"] == "Job"]


# ── the way through ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("stage", STAGES)
def test_stages_start_one_after_the_other(stage: str) -> None:
    simulation = Simulation.of()
    job = simulation.run_until(stage)
    simulation.step()
    assert [other.stage for other in simulation.active()] == [stage]
    assert simulation.states()[stage] == "Running"
    assert simulation.iteration.status.stage == stage
    assert job.name.startswith(f"it-{stage}-")


def test_a_whole_iteration_ends_ready_and_promoted() -> None:
    simulation = Simulation.of(evaluation=GATE)
    simulation.run()
    status = simulation.iteration.status
    assert simulation.conditions() == {
        "Ready": "True",
        "Reconciling": "False",
        "Stalled": "False",
        "Promoted": "True",
        "Serving": "False",
    }
    assert status.aligned is not None
    assert status.promoted is not None
    assert status.promoted.best_of == 4  # as the evaluation chose
    assert status.promoted.ranking
    assert (status.promoted.ranking.rule, status.promoted.ranking.lambda_) == ("Regularised", "0.3")
    assert (status.promoted.uri, status.promoted.reference.uri) == (status.aligned.uri, "s3://b/policy")
    assert status.hallucination is not None
    assert (status.hallucination.baseline, status.hallucination.aligned) == ("0.42", "0.21")
    assert (status.stage, status.progress) == ("", "")
    assert simulation.step().create == ()


def test_an_upgrade_of_the_operator_does_not_compute_a_finished_iteration_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another version may give its stages other addresses."""
    simulation = Simulation.of(evaluation=GATE)
    simulation.run()
    before = simulation.iteration.status
    monkeypatch.setattr(SamplingConfig, "FORMAT_VERSION", 99)
    assert simulation.step().create == ()
    assert simulation.iteration.status == before
    simulation.edit(seed=7)
    assert created(simulation) == ["sampling"]


def test_all_conditions_are_there_from_the_first_visit() -> None:
    simulation = Simulation.of()
    simulation.step()
    assert simulation.conditions() == {
        "Ready": "False",
        "Reconciling": "True",
        "Stalled": "False",
        "Promoted": "Unknown",
        "Serving": "False",
    }
    assert all(c.reason and c.observed_generation == 1 for c in simulation.iteration.status.conditions)


def test_progress_is_that_of_the_current_stage_and_is_kept_while_nobody_answers() -> None:
    simulation = Simulation.of()
    job = simulation.run_until("training")
    simulation.change(job, units=Units(312, 2668, "training"))
    simulation.step()
    assert simulation.iteration.status.progress == "312/2668"
    simulation.change(job, units=Units())
    simulation.step()
    assert simulation.iteration.status.progress == "312/2668"


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        pytest.param(
            {"selection.aligned.response_hallucination": 0.3},
            "responseHallucination relative to the baseline is 0.75 on the selection split, above 0.65",
            id="rate",
        ),
        pytest.param(
            {"selection.aligned.recall": 0.7},
            "recall relative to the baseline is 0.875 on the selection split, below 1",
            id="recall",
        ),
        pytest.param(
            {"selection.baseline.recall": 0.0},
            "recall relative to the baseline: the baseline's is 0, so no ratio is defined; give min without relativeTo",
            id="the baseline's is 0",
        ),
        pytest.param(
            {"selection.baseline.recall": None},
            "recall relative to the baseline was not measured on the selection split",
            id="no baseline",
        ),
    ],
)
def test_a_broken_rule_is_not_promoted(metrics: dict[str, float | None], message: str) -> None:
    simulation = Simulation.of(evaluation=GATE)
    simulation.complete(simulation.run_until("evaluation"), known({**METRICS, **metrics}))
    simulation.step()
    status, reason, said = simulation.told("Promoted")
    assert (status, reason) == ("False", "GateFailed")
    assert message in said
    assert simulation.conditions()["Ready"] == "True"
    assert simulation.iteration.status.promoted is None


def known(metrics: dict[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if value is not None}


BY_INTERVAL = {
    **GATE,
    "gate": [
        {"metric": "responseHallucination", "relativeTo": "Baseline", "use": "Interval", "min": "0.1", "max": "1"}
    ],
}


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        pytest.param(0.4, 0.99, "", id="wholly below"),
        pytest.param(
            0.4, 1.04, "is 0.55 (0.40-1.04) on the selection split, not wholly below 1", id="it may be chance"
        ),
        pytest.param(0.4, 1.0, "is 0.55 (0.40-1.00) on the selection split, not wholly below 1", id="it touches"),
        pytest.param(0.05, 0.9, "is 0.55 (0.05-0.90) on the selection split, not wholly above 0.1", id="not above"),
        pytest.param(0.4, None, "has no interval on the selection split", id="no interval"),
    ],
)
def test_a_gate_of_an_interval_wants_all_of_it_within_the_bounds(low: float, high: float | None, message: str) -> None:
    simulation = Simulation.of(evaluation=BY_INTERVAL)
    ends = {"selection.ratio.response_hallucination.low": low, "selection.ratio.response_hallucination.high": high}
    simulation.complete(simulation.run_until("evaluation"), known({**METRICS, **ends}))
    simulation.step()
    status, _, said = simulation.told("Promoted")
    assert status == ("False" if message else "True")
    assert said.startswith(f"responseHallucination relative to the baseline {message}" if message else "the aligned")


def with_scores(simulation: Simulation, **changes: Any) -> None:
    """The recorded result of the evaluation, changed."""
    status = simulation.iteration.status
    stages = [
        stage.model_copy(update={"shards": [stage.shards[0].model_copy(update=changes)]})
        if stage.name == "evaluation"
        else stage
        for stage in status.stages
    ]
    simulation.iteration = simulation.iteration.model_copy(
        update={"status": status.model_copy(update={"stages": stages})}
    )


def test_what_an_earlier_operator_promoted_stays_promoted_and_gets_no_flags_that_its_server_does_not_know() -> None:
    """Its evaluation measured the report split alone, and said nothing of ranking."""
    simulation = Simulation.of(evaluation=GATE)
    simulation.run()
    simulation.jobs.clear()
    measured = {name: str(value) for name, value in METRICS.items() if not name.startswith("selection.")}
    with_scores(simulation, metrics=measured, best_of=None, ranking=None)
    simulation.step()
    assert simulation.told("Promoted")[:2] == ("True", "GatePassed")
    promoted = simulation.iteration.status.promoted
    assert promoted
    assert (promoted.ranking, promoted.ranked_temperature, promoted.ranked_top_p) == (None, "", "")
    simulation.edit(evaluation={**GATE, "gate": GATE["gate"][:1]})  # another gate decides anew
    simulation.step()
    assert simulation.told("Promoted")[:2] == ("False", "GateFailed")


def test_what_is_reported_does_not_open_the_gate_nor_shut_it() -> None:
    simulation = Simulation.of(evaluation=GATE)
    reported = {"aligned.response_hallucination": 0.9, "aligned.recall": 0.1}
    simulation.complete(simulation.run_until("evaluation"), {**METRICS, **reported})
    simulation.step()
    status, reason, said = simulation.told("Promoted")
    assert (status, reason) == ("True", "GatePassed")
    assert said.endswith("on the selection split")
    assert simulation.iteration.status.hallucination.aligned == "0.9"  # what is shown is what is reported


def test_planning_is_idempotent_and_json() -> None:
    simulation = Simulation.of()
    first, second = decide(simulation.snapshot()), decide(simulation.snapshot())
    assert first == second
    json.dumps(first.create)


# ── results ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_unreadable_result_is_asked_for_again_and_then_stalls() -> None:
    simulation = Simulation.of()
    simulation.step()
    for attempt in range(4):
        (job,) = simulation.active()
        assert job.attempt == attempt
        simulation.finish(job, "Complete", Pod(0, 0, message="not a result"))
        simulation.step()
    assert simulation.told("Stalled")[:2] == ("True", "ResultMissing")


def test_every_shard_must_hand_in_its_result() -> None:
    simulation = Simulation.of(sampling={"shards": 2})
    simulation.step()
    (job,) = simulation.active()
    simulation.finish(job, "Complete", succeeded("sampling", 0), Pod(1, 0))
    assert created(simulation) == ["sampling"]
    (job,) = simulation.active()
    simulation.complete(job)
    assert created(simulation) == ["splitting"]


@pytest.mark.parametrize("state", ["Complete", "Failed"])
def test_a_job_may_be_seen_to_end_before_its_pods(state: str) -> None:
    simulation = Simulation.of()
    job = simulation.run_until("sampling")
    simulation.finish(job, state, Pod(0, running=True))
    decided = simulation.step()
    assert decided.create == ()
    assert decided.wake_at == NOW + PODS_FOLLOW
    assert simulation.states()["sampling"] == "Running"
    simulation.complete(job)
    assert created(simulation) == ["splitting"]


@pytest.mark.parametrize("late", [timedelta(), timedelta(hours=1)], ids=["at once", "after an outage"])
def test_pods_that_do_not_follow_their_job_are_read(late: timedelta) -> None:
    """However long ago the Job ended: the watch of its pods may have been broken since before."""
    simulation = Simulation.of()
    job = simulation.run_until("sampling")
    simulation.finish(job, "Complete", Pod(0, running=True))
    simulation.unseen = {job.name: (succeeded("sampling"),)}
    simulation.now += PODS_FOLLOW + late
    assert created(simulation) == ["splitting"]


def test_a_result_that_is_not_there_is_asked_for_by_another_attempt() -> None:
    simulation = Simulation.of()
    simulation.finish(simulation.run_until("sampling"), "Complete")
    simulation.now += PODS_FOLLOW
    assert created(simulation) == ["sampling"]


# ── what becomes of Jobs ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_finished_stage_whose_job_is_gone_does_not_run_again() -> None:
    simulation = Simulation.of()
    simulation.run()
    simulation.jobs.clear()
    assert simulation.step().create == ()
    assert set(simulation.states().values()) == {"Done"}


def test_a_failed_stage_whose_job_is_gone_stays_failed() -> None:
    simulation = Simulation.of()
    simulation.finish(simulation.run_until("splitting"), "Failed", broken("BadInput", "no such bucket", 2, "splitting"))
    simulation.step()
    before = simulation.iteration.status
    simulation.jobs.clear()
    simulation.wait(3600)
    assert simulation.step().create == ()
    assert simulation.iteration.status == before


def test_a_running_job_that_is_deleted_is_followed_by_another_attempt_but_not_for_ever() -> None:
    simulation = Simulation.of()
    simulation.run_until("splitting")
    for retries in range(4):
        simulation.step()
        (job,) = simulation.active()
        assert (job.stage, job.attempt, job.retries) == ("splitting", 0, retries)
        del simulation.jobs[job.name]
        simulation.step()
    assert simulation.told("Stalled")[:2] == ("True", "JobDeleted")
    assert "ttlSecondsAfterFinished" in simulation.told("Stalled")[2]


def test_a_job_that_is_being_deleted_is_waited_for() -> None:
    simulation = Simulation.of()
    job = simulation.run_until("splitting")
    simulation.change(job, deleting=True, pods=())
    simulation.wait(3600)
    assert simulation.step().create == ()
    assert simulation.conditions()["Stalled"] == "False"
    del simulation.jobs[job.name]
    assert created(simulation) == ["splitting"]


def test_a_cache_that_does_not_show_the_job_yet_leads_to_the_same_name() -> None:
    simulation = Simulation.of()
    simulation.step()
    (job,) = simulation.active()
    simulation.jobs.clear()
    simulation.step()
    assert [again.name for again in simulation.active()] == [job.name]


# ── failures, retries, trouble ───────────────────────────────────────────────────────────────────────────────────────


def test_a_failure_stalls_until_the_spec_is_edited() -> None:
    simulation = Simulation.of()
    simulation.finish(simulation.run_until("sampling"), "Failed", Pod(0, 137, "OOMKilled"))
    assert created(simulation) == []
    assert simulation.told("Stalled")[:2] == ("True", "OutOfMemory")
    assert simulation.conditions()["Reconciling"] == "False"
    simulation.edit(sampling={"resources": {"limits": {"memory": "64Gi"}}})
    assert created(simulation) == ["sampling"]
    (job,) = simulation.active()
    assert (job.attempt, job.generation, job.retries) == (1, 2, 0)
    assert simulation.conditions()["Stalled"] == "False"


def test_suspend_and_resume_is_another_try() -> None:
    simulation = Simulation.of()
    simulation.finish(simulation.run_until("sampling"), "Failed", Pod(0, 137, "OOMKilled"))
    simulation.step()
    simulation.edit(suspend=True)
    assert created(simulation) == []
    simulation.edit(suspend=False)
    assert created(simulation) == ["sampling"]


def test_what_may_pass_is_tried_again_later_and_later() -> None:
    simulation = Simulation.of()
    simulation.run_until("sampling")
    for retries, wait in enumerate([60, 240, 960]):
        (job,) = simulation.active()
        assert (job.attempt, job.retries) == (retries, retries)
        simulation.finish(job, "Failed", broken("Temporary", "S3 is out of reach", 75))
        decided = simulation.step()
        assert decided.create == ()
        assert decided.wake_at == simulation.now + timedelta(seconds=wait)
        assert simulation.told("Reconciling")[:2] == ("True", "Temporary")
        assert simulation.states()["sampling"] == "Waiting"
        simulation.jobs.clear()  # its time to live was short
        simulation.wait(wait - 1)
        assert created(simulation) == []
        simulation.wait(1)
        assert created(simulation) == ["sampling"]
    (job,) = simulation.active()
    simulation.finish(job, "Failed", broken("Temporary", "S3 is out of reach", 75))
    simulation.step()
    assert simulation.told("Stalled")[:2] == ("True", "Temporary")


def lost_each_other(simulation: Simulation, step: int, *, disrupted: bool = False) -> None:
    """The training comes to a step, where its processes lose each other until its Job fails."""
    (job,) = simulation.active()
    simulation.change(job, units=Units(step, 2668), disrupted=disrupted)
    simulation.step()
    (job,) = simulation.active()
    simulation.change(job, units=Units())
    simulation.finish(job, "Failed", broken("Communication", "NCCL error", 75, "training", 1))
    simulation.step()


@pytest.mark.parametrize("collected", [False, True], ids=["failed Jobs stay", "failed Jobs are collected"])
def test_a_training_that_gets_on_is_not_given_up(collected: bool) -> None:
    simulation = Simulation.of(training={"nodes": 2})
    simulation.run_until("training")
    for attempt in range(12):
        lost_each_other(simulation, 100 * (attempt + 1))
        assert simulation.told("Reconciling")[:2] == ("True", "Communication")
        if collected:
            simulation.jobs.clear()
        simulation.wait(60)
        assert created(simulation) == ["training"]
        (job,) = simulation.active()
        assert (job.attempt, job.retries, job.reached) == (attempt + 1, 1, 100 * (attempt + 1))


def test_a_training_that_comes_no_further_is_given_up() -> None:
    simulation = Simulation.of(training={"nodes": 2})
    simulation.run_until("training")
    for wait, step in ((60, 312), (240, 312), (960, 310), (0, 300)):
        lost_each_other(simulation, step)
        simulation.wait(wait)
        simulation.step()
    assert simulation.told("Stalled")[:2] == ("True", "Communication")


def test_a_preempted_training_is_not_given_up_for_what_its_peers_died_of() -> None:
    simulation = Simulation.of(training={"nodes": 2})
    simulation.run_until("training")
    for _ in range(12):
        lost_each_other(simulation, 312, disrupted=True)
        assert simulation.told("Reconciling")[:2] == ("True", "Evicted")
        assert "a pod was taken from its node" in simulation.told("Reconciling")[2]
        simulation.wait(60)
        assert created(simulation) == ["training"]


def test_pods_that_cannot_start_are_told_of_then_stall_and_recover_by_themselves() -> None:
    simulation = Simulation.of()
    job = simulation.run_until("sampling")
    simulation.change(job, pods=(Pod(0, reason="ImagePullBackOff", message="no such tag", since=NOW),))
    decided = simulation.step()
    assert decided.wake_at == NOW + timedelta(seconds=600)
    assert simulation.told("Reconciling")[:2] == ("True", "ImagePull")
    assert simulation.told("Ready")[:2] == ("False", "ImagePull")
    simulation.wait(600)
    assert simulation.step().wake_at is None
    status, reason, message = simulation.told("Stalled")
    assert (status, reason) == ("True", "ImagePull")
    assert "no such tag" in message
    assert "spec.sampling.pod.image" in message
    simulation.change(job, pods=(Pod(0, running=True),))
    simulation.step()
    assert simulation.conditions()["Stalled"] == "False"
    simulation.complete(job)
    assert created(simulation) == ["splitting"]


def test_pods_that_cannot_start_are_replaced_once_the_spec_is_edited() -> None:
    simulation = Simulation.of()
    job = simulation.run_until("sampling")
    simulation.change(job, pods=(Pod(0, reason="ImagePullBackOff", since=NOW),))
    simulation.step()
    simulation.edit(sampling={"pod": {"image": "generate:2"}})
    decided = simulation.step()
    assert (decided.delete, decided.create) == ((job.name,), ())
    assert created(simulation) == ["sampling"]
    assert [(again.generation, again.retries) for again in simulation.active()] == [(2, 0)]


def test_a_job_without_pods_is_told_of_after_a_minute() -> None:
    simulation = Simulation.of()
    job = simulation.run_until("sampling")
    simulation.change(job, pods=())
    assert simulation.step().wake_at == NOW + timedelta(seconds=10), "then it is asked why"
    simulation.wait(10)
    simulation.step()
    assert simulation.told("Reconciling")[1] == "StageRunning"
    simulation.wait(50)
    simulation.step()
    assert simulation.told("Reconciling")[1] == "PodsNotCreated"


@pytest.mark.parametrize("state", ["Active", "Failed"])
def test_a_stage_whose_result_is_in_is_done_whatever_else_runs_or_fails_in_its_pod(state: str) -> None:
    """A proxy that runs on beside it, or that ended badly after it."""
    simulation = Simulation.of()
    job = simulation.run_until("sampling")
    beside = "istio-proxy" if state == "Active" else ""
    simulation.change(job, state=state, pods=(replace(succeeded("sampling"), since=NOW, beside=beside),))
    assert created(simulation) == ["splitting"]
    sampling = simulation.iteration.status.stages[0]
    assert (sampling.state, sampling.completion_time) == ("Done", timestamp(NOW))


@pytest.mark.parametrize("stage", ["sampling", "evaluation"])
def test_a_sidecar_that_never_ends_holds_no_gpu_beside_a_finished_stage(stage: str) -> None:
    simulation = Simulation.of()
    job = simulation.run_until(stage)
    ended = replace(succeeded(stage, 0, METRICS), since=NOW, beside="istio-proxy")
    simulation.change(job, pods=(ended,))
    decided = simulation.step()
    assert (decided.delete, decided.wake_at) == ((), NOW + PODS_END)
    simulation.wait(PODS_END.total_seconds())
    assert simulation.step().delete == (job.name,)
    assert simulation.states()[stage] == "Done"
    assert simulation.conditions()["Stalled"] == "False"


def test_a_stage_that_one_node_after_the_other_evicts_is_stalled_with_the_remedy_and_recovers() -> None:
    simulation = Simulation.of()
    job = simulation.run_until("sampling")
    taken = Pod(0, reason="TerminationByKubelet", message="The node was low on resource: memory.", since=NOW)
    for times in (3, 4):
        last = NOW + timedelta(minutes=20 * times)
        evictions = Evictions(times, taken, NOW, last, longest=timedelta(minutes=20))
        simulation.now = last
        simulation.change(job, evictions=evictions, pods=(Pod(0, running=True, since=last),))
        simulation.step()
        assert simulation.conditions()["Stalled"] == ("True" if times == 4 else "False")
    status, reason, message = simulation.told("Stalled")
    assert (status, reason) == ("True", "Evicted")
    assert message == (
        "sampling: 4 pods in a row were evicted (The node was low on resource: memory.); raise "
        "spec.sampling.resources.requests.memory: who uses more than that is evicted first (finished parts are kept)"
    )
    assert simulation.step().wake_at == last + timedelta(minutes=20)
    simulation.wait(20 * 60)
    simulation.step()
    assert simulation.conditions()["Stalled"] == "False", "the next pod has outlived them all"


def test_pods_that_nodes_refuse_are_tried_again_and_then_stall() -> None:
    simulation = Simulation.of()
    simulation.run_until("sampling")
    refused = Pod(0, reason="NodeRefused", message="UnexpectedAdmissionError: Allocate failed: nvidia.com/gpu")
    for wait in (60, 240, 960):
        simulation.finish(simulation.active()[0], "Failed", refused)
        simulation.step()
        assert simulation.told("Reconciling")[:2] == ("True", "NodeRefused")
        simulation.wait(wait)
        assert created(simulation) == ["sampling"]
    simulation.finish(simulation.active()[0], "Failed", refused)
    simulation.step()
    assert simulation.told("Stalled")[:2] == ("True", "NodeRefused")


# ── suspend, delete, edit ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("stage", STAGES)
def test_suspended_at_any_stage_and_resumed(stage: str) -> None:
    simulation = Simulation.of()
    job = simulation.run_until(stage)
    simulation.edit(suspend=True)
    decided = simulation.step()
    assert (decided.suspend, decided.create, decided.delete) == (((job.name, True),), (), ())
    assert simulation.told("Reconciling")[:2] == ("False", "Suspended")
    assert simulation.step().suspend == ()
    assert simulation.states()[stage] == "Suspended"
    simulation.edit(suspend=False)
    assert simulation.step().suspend == ((job.name, False),)
    simulation.complete(job)
    if stage != "evaluation":
        assert created(simulation) == [STAGES[STAGES.index(stage) + 1]]


def test_suspended_from_the_start_nothing_is_created() -> None:
    simulation = Simulation.of(suspend=True)
    assert simulation.step().create == ()
    assert simulation.states()["sampling"] == "Suspended"
    simulation.edit(suspend=False)
    assert created(simulation) == ["sampling"]


@pytest.mark.parametrize("stage", STAGES)
def test_nothing_is_done_for_an_iteration_that_is_being_deleted(stage: str) -> None:
    simulation = Simulation.of()
    simulation.complete(simulation.run_until(stage))
    simulation.iteration = with_metadata(simulation.iteration, deletion_timestamp="2026-01-01T00:00:00Z")
    before = simulation.iteration.status
    decided = decide(simulation.snapshot())
    assert (decided.create, decided.suspend, decided.delete, decided.apply) == ((), (), (), ())
    assert decided.status == before


def test_an_edit_of_what_is_suspended_replaces_the_job_of_the_old_configuration() -> None:
    simulation = Simulation.of()
    job = simulation.run_until("splitting")
    simulation.edit(suspend=True)
    simulation.step()
    simulation.edit(suspend=False, splitting={"type": "WholeAnswer"})
    decided = simulation.step()
    assert (decided.delete, decided.create, decided.suspend) == ((job.name,), (), ())
    assert simulation.told("Reconciling")[0] == "True"
    assert created(simulation) == ["splitting"]
    assert simulation.states()["sampling"] == "Done"


def test_an_edit_at_rest_runs_what_it_changes_and_keeps_the_rest() -> None:
    simulation = Simulation.of()
    simulation.run()
    simulation.edit(training={"beta": "0.2"})
    assert created(simulation) == ["training"]
    assert simulation.told("Promoted")[:2] == ("Unknown", "NotScored")
    assert simulation.iteration.status.promoted is not None  # what was promoted goes on serving


@pytest.mark.parametrize(
    ("change", "reruns"),
    [
        pytest.param({"serving": {"bestOf": 4}}, [], id="serving"),
        pytest.param({"sampling": {"resources": {"limits": {"memory": "8Gi"}}}}, [], id="resources"),
        pytest.param({"training": {"perDeviceBatchSize": 2}}, [], id="batch a device"),
        pytest.param({"training": {"beta": "0.2"}}, ["training", "evaluation"], id="beta"),
        pytest.param({"pairing": {"lengthBalance": "Disabled"}}, ["pairing"], id="pairing"),
        pytest.param({"sampling": {"temperature": "0.9"}}, ["sampling"], id="temperature"),
        pytest.param({"seed": 1}, STAGES, id="seed"),
    ],
)
def test_a_change_reaches_the_stages_whose_configuration_it_changes(change: dict[str, Any], reruns: list[str]) -> None:
    before, after = stage_addresses(), stage_addresses(**change)
    assert [stage for stage in STAGES if before[stage] != after[stage]] == reruns


def stage_addresses(**spec: Any) -> dict[str, str]:
    simulation = Simulation.of(**spec)
    simulation.run()
    return {stage.name: stage.hash for stage in simulation.iteration.status.stages}


# ── Kueue ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def queued() -> Simulation:
    simulation = Simulation.of()
    simulation.iteration = with_metadata(simulation.iteration, labels={"kueue.x-k8s.io/queue-name": "gpus"})
    simulation.step()
    return simulation


def test_jobs_of_a_queue_are_created_suspended_and_left_to_kueue() -> None:
    simulation = queued()
    (job,) = simulation.jobs.values()
    assert job.state == "Suspended"
    assert simulation.step().suspend == ()
    assert simulation.told("Reconciling")[:2] == ("True", "Queued")
    simulation.change(job, state="Active")  # admitted
    assert simulation.step().suspend == ()
    assert simulation.states()["sampling"] == "Running"
    simulation.change(job, state="Suspended")  # preempted
    assert simulation.step().suspend == ()
    simulation.change(job, state="Active")
    simulation.complete(job)
    assert created(simulation) == ["splitting"]


@pytest.mark.parametrize("state", ["Suspended", "Active"])
def test_suspended_by_a_person_the_job_of_a_queue_goes_since_kueue_would_resume_it(state: str) -> None:
    simulation = queued()
    (job,) = simulation.jobs.values()
    simulation.change(job, state=state)
    simulation.step()
    simulation.edit(suspend=True)
    decided = simulation.step()
    assert (decided.suspend, decided.delete) == ((), (job.name,))
    assert simulation.step().create == ()
    simulation.edit(suspend=False)
    assert created(simulation) == ["sampling"]
    assert simulation.conditions()["Stalled"] == "False"


def test_a_queued_job_takes_corrections_of_its_resources() -> None:
    simulation = queued()
    (job,) = simulation.jobs.values()
    simulation.edit(sampling={"resources": {"limits": {"memory": "64Gi"}}})
    decided = simulation.step()
    assert (decided.delete, decided.create) == ((job.name,), ())
    assert simulation.told("Reconciling")[0] == "True"
    assert created(simulation) == ["sampling"]
    assert [(again.generation, again.retries) for again in simulation.jobs.values()] == [(2, 0)]
    assert simulation.step().delete == ()


def test_a_queued_job_follows_its_iteration_into_another_queue() -> None:
    simulation = queued()
    (job,) = simulation.jobs.values()
    for queue in ("others", "again-others", "still-others", "last", ""):
        labels = {"kueue.x-k8s.io/queue-name": queue} if queue else {}
        simulation.iteration = with_metadata(simulation.iteration, labels=labels)
        assert simulation.step().delete == (job.name,)
        assert created(simulation) == ["sampling"]
        (job,) = simulation.jobs.values()
        assert (job.queue, job.retries) == (queue, 0), "a move is no failure"


@pytest.mark.parametrize("state", ["Suspended", "Active"], ids=["queued", "running"])
def test_a_deadline_and_a_time_to_live_are_followed_at_once(state: str) -> None:
    simulation = queued()
    (job,) = simulation.jobs.values()
    simulation.change(job, state=state)
    simulation.edit(deadlineSeconds=3600, ttlSecondsAfterFinished=60)
    decided = simulation.step()
    assert (decided.adjust, decided.delete) == (((job.name, 3600, 60),), ())
    assert simulation.step().adjust == ()
    simulation.edit(deadlineSeconds=None, ttlSecondsAfterFinished=None)
    assert simulation.step().adjust == (), "a policy of the cluster may have set them"


def test_a_job_that_kueue_has_put_into_the_namespaces_default_queue_stays_there() -> None:
    """Its iteration names no queue: the label is of Kueue's webhook, and so is the suspension."""
    simulation = Simulation.of()
    job = simulation.run_until("sampling")
    simulation.change(job, state="Suspended", queue="default", started=None, pods=())
    decided = simulation.step()
    assert (decided.delete, decided.suspend) == ((), ())
    assert simulation.told("Reconciling")[:2] == ("True", "Queued")
    simulation.iteration = with_metadata(simulation.iteration, labels={"kueue.x-k8s.io/queue-name": "gpus"})
    assert simulation.step().delete == (job.name,), "named, it goes into that one"


def test_a_job_of_an_earlier_version_keeps_its_place_in_its_queue() -> None:
    simulation = queued()
    (job,) = simulation.jobs.values()
    simulation.change(job, asked_of_kueue=None)
    assert simulation.step().delete == ()


def test_a_queued_job_takes_another_priority_of_kueue() -> None:
    simulation = queued()
    (job,) = simulation.jobs.values()
    labels = {"kueue.x-k8s.io/queue-name": "gpus", "kueue.x-k8s.io/priority-class": "urgent"}
    simulation.iteration = with_metadata(simulation.iteration, labels=labels)
    assert simulation.step().delete == (job.name,)
    assert created(simulation) == ["sampling"]
    assert [(again.queue, again.priority_class) for again in simulation.jobs.values()] == [("gpus", "urgent")]
    assert simulation.step().delete == ()


def test_a_job_whose_pods_a_quota_keeps_away_takes_a_correction_at_once() -> None:
    simulation = Simulation.of()
    job = simulation.run_until("sampling")
    simulation.change(job, pods=())
    simulation.edit(sampling={"resources": {"limits": {"memory": "8Gi"}}})
    assert simulation.step().delete == (job.name,)
    assert created(simulation) == ["sampling"]


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param({"serving": {"endpoint": "chat"}}, id="serving"),
        pytest.param({"evaluation": GATE}, id="the gate"),
        pytest.param({"training": {"resources": {"limits": {"memory": "64Gi"}}}}, id="another stage"),
    ],
)
def test_a_queued_job_keeps_its_place_where_an_edit_does_not_change_its_pods(edit: dict[str, Any]) -> None:
    simulation = queued()
    (job,) = simulation.jobs.values()
    simulation.edit(**edit)
    assert simulation.step().delete == ()
    assert list(simulation.jobs) == [job.name]


# ── Jobs that somebody else suspends or resumes ──────────────────────────────────────────────────────────────────────


def test_a_job_that_somebody_else_suspended_is_not_resumed() -> None:
    simulation = Simulation.of()
    job = simulation.run_until("sampling")
    simulation.change(job, state="Suspended")
    for _ in range(2):
        assert simulation.step().suspend == ()
        status, reason, message = simulation.told("Reconciling")
        assert (status, reason) == ("True", "JobSuspended")
        assert f"kubectl patch job {job.name}" in message
        assert "kueue.x-k8s.io/queue-name" in message
        simulation.edit(suspend=True)
        assert simulation.step().suspend == ()
        simulation.edit(suspend=False)
    simulation.change(job, state="Active")
    simulation.complete(job)
    assert created(simulation) == ["splitting"]


def test_a_job_that_kueue_holds_without_a_queue_goes_into_the_one_that_its_iteration_is_given() -> None:
    simulation = Simulation.of()
    job = simulation.run_until("sampling")
    simulation.change(job, state="Suspended")
    simulation.step()
    simulation.iteration = with_metadata(simulation.iteration, labels={"kueue.x-k8s.io/queue-name": "gpus"})
    assert simulation.step().delete == (job.name,)
    assert created(simulation) == ["sampling"]
    assert [(again.state, again.queue) for again in simulation.jobs.values()] == [("Suspended", "gpus")]


def test_a_job_that_was_suspended_by_a_version_that_left_no_mark_is_made_again() -> None:
    simulation = Simulation.of()
    job = simulation.run_until("sampling")
    simulation.edit(suspend=True)
    simulation.step()
    simulation.change(job, suspended_by_us=False, pods_digest="")
    simulation.edit(suspend=False)
    assert simulation.step().delete == (job.name,)
    assert created(simulation) == ["sampling"]


def test_a_job_that_somebody_resumes_while_its_iteration_is_suspended_is_not_fought_over() -> None:
    simulation = Simulation.of()
    job = simulation.run_until("sampling")
    simulation.edit(suspend=True)
    simulation.step()
    simulation.change(job, state="Active")
    decided = simulation.step()
    assert (decided.suspend, decided.delete) == ((), (job.name,))
    simulation.edit(suspend=False)
    assert created(simulation) == ["sampling"]


def test_what_is_corrected_while_suspended_holds_when_it_is_resumed() -> None:
    simulation = Simulation.of()
    job = simulation.run_until("sampling")
    simulation.edit(suspend=True)
    simulation.step()
    simulation.edit(suspend=False, sampling={"resources": {"limits": {"memory": "64Gi"}}})
    assert simulation.step().delete == (job.name,)
    assert created(simulation) == ["sampling"]


# ── chains ───────────────────────────────────────────────────────────────────────────────────────────────────────────

CHAINED = {"model": {"from": {"iteration": "first"}}}
ASKED = {"system_prompt": "Be brief.", "processor_kwargs": {"max_pixels": 9}}
PROMOTED = Parent("first", Model(uri="s3://b/aligned", sha256="c" * 64, **ASKED))  # type: ignore[arg-type]


def test_a_chained_iteration_waits_for_its_parent_and_uses_its_model() -> None:
    simulation = Simulation.of(**CHAINED)
    simulation.parent = Parent("first", reason="WaitingForParent", message="waits for iteration first to be promoted")
    assert simulation.step().create == ()
    assert simulation.told("Reconciling")[:2] == ("True", "WaitingForParent")
    simulation.parent = PROMOTED
    (configmap,) = (made for made in simulation.step().create if made["kind"] == "ConfigMap")
    assert STAGE_CONFIG.validate_json(configmap["data"]["config.json"]).model == PROMOTED.model


def test_a_child_that_is_applied_before_its_parents_edit_does_not_train_from_what_the_parent_was() -> None:
    simulation = Simulation.of(**CHAINED)
    simulation.iteration = with_metadata(simulation.iteration, creation_timestamp=timestamp(NOW))
    simulation.parent = PROMOTED
    decided = simulation.step()
    assert (decided.create, decided.wake_at) == ((), NOW + PARENTS_SETTLE)
    assert simulation.iteration.status.model is None
    assert simulation.told("Reconciling")[:2] == ("True", "WaitingForParent")
    simulation.wait(1)
    simulation.parent = Parent("first", reason="WaitingForParent", message="waits for iteration first to be promoted")
    simulation.wait(60)
    assert created(simulation) == []
    simulation.parent = Parent("first", Model(uri="s3://b/another", sha256="d" * 64))
    assert created(simulation) == ["sampling"]
    assert simulation.iteration.status.model is not None
    assert simulation.iteration.status.model.uri == "s3://b/another"


def test_a_parent_that_changes_does_not_reach_a_child_that_has_started() -> None:
    simulation = Simulation.of(**CHAINED)
    simulation.parent = PROMOTED
    job = simulation.run_until("splitting")
    simulation.parent = Parent("first", Model(uri="s3://b/another", sha256="d" * 64))
    decided = simulation.step()
    assert (decided.create, decided.delete) == ((), ())
    simulation.parent = Parent("first", reason="ParentMissing", message="it was deleted")
    simulation.complete(job)
    assert created(simulation) == ["labeling"]
    assert simulation.iteration.status.model is not None
    assert simulation.iteration.status.model.uri == "s3://b/aligned"


@pytest.mark.parametrize("reason", ["ParentGateFailed", "ParentStalled", "ParentCycle"])
def test_a_parent_that_will_not_come_stalls_the_child_until_it_does(reason: str) -> None:
    simulation = Simulation.of(**CHAINED)
    simulation.parent = Parent("first", reason=reason, message="why", final=True)
    simulation.step()
    assert simulation.told("Stalled") == ("True", reason, "why")
    simulation.parent = PROMOTED
    assert created(simulation) == ["sampling"]
    assert simulation.conditions()["Stalled"] == "False"


def test_a_parent_that_is_not_there_may_still_be_on_its_way() -> None:
    simulation = Simulation.of(**CHAINED)
    simulation.iteration = with_metadata(simulation.iteration, creation_timestamp="2026-01-01T00:00:00Z")
    simulation.parent = Parent("first", reason="ParentMissing", message="there is no such iteration")
    assert simulation.step().wake_at == NOW + timedelta(seconds=60)
    assert simulation.told("Reconciling")[:2] == ("True", "ParentMissing")
    simulation.wait(60)
    assert simulation.step().wake_at is None
    assert simulation.told("Stalled")[:2] == ("True", "ParentMissing")


# ── several nodes ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_nodes_that_train_together_hand_in_one_result() -> None:
    simulation = Simulation.of(training={"nodes": 2})
    job = simulation.run_until("training")
    simulation.finish(job, "Complete", succeeded("training", 0), Pod(1, 0))
    assert created(simulation) == ["evaluation"]


def test_nodes_that_train_together_get_names() -> None:
    simulation = Simulation.of(training={"nodes": 2})
    simulation.complete(simulation.run_until("pairing"))
    decided = simulation.step()
    assert [made["kind"] for made in decided.create] == ["ConfigMap", "Service", "Job"]


def test_the_network_policy_comes_before_the_first_pods_alone() -> None:
    simulation = Simulation.of()
    assert [made["kind"] for made in simulation.step().create] == ["NetworkPolicy", "ConfigMap", "Job"]
    simulation.complete(simulation.active()[0])
    assert [made["kind"] for made in simulation.step().create] == ["ConfigMap", "Job"]


# ── two iterations that do the same work ─────────────────────────────────────────────────────────────────────────────


def test_of_two_that_would_train_the_same_one_waits_for_the_other() -> None:
    simulation = Simulation.of()
    training = simulation.run_until("training")
    other = replace(training, name="other-training-0")
    del simulation.jobs[training.name]
    simulation.elsewhere = {training.address: (other,)}
    decided = simulation.step()
    assert decided.create == ()
    assert decided.wake_at == NOW + timedelta(seconds=10)
    status, reason, message = simulation.told("Reconciling")
    assert (status, reason) == ("True", "SharedWork")
    assert "other-training-0" in message
    simulation.elsewhere = {training.address: (replace(other, state="Complete"),)}
    assert created(simulation) == ["training"]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"state": "Failed"}, id="it failed"),
        pytest.param({"state": "Suspended"}, id="it is suspended"),
        pytest.param({"deleting": True}, id="it is being deleted"),
        pytest.param({"pods": (Pod(0, reason="ImagePullBackOff", since=NOW),)}, id="its pods cannot start"),
    ],
)
def test_a_job_that_is_not_at_work_is_not_waited_for(change: dict[str, Any]) -> None:
    simulation = Simulation.of()
    training = simulation.run_until("training")
    del simulation.jobs[training.name]
    simulation.elsewhere = {training.address: (replace(training, **{"name": "other-training-0", **change}),)}
    assert created(simulation) == ["training"]
