"""Jobs as they are read back: what their manifests and conditions say of a stage's attempt."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from feedback_operator.api.status import moment_of
from feedback_operator.plan.snapshot import Job
from feedback_operator.resources.house_rules import LABELS_ANNOTATION
from feedback_operator.resources.job import (
    ADDRESS_ANNOTATION,
    ASKED_ANNOTATION,
    ATTEMPT_LABEL,
    GENERATION_ANNOTATION,
    PODS_ANNOTATION,
    PRIORITY_LABEL,
    QUEUE_LABEL,
    REACHED_ANNOTATION,
    RETRIES_ANNOTATION,
    STAGE_LABEL,
    SUSPENDED_ANNOTATION,
)

STARTS_WITHIN: Final = timedelta(seconds=5)


def job_of(body: Mapping[str, Any]) -> Job:
    """A Job of an iteration, without its pods. See snapshot.Job for what each field is taken from."""
    meta, spec, status = body["metadata"], body["spec"], body.get("status") or {}
    labels, annotations = meta.get("labels", {}), meta.get("annotations", {})
    conditions = {c["type"]: c for c in status.get("conditions", ()) if c["status"] == "True"}
    ended = conditions.get("Failed") or conditions.get("Complete") or {}
    return Job(
        name=meta["name"],
        stage=labels.get(STAGE_LABEL, ""),
        address=annotations.get(ADDRESS_ANNOTATION, ""),
        attempt=int(labels.get(ATTEMPT_LABEL, 0)),
        state=_job_state(spec, conditions),
        reason=ended.get("reason", "") if "Failed" in conditions else "",
        message=ended.get("message", "") if "Failed" in conditions else "",
        generation=int(annotations.get(GENERATION_ANNOTATION, 1)),
        retries=int(annotations.get(RETRIES_ANNOTATION, 0)),
        created=moment_of(meta.get("creationTimestamp")),
        started=_start(body),
        finished=moment_of(ended.get("lastTransitionTime")),
        deleting="deletionTimestamp" in meta,
        queue=labels.get(QUEUE_LABEL, ""),
        priority_class=labels.get(PRIORITY_LABEL, ""),
        asked_of_kueue=annotations.get(ASKED_ANNOTATION),
        deadline_seconds=spec.get("activeDeadlineSeconds"),
        ttl_seconds=spec.get("ttlSecondsAfterFinished"),
        reached=int(annotations.get(REACHED_ANNOTATION, 0)),
        suspended_by_us=SUSPENDED_ANNOTATION in annotations,
        pods_digest=annotations.get(PODS_ANNOTATION, ""),
        labels_digest=annotations.get(LABELS_ANNOTATION, ""),
        pods_wanted=spec.get("completions", 1),
    )


def _start(body: Mapping[str, Any]) -> datetime | None:
    """When it started. A Job that is not suspended starts as it is created: a few seconds more are no news."""
    created = moment_of(body["metadata"].get("creationTimestamp"))
    told = moment_of((body.get("status") or {}).get("startTime"))
    if told and created and told - created <= STARTS_WITHIN:
        return created
    fresh = not body.get("status") and not body["spec"].get("suspend")
    return told or (created if fresh else None)


def _job_state(
    spec: Mapping[str, Any], conditions: Mapping[str, Any]
) -> Literal["Active", "Suspended", "Complete", "Failed"]:
    if "Failed" in conditions:
        return "Failed"
    if "Complete" in conditions:
        return "Complete"
    return "Suspended" if spec.get("suspend") else "Active"
