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

from feedback_workloads.serving.errors import HANG_UP
from feedback_workloads.serving.intake import connections
from feedback_workloads.serving.intake.connections import Connection

HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n"
ANSWER_UNREAD = b"POST /unread HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    request = Request(scope, receive)
    if request.url.path == "/refused":
        await PlainTextResponse("refused", 401, headers=HANG_UP)(scope, receive, send)
        return
    body = b"" if request.url.path == "/unread" else await request.body()
    await PlainTextResponse(body)(scope, receive, send)


@asynccontextmanager
async def serving() -> AsyncIterator[int]:
    """A server on loopback; gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(app, http=Connection, lifespan="off", log_level="error", timeout_keep_alive=1)
        server = uvicorn.Server(config)
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


REFUSED = b"POST /refused HTTP/1.1\r\nHost: a\r\n"
BODY = bytes(8 * 2**20)
"""More than the buffers of two sockets hold."""


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(REFUSED + f"Content-Length: {len(BODY)}\r\n\r\n".encode(), id="refused"),
        pytest.param(b"no request\r\n\r\n", id="no request"),
    ],
)
async def test_a_client_that_still_sends_gets_the_answer_that_ends_it(head: bytes) -> None:
    """Its body comes after the answer was given, as from clients that read once they have sent all."""
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head)
        async with asyncio.timeout(60):
            answer = await reader.readuntil(b"\r\n\r\n")
            writer.write(BODY)
            await writer.drain()
            rest = await reader.read()
        assert answer.startswith((b"HTTP/1.1 401", b"HTTP/1.1 400"))
        assert rest in (b"refused", b"Invalid HTTP request received.")
        writer.close()


async def send_for_ever(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"1\r\nx\r\n")
        await writer.drain()
        await asyncio.sleep(0)


async def test_a_client_that_sends_for_ever_after_its_answer_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "LINGER_SECONDS", 0.1)
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REFUSED + b"Transfer-Encoding: chunked\r\n\r\n")
        async with asyncio.timeout(60):
            assert (await reader.read()).startswith(b"HTTP/1.1 401")
            with pytest.raises(ConnectionError):
                await send_for_ever(writer)
        writer.close()
