"""The immutable ConfigMap that holds a stage's configuration."""

from __future__ import annotations

from feedback_operator.resources import Manifest
from feedback_operator.resources.job import StageRun, labels, owner_reference

CONFIG_KEY = "config.json"


def build_configmap(run: StageRun) -> Manifest:
    """The configuration of one attempt, under the name of its Job."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": run.name,
            "namespace": run.owner.namespace,
            "labels": labels(run),
            "ownerReferences": [owner_reference(run.owner)],
        },
        "immutable": True,
        "data": {CONFIG_KEY: run.config.model_dump_json(indent=1)},
    }
