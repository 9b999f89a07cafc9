"""What a change of status is worth to a person."""

from __future__ import annotations

from typing import Any

import pytest

from feedback_operator.api import Condition, IterationStatus, StageStatus
from feedback_operator.plan.news import News, news


def status(*conditions: tuple[str, str, str, str], **stages: Any) -> IterationStatus:
    return IterationStatus(
        conditions=[Condition(type=t, status=s, reason=r, message=m) for t, s, r, m in conditions],  # type: ignore[arg-type]
        stages=[
            StageStatus(name=name, **(known if isinstance(known, dict) else {"state": known}))
            for name, known in stages.items()
        ],
    )


RUNNING = {"state": "Running", "job": "it-sampling-0"}
OOM = {"state": "Failed", "message": "sampling: out of memory; raise it"}


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        pytest.param(status(), status(), None, id="nothing"),
        pytest.param(
            status(),
            status(sampling=RUNNING),
            News("StageStarted", "sampling runs as Job it-sampling-0", stage="sampling"),
            id="the start",
        ),
        pytest.param(
            status(sampling=RUNNING),
            status(sampling="Done", splitting={"state": "Running", "job": "it-splitting-0"}),
            News("StageDone", "sampling is done", stage="sampling"),
            id="one stage after the other: one event",
        ),
        pytest.param(
            status(sampling="Done"),
            status(sampling="Done", splitting={"state": "Running", "job": "j"}),
            None,
            id="the next stage's start was told with the end of the last",
        ),
        pytest.param(
            status(sampling=RUNNING),
            status(sampling={**RUNNING, "done": 5, "total": 9}),
            None,
            id="progress is no event",
        ),
        pytest.param(
            status(sampling=RUNNING),
            status(sampling="Suspended"),
            News("Suspended", "sampling is suspended", stage="sampling"),
            id="suspended",
        ),
        pytest.param(
            status(sampling="Suspended"),
            status(sampling=RUNNING),
            News("StageStarted", "sampling runs as Job it-sampling-0", stage="sampling"),
            id="resumed",
        ),
        pytest.param(
            status(("Stalled", "False", "Progressing", ""), sampling=RUNNING),
            status(("Stalled", "True", "OutOfMemory", OOM["message"]), sampling=OOM),
            News("StageFailed", OOM["message"], warning=True, stage="sampling"),
            id="a failure is told once, though stage and condition say it",
        ),
        pytest.param(
            status(), status(("Promoted", "False", "NotPromoted", "not yet")), None, id="not promoted yet is no event"
        ),
        pytest.param(
            status(("Promoted", "False", "NotPromoted", "not yet"), evaluation=RUNNING),
            status(("Promoted", "True", "GatePassed", "meets every rule"), evaluation="Done"),
            News("Promoted", "evaluation is done; meets every rule", stage="evaluation"),
            id="promoted",
        ),
        pytest.param(
            status(("Promoted", "False", "NotPromoted", "not yet")),
            status(("Promoted", "False", "GateFailed", "recall is 0.4, below 0.5")),
            News("GateFailed", "recall is 0.4, below 0.5", warning=True),
            id="gate failed",
        ),
        pytest.param(
            status(("Serving", "True", "Ready", "serves")),
            status(("Serving", "False", "RolledBack", "its pods did not start")),
            News("RolledBack", "its pods did not start", warning=True),
            id="rolled back",
        ),
        pytest.param(
            status(("Serving", "True", "Ready", "serves with 1 pod")),
            status(("Serving", "True", "Ready", "serves with 2 pods")),
            None,
            id="a message alone is no event",
        ),
    ],
)
def test_news(before: IterationStatus, after: IterationStatus, told: News | None) -> None:
    assert news(before, after) == told
