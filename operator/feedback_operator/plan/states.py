"""The states that a stage can be in, and what the status says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final, Literal

from feedback_operator.api import CombinedResult, RankingStatus, ShardResult, SourceSpec, StageStatus
from feedback_operator.api.status import timestamp
from feedback_operator.plan.failures import Trouble, is_in_trouble
from feedback_operator.plan.snapshot import Job, Units
from feedback_workloads.contract import Ranking, StageConfig, StageResult, shard_folder


@dataclass(frozen=True)
class Waiting:
    """Its inputs are not there yet."""

    reason: str
    message: str
    final: bool = False
    """They will not come unless a person changes something."""
    until: datetime | None = None
    """When time alone may change it."""


@dataclass(frozen=True)
class Startable:
    """Its inputs are there and no Job runs: attempt `attempt` may start, after `retries` others of this generation that
    got no further than those before them, which had come to `reached`."""

    config: StageConfig
    address: str
    attempt: int
    retries: int
    reached: int


REPLACED: Final = "Replacing"
"""Reason of a stage whose Job we have deleted to make another one."""


@dataclass(frozen=True)
class Replacing:
    """Jobs are in the way, by name: of another configuration, or unable to start. They go before the next attempt."""

    address: str
    jobs: tuple[str, ...]
    recorded: StageStatus | None


@dataclass(frozen=True)
class Running:
    """Its Job runs, is suspended, or has just ended. `until`: when time alone makes something else of it."""

    job: Job
    trouble: Trouble | None = None
    stuck: bool = False
    """The trouble has lasted so long that a person has to look."""
    until: datetime | None = None


@dataclass(frozen=True)
class Retrying:
    """An attempt failed for a reason that may pass; the next one starts at `at`."""

    status: StageStatus
    at: datetime


@dataclass(frozen=True)
class Done:
    """Every shard handed in a valid result."""

    status: StageStatus


@dataclass(frozen=True)
class Failed:
    """No more attempts until the spec is edited, or the iteration suspended and resumed."""

    status: StageStatus


Progress = Waiting | Startable | Replacing | Running | Retrying | Done | Failed


# ── Jobs ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def is_at_work(job: Job) -> bool:
    """Its pods run, or will before long."""
    return job.state == "Active" and not job.deleting and not any(is_in_trouble(pod) for pod in job.pods)


def is_live(job: Job) -> bool:
    """It has pods, or may have some again."""
    return job.state in ("Active", "Suspended")


# ── status of a stage ────────────────────────────────────────────────────────────────────────────────────────────────


MOST_SHARDS: Final = 32
"""The status tells of so many shards each for itself."""


def job_status(job: Job, state: Literal["Waiting", "Running", "Suspended", "Done", "Failed"]) -> StageStatus:
    """What the status says of a stage with a Job."""
    return StageStatus(
        name=job.stage,
        state=state,
        hash=job.address,
        job=job.name,
        attempt=job.attempt,
        generation=job.generation,
        retries=job.retries,
        start_time=timestamp(job.started),
        completion_time=timestamp(job.finished),
    )


def reached_by(job: Job, recorded: StageStatus | None) -> Units:
    """How far a Job is, or was when it was last seen at work: a pod that ends or is busy says nothing."""
    if job.units.total or recorded is None or recorded.job != job.name:
        return job.units
    said = "" if recorded.reason else recorded.message or ""  # a status without a reason has the phase as its message
    return Units(recorded.done or 0, recorded.total or 0, job.units.phase or said)


def done_status(job: Job, results: Sequence[StageResult]) -> StageStatus:
    combined = _combined(results)
    told = {"combined": combined} if combined else {"shards": [_shard(result) for result in results]}
    return job_status(job, "Done").model_copy(update=told)


def _combined(results: Sequence[StageResult]) -> CombinedResult | None:
    """Of many shards that lie where shards do; what each of them measured is in its manifest."""
    folder = results[0].manifest.uri.rpartition("/")[0]
    places = [shard_folder(folder, shard, len(results)) for shard in range(len(results))]
    if len(results) <= MOST_SHARDS or places != [result.manifest.uri for result in results]:
        return None
    names = dict.fromkeys(name for result in results for name in result.counts)
    return CombinedResult(
        uri=folder,
        digests=[result.manifest.sha256 for result in results],
        counts={name: sum(result.counts.get(name, 0) for result in results) for name in names},
        reused=all(result.reused for result in results),
    )


def _shard(result: StageResult) -> ShardResult:
    aligned = result.aligned and SourceSpec(uri=result.aligned.uri, sha256=result.aligned.sha256)
    return ShardResult(
        shard=result.shard,
        uri=result.manifest.uri,
        sha256=result.manifest.sha256,
        counts=result.counts,
        metrics={name: format(Decimal(repr(value)), "f") for name, value in result.metrics.items()},
        aligned=aligned,
        best_of=result.ranked.n if result.ranked else None,
        ranking=_ranking(result.ranked.ranking) if result.ranked else None,
        reused=result.reused,
    )


def _ranking(found: Ranking) -> RankingStatus:
    weight = format(Decimal(repr(found.weight)), "f") if found.rule == "Regularised" else ""
    return RankingStatus(rule=found.rule, lambda_=weight)
