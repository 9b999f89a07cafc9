"""How iterations that were run together ended: each by itself, in words, and all of them as one exit code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Literal

from feedback_operator.api import Condition, FeedbackIteration


class ExitStatus(IntEnum):
    """How `feedback run` ends."""

    PROMOTED = 0
    FAILED = 1
    INVALID = 2
    GATE_FAILED = 3
    INTERRUPTED = 130


How = Literal["promoted", "evaluated", "gate failed", "not begun", "stalled", "not finished"]
STOPPED: Final[tuple[How, ...]] = ("gate failed", "not begun")
"""Endings of a chain that gains no more: nothing went wrong in it."""


@dataclass(frozen=True)
class Ending:
    """How one iteration ended, and why.

    `kept` is the iteration of its chain that was promoted last, up to itself, whatever became of its endpoint; None
    where none was.
    """

    name: str
    how: How
    why: str
    kept: str | None

    def to_json(self) -> dict[str, str | None]:
        """`ending` in iteration.json, which reports show."""
        return {"how": self.how, "why": self.why, "kept": self.kept}

    def __str__(self) -> str:
        keeps = f"; the run keeps {self.kept}" if self.how == "gate failed" and self.kept else ""
        return f"{self.name}: {self.how}: {self.why}{keeps}"


def endings(iterations: Sequence[FeedbackIteration]) -> list[Ending]:
    """How each of them ended, in their order, in which parents come before their children."""
    found: dict[str, Ending] = {}
    for iteration in iterations:
        parent = iteration.spec.model.from_
        found[iteration.metadata.name] = _ending(iteration, found.get(parent.iteration) if parent else None)
    return list(found.values())


def exit_status(iterations: Sequence[FeedbackIteration]) -> ExitStatus:
    """FAILED where one did not come to its end, GATE_FAILED where a chain gained nothing at all, else PROMOTED.

    A chain that has gained something and then stopped, because the gate of a later iteration failed, ended well; so did
    one that was to be evaluated alone.
    """
    found = endings(iterations)
    if any(one.how not in ("promoted", "evaluated", *STOPPED) for one in found):
        return ExitStatus.FAILED
    if any(one.kept is None and one.how != "evaluated" for one in found):
        return ExitStatus.GATE_FAILED
    return ExitStatus.PROMOTED


def _ending(iteration: FeedbackIteration, parent: Ending | None) -> Ending:
    name = iteration.metadata.name
    ready, promoted, stalled = (iteration.says(kind) for kind in ("Ready", "Promoted", "Stalled"))
    passed = promoted is not None and promoted.status == "True"
    kept = name if passed else parent.kept if parent else None
    if ready and promoted and ready.status == promoted.status == "True":
        return Ending(name, "promoted", promoted.message, kept)
    if ready and ready.status == "True" and iteration.spec.only:
        return Ending(name, "evaluated", "nothing was to be trained", kept)
    if ready and promoted and ready.status == "True":
        return Ending(name, "gate failed", promoted.message, kept)
    if stalled and stalled.status == "True":
        if why := _why_not_begun(iteration, stalled, parent):
            return Ending(name, "not begun", why, kept)
        return Ending(name, "stalled", stalled.message, kept)
    return Ending(name, "not finished", ready.message if ready else "it was not looked at", kept)


def _why_not_begun(iteration: FeedbackIteration, stalled: Condition, parent: Ending | None) -> str:
    """Why it was never its turn, where that is by the gate of one before it; else empty."""
    named = iteration.spec.model.from_
    if named and stalled.reason == "ParentGateFailed":
        return f"its parent {named.iteration} did not pass its gate"
    if named and stalled.reason == "ParentStalled" and parent and parent.how == "not begun":
        return f"its parent {named.iteration} was not begun"
    return ""
