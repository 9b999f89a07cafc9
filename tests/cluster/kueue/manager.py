"""Kueue at work on the tests' control plane, as its own manifests install it; its manager is a process of this machine.

What differs from an installation: the API server reaches the webhooks by a Service that leads to this machine, the
certificates that the manager makes are put into its folder by us, as a kubelet does, there is one manager, which elects
nobody, and nothing is shown by an API server of its own.
"""

from __future__ import annotations

import asyncio
import base64
import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final

import yaml

from feedback_operator.cluster.local.ports import free_ports
from tests.cluster.api import SECRETS, SERVICE_ACCOUNTS, Api, Kind, Object
from tests.cluster.control_plane import ControlPlane, Program
from tests.cluster.kueue.build import KUBECTL, MANAGER, MANIFESTS, built

NAMESPACE: Final = "kueue-system"
ACCOUNT: Final = "kueue-controller-manager"
WEBHOOKS: Final = "kueue-webhook-service"
CERTIFICATE: Final = "kueue-webhook-server-cert"
LEFT_OUT: Final = ("Deployment", "APIService")

VERSION: Final = "kueue.x-k8s.io/v1beta2"
WORKLOADS: Final = Kind("Workload", VERSION, "workloads")
CLUSTER_QUEUES: Final = Kind("ClusterQueue", VERSION, "clusterqueues")
LOCAL_QUEUES: Final = Kind("LocalQueue", VERSION, "localqueues")
FLAVORS: Final = Kind("ResourceFlavor", VERSION, "resourceflavors")
PRIORITIES: Final = Kind("WorkloadPriorityClass", VERSION, "workloadpriorityclasses")
FLAVOR: Final = "machines"


def made(kind: Kind, name: str, **fields: Any) -> Object:
    """An object of Kueue's."""
    return {"apiVersion": kind.group_version, "kind": kind.name, "metadata": {"name": name}, **fields}


@contextmanager
def kueue(control_plane: ControlPlane, folder: Path) -> Iterator[None]:
    """Install Kueue and have it at work, with one flavor of machines and no queues. Raises Missing where it is not
    built."""
    built()
    folder.mkdir(parents=True, exist_ok=True)
    webhooks, health = islice(free_ports(), 2)
    manifests = [one for one in yaml.safe_load_all(MANIFESTS.read_text()) if one["kind"] not in LEFT_OUT]
    settings = folder / "settings.yaml"
    settings.write_text(yaml.safe_dump(_settings(manifests, folder / "certificates", webhooks, health)))
    _install(control_plane, [_reachable(one, webhooks) for one in manifests], folder)
    kubeconfig = asyncio.run(_kubeconfig(control_plane))
    command = [MANAGER, f"--config={settings}", "--zap-log-level=2"]
    manager = Program(command, folder / "kueue.log", environment={**os.environ, "KUBECONFIG": str(kubeconfig)})
    try:
        asyncio.run(_bring_certificates(control_plane, folder / "certificates"))
        manager.wait_until(lambda: _is_ready(health))
        asyncio.run(_add_flavor(control_plane))
        yield
    finally:
        manager.end()


def _settings(manifests: Iterable[Object], certificates: Path, webhooks: int, health: int) -> Object:
    """The configuration that is installed, and where things are on this machine."""
    found = next(one for one in manifests if one["kind"] == "ConfigMap")
    installed: Object = yaml.safe_load(found["data"]["controller_manager_config.yaml"])
    return {
        **installed,
        "namespace": NAMESPACE,
        "health": {"healthProbeBindAddress": f"127.0.0.1:{health}"},
        "metrics": {"bindAddress": "0"},
        "webhook": {"host": "127.0.0.1", "port": webhooks, "certDir": str(certificates)},
        "leaderElection": {"leaderElect": False},
        "featureGates": {"VisibilityOnDemand": False},
    }


def _reachable(manifest: Object, port: int) -> Object:
    """The manifest with its webhooks at a port of this machine: the API server follows a Service that is a name, and
    asks for the certificate of the Service all the same."""
    if manifest["kind"] == "Service" and manifest["metadata"]["name"] == WEBHOOKS:
        return {**manifest, "spec": {"type": "ExternalName", "externalName": "localhost"}}
    for client in _clients(manifest):
        client["service"]["port"] = port
    return manifest


def _clients(manifest: Object) -> Iterable[Any]:
    """How the API server reaches each webhook of this manifest."""
    if manifest["kind"] == "CustomResourceDefinition":
        conversion = manifest["spec"].get("conversion", {})
        return [conversion["webhook"]["clientConfig"]] if "webhook" in conversion else []
    return [webhook["clientConfig"] for webhook in manifest.get("webhooks", ())]


def _install(control_plane: ControlPlane, manifests: Iterable[Object], folder: Path) -> None:
    file = folder / "manifests.yaml"
    file.write_text(yaml.safe_dump_all(manifests))
    kubectl = [KUBECTL, f"--kubeconfig={control_plane.kubeconfig}"]
    subprocess.run([*kubectl, "apply", "--server-side", f"--filename={file}"], check=True, capture_output=True)
    established = ["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]
    subprocess.run([*kubectl, *established], check=True, capture_output=True)


async def _kubeconfig(control_plane: ControlPlane) -> Path:
    """With the manager's own rights and no others."""
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 86400}}
    async with Api.connect(control_plane.kubeconfig) as api:
        answer = await api.create(SERVICE_ACCOUNTS, NAMESPACE, request, name=ACCOUNT, subresource="token")
    return control_plane.kubeconfig_for(ACCOUNT, answer["status"]["token"], namespace=NAMESPACE)


async def _bring_certificates(control_plane: ControlPlane, folder: Path) -> None:
    """The Secret's files, as a kubelet mounts them, once the manager has made them."""
    async with Api.connect(control_plane.kubeconfig) as api:
        secret = await api.wait(SECRETS, NAMESPACE, CERTIFICATE, lambda item: "tls.crt" in item.get("data", {}))
    folder.mkdir()
    for name, content in secret["data"].items():
        (folder / name).write_bytes(base64.b64decode(content))


async def _add_flavor(control_plane: ControlPlane) -> None:
    async with Api.connect(control_plane.kubeconfig) as api:
        await api.create(FLAVORS, "", made(FLAVORS, FLAVOR, spec={}))


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
