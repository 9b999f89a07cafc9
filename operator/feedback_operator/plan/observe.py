"""The state of each stage, from what was recorded and what is observed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, assert_never

from feedback_operator.api import FeedbackIteration, ResolvedModel, StageStatus, model_of
from feedback_operator.api.status import moment_of, timestamp
from feedback_operator.plan.failures import (
    Circumstances,
    Failure,
    Trouble,
    failed_pods,
    failure_of,
    kept,
    trouble_of,
)
from feedback_operator.plan.missing_pods import PODS_APPEAR, asks_at, trouble_in_queue, trouble_of_missing
from feedback_operator.plan.snapshot import Job, Snapshot
from feedback_operator.plan.states import (
    REPLACED,
    Done,
    Failed,
    Progress,
    Replacing,
    Retrying,
    Running,
    Startable,
    Waiting,
    done_status,
    is_at_work,
    is_live,
    job_status,
    reached_by,
)
from feedback_operator.resources.job import PRIORITY_LABEL, QUEUE_LABEL, asked_of_kueue, pods_digest
from feedback_operator.stages import Inputs, Stage, stages_of
from feedback_workloads.contract import Artifact, StageConfig

PODS_FOLLOW: Final = timedelta(seconds=5)
"""A Job may be seen to have ended before its pods are; after so long they are read instead of waited for."""

PARENTS_FOLLOW: Final = timedelta(seconds=60)
"""Manifests of one folder may arrive in any order; a parent that is not there is waited for so long."""

PARENTS_SETTLE: Final = timedelta(seconds=5)
"""Nor are they applied at once: a parent that is promoted may be edited by what comes after its child."""

OTHERS_LOOKED_AT: Final = timedelta(seconds=10)
"""How often a stage that waits for another iteration's Job looks whether it still has to."""


def observe(world: Snapshot) -> dict[str, Progress]:
    """The state of each stage of the iteration, in the order of its graph."""
    states: dict[str, Progress] = _finished(world.iteration)
    if states:
        return states
    for stage in stages_of(world.iteration.spec):
        states[stage.name] = _observe_stage(world, stage, states)
    return states


def _finished(iteration: FeedbackIteration) -> dict[str, Progress]:
    """What an iteration that is all done, and was not edited since, has come to; empty for any other.

    It stays so whatever configurations, and so addresses, another version of the operator would give its stages.
    """
    recorded = {stage.name: stage for stage in iteration.status.stages if stage.state == "Done"}
    names = [stage.name for stage in stages_of(iteration.spec)]
    done = iteration.looked_at and recorded.keys() == set(names)
    return {name: Done(recorded[name]) for name in names} if done else {}


def _observe_stage(world: Snapshot, stage: Stage, before: Mapping[str, Progress]) -> Progress:
    missing = next((need for need in stage.needs if not isinstance(before[need], Done)), None)
    if missing:
        return Waiting("WaitingForStage", f"waits for {missing}")
    model = resolved_model(world)
    if model is None:
        return _waiting_for_parent(world)
    given = Inputs(world.iteration.spec, model.model, {need: _artifacts(before[need]) for need in stage.needs})
    config = stage.addressed_config(given)
    view = _View(world, stage, config, config.content_hash())
    progress = view.progress()
    return (view.waiting_for_others() or progress) if isinstance(progress, Startable) else progress


def _waiting_for_parent(world: Snapshot) -> Waiting:
    parent = world.parent
    if parent is None:
        raise TypeError("a snapshot of an iteration with spec.model.from has a parent")
    if parent.model is not None:
        message = f"looks in a moment whether the model of iteration {parent.name} is still the same"
        return Waiting("WaitingForParent", message, until=_parents_settle(world))
    if parent.reason != "ParentMissing":
        return Waiting(parent.reason, parent.message, parent.final)
    until = (moment_of(world.iteration.metadata.creation_timestamp) or world.now) + PARENTS_FOLLOW
    late = world.now >= until
    return Waiting(parent.reason, parent.message, final=late, until=None if late else until)


