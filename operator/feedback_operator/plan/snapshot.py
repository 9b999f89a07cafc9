"""What the planner looks at: one iteration and everything that decides what happens next to it, at one moment.

Pure data. A Cluster fills it from what it observes; see the fields for what each is taken from on Kubernetes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from pydantic import ValidationError

from feedback_operator.api import FeedbackIteration
from feedback_operator.resources import house_rules
from feedback_operator.resources.house_rules import HouseRules
from feedback_workloads.contract import Model, StageFailure, StageResult


@dataclass(frozen=True)
class Pod:
    """The pod of one completion index of a Job that says most: one that succeeded, else the newest one.

    `exit_code`: of our container, where it ended (`state.terminated`, else `lastState.terminated`).
    `reason`: the most specific word there is, the first of:
      our container's `terminated.reason` where it is a word of its own (`OOMKilled`), or `waiting.reason`
      (`ImagePullBackOff`, `CreateContainerConfigError`);
      the reason of a condition `DisruptionTarget` that is True (`EvictionByEvictionAPI`, `PreemptionByScheduler`,
      `DeletionByTaintManager`, `TerminationByKubelet`), or the pod's own `status.reason` (`Evicted`, `NodeLost`);
      `InjectedContainer`, where ours has not begun and one that is not ours failed, or cannot start;
      `NodeRefused`, where the kubelet did not take the pod (its `status.reason` is part of `message`);
      any other `terminated.reason` (`Error`, `Completed`);
      `Unschedulable`, the reason of a condition `PodScheduled` that is False;
      `NodeNotReady`, where the pod runs but its condition `Ready` turned False on a node that is not heard of.
    `message`: the termination message, or what goes with `reason` in its place (the scheduler's or the kubelet's word).
    `since`: since when it has been so: the time of the condition, or when the pod found its node, or was created.
    `running`: our container has started and not ended.
    `beside`: name of a container that is not ours and runs on though ours has ended, so that the pod does not end.
    """

    index: int
    exit_code: int | None = None
    reason: str = ""
    message: str = ""
    name: str = ""
    since: datetime | None = None
    running: bool = False
    beside: str = ""

    def result(self) -> StageResult | None:
        try:
            return StageResult.model_validate_json(self.message)
        except ValidationError:
            return None

    def failure(self) -> StageFailure | None:
        try:
            return StageFailure.model_validate_json(self.message)
        except ValidationError:
            return None


@dataclass(frozen=True)
class Words:
    """What the cluster said, when it was `asked`, of why a Job has no pods, or not all: `text` is empty where it said
    nothing. `since`: when it said so first.

    `reason`: `FailedCreate`, of the API server's refusals, which the Job controller tells of in Events; or, of a Job in
    a queue of Kueue, that of its Workload's condition `QuotaReserved`, such as `Pending` or `Inadmissible`, or
    `Deactivated` (the Workload's `spec.active` is false), `NoWorkload` (there is none), `NoKueue` (nor is Kueue).
    """

    asked: datetime
    reason: str = ""
    text: str = ""
    since: datetime | None = None


@dataclass(frozen=True)
class Evictions:
    """How often the pods of one index of a Job were taken by nodes that had run out of something (memory, disk), the
    last of these pods, when it began, when it was last, and how long the one lived that lived longest."""

    times: int = 0
    latest: Pod | None = None
    first: datetime | None = None
    last: datetime | None = None
    longest: timedelta = timedelta()


@dataclass(frozen=True)
class Units:
    """Progress of a stage in its own units: summed over its running pods, which share the work out, or, where they do
    it together, that of the pod that is furthest. `phase` says what goes on, for a person."""

    done: int = 0
    total: int = 0
    phase: str = ""


@dataclass(frozen=True)
class Job:
    """One attempt at a stage, as observed.

    `address` (the content hash of the stage's configuration), `generation` (of the iteration that it was created for),
    `retries` (attempts of that generation in a row that came before and got no further) and `reached` (how far those
    had come, in the stage's units) are annotations of the Job; `attempt` is a label.
    `state`: Failed or Complete once the condition of that name is True; Suspended while `spec.suspend` is set; else
    Active. `reason` and `message` are those of the condition `Failed`.
    `deleting`: it has a deletionTimestamp.
    `queue`, `priority_class`: the values of Kueue's labels, empty without one; Kueue gives a Job without a queue the
        default one of its namespace. `asked_of_kueue`: what its iteration named when the Job was made (see
        job.asked_of_kueue); None where that was nothing, or where an earlier version made it.
    `deadline_seconds`, `ttl_seconds`: `spec.activeDeadlineSeconds` and `spec.ttlSecondsAfterFinished`, if it has them.
    `suspended_by_us`: an annotation says that it was we who suspended it last. `pods_digest`: what its pods were made
    from (see job.pods_digest); empty where it was made by a version that did not say.
    `evictions`: of its pods, by nodes that had run out of something.
    `pods_wanted`: how many pods it is to have, one an index. `words`: what the cluster says of those that are not
        there; None where it was not asked. `labels_digest`: see HouseRules.
    `disrupted`: one of its pods was evicted, preempted or lost with its node, whether or not that pod is still there.
    `created`, `started`, `finished`: creationTimestamp, `status.startTime`, and when it became Complete or Failed.
    `pods_read`: `pods` are what the API server itself has of them since the Job ended. Otherwise they are what a watch
        has shown so far, and may be older than the end of the Job.
    """

    name: str
    stage: str
    address: str
    attempt: int
    state: Literal["Active", "Suspended", "Complete", "Failed"]
    reason: str = ""
    message: str = ""
    generation: int = 1
    retries: int = 0
    pods: tuple[Pod, ...] = ()
    created: datetime | None = None
    started: datetime | None = None
    finished: datetime | None = None
    units: Units = Units()
    pods_read: bool = False
    deleting: bool = False
    queue: str = ""
    priority_class: str = ""
    asked_of_kueue: str | None = None
    deadline_seconds: int | None = None
    ttl_seconds: int | None = None
    suspended_by_us: bool = False
    pods_digest: str = ""
    reached: int = 0
    evictions: Evictions = Evictions()
    disrupted: bool = False
    pods_wanted: int = 1
    words: Words | None = None
    labels_digest: str = ""

    @property
    def queued(self) -> bool:
        """Kueue decides when it runs."""
        return bool(self.queue)

    @property
    def resume_command(self) -> str:
        """What a person types to let it go on after somebody has suspended it."""
        return f"""kubectl patch job {self.name} --type merge --patch '{{"spec": {{"suspend": false}}}}'"""

    @property
    def logs_command(self) -> str:
        """What a person types to read what its pods wrote; a Job's name begins with that of its iteration."""
        return f"feedback logs {self.stage} -i {self.name.rpartition(f'-{self.stage}-')[0]}"


@dataclass(frozen=True)
class Parent:
    """The iteration that `spec.model.from` names: the model that it promoted, or why there is none (see chain.py)."""

    name: str
    model: Model | None = None
    reason: str = ""
    message: str = ""
    final: bool = False
    """Nothing will come of it unless a person changes something."""


@dataclass(frozen=True)
class Claimant:
    """A promoted iteration that names the endpoint and is not being deleted (see endpoint.py).

    `yields`: it has never served, and its pods were taken back or are tried first, so that an older one may.
    `tries`: a canary of it goes on.
    """

    name: str
    uid: str
    created: str
    yields: bool
    tries: bool = False


@dataclass(frozen=True)
class Endpoint:
    """The endpoint that `spec.serving.endpoint` names, as observed.

    `objects`: the Deployments, Services, PodDisruptionBudget and NetworkPolicies of the namespace whose label
    `feedback.rlaif.dev/endpoint` is its name, and the HTTPRoute where there are canaries: whole, as the API server gave
    them (of managedFields it is enough to know who set `spec.replicas`).
    `claimants`: see `endpoint.claimants`.
    `pods`: the newest pods of the Deployment, for what they say is wrong (`Pod.index` is 0); may be empty.
    `canary_pods`: those of the canary's Deployment, likewise.
    """

    objects: tuple[dict[str, Any], ...] = ()
    claimants: tuple[Claimant, ...] = ()
    pods: tuple[Pod, ...] = ()
    canary_pods: tuple[Pod, ...] = ()


@dataclass(frozen=True)
class Limits:
    """How patient the operator is.

    `stall_after_seconds`: pods that cannot start for so long make the iteration Stalled (it goes on once they start).
    `retry_seconds`: wait before the first new attempt at a stage that failed for a reason that may pass; four times as
    long before each one more, and `max_retries` of them.
    """

    stall_after_seconds: float = 600
    retry_seconds: float = 60
    max_retries: int = 3


@dataclass(frozen=True)
class Snapshot:
    """One iteration and everything that decides what happens next to it.

    `jobs`: every Job that it controls. `parent`: None where `spec.model.from` is not given. `endpoint`: None where
    `spec.serving.endpoint` is not given, or where there are no endpoints. `elsewhere`: the Jobs of other iterations of
    its namespace by address, looked for when asked for. `house`: what whoever runs the operator demands.
    """

    iteration: FeedbackIteration
    jobs: tuple[Job, ...]
    now: datetime
    parent: Parent | None = None
    endpoint: Endpoint | None = None
    limits: Limits = Limits()
    elsewhere: Mapping[str, tuple[Job, ...]] = field(default_factory=dict)
    house: HouseRules = house_rules.NONE
