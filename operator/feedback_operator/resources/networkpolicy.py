"""Who may connect to pods. Where they connect to is left open: models and artifacts can be anywhere."""

from __future__ import annotations

from feedback_operator.api import Metadata
from feedback_operator.resources import ENDPOINT_LABEL, ITERATION_LABEL, Manifest
from feedback_operator.resources.deployment import HTTP_PORT, Serving, endpoint_metadata
from feedback_operator.resources.job import METRICS_PORT, STAGE_LABEL
from feedback_operator.resources.owner import owner_reference, short_digest, standard_labels


def build_stages_policy(owner: Metadata) -> Manifest:
    """To the pods of an iteration's stages: anybody to the metrics, and those of one training to each other."""
    training = {"matchLabels": {ITERATION_LABEL: owner.name, STAGE_LABEL: "training"}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {
            "name": f"{owner.name}-stages-{short_digest(owner.uid)}",
            "namespace": owner.namespace,
            "labels": standard_labels(owner, "stages"),
            "ownerReferences": [owner_reference(owner)],
        },
        "spec": {
            "podSelector": {
                "matchLabels": {ITERATION_LABEL: owner.name},
                "matchExpressions": [{"key": STAGE_LABEL, "operator": "Exists"}],
            },
            "policyTypes": ["Ingress"],
            "ingress": [
                {"ports": [{"protocol": "TCP", "port": METRICS_PORT}]},
                {"from": [{"podSelector": training}]},
            ],
        },
    }


def build_endpoint_policy(serving: Serving) -> Manifest:
    """To the pods of an endpoint: anybody, on the port of its API."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": endpoint_metadata(serving),
        "spec": {
            "podSelector": {"matchLabels": {ENDPOINT_LABEL: serving.object_name}},
            "policyTypes": ["Ingress"],
            "ingress": [{"ports": [{"protocol": "TCP", "port": HTTP_PORT}]}],
        },
    }
