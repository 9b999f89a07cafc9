"""Where the node's files are, and which addresses it uses."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.cluster.binaries import ROOT

OUTSIDE: Final = "10.89.0.1"
"""This machine, as the node sees it; the two are the ends of a link of their own."""
INSIDE: Final = "10.89.0.2"
"""The node, and its API server."""
LINK_BITS: Final = 30
LINK: Final = ("feedback-host", "feedback-node")
PODS: Final = "10.88.0.0/24"
SERVICES: Final = "10.96.0.0/16"
DNS: Final = "10.96.0.10"
UNSHARE: Final = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
"""Puts a command into namespaces of its own."""

CHOICE_VARIABLE: Final = "FEEDBACK_CLUSTER"
"""`own`: use the cluster that KUBECONFIG names, and start none."""


@dataclass(frozen=True)
class Places:
    """Everything that belongs to the node lies below one folder and goes with it."""

    root: Path = ROOT / "build/cluster"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's. Written last: where it is, the node is ready."""
        return self.root / "kubeconfig"

    @property
    def pid(self) -> Path:
        """The process whose end is the end of the node."""
        return self.root / "pid"

    @property
    def log(self) -> Path:
        return self.root / "node.log"

    @property
    def control_plane(self) -> Path:
        return self.root / "control-plane"

    @property
    def socket(self) -> Path:
        """Where containerd answers, on this machine as on the node."""
        return self.root / "run/containerd.sock"

    @property
    def mounts(self) -> dict[str, Path]:
        """What the programs of a node find at their usual places, which are this machine's own outside."""
        return {
            "/run/containerd": self.root / "run",
            "/var/lib/containerd": self.root / "containerd",
            "/var/lib/kubelet": self.root / "kubelet",
            "/var/lib/cni": self.root / "cni",
            "/var/log": self.root / "logs",
        }


def own_kubeconfig() -> Path | None:
    """The kubeconfig of the user's own cluster, where that is to be used."""
    if os.environ.get(CHOICE_VARIABLE) != "own":
        return None
    given = os.environ.get("KUBECONFIG")
    if not given or not Path(given).is_file():
        raise SystemExit(f"{CHOICE_VARIABLE}=own needs KUBECONFIG to name a kubeconfig, and it is {given or 'not set'}")
    return Path(given)
