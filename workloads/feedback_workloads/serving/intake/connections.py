"""A connection, which ends by itself where it brings no request."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0


class Connection(H11Protocol):
    """uvicorn's, which waits for the head of a request without end: this one ends after HEAD_SECONDS.

    They are counted from when the connection is made, and on one that is kept from the first byte that follows an
    answer, be it of the next head or of a body that was answered before it was read. A body's own time is bounded by
    `Receiving`, and the size of a head by h11.
    """

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._begin()

    def data_received(self, data: bytes) -> None:
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
