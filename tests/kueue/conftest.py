"""A control plane with a real Kueue, a namespace for each test, and its pods played."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.cluster.control_plane import ControlPlane
from tests.cluster.kueue.manager import kueue
from tests.cluster.operator_process import OperatorProcess
from tests.cluster.setup import prepare
from tests.cluster.world import World
from tests.integration.operator.conftest import new_world, pytest_runtest_makereport

__all__ = ["pytest_runtest_makereport"]


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A ready control plane with one node, the operator's custom resource, and Kueue at work."""
    folder = tmp_path_factory.mktemp("control-plane")
    with ControlPlane(folder) as running:
        asyncio.run(prepare(running))
        with kueue(running, folder / "kueue"):
            yield running


@pytest.fixture
async def world(control_plane: ControlPlane, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    """A fresh namespace whose pods are played, without an operator and without queues."""
    async with new_world(control_plane, request.node.name, tmp_path) as fresh:
        yield fresh


@pytest.fixture
def operator(world: World) -> Iterator[OperatorProcess]:
    """The operator, at work on the test's namespace."""
    with world.operator() as running:
        yield running
