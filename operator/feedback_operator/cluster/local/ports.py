"""TCP ports of the loopback address for servers that this machine is about to start."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from typing import Final

HOST: Final = "127.0.0.1"
PORTS: Final = range(10240, 22000)
"""Below those that a system hands out by itself (from 32768 on Linux, from 49152 on macOS).

One of those could become the near end of anybody's connection in the time between being found free and its server's
start.
"""


def free_ports() -> Iterator[int]:
    """Ports that nobody listens on now, in an order of chance, each once."""
    return filter(is_free, random.SystemRandom().sample(PORTS, len(PORTS)))


def is_free(port: int) -> bool:
    """Whether a server could listen on this port now."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError:
            return False
        return True
