"""What a person wants to be told when a status changes: at most one event each time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from feedback_operator.api import Condition, IterationStatus, StageStatus

LONGEST_NOTE: Final = 1000


@dataclass(frozen=True)
class News:
    """An event: CamelCase reason, a sentence or two, whether somebody should worry, and the stage that it is of."""

    reason: str
    note: str
    warning: bool = False
    stage: str = ""


def news(before: IterationStatus, after: IterationStatus) -> News | None:
    """All that changed in one event, under the reason of what matters most; None where nothing is worth telling."""
    told = [*_of_stages(before, after), *_of_conditions(before, after)]
    if not told:
        return None
    headline = next((item for item in told if item.warning), told[-1])
    note = "; ".join(dict.fromkeys(item.note for item in told))
    stage = next((item.stage for item in told if item.stage), "")
    return News(headline.reason, note[:LONGEST_NOTE], headline.warning, stage)


def _of_stages(before: IterationStatus, after: IterationStatus) -> Iterator[News]:
    old = {stage.name: stage.state for stage in before.stages}
    first = all(stage.state != "Done" for stage in after.stages)
    for stage in after.stages:
        was = old.get(stage.name, "Waiting")
        if stage.state == was:
            continue
        if stage.state == "Done":
            yield News("StageDone", _done(stage), stage=stage.name)
        elif stage.state == "Failed":
            yield News("StageFailed", stage.message, warning=True, stage=stage.name)
        elif stage.state == "Suspended":
            yield News("Suspended", stage.message if stage.reason else f"{stage.name} is suspended", stage=stage.name)
        elif stage.state == "Running" and (first or was != "Waiting"):
            yield News("StageStarted", f"{stage.name} runs as Job {stage.job}", stage=stage.name)


def _done(stage: StageStatus) -> str:
    return f"{stage.name} is done" + (", its artifact was there already" if stage.was_there else "")


def _of_conditions(before: IterationStatus, after: IterationStatus) -> Iterator[News]:
    old, new = _by(before.conditions), _by(after.conditions)
    for kind in ("Stalled", "Promoted", "Serving"):
        if kind not in new or _same(old.get(kind), new[kind]):
            continue
        told = new[kind]
        match kind, told.status:
            case "Stalled", "True":
                yield News(told.reason, told.message, warning=True)
            case _, "True":
                yield News(kind, told.message)
            case "Promoted", "False" if kind in old:
                yield News(told.reason, told.message, warning=True)
            case "Serving", "False" if kind in old:
                yield News(told.reason, told.message, warning=told.reason == "RolledBack")


def _same(old: Condition | None, new: Condition) -> bool:
    return old is not None and (old.status, old.reason) == (new.status, new.reason)


def _by(conditions: list[Condition]) -> Mapping[str, Condition]:
    return {condition.type: condition for condition in conditions}
