"""What the planner looks at: one iteration and its children, as they were at one moment."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pydantic import ValidationError

from feedback_operator.api import FeedbackIteration
from feedback_workloads.contract import Source, StageFailure, StageResult


@dataclass(frozen=True)
class Pod:
    """The last pod of one completion index of a Job.

    `reason` is the kubelet's word for a container that ended or cannot start (`OOMKilled`, `ImagePullBackOff`);
    `message` is the termination message, or what the kubelet says in its place.
    """

    index: int
    exit_code: int | None = None
    reason: str = ""
    message: str = ""

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
class Units:
    """Progress of a stage in its own units, summed over its running pods. `phase` says what goes on, for a person."""

    done: int = 0
    total: int = 0
    phase: str = ""


@dataclass(frozen=True)
class Job:
    """One attempt at a stage, as observed. `address` is the content hash of the stage's configuration."""

    name: str
    stage: str
    address: str
    attempt: int
    state: Literal["Active", "Suspended", "Complete", "Failed"]
    reason: str = ""
    pods: tuple[Pod, ...] = ()
    started: datetime | None = None
    finished: datetime | None = None
    units: Units = Units()


@dataclass(frozen=True)
class Snapshot:
    """One iteration and everything that decides what happens next to it.

    `parent` is the promoted model of the iteration named by `spec.model.from`; None while there is none.
    """

    iteration: FeedbackIteration
    jobs: tuple[Job, ...]
    now: datetime
    parent: Source | None = None
