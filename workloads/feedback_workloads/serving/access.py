"""Around every request: its id, its line in the log, and whether its client may ask at all."""

from __future__ import annotations

import hmac
import logging
import re
import time
import uuid
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from feedback_workloads.serving.errors import no_key

LOG = logging.getLogger(__name__)

REQUEST_ID = "X-Request-Id"
SAID = re.compile(r"[!-~]{1,128}")
"""A client's own id, where it is fit for a line of a log."""

UNWATCHED = frozenset({"/health", "/metrics"})
"""What machines look at every few seconds: open to all and not logged."""

OPEN = UNWATCHED | {"/version"}


class Identified:
    """Gives each request an id, its client's own where that has one, and writes a line when it has been answered.

    Of a client that left before it had its whole answer, the line says so.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, whole = time.monotonic(), 0, False
        given = Headers(scope=scope).get(REQUEST_ID, "")
        name = given if SAID.fullmatch(given) else uuid.uuid4().hex

        async def identified(message: Message) -> None:
            nonlocal status, whole
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = name
            await send(message)
            whole = message["type"] == "http.response.body" and not message.get("more_body", False)

        try:
            await self._app(scope, receive, identified)
        finally:
            if scope["path"] not in UNWATCHED:
                client = scope["client"][0] if scope.get("client") else "-"
                ended = f"{status}" if whole else f"{status} left"
                seconds = time.monotonic() - began
                LOG.info("%s %r %s %.3fs %s %s", scope["method"], scope["path"], ended, seconds, client, name)


class Keyed:
    """Lets those in who send one of `keys` as a bearer token; all, where there are none."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app = app
        self._keys = tuple(key.encode() for key in keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._keys or scope["path"] in OPEN or self._knows(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        error = no_key()
        await JSONResponse(error.body(), error.status, headers=dict(error.headers))(scope, receive, send)

    def _knows(self, headers: Headers) -> bool:
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        given = token.strip().encode("latin-1")
        same = [hmac.compare_digest(given, key) for key in self._keys]  # all of them, whichever it is
        return scheme.lower() == "bearer" and any(same)
