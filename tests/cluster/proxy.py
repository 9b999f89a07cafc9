"""Stands between an operator and the API server: counts the calls, and makes what can go wrong go wrong."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import aiohttp
from aiohttp import hdrs, web
from yarl import URL

from tests.cluster.control_plane import ControlPlane

PASSED_ON: Final = (hdrs.AUTHORIZATION, hdrs.CONTENT_TYPE, hdrs.ACCEPT, hdrs.USER_AGENT)
PASSED_BACK: Final = (hdrs.CONTENT_TYPE, hdrs.RETRY_AFTER, hdrs.CONTENT_ENCODING)


@dataclass(frozen=True)
class Call:
    """One request of the operator."""

    method: str
    path: str
    watch: bool

    @property
    def write(self) -> bool:
        return self.method != "GET"

    @property
    def lease(self) -> bool:
        """Part of leader election, which goes on with the clock and not with the work."""
        return "/leases" in self.path

    def __str__(self) -> str:
        return f"{'WATCH' if self.watch else self.method} {self.path}"


Before = Callable[[Call], Awaitable[web.Response | None]]
"""Asked before a call is passed on; an answer of its own keeps the call from the API server."""
After = Callable[[Call], bool]
"""Told once the API server has carried the call out; whether its answer is lost."""


class Proxy:
    """A plain HTTP server on loopback in front of the API server, with places to step in."""

    url: str
    _session: aiohttp.ClientSession

    def __init__(self, control_plane: ControlPlane) -> None:
        self._control_plane = control_plane
        self._watches: set[asyncio.Task[None]] = set()
        self.calls: list[Call] = []
        self.before: Before | None = None
        self.after: After | None = None
        self.down = False
        """While true, every connection is cut without an answer."""
        self.lag_seconds = 0.0
        """By how much every event of a watch comes late."""
        self.faults = 0
        """Calls refused or cut, watches closed, events that came late."""

    @classmethod
    @asynccontextmanager
    async def start(cls, control_plane: ControlPlane) -> AsyncIterator[Self]:
        proxy = cls(control_plane)
        context = ssl.create_default_context(cafile=str(control_plane.certificate))
        connector = aiohttp.TCPConnector(ssl=context, limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:
            proxy._session = session
            application = web.Application(client_max_size=2**24)
            application.router.add_route("*", "/{path:.*}", proxy._handle)
            runner = web.AppRunner(application, shutdown_timeout=0)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            proxy.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            try:
                yield proxy
            finally:
                proxy.cut_watches()
                await runner.cleanup()

    def kubeconfig(self, token: str, user: str = "operator") -> Path:
        """A kubeconfig that leads here."""
        return self._control_plane.kubeconfig_for(user, token, server=self.url)

    def cut_watches(self) -> None:
        """Close every watch in the middle, as an API server does under load."""
        for watch in tuple(self._watches):
            self.faults += 1
            watch.cancel()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        call = Call(request.method, request.path, request.query.get("watch") in {"true", "1", "True"})
        self.calls.append(call)
        answer = None if self.down else (await self.before(call) if self.before else None)
        if answer is not None:
            self.faults += 1
            return answer
        if self.down:
            return self._cut(request)
        headers = {name: request.headers[name] for name in PASSED_ON if name in request.headers}
        url = f"{self._control_plane.url}{request.raw_path}"
        async with self._session.request(
            request.method, URL(url, encoded=True), headers=headers, data=await request.read() or None
        ) as upstream:
            if not call.watch:
                body = await upstream.read()
                lost = self.after is not None and self.after(call)
                if lost or self.down:
                    return self._cut(request)
                passed = {name: upstream.headers[name] for name in PASSED_BACK if name in upstream.headers}
                return web.Response(status=upstream.status, body=body, headers=passed)
            return await self._stream(request, call, upstream)

    async def _stream(self, request: web.Request, call: Call, upstream: aiohttp.ClientResponse) -> web.StreamResponse:
        response = web.StreamResponse(status=upstream.status, headers={"Content-Type": "application/json"})
        try:
            await response.prepare(request)
        except ConnectionResetError:  # whoever asked is gone
            return response
        if self.after and self.after(call):
            return self._cut(request, response)
        events = asyncio.ensure_future(self._pass_on(upstream, response))
        self._watches.add(events)
        try:
            await asyncio.wait({events})
        finally:
            events.cancel()
            self._watches.discard(events)
        if events.cancelled() or events.exception():
            return self._cut(request, response)
        return response

    async def _pass_on(self, upstream: aiohttp.ClientResponse, response: web.StreamResponse) -> None:
        async for chunk in upstream.content.iter_any():
            if self.lag_seconds:
                self.faults += 1
                await asyncio.sleep(self.lag_seconds)
            await response.write(chunk)

    def _cut(self, request: web.Request, response: web.StreamResponse | None = None) -> web.StreamResponse:
        """End the connection without another word."""
        self.faults += 1
        if request.transport:
            request.transport.abort()
        return response or web.Response()


def expired() -> web.Response:
    """What a watch is told that goes on from a version which the API server does not remember any more."""
    told = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410}
    return web.json_response({"type": "ERROR", "object": told})


def refusal(status: int, reason: str, retry_after_seconds: int | None = None) -> web.Response:
    """An error as the API server words it."""
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": status}
    headers = {"Retry-After": str(retry_after_seconds)} if retry_after_seconds is not None else None
    return web.json_response({**body, "message": f"the proxy says {reason}"}, status=status, headers=headers)
