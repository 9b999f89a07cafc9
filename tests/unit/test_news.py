"""What a change of status is worth to a person."""

from __future__ import annotations

from typing import Any

import pytest

from feedback_operator.api import Condition, IterationStatus, StageStatus
from feedback_operator.news import News, news


def status(*conditions: tuple[str, str, str, str], **stages: Any) -> IterationStatus:
    return IterationStatus(
        conditions=[Condition(type=t, status=s, reason=r, message=m) for t, s, r, m in conditions],  # type: ignore[arg-type]
        stages=[
            StageStatus(name=name, **(known if isinstance(known, dict) else {"state": known}))
            for name, known in stages.items()
        ],
    )


RUNNING = {"state": "Running", "job": "it-samples-0"}
OOM = {"state": "Failed", "message": "samples: out of memory; raise it"}


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        pytest.param(status(), status(), None, id="nothing"),
        pytest.param(
            status(),
            status(samples=RUNNING),
            News("StageStarted", "samples runs as Job it-samples-0", stage="samples"),
            id="the start",
        ),
        pytest.param(
            status(samples=RUNNING),
            status(samples="Done", claims={"state": "Running", "job": "it-claims-0"}),
            News("StageDone", "samples is done", stage="samples"),
            id="one stage after the other: one event",
        ),
        pytest.param(
            status(samples="Done"),
            status(samples="Done", claims={"state": "Running", "job": "j"}),
            None,
            id="the next stage's start was told with the end of the last",
        ),
        pytest.param(
            status(samples=RUNNING), status(samples={**RUNNING, "done": 5, "total": 9}), None, id="progress is no event"
        ),
        pytest.param(
            status(samples=RUNNING),
            status(samples="Suspended"),
            News("Suspended", "samples is suspended", stage="samples"),
            id="suspended",
        ),
        pytest.param(
            status(samples="Suspended"),
            status(samples=RUNNING),
            News("StageStarted", "samples runs as Job it-samples-0", stage="samples"),
            id="resumed",
        ),
        pytest.param(
            status(("Stalled", "False", "Progressing", ""), samples=RUNNING),
            status(("Stalled", "True", "OutOfMemory", OOM["message"]), samples=OOM),
            News("StageFailed", OOM["message"], warning=True, stage="samples"),
            id="a failure is told once, though stage and condition say it",
        ),
        pytest.param(
            status(), status(("Promoted", "False", "NotPromoted", "not yet")), None, id="not promoted yet is no event"
        ),
        pytest.param(
            status(("Promoted", "False", "NotPromoted", "not yet"), scores=RUNNING),
            status(("Promoted", "True", "GatePassed", "meets every rule"), scores="Done"),
            News("Promoted", "scores is done; meets every rule", stage="scores"),
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
