"""What this machine must have before a node can be started on it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.cluster.node.places import LINK, UNSHARE

PACKAGES: Final = {
    "containerd": "containerd",
    "runc": "runc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "buildah": "buildah",
    "debootstrap": "debootstrap",
    "ip": "iproute2",
    "unshare": "util-linux",
}
"""Programs, and the Debian packages that have them."""
DISK_GB: Final = 30
KERNEL: Final = {
    "overlay": "overlayfs (CONFIG_OVERLAY_FS)",
    "bridge": "bridges that iptables sees (CONFIG_BRIDGE_NETFILTER)",
    "namespaces": "network, mount and process namespaces that root may make (CONFIG_NAMESPACES)",
}


def lacking(folder: Path) -> Iterator[str]:
    """One sentence for each thing that is missing, with the remedy. `folder` is where the node's files are to be."""
    yield from unable(folder)
    if packages := missing_packages():
        yield f"programs are missing; run `make cluster-packages`, or install {' '.join(packages)}"
    if Path(f"/sys/class/net/{LINK[0]}").exists():
        yield f"the link {LINK[0]} is there already, so another node runs here; end it with `make cluster-down`"


def unable(folder: Path) -> Iterator[str]:
    """As `lacking`, of what no package brings: why this machine cannot have a node."""
    if platform.system() != "Linux":
        yield f"a node needs Linux, and this is {platform.system()}; use a cluster of your own (FEEDBACK_CLUSTER=own)"
        return
    if os.geteuid() != 0:
        yield f"a node needs root, and this is user {os.geteuid()}; run it by sudo, or use a cluster of your own"
        return
    for feature, words in KERNEL.items():
        if not _kernel_has(feature):
            yield f"the kernel lacks {words}; use another one, or a cluster of your own (FEEDBACK_CLUSTER=own)"
    if (free := _free_gb(folder)) < DISK_GB:
        yield f"{folder} has {free} GB free and the node with its images takes {DISK_GB} GB; make room"


def missing_packages() -> list[str]:
    return [package for program, package in PACKAGES.items() if shutil.which(program) is None]


def install_packages() -> None:
    """Install what is missing, where this is Debian. Raises SystemExit with the list where it is not."""
    packages = missing_packages()
    if not packages:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise SystemExit(f"cluster: only root on Debian can install packages from here; install {' '.join(packages)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], check=True)
    install = ["apt-get", "install", "-qq", "--yes", "--no-install-recommends", *packages]
    subprocess.run(install, check=True, env=environment)


def _kernel_has(feature: str) -> bool:
    if feature == "overlay":
        return "\toverlay\n" in Path("/proc/filesystems").read_text() or _loads("overlay")
    if feature == "bridge":
        return Path("/proc/sys/net/bridge").exists() or _loads("br_netfilter")
    return subprocess.run([*UNSHARE, "true"], check=False, capture_output=True).returncode == 0


def _loads(module: str) -> bool:
    loader = shutil.which("modprobe")
    return loader is not None and subprocess.run([loader, module], check=False, capture_output=True).returncode == 0


def _free_gb(folder: Path) -> int:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(there).free // 10**9
