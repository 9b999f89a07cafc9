"""One team's namespace on a cluster, with the words that its people have: kubectl, and to wait."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.cluster.api import ITERATIONS, PODS, Api, Kind, Object
from tests.cluster.world import STAGES, STALLED, Expected, merged

ROOT: Final = Path(__file__).parents[2]
TOOLS: Final = Path(sys.executable).parent
S3_SECRET: Final = "s3"
"""As examples/quickstart/s3.yaml calls it."""
BUCKET: Final = "feedback"
ENDPOINT: Final = "answers"
ITERATION_SECONDS: Final = 1200.0
WITH_S3: Final = {"pod": {"envFrom": [{"name": S3_SECRET}]}}


@dataclass(frozen=True)
class Team:
    """A namespace that admits only restricted pods, with an S3 server in it."""

    kubeconfig: Path
    """Its context leads to the namespace."""
    namespace: str

    def kubectl(self, *arguments: str, manifest: str | None = None) -> str:
        """What kubectl prints; fails with what it complains of."""
        ended = subprocess.run(
            [TOOLS / "kubectl", *arguments],
            check=False,
            input=manifest,
            capture_output=True,
            text=True,
            env={**os.environ, "KUBECONFIG": str(self.kubeconfig), "PATH": f"{TOOLS}:{os.environ['PATH']}"},
        )
        assert ended.returncode == 0, f"kubectl {' '.join(arguments)}: {ended.stderr}"
        return ended.stdout

    def apply(self, manifest: Object) -> None:
        self.kubectl("apply", "--server-side", "--filename", "-", manifest=json.dumps(manifest))

    def get(self, kind: str, name: str) -> Object:
        found: Object = json.loads(self.kubectl("get", kind, name, "--output", "json"))
        return found

    def pods(self, **labels: str) -> list[Object]:
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        found: list[Object] = json.loads(self.kubectl("get", "pods", f"--selector={selector}", "--output", "json"))[
            "items"
        ]
        return found

    def running_pod(self, **labels: str) -> Object:
        """A pod with these labels, as soon as one runs."""

        async def waited() -> Object:
            async with asyncio.timeout(ITERATION_SECONDS), Api.connect(self.kubeconfig) as api:
                async for event, pod in api.watch(PODS, self.namespace):
                    alive = event != "DELETED" and "deletionTimestamp" not in pod["metadata"]
                    if (
                        alive
                        and pod["status"]["phase"] == "Running"
                        and labels.items() <= pod["metadata"]["labels"].items()
                    ):
                        return pod
            raise AssertionError("a watch has no end")

        return asyncio.run(waited())

    def until(self, name: str, expected: Expected, seconds: float = ITERATION_SECONDS) -> Object:
        """The iteration, as soon as it is as expected. Fails at once where it is stalled instead."""
        found = self.wait(ITERATIONS, name, lambda item: expected(item) or STALLED(item), seconds)
        assert expected(found), json.dumps(found["status"], indent=1)
        return found

    def wait(self, kind: Kind, name: str, expected: Expected, seconds: float = ITERATION_SECONDS) -> Object:
        async def waited() -> Object:
            async with Api.connect(self.kubeconfig) as api:
                return await api.wait(kind, self.namespace, name, expected, seconds)

        return asyncio.run(waited())

    def address(self, service: str) -> str:
        """URL of a Service's first port, as it is reached from within the cluster."""
        spec = self.get("service", service)["spec"]
        return f"http://{spec['clusterIP']}:{spec['ports'][0]['port']}"

    def s3_environment(self) -> Mapping[str, str]:
        """The AWS_* variables for a process on this machine."""
        secret = self.get("secret", S3_SECRET)["data"]
        values = {key: base64.b64decode(value).decode() for key, value in secret.items()}
        return {**values, "AWS_ENDPOINT_URL": self.address("s3")}


def on_cluster(manifest: Object, name: str, **spec: Any) -> Object:
    """The manifest under another name, with S3's credentials for every pod, and with other changes to its spec."""
    serving = ["serving"] if "serving" in {**manifest["spec"], **spec} else []
    credentials = dict.fromkeys((*STAGES, *serving), WITH_S3)
    changed = merged(merged(manifest["spec"], credentials), spec)
    return {**manifest, "metadata": {"name": name}, "spec": changed}
