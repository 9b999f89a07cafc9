"""What a fresh control plane is given before it is used: a node, the operator's custom resource, and routes."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import yaml

from tests.cluster.api import DEFINITIONS, NODES, Api
from tests.cluster.control_plane import ControlPlane, node
from tests.cluster.world import condition_of

CRDS: Final = Path(__file__).parents[2] / "crds"
GATEWAY_API: Final = Path(__file__).parent / "gateway_api.yaml"
NODE: Final = "node-1"


async def prepare(control_plane: ControlPlane) -> None:
    """Add the node and the custom resources, and return when all are ready."""
    async with Api.connect(control_plane.kubeconfig) as api:
        await api.create(NODES, "", node(NODE))
        for file in (*sorted(CRDS.glob("*.yaml")), GATEWAY_API):
            manifest = yaml.safe_load(file.read_text())
            await api.apply(manifest)
            await api.wait(
                DEFINITIONS,
                "",
                manifest["metadata"]["name"],
                lambda item: condition_of(item, "Established").get("status") == "True",
            )
        await api.wait(NODES, "", NODE, lambda item: condition_of(item, "Ready").get("status") == "True")
