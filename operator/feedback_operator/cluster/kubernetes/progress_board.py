"""Progress of running stages: their pods' metrics, asked for in turn, never more than the network and we can bear."""

from __future__ import annotations

import asyncio
import heapq
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import aiohttp

from feedback_operator.cluster.kubernetes.caches import Caches, Entry
from feedback_operator.cluster.kubernetes.observed import ObservedPod
from feedback_operator.cluster.progress import fetch, joined, scraping
from feedback_operator.plan.snapshot import Units
from feedback_operator.resources.job import METRICS_PORT

ROUND_SECONDS: Final = 2.0
PODS_A_ROUND: Final = 32
ASK_EVERY_SECONDS: Final = 5.0
LONGEST_SILENCE_SECONDS: Final = 120.0
NEWS_EVERY_SECONDS: Final = 5.0
NOTHING: Final = Units()


@dataclass
class _Asked:
    """What a pod said last, and when it is asked again: ever more seldom while it does not answer."""

    job: str
    due: float = 0.0
    units: Units = NOTHING
    silent_seconds: float = ASK_EVERY_SECONDS


class ProgressBoard:
    """Units of each running Job, as its pods said last. `tell` gets the key of an iteration that has news."""

    def __init__(self, caches: Caches, tell: Callable[[str], None], port: int = METRICS_PORT) -> None:
        self._caches = caches
        self._tell = tell
        self._port = port
        self._asked: dict[str, _Asked] = {}
        self._by_job: defaultdict[str, set[str]] = defaultdict(set)
        self._told: dict[str, float] = {}

    def units(self, job: str, *, together: bool) -> Units:
        """Progress of the Job with this uid, whose pods share the work out or do it together."""
        return joined([self._asked[pod].units for pod in sorted(self._by_job.get(job, ()))], together=together)

    async def run(self) -> None:
        """Forever, round by round."""
        async with scraping() as session:
            while True:
                await self._round(session)
                await asyncio.sleep(ROUND_SECONDS)

    async def _round(self, session: aiohttp.ClientSession) -> None:
        running = {e.identity.uid: e for e in self._caches.pods.entries() if e.value.pod.running and e.value.address}
        for gone in self._asked.keys() - running.keys():
            self._forget(gone)
        for uid, entry in running.items():
            if uid not in self._asked:
                self._asked[uid] = _Asked(entry.group)
                self._by_job[entry.group].add(uid)
        now = asyncio.get_running_loop().time()
        due = [(asked.due, uid) for uid, asked in self._asked.items() if asked.due <= now]
        chosen = [running[uid] for _, uid in heapq.nsmallest(PODS_A_ROUND, due)]
        await asyncio.gather(*(self._ask(session, entry) for entry in chosen))

    async def _ask(self, session: aiohttp.ClientSession, entry: Entry[ObservedPod]) -> None:
        asked = self._asked[entry.identity.uid]
        units = await fetch(session, self._metrics_of(entry.value))
        now = asyncio.get_running_loop().time()
        if units is None:
            asked.silent_seconds = min(LONGEST_SILENCE_SECONDS, asked.silent_seconds * 2)
            asked.due = now + asked.silent_seconds
            return
        asked.due, asked.silent_seconds = now + ASK_EVERY_SECONDS, ASK_EVERY_SECONDS
        if units != asked.units:
            asked.units = units
            self._news(f"{entry.identity.namespace}/{entry.value.iteration}", now)

    def _metrics_of(self, pod: ObservedPod) -> str:
        host = f"[{pod.address}]" if ":" in pod.address else pod.address
        return f"http://{host}:{self._port}/metrics"

    def _news(self, key: str, now: float) -> None:
        """At most one in a few seconds an iteration; what is not told is told with the next change."""
        if now - self._told.get(key, float("-inf")) >= NEWS_EVERY_SECONDS:
            self._told[key] = now
            self._tell(key)

    def _forget(self, pod: str) -> None:
        job = self._asked.pop(pod).job
        self._by_job[job].discard(pod)
        if not self._by_job[job]:
            del self._by_job[job]
        if not self._asked:
            self._told.clear()
