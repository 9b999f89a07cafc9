"""What a fresh control plane is given before it is used: a node, and the operator's custom resource."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import yaml

from tests.cluster.api import DEFINITIONS, NODES, Api
from tests.cluster.control_plane import ControlPlane, node
from tests.cluster.world import condition_of

CRDS: Final = Path(__file__).parents[2] / "crds"
NODE: Final = "node-1"


async def prepare(control_plane: ControlPlane) -> None:
    """Add the node and the custom resource, and return when both are ready."""
    async with Api.connect(control_plane.kubeconfig) as api:
        await api.create(NODES, "", node(NODE))
        for file in sorted(CRDS.glob("*.yaml")):
            manifest = yaml.safe_load(file.read_text())
            await api.apply(manifest)
            await api.wait(
                DEFINITIONS,
                "",
                manifest["metadata"]["name"],
                lambda item: condition_of(item, "Established").get("status") == "True",
            )
        await api.wait(NODES, "", NODE, lambda item: condition_of(item, "Ready").get("status") == "True")
