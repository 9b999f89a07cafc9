"""A node whose kubelet answers for logs alone, so that the API server has something to pass on."""

from __future__ import annotations

import asyncio
import ssl
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final

from aiohttp import web

from tests.cluster.api import NODES, Api
from tests.cluster.control_plane import ControlPlane, node

HOSTNAME_LABEL: Final = "kubernetes.io/hostname"


class LogOf:
    """What one container writes: lines so far, and an end."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.ended = False
        self.changed = asyncio.Condition()

    async def write(self, *lines: str, end: bool = False) -> None:
        async with self.changed:
            self.lines += lines
            self.ended = self.ended or end
            self.changed.notify_all()


class KubeletLogs:
    """Logs by pod name, written by the test."""

    def __init__(self, name: str) -> None:
        self.node = name
        self._logs: defaultdict[str, LogOf] = defaultdict(LogOf)
        self.followed: asyncio.Queue[str] = asyncio.Queue()
        """Names of pods as somebody begins to follow their logs."""

    def of(self, pod: str) -> LogOf:
        return self._logs[pod]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        log = self._logs[request.match_info["pod"]]
        response = web.StreamResponse()
        await response.prepare(request)
        sent = 0
        following = request.query.get("follow") == "true"
        if following:
            self.followed.put_nowait(request.match_info["pod"])
        while True:
            for line in log.lines[sent:]:
                await response.write(f"{line}\n".encode())
            sent = len(log.lines)
            if log.ended or not following:
                return response
            async with log.changed:
                await log.changed.wait_for(lambda: len(log.lines) > sent or log.ended)  # noqa: B023


@asynccontextmanager
async def kubelet_logs(api: Api, control_plane: ControlPlane, name: str) -> AsyncIterator[KubeletLogs]:
    """A ready node of this name; pods get there by the label kubernetes.io/hostname."""
    logs = KubeletLogs(name)
    application = web.Application()
    application.router.add_get("/containerLogs/{namespace}/{pod}/{container}", logs.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(control_plane.certificate, control_plane.certificate.with_suffix(".key"))
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    port = runner.addresses[0][1]
    try:
        await _add_node(api, name, port)
        yield logs
    finally:
        await api.delete(NODES, "", name)
        await runner.cleanup()


async def _add_node(api: Api, name: str, port: int) -> None:
    made = node(name)
    made["metadata"].pop("annotations")  # KWOK leaves it alone
    await api.create(NODES, "", made)
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    status = {
        **made["status"],
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        "conditions": [
            {"type": "Ready", "status": "True", "reason": "Test", "lastHeartbeatTime": now, "lastTransitionTime": now}
        ],
    }
    await api.patch(NODES, "", name, {"status": status}, subresource="status")
