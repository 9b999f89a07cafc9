"""`feedback serve DIR`: how many answers the server of a finished run ranks."""

from __future__ import annotations

from typing import Any

import pytest

from feedback_operator.cli.main import best_of
from tests.unit.worlds import iteration, promoted


@pytest.mark.parametrize(
    ("spec", "expect"),
    [
        pytest.param({}, 4, id="as the scores stage chose"),
        pytest.param({"serving": {"endpoint": "chat"}}, 4, id="with an endpoint"),
        pytest.param({"serving": {"bestOf": 2}}, 2, id="a person's number wins"),
    ],
)
def test_best_of(spec: dict[str, Any], expect: int) -> None:
    assert best_of(promoted("run", "u-1", **spec)) == expect


def test_a_run_that_was_not_scored_is_not_ranked() -> None:
    assert best_of(iteration()) == 1
