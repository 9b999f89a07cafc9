"""A control plane with a real Kueue, a namespace for each test, and its pods played."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.cluster.control_plane import ControlPlane
from tests.cluster.kueue.manager import kueue
from tests.cluster.setup import prepare
from tests.integration.operator.conftest import operator, pytest_runtest_makereport, world

__all__ = ["operator", "pytest_runtest_makereport", "world"]


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A ready control plane with one node, the operator's custom resource, and Kueue at work."""
    folder = tmp_path_factory.mktemp("control-plane")
    with ControlPlane(folder) as running:
        asyncio.run(prepare(running))
        with kueue(running, folder / "kueue"):
            yield running
