"""Builders of the operator's children: typed facts in, manifests out, one file a kind."""

from __future__ import annotations

from typing import Any

Manifest = dict[str, Any]
"""A Kubernetes object as plain JSON data."""
