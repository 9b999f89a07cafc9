"""What a stage's `run` returns to the entry point, which makes the manifest of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from feedback_workloads.contract import Artifact, FileEntry


@dataclass(frozen=True)
class Outcome:
    """A finished stage (or shard): files already stored below its folder, and what was counted and measured.

    `counts` has at least `rows` and `rejected`. Nothing here may depend on time or host.
    """

    files: tuple[FileEntry, ...]
    counts: dict[str, int]
    metrics: dict[str, float] = field(default_factory=dict)
    artifacts: dict[str, Artifact] = field(default_factory=dict)
