"""The Service that gives the pods of one training stable names."""

from __future__ import annotations

from feedback_operator.resources import Manifest
from feedback_operator.resources.job import MEETING_PORT, StageRun, labels
from feedback_operator.resources.owner import owner_reference


def build_headless_service(run: StageRun) -> Manifest:
    """Named like the Job; pods have names before they are ready, since they get ready by meeting each other."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": run.name,
            "namespace": run.owner.namespace,
            "labels": labels(run),
            "ownerReferences": [owner_reference(run.owner)],
        },
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {"batch.kubernetes.io/job-name": run.name},
            "ports": [{"name": "meeting", "port": MEETING_PORT}],
        },
    }
