"""The AWS_* variables that lead clients of S3 to a server of a test, and nowhere else."""

from __future__ import annotations

import os

import pytest


def lead_to(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `endpoint` the store; nothing that the machine has set holds, and nothing is tried again."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_CONFIG_FILE": "none",
    }.items():
        monkeypatch.setenv(name, value)
