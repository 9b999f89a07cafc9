"""The operator as a service: everything put together, started, and ended in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, Final

from prometheus_client import start_http_server

from feedback_operator.api import API_VERSION
from feedback_operator.api.calls import BY_NAME
from feedback_operator.cluster.kubernetes.apiserver import (
    ApiServer,
    ApiServerUnavailable,
    Conflict,
    Missing,
    NotLeading,
)
from feedback_operator.cluster.kubernetes.caches import Caches
from feedback_operator.cluster.kubernetes.cluster import KubernetesCluster
from feedback_operator.cluster.kubernetes.connection import connect, session
from feedback_operator.cluster.kubernetes.election import Leadership, Terms
from feedback_operator.cluster.kubernetes.journal import Journal
from feedback_operator.cluster.kubernetes.progress_board import ProgressBoard
from feedback_operator.cluster.kubernetes.sweeper import Sweeper
from feedback_operator.plan.planner import Images
from feedback_operator.plan.snapshot import Limits
from feedback_operator.resources.house_rules import HouseRules
from feedback_operator.service.controller import Controller
from feedback_operator.service.handlers import Connection, Hooks, registry_of, watch
from feedback_operator.service.telemetry import IterationFigures, Telemetry
from feedback_operator.service.tracing import span
from feedback_operator.service.workqueue import WorkQueue

logger = logging.getLogger(__name__)

DISCOVERY_SECONDS: Final = 2.0


@dataclass(frozen=True)
class Options:
    """How the operator runs. No namespaces: all of them. Ports of 0 are not served."""

    namespaces: tuple[str, ...]
    images: Images
    terms: Terms
    limits: Limits
    house: HouseRules
    workers: int
    metrics_port: int
    health_port: int


async def serve(options: Options) -> None:
    """Run until SIGTERM or SIGINT. Raises what a part of it died of."""
    client = await connect()
    async with client:
        telemetry = Telemetry()
        queue = WorkQueue()
        caches = Caches()
        listed = asyncio.Event()
        concurrency = 2 * options.workers
        free = ApiServer(client, meter=telemetry.called, span=span)
        leadership = Leadership(free, options.terms)
        fenced = ApiServer(
            client, may_write=leadership.held, concurrency=concurrency, meter=telemetry.called, span=span
        )
        board = ProgressBoard(caches, queue.add)
        journal = Journal(fenced, options.terms.identity)
        controller = Controller(
            KubernetesCluster(fenced, caches, board, options.limits, queue.add, house=options.house),
            queue,
            options.images,
            leadership=leadership,
            telemetry=telemetry,
            announce=journal.announce,
            everything=caches.iterations.all_keys,
            listed=listed,
            expected=(Conflict, Missing, ApiServerUnavailable, NotLeading),
            workers=options.workers,
        )
        telemetry.watch(lambda: len(queue), leadership.held, lambda: _figures(caches))
        if options.metrics_port:
            start_http_server(options.metrics_port, registry=telemetry.registry)
        background = BackgroundTasks()
        hooks = Hooks(
            started=lambda: _until_installed(free),
            stopped=background.stop,
            probes={"leading": leadership.held, "queued": lambda: len(queue)},
        )
        sweeper = Sweeper(free, caches, queue.add)
        connection = Connection(client.configuration.host, lambda: session(client, sweeper.asked))
        registry = registry_of(caches, queue.add, listed, connection, hooks)
        liveness = f"http://0.0.0.0:{options.health_port}/healthz" if options.health_port else None
        background.start(leadership.run(), board.run(), sweeper.run(), journal.run(), controller.run())
        try:
            await background.run_beside(watch(registry, options.namespaces, liveness))
        finally:
            await background.stop()
            queue.close()


class BackgroundTasks:
    """Tasks that run for as long as the service does. The last to be started is the first to be stopped."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, *work: Coroutine[Any, Any, None]) -> None:
        self._tasks += [asyncio.create_task(coroutine) for coroutine in work]

    async def run_beside(self, main: Coroutine[Any, Any, None]) -> None:
        """Until `main` ends. Where one of them ends before, `main` is cancelled and the error raised."""
        task = asyncio.create_task(main)
        await asyncio.wait([task, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
        for one in self._tasks:
            if one.done() and not one.cancelled() and (error := one.exception()):
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                raise error
        await task

    async def stop(self) -> None:
        """One after the other: those who write before the one who holds the right to."""
        while self._tasks:
            task = self._tasks.pop()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def _until_installed(api: ApiServer) -> None:
    """Wait for the custom resource definition: Kopf would ignore a kind that comes later."""
    kind = BY_NAME["FeedbackIteration"]
    while not await api.serves(kind):
        logger.warning("the API server does not know %s of %s; kubectl apply -f crds/", kind.plural, API_VERSION)
        await asyncio.sleep(DISCOVERY_SECONDS)


def _figures(caches: Caches) -> Iterator[IterationFigures]:
    for entry in caches.iterations.entries():
        share = entry.value.hallucination
        yield IterationFigures(
            namespace=entry.identity.namespace,
            name=entry.identity.name,
            state=entry.value.state,
            hallucination=(float(share[0]), float(share[1])) if share else None,
        )
