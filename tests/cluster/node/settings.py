"""Configurations of the programs on the node: pure, addresses in, files out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from tests.cluster.control_plane import REAL_NODE
from tests.cluster.node.places import DNS, INSIDE, PODS

PAUSE_IMAGE: Final = "docker.io/feedback-operator/pause:test"
NETWORKS: Final = "networks"


def containerd(folder: Path) -> str:
    """restrict_oom_score_adj: a machine may lack the capability to lower it, and pods would not start."""
    return f"""version = 2
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  sandbox_image = "{PAUSE_IMAGE}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{folder / NETWORKS}"
"""


def network() -> str:
    """One bridge that all pods are on."""
    ranges = {"type": "host-local", "ranges": [[{"subnet": PODS}]], "routes": [{"dst": "0.0.0.0/0"}]}
    bridge = {"type": "bridge", "bridge": "pods", "isGateway": True, "hairpinMode": True, "ipam": ranges}
    return json.dumps({"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge]})


def kubelet() -> str:
    """Nobody but the API server and the pods can reach it, so it asks nobody who they are."""
    least = {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"}
    settings: dict[str, Any] = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "enforceNodeAllocatable": [],
        "evictionHard": least,
        "imageGCHighThresholdPercent": 100,
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "clusterDNS": [DNS],
        "clusterDomain": "cluster.local",
    }
    return json.dumps(settings)


def kubelet_flags(kubeconfig: Path, config: Path) -> list[str]:
    return [
        f"--kubeconfig={kubeconfig}",
        f"--config={config}",
        f"--hostname-override={REAL_NODE}",
        f"--node-ip={INSIDE}",
    ]


def kube_proxy_flags(kubeconfig: Path) -> list[str]:
    """The limits of connection tracking belong to the machine: zero leaves them."""
    return [
        f"--kubeconfig={kubeconfig}",
        f"--hostname-override={REAL_NODE}",
        "--proxy-mode=iptables",
        f"--cluster-cidr={PODS}",
        "--conntrack-max-per-core=0",
        "--conntrack-tcp-timeout-established=0",
        "--conntrack-tcp-timeout-close-wait=0",
    ]
