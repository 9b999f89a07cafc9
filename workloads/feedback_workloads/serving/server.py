"""The life of a server process: load, check, serve, drain, end."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from feedback_workloads.contract import ExitCode
from feedback_workloads.serving.app import build_app
from feedback_workloads.serving.engines import Engines
from feedback_workloads.serving.intake.connections import Connection
from feedback_workloads.serving.service import Service

if TYPE_CHECKING:
    from feedback_workloads.serving.settings import Settings

LOG = logging.getLogger(__name__)

LAST_BYTES_SECONDS = 1
"""What a finished answer gets to reach its client when the server ends."""


async def serve(settings: Settings, policy: Path, reference: Path, listening: socket.socket) -> ExitCode:
    """Serve the models in two folders until SIGTERM or SIGINT. Raises BadInput where they cannot be loaded."""
    LOG.info("loading the models; the port is taken, and clients that connect wait")
    engines = Engines.load(policy, reference, settings)
    try:
        service = Service(settings, engines)
        LOG.info("the models are loaded; a first request tries them")
        await service.check()
        server = DrainingServer(service)
        await server.serve([listening])
    finally:
        engines.close()
    return ExitCode.DONE if server.ended_well else ExitCode.TEMPORARY


class DrainingServer(uvicorn.Server):
    """Ends without a failed request, in two steps.

    For `unlisted_seconds` it takes requests as before, but closes each connection with its answer: load balancers come
    to know meanwhile that it leaves, and clients that keep a connection make their next one elsewhere. Then it turns
    new requests away and finishes what it has accepted, within `drain_seconds`. uvicorn's own way closes the port at
    once, which clients see as refused connections. A second SIGTERM, or SIGINT, ends it without waiting.
    """

    def __init__(self, service: Service) -> None:
        settings = service.settings
        super().__init__(
            uvicorn.Config(
                build_app(service),
                http=Connection,
                ssl_certfile=settings.tls and settings.tls.certificate,
                ssl_keyfile=settings.tls and str(settings.tls.key),
                log_level="warning",
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=LAST_BYTES_SECONDS,
            )
        )
        self._service = service
        self._leaving: asyncio.Task[None] | None = None
        self.ended_well = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._loop = asyncio.get_running_loop()
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            address = f"[{host}]" if ":" in host else host
            name = self._service.settings.model_name
            scheme = "https" if self._service.settings.tls else "http"
            best_of = self._service.settings.defaults.best_of
            answers = f"the best of {best_of} answers" if best_of > 1 else "one answer, not ranked"
            LOG.info("a request that does not say best_of gets %s", answers)
            sys.stdout.write(f"serving {name} at {scheme}://{address}:{port}/v1\n")
            sys.stdout.flush()

    async def on_tick(self, counter: int) -> bool:
        if not self._service.engines.alive and not self.should_exit:
            LOG.error("the engine has stopped; ending, so that another process takes over")
            self.ended_well = False
            self.should_exit = True
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if sig == signal.SIGTERM and not self._service.leaving:
            self._service.leaving = True
            self._loop.call_soon_threadsafe(self._leave)
        else:
            super().handle_exit(sig, frame)

    def _leave(self) -> None:
        settings = self._service.settings
        self.config.encoded_headers.append((b"connection", b"close"))
        self.server_state.default_headers.append((b"connection", b"close"))  # until the next tick makes them anew

        async def left() -> None:
            await asyncio.sleep(settings.unlisted_seconds)
            self._service.admission.close()
            for connection in tuple(self.server_state.connections):
                connection.shutdown()  # at once where it is idle, else with its answer
            try:
                async with asyncio.timeout(settings.drain_seconds):
                    await self._service.admission.finished()
            except TimeoutError:
                LOG.warning("requests still run after %s s; ending all the same", settings.drain_seconds)
                self._service.out_of_time.set()
            self.should_exit = True

        self._leaving = asyncio.create_task(left())
