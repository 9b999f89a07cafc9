"""From the state of a failed Job and its pods to one failure: why, whether a retry can help, and what to do."""

from __future__ import annotations

from dataclasses import dataclass

from feedback_operator.snapshot import Job, Pod
from feedback_workloads.contract import ExitCode


@dataclass(frozen=True)
class Failure:
    """Why a stage did not finish. `reason` is CamelCase for conditions; `message` says what to do."""

    reason: str
    retryable: bool
    message: str


SECTIONS = {
    "samples": "sampling",
    "claims": "labeling",
    "verdicts": "labeling",
    "pairs": "pairs",
    "policy": "training",
    "scores": "evaluation",
}
"""Section of the spec that a person edits to change a stage's pods."""


def failure_of(job: Job) -> Failure:
    """The one failure that explains a failed Job: the deadline, or the first pod that did not end well."""
    if job.reason == "DeadlineExceeded":
        return Failure(
            "DeadlineExceeded",
            retryable=False,
            message=f"{job.stage}: took longer than spec.deadlineSeconds; raise it, finished parts are kept",
        )
    failed = [pod for pod in job.pods if pod.exit_code != ExitCode.DONE]
    return _pod_failure(job.stage, failed[0]) if failed else Failure("Unknown", True, f"{job.stage}: {job.reason}")


def _pod_failure(stage: str, pod: Pod) -> Failure:
    where = f"{stage}, shard {pod.index}" if pod.index else stage
    if left := pod.failure():
        return Failure(left.reason, pod.exit_code != ExitCode.BAD_INPUT, f"{where}: {left.message}")
    section = f"spec.{SECTIONS[stage]}"
    if pod.reason == "OOMKilled":
        remedy = f"raise {section}.resources.limits.memory"
        if stage == "policy":
            remedy += " or lower spec.training.perDeviceBatchSize"
        return Failure("OutOfMemory", True, f"{where}: a container exceeded its memory limit; {remedy}")
    if pod.reason == "Unschedulable":
        return Failure("Unschedulable", True, f"{where}: {pod.message}; lower {section}.resources.requests")
    if pod.exit_code in (137, -9):
        return Failure("Killed", True, f"{where}: the process was killed (SIGKILL); run again, finished parts are kept")
    return Failure("Crashed", True, f"{where}: ended with exit code {pod.exit_code} {pod.message}".rstrip())
