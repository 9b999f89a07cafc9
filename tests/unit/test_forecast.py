"""What the build of the world says, after its first steps, that it will take."""

from __future__ import annotations

import pytest

from feedback_operator.cli.local import foretold, minutes


@pytest.mark.parametrize(
    ("seconds", "words"), [(5, "1 minute"), (89, "1 minute"), (91, "2 minutes"), (610, "10 minutes")]
)
def test_minutes(seconds: float, words: str) -> None:
    assert minutes(seconds) == words


def test_the_whole_is_told_from_the_pace() -> None:
    told = foretold(steps=1900, rate=10.0)
    assert "the world takes about 3 minutes" in told
    assert "(feedback run examples/shapes.yaml) about 3 minutes more" in told
