"""The immutable ConfigMap that holds a stage's configuration."""

from __future__ import annotations

from feedback_operator.resources import Manifest
from feedback_operator.resources.job import CONFIG_KEY, StageRun, labels
from feedback_operator.resources.owner import owner_reference


def build_configmap(run: StageRun) -> Manifest:
    """The configuration of one attempt. Its name follows from its content, so that one of that name is as good."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": run.config_name,
            "namespace": run.owner.namespace,
            "labels": labels(run),
            "ownerReferences": [owner_reference(run.owner)],
        },
        "immutable": True,
        "data": {CONFIG_KEY: run.config_json},
    }
