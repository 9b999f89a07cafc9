"""The status of an iteration that something outside of its own course stands in the way of."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final, Literal

from feedback_operator.api import Condition, IterationStatus
from feedback_operator.plan.conditions import condition

LONGEST_MESSAGE: Final = 4096
STALLED: Final[dict[str, Literal["True", "False"]]] = {"Ready": "False", "Reconciling": "False", "Stalled": "True"}


def blocked(
    status: IterationStatus,
    reason: str,
    message: str,
    *,
    before: Sequence[Condition],
    generation: int,
    now: datetime,
) -> IterationStatus:
    """`status` with Stalled=True for this reason; what is known of stages stays. `before`: conditions as recorded."""
    message = message[:LONGEST_MESSAGE]
    stalled = {
        kind: condition(kind, value, reason, message, before=before, generation=generation, now=now)
        for kind, value in STALLED.items()
    }
    kept = [stalled.get(old.type, old) for old in status.conditions]
    added = [new for kind, new in stalled.items() if all(old.type != kind for old in kept)]
    return status.model_copy(update={"observed_generation": generation, "conditions": kept + added})
