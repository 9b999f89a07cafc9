"""What the status says of a stage at work."""

from __future__ import annotations

import pytest

from feedback_operator.api import StageStatus
from feedback_operator.plan.snapshot import Job, Units
from feedback_operator.plan.states import reached_by


def recorded(job: str = "it-training-x-0", **changes: object) -> StageStatus:
    known = {"name": "training", "state": "Running", "job": job, "done": 312, "total": 2668, "message": "training"}
    return StageStatus.model_validate({**known, **changes})


@pytest.mark.parametrize(
    ("told", "before", "expect"),
    [
        pytest.param(Units(), None, Units(), id="never seen at work"),
        pytest.param(Units(320, 2668, "training"), recorded(), Units(320, 2668, "training"), id="at work"),
        pytest.param(Units(), recorded(), Units(312, 2668, "training"), id="says nothing just now"),
        pytest.param(
            Units(phase="loading the policy"), recorded(), Units(312, 2668, "loading the policy"), id="a new pod starts"
        ),
        pytest.param(
            Units(),
            recorded(reason="Killed", message="training: the process was killed"),
            Units(312, 2668),
            id="after trouble, whose words are no phase",
        ),
        pytest.param(Units(), recorded(job="it-training-x-1"), Units(), id="what is recorded is of another Job"),
    ],
)
def test_reached_by(told: Units, before: StageStatus | None, expect: Units) -> None:
    job = Job("it-training-x-0", "training", "a" * 64, 0, "Active", units=told)
    assert reached_by(job, before) == expect
