"""The Service of an endpoint."""

from __future__ import annotations

from feedback_operator.resources import ENDPOINT_LABEL, Manifest
from feedback_operator.resources.deployment import Serving, endpoint_metadata


def build_service(serving: Serving) -> Manifest:
    """`http://<endpoint>/v1` within the namespace, whichever iteration holds it."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": endpoint_metadata(serving),
        "spec": {
            "selector": {ENDPOINT_LABEL: serving.object_name},
            "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}],
        },
    }
