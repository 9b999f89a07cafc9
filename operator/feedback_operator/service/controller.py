"""While this replica leads: workers take keys from the queue, reconcile them, and tell what came of it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Final, Protocol

from feedback_operator.api import FeedbackIteration
from feedback_operator.cluster.protocol import Cluster
from feedback_operator.cluster.reconciler import Reconciled, reconcile
from feedback_operator.plan.news import News, news
from feedback_operator.plan.planner import Images
from feedback_operator.service.logs import about
from feedback_operator.service.telemetry import Telemetry
from feedback_operator.service.tracing import span
from feedback_operator.service.workqueue import WorkQueue

logger = logging.getLogger(__name__)

SOONEST_SECONDS: Final = 0.5
"""A plan that is due again before it was carried out must not keep a worker busy."""
LOOK_AGAIN_SECONDS: Final = 300.0
"""Iterations that are not at rest are looked at so often even if nothing is heard of them."""


class Leading(Protocol):
    """Whether this replica is the one that acts."""

    async def wait_until(self, held: bool) -> None: ...


class Controller:
    """The workers.

    `announce` tells people of news; `everything` gives the keys of all iterations; `listed` is set once the caches are
    complete; `expected` are errors that happen in the ordinary course and need no stack trace.
    """

    def __init__(
        self,
        cluster: Cluster,
        queue: WorkQueue,
        images: Images,
        *,
        leadership: Leading,
        telemetry: Telemetry,
        announce: Callable[[FeedbackIteration, News], None],
        everything: Callable[[], Iterable[str]],
        listed: asyncio.Event,
        expected: tuple[type[Exception], ...],
        workers: int,
    ) -> None:
        self._cluster = cluster
        self._queue = queue
        self._images = images
        self._leadership = leadership
        self._telemetry = telemetry
        self._announce = announce
        self._everything = everything
        self._listed = listed
        self._expected = expected
        self._workers = workers

    async def run(self) -> None:
        """Forever: work while we lead and know everything that there is, and rest while we do not."""
        await self._listed.wait()
        while True:
            await self._leadership.wait_until(held=True)
            for key in self._everything():
                self._queue.add(key)
            workers = [asyncio.create_task(self._work()) for _ in range(self._workers)]
            try:
                await self._leadership.wait_until(held=False)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    async def _work(self) -> None:
        while True:
            taken = await self._queue.take()
            self._telemetry.waited.observe(taken.waited)
            await self._look_at(taken.key)

    async def _look_at(self, key: str) -> None:
        """Reconcile one key and say to the queue what became of it."""
        started = time.perf_counter()
        outcome = "failed"
        try:
            with about(key), span("reconcile", {"feedback.iteration": key}):
                outcome = await self._reconcile(key)
        except asyncio.CancelledError:
            self._queue.forget(key)
            outcome = "cancelled"
            raise
        except self._expected as error:
            rest = self._queue.fail(key)
            self._telemetry.retries.inc()
            with about(key):
                logger.info("again in %.1f s: %s", rest, error)
        except Exception:
            rest = self._queue.fail(key)
            self._telemetry.retries.inc()
            with about(key):
                logger.exception("reconciliation failed; again in %.1f s", rest)
        finally:
            self._telemetry.reconciled.labels(outcome).observe(time.perf_counter() - started)

    async def _reconcile(self, key: str) -> str:
        done = await reconcile(self._cluster, key, self._images)
        if done is None:
            self._queue.forget(key)
            return "nothing"
        self._tell(done)
        if done.refusal:
            rest = self._queue.fail(key)
            self._telemetry.retries.inc()
            logger.warning("again in %.1f s: %s: %s", rest, done.refusal.reason, done.refusal)
            return "blocked"
        self._queue.finish(key, wake_after=_rest(done))
        return "done"

    def _tell(self, done: Reconciled) -> None:
        before = done.found.status
        if done.status == before:
            return
        self._telemetry.changed(before, done.status)
        if told := news(before, done.status):
            level = logging.WARNING if told.warning else logging.INFO
            logger.log(level, "%s: %s", told.reason, told.note, extra={"stage": told.stage})
            self._announce(done.found, told)


def _rest(done: Reconciled) -> float | None:
    """Seconds until time alone changes the plan; None where it never does."""
    conditions = {condition.type: condition.status for condition in done.status.conditions}
    rests = [LOOK_AGAIN_SECONDS] if conditions.get("Reconciling") == "True" else []
    if done.plan.wake_at:
        rests.append((done.plan.wake_at - datetime.now(UTC)).total_seconds())
    return max(SOONEST_SECONDS, min(rests)) if rests else None
