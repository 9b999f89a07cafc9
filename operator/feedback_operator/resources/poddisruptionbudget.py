"""How many pods of an endpoint a drain may take at once."""

from __future__ import annotations

from feedback_operator.resources import ENDPOINT_LABEL, Manifest
from feedback_operator.resources.deployment import Serving, endpoint_metadata


def build_pod_disruption_budget(serving: Serving) -> Manifest:
    """One: nodes can be drained, and of several pods the others go on. Pods that do not work stop no drain."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": endpoint_metadata(serving),
        "spec": {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": {ENDPOINT_LABEL: serving.name}},
        },
    }
