"""A control plane of the chart's own: what the operator needs there is what the chart brings."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.cluster.api import Api
from tests.cluster.control_plane import ControlPlane


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane without nodes and without custom resources."""
    with ControlPlane(tmp_path_factory.mktemp("bare")) as running:
        yield running


@pytest.fixture
async def api(bare: ControlPlane) -> AsyncIterator[Api]:
    async with Api.connect(bare.kubeconfig) as connected:
        yield connected
