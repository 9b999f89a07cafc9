"""The node from outside: start it, end it, and leave nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.cluster.binaries import ROOT, Missing
from tests.cluster.node.places import INSIDE, LINK, LINK_BITS, OUTSIDE, PODS, SERVICES, UNSHARE, Places
from tests.cluster.node.prerequisites import lacking

READY_SECONDS: Final = 180.0
LOOK_SECONDS: Final = 0.1
CGROUPS: Final = Path("/sys/fs/cgroup")
KUBELETS_CGROUP: Final = "kubepods"


def start(places: Places) -> None:
    """Start the node and return when it is ready. Raises Missing where something it needs is not there."""
    if places.kubeconfig.exists() and _runs(places):
        return
    stop(places)
    if sentences := list(lacking(places.root)):
        raise Missing("; ".join(sentences))
    places.root.mkdir(parents=True)
    with places.log.open("wb") as log:
        unshared = subprocess.Popen(
            [*UNSHARE, sys.executable, "-m", "tests.cluster.node.inside", str(places.root)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    first = _until_unshared(unshared)
    places.pid.write_text(str(first))
    _link(first)
    assert unshared.stdin
    unshared.stdin.write(b"\n")
    unshared.stdin.close()
    deadline = time.monotonic() + READY_SECONDS
    while not places.kubeconfig.exists():
        if unshared.poll() is not None or time.monotonic() > deadline:
            raise Missing(f"the node did not get ready; {places.log} ends with: {places.log.read_text()[-2000:]}")
        time.sleep(LOOK_SECONDS)


def stop(places: Places) -> None:
    """End the node with all that it made; what is gone already is as good. Raises Missing if anything is left."""
    if _runs(places):
        first = int(places.pid.read_text())
        os.kill(first, signal.SIGKILL)
        while Path(f"/proc/{first}").exists():  # the last of its namespace to go
            time.sleep(LOOK_SECONDS)
    for group in _cgroups():
        group.rmdir()
    if places.root.exists():
        shutil.rmtree(places.root)
    if left := remains(places):
        raise Missing(f"the node has ended and left {', '.join(left)}")


def remains(places: Places) -> list[str]:
    """What there is on this machine of a node that has ended: nothing, if all is well."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if str(places.root) in line]
    links = [f"link {name}" for name in LINK if Path(f"/sys/class/net/{name}").exists()]
    running = [
        f"process {process.parent.name}"
        for process in Path("/proc").glob("[0-9]*/cmdline")
        if str(places.root).encode() in _read(process).split(b"\0")
    ]
    return [*mounts, *links, *running, *map(str, _cgroups()), *map(str, places.root.glob("*"))]


def processes(places: Places, program: str) -> list[int]:
    """Ids, as this machine has them, of the node's own processes of this name; not of those in its pods."""
    children = Path(f"/proc/{places.pid.read_text()}/task/{places.pid.read_text()}/children").read_text().split()
    return [int(child) for child in children if Path(f"/proc/{child}/comm").read_text().strip() == program[:15]]


@contextmanager
def refused(places: Places, port: int) -> Iterator[None]:
    """Meanwhile nothing on the node reaches this port of a pod: new connections and old ones are reset."""
    rule = ["FORWARD", "--protocol", "tcp", "--dport", str(port), "--jump", "REJECT", "--reject-with", "tcp-reset"]
    within = ["nsenter", f"--target={places.pid.read_text()}", "--net", "iptables", "--wait"]
    subprocess.run([*within, "--insert", *rule], check=True)
    try:
        yield
    finally:
        subprocess.run([*within, "--delete", *rule], check=True)


def _runs(places: Places) -> bool:
    """Whether process 1 of this very node is alive; another process may have got its number since."""
    if not places.pid.exists():
        return False
    return str(places.root).encode() in _read(Path(f"/proc/{places.pid.read_text()}/cmdline")).split(b"\0")


def _read(file: Path) -> bytes:
    """What a file of /proc says; nothing, where the process has gone."""
    try:
        return file.read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _until_unshared(unshared: subprocess.Popen[bytes]) -> int:
    """The number that process 1 of the new namespaces has here, once it runs its program."""
    children = Path(f"/proc/{unshared.pid}/task/{unshared.pid}/children")
    while unshared.poll() is None:
        for child in children.read_text().split():
            if b"tests.cluster.node.inside" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
        time.sleep(LOOK_SECONDS)
    raise Missing(f"unshare ended with code {unshared.returncode}; a node needs namespaces of its own")


def _link(node: int) -> None:
    """A link between this machine and the node, with ways to its pods and Services. It goes when the node does."""
    outer, inner = LINK
    for command in (
        f"ip link add {outer} type veth peer name {inner} netns {node}",
        f"ip address add {OUTSIDE}/{LINK_BITS} dev {outer}",
        f"ip link set {outer} up",
        f"ip route add {PODS} via {INSIDE}",
        f"ip route add {SERVICES} via {INSIDE}",
    ):
        subprocess.run(command.split(), check=True)


def _cgroups() -> Iterator[Path]:
    """Those that the kubelet made, the deepest first."""
    for top in (CGROUPS / KUBELETS_CGROUP, *CGROUPS.glob(f"*/{KUBELETS_CGROUP}")):
        if top.is_dir() and not top.parent.is_symlink():
            for folder, _, _ in os.walk(top, topdown=False):
                yield Path(folder)
