"""The node from inside: `python -m tests.cluster.node.inside FOLDER`, as process 1 of namespaces of its own.

It waits for a line on standard input, which says that the link to the machine is there, and then starts a control
plane, containerd, kubelet and kube-proxy. A program of the node that ends is started again, as an init system does.
When this process ends, the kernel ends every other process of the node, and undoes its mounts, bridges and iptables
chains.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from tests.cluster.api import NODES, Api
from tests.cluster.binaries import NODE_PROGRAMS, directory
from tests.cluster.control_plane import KUBE_PROXY, KUBELET, REAL_NODE, ControlPlane, Options, Program
from tests.cluster.node import settings
from tests.cluster.node.places import INSIDE, LINK, LINK_BITS, OUTSIDE, Places
from tests.cluster.world import condition_of

LOOK_SECONDS: Final = 0.2


class Node:
    """containerd, kubelet and kube-proxy beside a control plane."""

    def __init__(self, places: Places, control_plane: ControlPlane) -> None:
        self._places = places
        self._control_plane = control_plane
        self._programs: list[tuple[list[str | Path], Program]] = []

    def start(self) -> None:
        """Return when containerd answers and the others are started."""
        binaries = directory(NODE_PROGRAMS)
        root = self._places.root
        written = {
            "containerd.toml": settings.containerd(root),
            f"{settings.NETWORKS}/pods.conflist": settings.network(),
            "kubelet.json": settings.kubelet(),
        }
        for name, text in written.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        self._start(["containerd", f"--config={root / 'containerd.toml'}"], ready=self._places.socket.is_socket)
        self._start(
            [binaries / "kubelet", *settings.kubelet_flags(self._user_kubeconfig(KUBELET), root / "kubelet.json")]
        )
        self._start([binaries / "kube-proxy", *settings.kube_proxy_flags(self._user_kubeconfig(KUBE_PROXY))])

    def keep(self) -> None:
        """Start again what has ended, and take leave of orphans, for ever."""
        while True:
            for number, (command, program) in enumerate(self._programs):
                if program.process.poll() is not None:
                    self._programs[number] = (command, self._run(command))
            _reap({program.process.pid for _, program in self._programs} | set(self._control_plane.pids().values()))
            time.sleep(LOOK_SECONDS)

    def _user_kubeconfig(self, user: str) -> Path:
        return self._control_plane.kubeconfig_for(user, self._control_plane.tokens[user])

    def _start(self, command: Sequence[str | Path], ready: Callable[[], bool] | None = None) -> None:
        program = self._run(command)
        self._programs.append((list(command), program))
        if ready:
            program.wait_until(ready)

    def _run(self, command: Sequence[str | Path]) -> Program:
        return Program(command, self._places.root / f"{Path(command[0]).name}.log")


def _reap(own: set[int]) -> None:
    """Collect processes that were left to process 1, but for those that somebody here waits for."""
    for child in Path("/proc/1/task/1/children").read_text().split():
        if int(child) not in own:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(int(child), os.WNOHANG)


def prepare(places: Places) -> None:
    """Give the programs their places, and the node its end of the link."""
    for target, source in places.mounts.items():
        source.mkdir(parents=True, exist_ok=True)
        Path(target).mkdir(parents=True, exist_ok=True)
        _system("mount", "--bind", str(source), target)
    _system("mount", "--make-rshared", "/")
    _system("ip", "link", "set", "lo", "up")
    _system("ip", "address", "add", f"{INSIDE}/{LINK_BITS}", "dev", LINK[1])
    _system("ip", "link", "set", LINK[1], "up")
    _system("ip", "route", "add", "default", "via", OUTSIDE)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


def _system(*command: str) -> None:
    subprocess.run(command, check=True)


async def until_ready(kubeconfig: Path) -> None:
    async with Api.connect(kubeconfig) as api:
        await api.wait(NODES, "", REAL_NODE, lambda item: condition_of(item, "Ready").get("status") == "True")


def main(root: Path) -> None:
    places = Places(root)
    sys.stdin.readline()
    prepare(places)
    with ControlPlane(places.control_plane, Options(address=INSIDE)) as control_plane:
        node = Node(places, control_plane)
        node.start()
        asyncio.run(until_ready(control_plane.kubeconfig))
        shutil.copy(control_plane.kubeconfig, places.kubeconfig)
        node.keep()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        main(Path(sys.argv[1]))
