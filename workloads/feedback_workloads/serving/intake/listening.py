"""The port, held before anything else is done: a server that loads models for minutes has it at their end."""

from __future__ import annotations

import socket

from feedback_workloads.contract import BadInput

BACKLOG = 2048


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, whose clients wait until somebody accepts them. Raises BadInput naming both flags."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        reason = error.strerror or error
        remedy = "name an address of this machine and a port that is free"
        raise BadInput(f"--host {host} --port {port}: {reason}; {remedy}") from error
