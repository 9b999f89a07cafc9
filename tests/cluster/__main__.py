"""A control plane to try things on: `python -m tests.cluster FOLDER` runs one until Ctrl-C, pods of `default` played.

The kubeconfig is FOLDER/kubeconfigs/admin-default.json.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path

from tests.cluster.api import Api
from tests.cluster.control_plane import ControlPlane
from tests.cluster.pod_agent import PodAgent, Script
from tests.cluster.setup import prepare


async def play(control_plane: ControlPlane) -> None:
    await prepare(control_plane)
    print(f"export KUBECONFIG={control_plane.kubeconfig}", flush=True)
    async with Api.connect(control_plane.kubeconfig) as api:
        await PodAgent(api, "default", Script()).run()


if __name__ == "__main__":
    with ControlPlane(Path(sys.argv[1])) as started, contextlib.suppress(KeyboardInterrupt):
        asyncio.run(play(started))
