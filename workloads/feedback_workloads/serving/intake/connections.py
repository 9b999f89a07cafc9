"""A connection, which ends by itself where it brings no request, and never before its client has its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0
LINGER_SECONDS = 10.0


class Connection(H11Protocol):
    """uvicorn's, which waits for the head of a request without end: this one ends after HEAD_SECONDS.

    They are counted from when the connection is made, and on one that is kept from the first byte that follows an
    answer, be it of the next head or of a body that was answered before it was read. A body's own time is bounded by
    `Receiving`, and the size of a head by h11. It closes by `Lingering`.
    """

    _deadline: asyncio.TimerHandle | None = None
    _lingering: Lingering

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._lingering = Lingering(transport, self.loop, lambda: self.conn.their_state in (h11.SEND_BODY, h11.ERROR))
        super().connection_made(cast(asyncio.Transport, self._lingering))
        self._begin()

    def data_received(self, data: bytes) -> None:
        if self._lingering.lingers:
            return
        if self._deadline is None and not self._answering:
            self._begin()
        super().data_received(data)
        if self._answering:
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()
        super().connection_lost(exc)

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _begin(self) -> None:
        self._deadline = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _end(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class Lingering:
    """A transport that is not closed under a client that still sends.

    A system resets a connection that is closed with bytes unread, and the client then loses the answer that told why
    it was turned away. Where `is_sending` the client gets the end of the answer, and what it sends is taken and thrown
    away until it closes, for LINGER_SECONDS at most.
    """

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, is_sending: Callable[[], bool]
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._is_sending = is_sending
        self.lingers = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self.lingers or self._transport.is_closing()

    def close(self) -> None:
        if self.is_closing():
            return
        if not self._is_sending():
            self._transport.close()
            return
        self.lingers = True
        if self._transport.can_write_eof():  # TLS cannot
            self._transport.write_eof()
        self._transport.resume_reading()
        self._loop.call_later(LINGER_SECONDS, self._transport.close)
