"""Connections over a real socket: those that bring no request end, and no others."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from feedback_workloads.serving.intake import connections
from feedback_workloads.serving.intake.connections import Connection

HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n"
ANSWER_UNREAD = b"POST /unread HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    request = Request(scope, receive)
    body = b"" if request.url.path == "/unread" else await request.body()
    await PlainTextResponse(body)(scope, receive, send)


@asynccontextmanager
async def serving() -> AsyncIterator[int]:
    """A server on loopback; gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, http=Connection, lifespan="off", log_level="error"))
        running = asyncio.create_task(server.serve([listening]))
        yield listening.getsockname()[1]
        server.should_exit = True
        await running


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"P", id="a byte"),
        pytest.param(HEAD, id="a head without its end"),
        pytest.param(HEAD + b"\r\nbody" + HEAD, id="a second head without its end"),
        pytest.param(ANSWER_UNREAD + b"1\r\nx\r\n", id="a body that goes on after its answer"),
    ],
)
async def test_a_connection_that_brings_no_request_ends(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.1)
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        async with asyncio.timeout(60):
            answers = await reader.read()
        assert answers.count(b"HTTP/1.1 200 OK") == sent.count(b"\r\n\r\n")
        writer.close()


async def test_a_body_has_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head's time is over before the body comes: another connection, made later, has ended by then."""
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.1)
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD + b"Expect: 100-continue\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
        later, other = await asyncio.open_connection("127.0.0.1", port)
        assert await later.read() == b""
        other.close()
        writer.write(b"body")
        assert (await reader.readuntil(b"body")).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_a_head_without_bounds_is_refused() -> None:
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD + b"X: " + bytes([120]) * 100_000)
        assert (await reader.read()).startswith(b"HTTP/1.1 400")
        writer.close()
