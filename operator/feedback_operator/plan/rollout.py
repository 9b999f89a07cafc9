"""What a Deployment and its pods say of a rollout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from feedback_operator.plan.failures import WORDS
from feedback_operator.plan.snapshot import Pod
from feedback_operator.resources import Manifest
from feedback_operator.resources.deployment import REVISION_ANNOTATION


def lacks_a_node(pods: Sequence[Pod]) -> bool:
    """No node takes one of them."""
    return any(WORDS.get(pod.reason) == "Unschedulable" for pod in pods)


def loads_until(pods: Sequence[Pod], deadline_seconds: int, now: datetime) -> datetime | None:
    """Until when the pod that found its node last has time to load; None where that is over."""
    loading = [pod for pod in pods if not pod.reason and pod.exit_code is None]
    until = max((pod.since + timedelta(seconds=deadline_seconds) for pod in loading if pod.since), default=None)
    return until if until and until > now else None


def what_pods_say(pods: Sequence[Pod]) -> str:
    """What pods say is wrong, after a colon."""
    wrong = [pod for pod in pods if pod.reason and not pod.running and pod.exit_code != 0]
    words = [f"{pod.reason} {pod.message}".strip() for pod in wrong]
    return f": {words[0][:500]}" if words else ""


@dataclass(frozen=True)
class Rollout:
    """A Deployment's own view of its rollout, as `kubectl rollout status` reads it."""

    revision: str = ""
    observed: bool = False
    wanted: int = 0
    ready: int = 0
    complete: bool = False
    given_up: bool = False

    def completes(self, revision: str) -> bool:
        """All pods are of this revision, and ready."""
        return self.complete and self.revision == revision

    def gives_up(self, revision: str) -> bool:
        """No pod of this revision got ready for as long as it may take."""
        return self.given_up and self.revision == revision

    @classmethod
    def of(cls, deployment: Manifest | None) -> Rollout:
        if deployment is None:
            return cls()
        meta, status = deployment["metadata"], deployment.get("status", {})
        wanted = deployment["spec"].get("replicas", 1)
        updated, total = status.get("updatedReplicas", 0), status.get("replicas", 0)
        available = status.get("availableReplicas", 0)
        observed = status.get("observedGeneration", 0) >= meta.get("generation", 0)
        old = total - updated
        return cls(
            revision=meta.get("annotations", {}).get(REVISION_ANNOTATION, ""),
            observed=observed,
            wanted=wanted,
            ready=max(0, status.get("readyReplicas", 0) - old),
            complete=observed and updated == total == available == wanted,
            given_up=observed and _progress_reason(status.get("conditions", ())) == "ProgressDeadlineExceeded",
        )


def _progress_reason(conditions: Sequence[Manifest]) -> str:
    return next((str(c.get("reason", "")) for c in conditions if c["type"] == "Progressing"), "")
