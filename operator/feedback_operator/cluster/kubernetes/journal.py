"""Events for `kubectl describe`: written beside the work, never in its way, and dropped rather than piled up."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import Final

from feedback_operator.api import API_VERSION, KIND, FeedbackIteration
from feedback_operator.api.calls import BY_NAME
from feedback_operator.cluster.kubernetes.apiserver import ApiServer, ApiServerError, NotLeading
from feedback_operator.plan.news import News
from feedback_operator.resources import Manifest

logger = logging.getLogger(__name__)

EVENT: Final = BY_NAME["Event"]
REPORTER: Final = "feedback.rlaif.dev/operator"
MOST_WAITING: Final = 1000


class Journal:
    """Events that wait to be written. `instance` says which replica reports."""

    def __init__(self, api: ApiServer, instance: str) -> None:
        self._api = api
        self._instance = instance
        self._waiting: asyncio.Queue[Manifest] = asyncio.Queue(MOST_WAITING)

    def announce(self, iteration: FeedbackIteration, told: News) -> None:
        """Write it soon; where too many wait already, drop it: the status has it all."""
        try:
            self._waiting.put_nowait(build_event(iteration, told, self._instance, datetime.now(UTC)))
        except asyncio.QueueFull:
            logger.warning("more than %d events wait to be written; one is dropped", MOST_WAITING)

    async def run(self) -> None:
        """Forever: write what waits."""
        while True:
            event = await self._waiting.get()
            try:
                await self._api.create(EVENT, event)
            except (ApiServerError, NotLeading) as error:
                logger.info("an event is lost: %s", error)


def build_event(iteration: FeedbackIteration, told: News, instance: str, now: datetime) -> Manifest:
    """An Event about an iteration."""
    meta = iteration.metadata
    return {
        "apiVersion": EVENT.api_version,
        "kind": EVENT.name,
        "metadata": {"name": f"{meta.name}.{int(now.timestamp() * 1e6):x}", "namespace": meta.namespace},
        "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": REPORTER,
        "reportingInstance": instance[:128],
        "action": "Reconcile",
        "reason": told.reason[:128],
        "note": told.note,
        "type": "Warning" if told.warning else "Normal",
        "regarding": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "namespace": meta.namespace,
            "name": meta.name,
            "uid": meta.uid,
        },
    }
