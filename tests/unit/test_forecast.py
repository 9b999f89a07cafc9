"""What the build of the world says, after its first steps, that it will take."""

from __future__ import annotations

import pytest

from feedback_operator.cli.display import Pace
from feedback_operator.cli.local import forecast, minutes
from feedback_operator.plan.snapshot import Units


@pytest.mark.parametrize(
    ("seconds", "words"), [(5, "1 minute"), (89, "1 minute"), (91, "2 minutes"), (610, "10 minutes")]
)
def test_minutes(seconds: float, words: str) -> None:
    assert minutes(seconds) == words


def told(*seen: tuple[float, int]) -> list[str]:
    """What is said at each look: moment in seconds, and steps that are done of 1,900."""
    pace, words = Pace(0), []
    for now, done in seen:
        pace = pace.seen(done, now)
        words.append(forecast(pace, Units(done=done, total=1900), now))
    return words


def test_the_whole_is_told_from_the_first_steps() -> None:
    *before, words = told((0.0, 0), (30.0, 0), (40.0, 1), (41.0, 11), (42.0, 19), (42.5, 26))
    assert before == [""] * 5, "not before there are 20 steps, nor from the time before the first"
    assert "the world takes about 3 minutes" in words
    assert "(feedback run examples/shapes.yaml) about 5 minutes more" in words


def test_a_machine_of_20_steps_within_a_second_is_not_divided_by_0() -> None:
    assert told((0.0, 0), (0.5, 1), (1.0, 60)) == ["", "", ""]
    assert "about 1 minute" in told((0.0, 0), (0.5, 1), (1.0, 60), (1.6, 130))[-1]
