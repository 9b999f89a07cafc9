"""Who owns what is created, and the labels that say it."""

from __future__ import annotations

import hashlib

from feedback_operator.api import API_VERSION, KIND, Metadata
from feedback_operator.resources import ITERATION_LABEL, Manifest


def owner_reference(owner: Metadata) -> Manifest:
    """The iteration as the controller: what it owns goes with it."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": owner.name,
        "uid": owner.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def standard_labels(owner: Metadata, component: str) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "feedback-iteration",
        "app.kubernetes.io/instance": owner.name,
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/managed-by": "feedback-operator",
        ITERATION_LABEL: owner.name,
    }


def short_digest(*parts: str) -> str:
    """Eight hex digits for a name.

    With the owner's uid among the parts, a deleted iteration's children and those of a new one of its name never meet.
    """
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]
