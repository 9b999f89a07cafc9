"""A control plane for the session, a namespace for each test, and its pods played."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.cluster.accounts import operator_token
from tests.cluster.api import NAMESPACES, SERVICE_ACCOUNTS, Api
from tests.cluster.control_plane import ControlPlane
from tests.cluster.operator_process import OperatorProcess
from tests.cluster.pod_agent import PodAgent, Script
from tests.cluster.setup import prepare
from tests.cluster.terminal import Terminal
from tests.cluster.world import World

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A ready control plane with one node and the operator's custom resource."""
    with ControlPlane(tmp_path_factory.mktemp("control-plane")) as running:
        asyncio.run(prepare(running))
        yield running


@pytest.fixture
async def world(control_plane: ControlPlane, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    """A fresh namespace whose pods are played, without an operator."""
    async with new_world(control_plane, request.node.name, tmp_path) as fresh:
        yield fresh


@pytest.fixture
def operator(world: World) -> Iterator[OperatorProcess]:
    """The operator, at work on the test's namespace."""
    with world.operator() as running:
        yield running


@pytest.fixture
def terminal(world: World, tmp_path: Path) -> Terminal:
    plane = world.control_plane
    return Terminal(plane.kubeconfig_for("admin", plane.tokens["admin"], namespace=world.namespace), tmp_path)


@asynccontextmanager
async def new_world(control_plane: ControlPlane, name: str, folder: Path) -> AsyncIterator[World]:
    """A namespace named after a test, with its pods played until the end."""
    namespace = f"{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')[:40].rstrip('-')}-{next(_numbers)}"
    async with Api.connect(control_plane.kubeconfig) as api:
        await api.create(NAMESPACES, "", {"metadata": {"name": namespace}})
        await api.wait(SERVICE_ACCOUNTS, namespace, "default", bool)  # pods are refused without it
        token = await operator_token(api, namespace)
        script = Script()
        agent = asyncio.create_task(PodAgent(api, namespace, script).run())
        try:
            yield World(api, control_plane, namespace, script, folder, token)
        finally:
            await api.delete(NAMESPACES, "", namespace)
            agent.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await agent


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that fails shows what its operators have logged last."""
    report = yield
    folder = getattr(item, "funcargs", {}).get("tmp_path")
    if report.failed and isinstance(folder, Path):
        for log in sorted(folder.glob("*operator*.log")):
            report.sections.append((log.name, log.read_text(errors="replace")[-4000:]))
    return report