@dataclass(frozen=True)
class _View:
    """One stage whose configuration, and so its address, is known."""

    world: Snapshot
    stage: Stage
    config: StageConfig
    address: str

    @property
    def generation(self) -> int:
        return self.world.iteration.metadata.generation

    @property
    def recorded(self) -> StageStatus | None:
        """What the status says of this stage, if it is about the same configuration."""
        stages = self.world.iteration.status.stages
        return next((s for s in stages if s.name == self.stage.name and s.hash == self.address), None)

    def progress(self) -> Progress:
        recorded = self.recorded
        if recorded and recorded.state == "Done":
            return Done(recorded)
        jobs = [job for job in self.world.jobs if job.stage == self.stage.name]
        mine = max((job for job in jobs if job.address == self.address), key=lambda job: job.attempt, default=None)
        others = tuple(job.name for job in jobs if job is not mine and is_live(job))
        if in_the_way := others + self._unseen({job.name for job in jobs}):
            return Replacing(self.address, in_the_way, recorded)
        if mine:
            return self._of_job(mine)
        return self._without_job(recorded) if recorded else self._start()

    def waiting_for_others(self) -> Waiting | None:
        """Training changes its folder as it goes, so one Job at a time: the next one finds what it has left."""
        jobs = self.world.elsewhere.get(self.address, ()) if self.stage.together else ()
        at_work = next((job for job in jobs if is_at_work(job)), None)
        if at_work is None:
            return None
        message = f"Job {at_work.name} of another iteration does the same work; what it makes is used once it is there"
        return Waiting("SharedWork", message, until=self.world.now + OTHERS_LOOKED_AT)

    def _unseen(self, seen: Collection[str]) -> tuple[str, ...]:
        """The Job of another configuration that was at work when the status was written, and is not to be seen."""
        stages = self.world.iteration.status.stages
        before = next((s for s in stages if s.name == self.stage.name and s.hash != self.address), None)
        at_work = before is not None and before.state in ("Running", "Suspended") and before.job
        return (before.job,) if before and at_work and before.job not in seen else ()

    def _start(self, attempt: int = 0, retries: int = 0, reached: int = 0) -> Startable:
        """The next attempt, never one before the latest that is recorded: a cache may lag behind the status.

        Only a Job that has ended is followed by one of another number. One that is merely not to be seen gets its own
        name again, so that nothing happens where it is there after all.
        """
        recorded = self.recorded
        if recorded and recorded.attempt > attempt:
            return Startable(self.config, self.address, recorded.attempt, max(retries, recorded.retries), reached)
        return Startable(self.config, self.address, attempt, retries, reached)

    # ── with a Job ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _of_job(self, job: Job) -> Progress:
        """A stage whose results are in is done, whatever else runs or fails in its pods."""
        return self._of_results(job) or self._of_state(job)

    def _of_results(self, job: Job) -> Done | None:
        found = {pod.index: (pod, result) for pod in job.pods if (result := pod.result())}
        wanted = self.stage.results(self.world.iteration.spec)
        if not set(range(wanted)) <= set(found):
            return None
        ended = max((pod.since for pod, _ in found.values() if pod.since), default=self.world.now)
        results = [found[index][1] for index in range(wanted)]
        return Done(done_status(replace(job, finished=job.finished or ended), results))

    def _of_state(self, job: Job) -> Progress:
        match job.state:
            case "Suspended":
                return self._of_suspended(job)
            case "Active":
                return self._of_active(job)
            case "Failed":
                return self._of_failed(job)
            case "Complete":
                return self._of_complete(job)
            case _:
                assert_never(job.state)

    def _of_suspended(self, job: Job) -> Progress:
        """It has no pods, so that another one in its place costs nothing: what was corrected meanwhile holds."""
        suspend = self.world.iteration.spec.suspend
        if self._corrected(job) or (not suspend and self._moved(job)):
            return self._replacing(job)
        return Running(job) if suspend else self._going_on(job, trouble_in_queue(job))

    def _moved(self, job: Job) -> bool:
        """Its iteration names another queue of Kueue, or another priority, than it did when the Job was made."""
        named = asked_of_kueue(self.world.iteration.metadata.labels)
        there = asked_of_kueue({QUEUE_LABEL: job.queue, PRIORITY_LABEL: job.priority_class}) if named else ""
        return named != (there if job.asked_of_kueue is None else job.asked_of_kueue)

    def _corrected(self, job: Job) -> bool:
        """It would be given other pods by now, or other labels, whose edit makes no generation."""
        spec = self.world.iteration.spec
        labels = self.world.house.labels_digest(self.world.iteration.metadata)
        if job.labels_digest != labels and not spec.suspend:
            return True
        pods = pods_digest(self.stage.section(spec), self.config, self.stage.pods(spec), self.stage.keys(spec))
        return self._edited_since(job) and job.pods_digest != pods

    def _replacing(self, job: Job) -> Replacing:
        return Replacing(self.address, (job.name,), job_status(job, "Running"))

    def _of_active(self, job: Job) -> Progress:
        if not job.pods and not job.deleting and self._corrected(job):
            return self._replacing(job)
        trouble = None if job.deleting else self._trouble_of(job)
        if trouble is None or trouble.since > self.world.now:
            return self._going_on(job, None, trouble.since if trouble else None)
        if self._edited_since(job) and not any(pod.running or pod.exit_code == 0 for pod in job.pods):
            return self._replacing(job)  # the edit may be the cure
        return self._going_on(job, trouble)

    def _trouble_of(self, job: Job) -> Trouble | None:
        found = (trouble_of(job, self._circumstances(job)), trouble_of_missing(job))
        return min((trouble for trouble in found if trouble), key=lambda trouble: trouble.since, default=None)

    def _going_on(self, job: Job, trouble: Trouble | None, until: datetime | None = None) -> Running:
        """A Job that is left to itself, and when to look again if nothing happens before `until`."""
        patience = self._patience(trouble) if trouble else None
        stuck = patience is not None and self.world.now >= patience
        moments = (until, trouble.over if trouble else None, None if stuck else patience, asks_at(job))
        return Running(job, trouble, stuck, until=min((moment for moment in moments if moment), default=None))

    def _patience(self, trouble: Trouble) -> datetime | None:
        """Until when somebody need not look; None for ever. What waiting cannot help may be mended by a manifest that
        arrives a moment later."""
        match trouble.waiting:
            case "Helps":
                return None
            case "MayHelp":
                return trouble.since + timedelta(seconds=self.world.limits.stall_after_seconds)
            case "CannotHelp":
                return trouble.since + PODS_APPEAR

    def _of_complete(self, job: Job) -> Progress:
        wanted = self.stage.results(self.world.iteration.spec)
        handed_in = {pod.index for pod in job.pods if pod.exit_code is not None}
        if settling := self._settling(job, complete=set(range(wanted)) <= handed_in):
            return settling
        message = f"{job.stage}: Job {job.name} completed without a readable result; see its log: {job.logs_command}"
        return self._again(job, Failure("ResultMissing", True, message), at_once=True)

    def _of_failed(self, job: Job) -> Progress:
        if job.reason != "DeadlineExceeded" and (settling := self._settling(job, complete=bool(failed_pods(job)))):
            return settling
        return self._again(job, failure_of(job, self._circumstances(job)))

    def _edited_since(self, job: Job) -> bool:
        return job.generation < self.generation and not self.world.iteration.spec.suspend

    def _settling(self, job: Job, *, complete: bool) -> Running | None:
        """A Job that has ended, as long as what its pods left is not known: no time is long enough to conclude from."""
        if complete or job.pods_read:
            return None
        return Running(job, until=(job.finished or self.world.now) + PODS_FOLLOW)

    def _again(self, job: Job, failure: Failure, *, at_once: bool = False) -> Progress:
        """What follows an attempt that came to nothing. One that got further than those before it, or that was
        disrupted, counts as the first of its kind: what gets on is not given up."""
        if job.generation < self.generation:
            return self._start(job.attempt + 1)
        reached = reached_by(job, self.recorded).done
        retries = 0 if failure.disruption or reached > job.reached else job.retries
        if not failure.retryable or retries >= self.world.limits.max_retries:
            return Failed(self._failed_status(job, failure))
        at = (job.finished or self.world.now) + (timedelta() if at_once else self._delay(retries))
        if self.world.now >= at:
            return self._start(job.attempt + 1, retries + 1, max(reached, job.reached))
        status = self._failed_status(job, replace(failure, message=f"{failure.message}; again at {timestamp(at)}"))
        return Retrying(status.model_copy(update={"state": "Waiting", "retries": retries}), at)

    def _failed_status(self, job: Job, failure: Failure) -> StageStatus:
        reached = reached_by(job, self.recorded)
        told = {"reason": failure.reason, "message": failure.message, "done": reached.done, "total": reached.total}
        return job_status(job, "Failed").model_copy(update=told)

    def _circumstances(self, job: Job) -> Circumstances:
        return Circumstances(self.world.iteration.spec, reached_by(job, self.recorded), self.world.now)

    # ── without one ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _without_job(self, recorded: StageStatus) -> Progress:
        """Its Job was not created yet, or was deleted, or was removed after its time to live."""
        edited = recorded.generation < self.generation
        ended = recorded.state in ("Failed", "Waiting")
        if not recorded.job or (recorded.reason == REPLACED and not ended):
            return self._start(recorded.attempt, 0 if edited else recorded.retries)
        if edited:
            return self._start(recorded.attempt + ended)
        if recorded.state == "Failed":
            return Failed(recorded)
        if recorded.state == "Waiting":
            at = (moment_of(recorded.completion_time) or self.world.now) + self._delay(recorded.retries)
            if self.world.now < at:
                return Retrying(recorded, at)
        elif recorded.retries >= self.world.limits.max_retries:
            message = (
                f"{recorded.name}: Job {recorded.job} was deleted before its result was seen, as were those before it; "
                f"raise spec.ttlSecondsAfterFinished, and suspend and resume to try again ({kept(recorded.name)})"
            )
            return Failed(recorded.model_copy(update={"state": "Failed", "reason": "JobDeleted", "message": message}))
        return self._start(recorded.attempt + ended, recorded.retries + 1, recorded.done or 0)

    def _delay(self, retries: int) -> timedelta:
        """How long an attempt that failed is followed by none, after `retries` others."""
        return timedelta(seconds=self.world.limits.retry_seconds * 4**retries)


# ── the policy to align ──────────────────────────────────────────────────────────────────────────────────────────────


def resolved_model(world: Snapshot) -> ResolvedModel | None:
    """The policy to align: named in the spec, or promoted by the parent iteration (None until it is).

    What the parent promoted when this iteration started holds for good: a parent that changes does not reach it.
    """
    named, recorded = world.iteration.spec.model, world.iteration.status.model
    if named.uri is not None:
        return ResolvedModel.of(model_of(named))
    if recorded and named.from_ and recorded.iteration == named.from_.iteration:
        return recorded
    parent = world.parent
    if parent is None or parent.model is None or _parents_settle(world):
        return None
    return ResolvedModel.of(parent.model, parent.name)


def _parents_settle(world: Snapshot) -> datetime | None:
    """Until when what came with this iteration may still change its parent; None once that is over."""
    created = moment_of(world.iteration.metadata.creation_timestamp)
    return created + PARENTS_SETTLE if created and world.now < created + PARENTS_SETTLE else None


def _artifacts(progress: Progress) -> tuple[Artifact, ...]:
    if not isinstance(progress, Done):
        raise TypeError(f"only a stage that is done has artifacts, not {progress}")
    return progress.status.artifacts
