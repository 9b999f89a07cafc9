"""What a pod is asked to try before an iteration is begun, and what it says of it."""

from __future__ import annotations

from feedback_workloads.contract.base import Frozen, Source


class TrialOrder(Frozen):
    """What the pods of some stages would use: tried out by a pod that is like theirs."""

    artifacts: str | None = None
    """Folder to write to, to read from and to delete from; None: there is none to be tried."""
    models: tuple[Source, ...] = ()
    """Looked at without their weights."""
    data: tuple[Source, ...] = ()
    """Looked at by their first file."""
    hub: bool = False
    """Whether the Hugging Face hub answers, where nothing of it is named."""


class Look(Frozen):
    """One thing that was tried. `problem` is what is wrong and what helps, in a sentence; empty: nothing."""

    what: str
    problem: str = ""
    severe: bool = True
    """Nothing works with this problem; else it is worse than it could be."""
    bytes: int = 0
    """Of a model: all of its files."""


class TrialReport(Frozen):
    """What a pod has found, in its termination message."""

    looks: tuple[Look, ...]
    shared_memory_bytes: int
