"""Cases that say little more than their representative and take long: `make test-long` runs them (mark `long`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def first_of(cases: Iterable[Any]) -> list[Any]:
    """The first case as it is, and the others for the long target alone."""
    first, *others = cases
    return [first, *(pytest.param(other, marks=pytest.mark.long) for other in others)]
