"""A TCP proxy before a real server that misbehaves on its first connections, as networks and busy servers do."""

from __future__ import annotations

import re
import socket
import socketserver
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from urllib.parse import urlsplit

from tests.loopback import serving


@dataclass(frozen=True)
class Answer:
    """Answer the request oneself, with an S3 error."""

    status: int
    code: str


@dataclass(frozen=True)
class Drop:
    """Close the connection before anything is answered."""


@dataclass(frozen=True)
class Cut:
    """Close the connection after so many bytes of the answer."""

    bytes: int


Fault = Answer | Drop | Cut


class FaultyProxy:
    """Stands before the server at `url`, as a context; connection i meets faults[i], and later ones meet none."""

    def __init__(self, url: str, faults: Sequence[Fault] = ()) -> None:
        self._target = (urlsplit(url).hostname or "", urlsplit(url).port or 80)
        self._faults = list(faults)
        self._changed = threading.Condition()
        self._sent = 0
        proxy = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                proxy._handle(self.request)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            block_on_close = False
            request_queue_size = 128

        server = Server(("127.0.0.1", 0), Handler)
        self._serving = serving(server)
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        self.met: list[Fault] = []

    def __enter__(self) -> FaultyProxy:
        self._serving.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._serving.__exit__(kind, error, trace)

    def wait_for_sent(self, bytes: int, timeout: float = 60) -> None:
        """Return once clients have sent so many bytes through the proxy."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._sent >= bytes, timeout)

    def _handle(self, client: socket.socket) -> None:
        with self._changed:
            fault = self._faults.pop(0) if self._faults else None
            if fault is not None:
                self.met.append(fault)
        match fault:
            case Drop():
                return
            case Answer(status, code):
                _read_request(client)
                body = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
                head = f"HTTP/1.1 {status} Error\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                client.sendall(head.encode() + body)
            case _:
                self._relay(client, fault.bytes if isinstance(fault, Cut) else None)

    def _relay(self, client: socket.socket, limit: int | None) -> None:
        with socket.create_connection(self._target) as server:
            upward = threading.Thread(target=self._upward, args=(client, server), daemon=True)
            upward.start()
            left = limit
            while (left is None or left > 0) and (data := _receive(server)):
                data = data if left is None else data[:left]
                left = left if left is None else left - len(data)
                client.sendall(data)
            for end in (client, server):
                _close(end)
            upward.join()

    def _upward(self, client: socket.socket, server: socket.socket) -> None:
        while data := _receive(client):
            with self._changed:
                self._sent += len(data)
                self._changed.notify_all()
            server.sendall(data)
        _close(server)


def _receive(end: socket.socket) -> bytes:
    try:
        return end.recv(1 << 16)
    except OSError:
        return b""


def _close(end: socket.socket) -> None:
    with suppress(OSError):  # the other side may have been faster
        end.shutdown(socket.SHUT_RDWR)


def _read_request(client: socket.socket) -> None:
    """Read one request to its end, so that its sender gets to read the answer."""
    data = b""
    while b"\r\n\r\n" not in data and (block := _receive(client)):
        data += block
    head, _, body = data.partition(b"\r\n\r\n")
    if b"100-continue" in head.lower():
        client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    length = re.search(rb"content-length: *(\d+)", head.lower())
    left = (int(length[1]) if length else 0) - len(body)
    while left > 0 and (block := _receive(client)):
        left -= len(block)
