"""`python -m tests.cluster.node COMMAND`: able, packages, build, up, images or down (see the Makefile's `cluster…`)."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Final

import yaml

from tests.cluster.api import DEPLOYMENTS, Api
from tests.cluster.binaries import Missing
from tests.cluster.node import outside
from tests.cluster.node.images import Workshop, import_programs
from tests.cluster.node.places import CHOICE_VARIABLE, Places, own_kubeconfig
from tests.cluster.node.prerequisites import install_packages, unable
from tests.cluster.world import condition_of

SYSTEM: Final = Path(__file__).parent / "system.yaml"
PLACES: Final = Places()


def up() -> None:
    """Start the node, with DNS."""
    if own := own_kubeconfig():
        print(f"cluster: {own}, since {CHOICE_VARIABLE}=own")
        return
    started = time.monotonic()
    outside.start(PLACES)
    import_programs(PLACES)
    asyncio.run(add_system(PLACES.kubeconfig))
    print(f"cluster: ready after {time.monotonic() - started:.0f} s\nexport KUBECONFIG={PLACES.kubeconfig}")


async def add_system(kubeconfig: Path) -> None:
    """Apply system.yaml, and return when DNS answers."""
    async with Api.connect(kubeconfig) as api:
        for manifest in yaml.safe_load_all(SYSTEM.read_text()):
            await api.apply(manifest)
        await api.wait(
            DEPLOYMENTS, "kube-system", "coredns", lambda item: condition_of(item, "Available").get("status") == "True"
        )


def packages() -> None:
    """Install what a node needs of Debian's packages."""
    if own_kubeconfig() is None:
        install_packages()


def able() -> None:
    """Fail with the reasons where this machine cannot have a node, whatever is installed."""
    if own_kubeconfig() is None and (reasons := list(unable(PLACES.root))):
        raise Missing("; ".join(reasons))


def build() -> None:
    """Build the images, for which no node has to run; `images` then finds them built."""
    if own_kubeconfig() is None:
        Workshop().build()


def images() -> None:
    """Build the images, and bring them to the node; a cluster of one's own gets them from where it gets images."""
    if own := own_kubeconfig():
        print(f"cluster: {own} is to have the images already, since {CHOICE_VARIABLE}=own")
        return
    workshop = Workshop()
    workshop.build()
    workshop.deliver(PLACES)


def down() -> None:
    """End the node and remove what it left, and its images."""
    outside.stop(PLACES)
    print("cluster: no process, mount, link, control group or file of it is left")


COMMANDS: Final = {"able": able, "build": build, "up": up, "images": images, "down": down, "packages": packages}

if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in COMMANDS:
        sys.exit(f"give one of: {', '.join(COMMANDS)}")
    try:
        COMMANDS[sys.argv[1]]()
    except Missing as missing:
        sys.exit(f"cluster: {missing}")
