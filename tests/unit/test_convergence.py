"""From any reachable state of the world, planning comes to the same end.

A small cluster obeys plans while hypothesis lets things happen to it: pods end well and badly, Jobs are deleted and
collected, the operator sees old lists, crashes half way through a plan, loses status writes; people edit, suspend and
resume. Whatever happened, two live Jobs of one stage never are, no record of a finished artifact is lost, and once
nothing more happens, planning settles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from feedback_operator.api import IterationStatus, StageStatus
from feedback_operator.plan.planner import Plan
from feedback_operator.plan.snapshot import Job, Pod, Snapshot, Words
from feedback_operator.plan.states import is_live
from feedback_operator.stages import GRAPH, STAGES
from tests.unit.worlds import NOW, broken, decide, iteration, started, succeeded, with_metadata

SPECS: dict[str, dict[str, Any]] = {
    "plain": {},
    "shards": {"sampling": {"shards": 2}},
    "nodes": {"training": {"nodes": 2}},
    "chained": {"training": {"beta": "0.2"}},
}
"""Sections that edits replace: some change artifacts, some only how they are made."""

ENDS: dict[str, tuple[Pod, ...]] = {
    "out of memory": (Pod(0, 137, "OOMKilled"),),
    "temporary": (broken("Temporary", "S3 is out of reach", 75),),
    "bad input": (broken("BadInput", "no such bucket", 2),),
    "unseen": (),
}
TROUBLES = ("ImagePullBackOff", "Unschedulable", "CreateContainerConfigError")


class Operator(RuleBasedStateMachine):
    """One iteration, its Jobs as they truly are, and as they were after each event.

    The operator's list of them may lag behind, but never goes back, and has the answers to its own writes: `seen` is
    the moment up to which its watch has come, `written` the moment of its latest write to a Job by name.
    """

    @initialize(queued=st.booleans(), suspend=st.booleans())
    def start(self, queued: bool, suspend: bool) -> None:
        labels = {"kueue.x-k8s.io/queue-name": "gpus"} if queued else {}
        self.iteration = with_metadata(iteration(suspend=suspend), labels=labels)
        self.section = self.recorded_for = "plain"
        self.jobs: dict[str, Job] = {}
        self.past: list[dict[str, Job]] = []
        self.seen = 0
        self.written: dict[str, int] = {}
        self.now = NOW
        self.records: dict[str, StageStatus] = {}
        self.unseen: dict[str, tuple[Pod, ...]] = {}

    # ── what the operator does ──────────────────────────────────────────────────────────────────────────────────────

    def decide(self, jobs: dict[str, Job]) -> Plan:
        world = Snapshot(self.iteration, tuple(jobs.values()), self.now)
        decided = decide(world)
        assert decide(world) == decided, "the same world, the same plan"
        return decided

    def decide_on(self, listed: Callable[[], dict[str, Job]]) -> Plan:
        """The plan from what is listed, and from the pods that it asks for."""
        decided = self.decide(listed())
        if not decided.read and not decided.ask:
            return decided
        for name in decided.ask:
            if job := self.jobs.get(name):
                self.jobs[name] = replace(job, words=Words(self.now))
            self.written[name] = len(self.past)
        for name in decided.read:
            if job := self.jobs.get(name):
                self.jobs[name] = replace(job, pods=self.unseen.pop(name, job.pods), pods_read=True)
            self.written[name] = len(self.past)
        self.time_is_recorded()
        return self.decide(listed())

    def listed(self, lag: int) -> dict[str, Job]:
        """The Jobs as the operator sees them when its watch is so many events behind."""
        now = len(self.past) - 1
        self.seen = max(self.seen, now - lag)
        shown = dict(self.past[self.seen])
        for name, moment in self.written.items():
            if moment > self.seen:
                answered = self.past[min(moment, now)]
                shown.pop(name, None)
                shown.update({name: answered[name]} if name in answered else {})
        return shown

    def carry_out(self, decided: Plan, calls: int | None = None) -> None:
        """The first so many calls of a plan, of which the status write is the last; all without a number."""
        work: list[Callable[[], None]] = [
            *(lambda made=made: self._create(made) for made in decided.create),
            *(lambda name=name, to=to: self._suspend(name, to) for name, to in decided.suspend),
            *(lambda name=name: self._delete(name) for name in decided.delete),
            lambda: self._write(decided.status),
        ]
        for call in work[:calls]:
            call()

    def _create(self, made: dict[str, Any]) -> None:
        if made["kind"] == "Job":
            job = replace(started(made), created=self.now, started=self.now)
            unseen = {name for name in self.unseen if name in self.jobs and self.jobs[name].address == job.address}
            assert unseen <= {job.name}, "a Job whose results are there, though no watch shows them, is not followed"
            self.jobs.setdefault(job.name, job)
            self.written[job.name] = len(self.past)

    def _suspend(self, name: str, suspended: bool) -> None:
        job = self.jobs.get(name)
        if job and job.state in ("Active", "Suspended"):
            assert suspended or job.suspended_by_us, "what somebody else has suspended is not ours to resume"
            pods = () if suspended else tuple(Pod(pod.index, running=True) for pod in job.pods)
            state = "Suspended" if suspended else "Active"
            self.jobs[name] = replace(job, state=state, suspended_by_us=suspended, pods=pods or job.pods)
        self.written[name] = len(self.past)

    def _delete(self, name: str) -> None:
        if name in self.jobs:
            self.jobs[name] = replace(self.jobs[name], deleting=True)
        self.written[name] = len(self.past)

    def _write(self, status: IterationStatus) -> None:
        self.iteration = self.iteration.model_copy(update={"status": status})
        if self.section != self.recorded_for:
            self.records, self.recorded_for = {}, self.section

    @rule(lag=st.integers(0, 4), calls=st.none() | st.integers(0, 4))
    def visit(self, lag: int, calls: int | None) -> None:
        """Plan from a list that lags behind, and carry the plan out, or crash after so many calls."""
        self.carry_out(self.decide_on(lambda: self.listed(lag)), calls)
        if calls is not None:
            self.written, self.seen = {}, len(self.past)  # the next operator begins with a list of its own

    @rule(visits=st.integers(1, 12))
    def all_goes_well_for_a_while(self, visits: int) -> None:
        for _ in range(visits):
            self.carry_out(self.decide_on(lambda: self.jobs))
            self.kueue_admits()
            self.pods_succeed()
            self.time_is_recorded()
        self.seen = len(self.past) - 1

    # ── what the cluster does ───────────────────────────────────────────────────────────────────────────────────────

    def _live(self, *states: str) -> list[Job]:
        wanted = states or ("Active", "Suspended")
        return [job for job in self.jobs.values() if job.state in wanted and not job.deleting]

    @precondition(lambda self: self._live("Active"))
    @rule()
    def pods_succeed(self) -> None:
        for job in self._live("Active"):
            shards = len({pod.index for pod in job.pods} | {0})
            pods = tuple(succeeded(job.stage, shard) for shard in range(shards))
            self.jobs[job.name] = replace(job, state="Complete", pods=pods, finished=self.now)

    @precondition(lambda self: self._live("Active"))
    @rule()
    def pods_succeed_and_their_watch_is_broken(self) -> None:
        for job in self._live("Active"):
            self.unseen[job.name] = tuple(succeeded(job.stage, pod.index) for pod in job.pods) or (
                succeeded(job.stage),
            )
            self.jobs[job.name] = replace(job, state="Complete", finished=self.now)

    @precondition(lambda self: self._live("Active"))
    @rule(end=st.sampled_from(sorted(ENDS)))
    def pods_fail(self, end: str) -> None:
        for job in self._live("Active"):
            self.jobs[job.name] = replace(job, state="Failed", pods=ENDS[end], finished=self.now)

    @precondition(lambda self: self._live("Active"))
    @rule()
    def results_are_lost(self) -> None:
        for job in self._live("Active"):
            self.jobs[job.name] = replace(job, state="Complete", pods=(Pod(0, 0),), finished=self.now)

    @precondition(lambda self: self._live("Active"))
    @rule(reason=st.sampled_from(TROUBLES))
    def pods_cannot_start(self, reason: str) -> None:
        for job in self._live("Active"):
            pods = tuple(Pod(pod.index, reason=reason, since=self.now) for pod in job.pods)
            self.jobs[job.name] = replace(job, pods=pods)

    @precondition(lambda self: self._live("Suspended"))
    @rule()
    def kueue_admits(self) -> None:
        for job in self._live("Suspended"):
            if job.queued:
                self.jobs[job.name] = replace(job, state="Active")

    @precondition(lambda self: self._live("Active"))
    @rule()
    def kueue_preempts(self) -> None:
        for job in self._live("Active"):
            if job.queued:
                self.jobs[job.name] = replace(job, state="Suspended")

    @precondition(lambda self: self._live("Active"))
    @rule()
    def somebody_suspends_the_jobs(self) -> None:
        for job in self._live("Active"):
            if not job.queued:
                self.jobs[job.name] = replace(job, state="Suspended")

    @precondition(lambda self: self._live("Suspended"))
    @rule()
    def somebody_resumes_the_jobs(self) -> None:
        for job in self._live("Suspended"):
            if not job.queued:
                self.jobs[job.name] = replace(job, state="Active")

    @rule()
    def finished_jobs_are_collected(self) -> None:
        self.jobs = {name: job for name, job in self.jobs.items() if job.state in ("Active", "Suspended")}
        self.unseen = {name: pods for name, pods in self.unseen.items() if name in self.jobs}

    @precondition(lambda self: self.jobs)
    @rule()
    def somebody_deletes_the_jobs(self) -> None:
        self.jobs = {}

    @rule()
    def what_is_being_deleted_goes(self) -> None:
        self.jobs = {name: job for name, job in self.jobs.items() if not job.deleting}

    @rule(seconds=st.sampled_from([1, 60, 600, 3600]))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    # ── what a person does ──────────────────────────────────────────────────────────────────────────────────────────

    def _rests(self) -> bool:
        """When CEL lets through what determines artifacts."""
        at_work = any(c.type == "Reconciling" and c.status == "True" for c in self.iteration.status.conditions)
        return self.iteration.spec.suspend or not at_work

    def _edit(self, **spec: Any) -> None:
        generation = self.iteration.metadata.generation + 1
        edited = iteration(**{**SPECS[self.section], "suspend": self.iteration.spec.suspend, **spec}).spec
        self.iteration = with_metadata(self.iteration, generation=generation).model_copy(update={"spec": edited})

    @precondition(lambda self: self._rests())
    @rule(section=st.sampled_from(sorted(SPECS)))
    def edit(self, section: str) -> None:
        self.section = section
        self._edit()

    @rule(suspend=st.booleans())
    def suspend_or_resume(self, suspend: bool) -> None:
        if suspend != self.iteration.spec.suspend:
            self._edit(suspend=suspend)

    # ── what always holds ───────────────────────────────────────────────────────────────────────────────────────────

    @invariant()
    def time_is_recorded(self) -> None:
        self.past.append(dict(self.jobs))

    @invariant()
    def at_most_one_live_job_a_stage(self) -> None:
        stages = [job.stage for job in self._live()]
        assert len(stages) == len(set(stages)), self.jobs

    @invariant()
    def no_finished_artifact_is_forgotten(self) -> None:
        done = {s.name: s for s in self.iteration.status.stages if s.state == "Done"}
        assert self.records.items() <= done.items()
        self.records = done

    def teardown(self) -> None:
        """Nothing more goes wrong: from here on every pod succeeds, and the operator sees what there is."""
        if not hasattr(self, "jobs"):
            return
        for _ in range(60):
            decided = self.decide_on(lambda: self.jobs)
            quiet = not (decided.create or decided.suspend or decided.delete or decided.wake_at)
            if quiet and decided.status == self.iteration.status and not self._at_work():
                break
            self.carry_out(decided)
            self.what_is_being_deleted_goes()
            self.kueue_admits()
            self.those_who_suspended_others_jobs_resume_them()
            self.pods_succeed()
            self.now = max(self.now + timedelta(seconds=1), decided.wake_at or self.now)
        else:
            raise AssertionError(f"it does not settle: {self.iteration.status}")
        self._check_rest()

    def those_who_suspended_others_jobs_resume_them(self) -> None:
        for job in self._live("Suspended"):
            if not job.queued and not job.suspended_by_us:
                self.jobs[job.name] = replace(job, state="Active")

    def _at_work(self) -> bool:
        return bool(self._live("Active")) or any(
            job.queued or job.deleting or not job.suspended_by_us for job in self.jobs.values() if is_live(job)
        )

    def _check_rest(self) -> None:
        conditions = {c.type: c for c in self.iteration.status.conditions}
        rests = [kind for kind in ("Ready", "Reconciling", "Stalled") if conditions[kind].status == "True"]
        suspended = self.iteration.spec.suspend and conditions["Ready"].reason == "Suspended"
        assert rests in ([], ["Ready"], ["Stalled"])
        assert bool(rests) != suspended
        assert not self._live("Active")
        assert set(STAGES) == {stage.name for stage in self.iteration.status.stages}
        if rests == ["Ready"]:
            assert all(stage.state == "Done" for stage in self.iteration.status.stages)
            assert len(self.iteration.status.stages) == len(GRAPH)


Operator.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
test_planning_converges = Operator.TestCase
