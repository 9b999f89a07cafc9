"""Builders of the operator's children: typed facts in, manifests out, one file a kind."""

from __future__ import annotations

from typing import Any, Final

from feedback_operator.api import GROUP

FIELD_MANAGER: Final = "feedback-operator"
ITERATION_LABEL: Final = f"{GROUP}/iteration"
"""On everything that an iteration owns: its name."""

ENDPOINT_LABEL: Final = f"{GROUP}/endpoint"
"""On every object of an endpoint, its Pods included: the endpoint's name."""

Manifest = dict[str, Any]
"""A Kubernetes object as plain JSON data."""
