"""One replica acts at a time: whoever holds a Lease, and knows for sure that nobody else can hold it.

The election that comes with the client library would not do: it bounds no call by time, so a hung connection keeps it
leading; it writes local time as UTC; it ends on a network error; and nothing tells a process that was frozen that its
time is over. Here the right to write ends by this machine's clock, `renew_within` after the last renewal was *sent*,
while others wait for the whole `duration` after they *saw* it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from feedback_operator.api.calls import BY_NAME
from feedback_operator.cluster.kubernetes.apiserver import ApiServer, ApiServerError, Conflict, Exists, Missing

logger = logging.getLogger(__name__)
LEASE: Final = BY_NAME["Lease"]


@dataclass(frozen=True)
class Terms:
    """Which Lease, who we are, and the times in seconds. `duration` > `renew_within` > `renew_every`."""

    namespace: str
    name: str
    identity: str
    duration: int = 15
    renew_within: float = 10.0
    renew_every: float = 3.0
    look_every: float = 1.0


@dataclass(frozen=True)
class Seen:
    """The Lease as it was read, and when, by our clock, its holder gave a sign of life last."""

    body: dict[str, Any]
    since: float

    @property
    def holder(self) -> str:
        return str(self.body["spec"].get("holderIdentity") or "")

    def expires(self) -> float:
        """When, by our clock, anybody may take it."""
        return self.since + float(self.body["spec"].get("leaseDurationSeconds") or 0)


def look(before: Seen | None, body: dict[str, Any], now: float, age: float) -> Seen:
    """A holder lives as long as the Lease changes, by our clock.

    At the first look `age` is what its own clock says of its last renewal. However wrong that is, it counts for no more
    than the time by which a holder stops to write before its Lease ends.
    """
    version = body["metadata"]["resourceVersion"]
    if before is None:
        return Seen(body, since=now - age)
    return before if before.body["metadata"]["resourceVersion"] == version else Seen(body, since=now)


def age_of(body: dict[str, Any], terms: Terms, moment: datetime) -> float:
    """Seconds since the last renewal by the clocks of this and the other machine, within what is safe to believe."""
    renewed = body["spec"].get("renewTime")
    seconds = (moment - datetime.fromisoformat(renewed)).total_seconds() if renewed else 0.0
    return min(max(seconds, 0.0), terms.duration - terms.renew_within)


def free(seen: Seen, terms: Terms, now: float) -> bool:
    """It is ours, nobody's, or its holder gave no sign for its whole duration."""
    return seen.holder in ("", terms.identity) or now >= seen.expires()


def claim(terms: Terms, seen: Seen | None, moment: datetime) -> dict[str, Any]:
    """The Lease with us as its holder."""
    stamp = moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    spec = dict(seen.body["spec"]) if seen else {}
    if spec.get("holderIdentity") != terms.identity:
        spec["leaseTransitions"] = int(spec.get("leaseTransitions") or 0) + (1 if seen else 0)
        spec["acquireTime"] = stamp
    spec |= {"holderIdentity": terms.identity, "leaseDurationSeconds": terms.duration, "renewTime": stamp}
    metadata = seen.body["metadata"] if seen else {"name": terms.name, "namespace": terms.namespace}
    return {"apiVersion": LEASE.api_version, "kind": LEASE.name, "metadata": metadata, "spec": spec}


class Leadership:
    """Takes the Lease, keeps it, and takes it again after it was lost."""

    def __init__(self, api: ApiServer, terms: Terms, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._terms = terms
        self._clock = clock
        self._seen: Seen | None = None
        self._leader = ""
        self._may_write_until = float("-inf")
        self._changed = asyncio.Event()

    def held(self) -> bool:
        """Whether we may write, now. True a moment ago says nothing: ask before each write."""
        return self._clock() < self._may_write_until

    async def wait_until(self, held: bool) -> None:
        """Return once leadership is held, or lost."""
        while self.held() != held:
            self._changed.clear()
            left = self._may_write_until - self._clock() if not held else None
            try:
                async with asyncio.timeout(left):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def run(self) -> None:
        """Forever: take the Lease and keep it. Gives it back when cancelled, so that another takes it at once."""
        try:
            while True:
                await asyncio.sleep(await self._step())
        finally:
            if self.held():
                await self._give_back()

    async def _step(self) -> float:
        """One look or renewal; seconds until the next one."""
        terms = self._terms
        sent = self._clock()
        was_held = self.held()
        try:
            async with asyncio.timeout(terms.renew_every if was_held else terms.renew_within):
                ours = await self._take_or_renew()
        except (ApiServerError, TimeoutError) as error:
            logger.warning("the Lease %s could not be renewed or read: %s", terms.name, error or "timeout")
            self._seen = None if isinstance(error, Missing) else self._seen
            return min(1.0, terms.look_every)
        if ours:
            self._hold_until(sent + terms.renew_within)
            return max(0.0, terms.renew_every - (self._clock() - sent))
        if self._seen and self._seen.holder == terms.identity:
            return 0.01  # our own renewal got through though its answer did not: renew from that version
        self._stand_by()
        left = self._seen.expires() - self._clock() if self._seen else 0.0
        return max(0.01, min(terms.look_every, left))

    async def _take_or_renew(self) -> bool:
        """Whether the Lease is ours afterwards. One call while we hold it undisturbed."""
        if self._seen is None or self._seen.holder != self._terms.identity:
            await self._read()
        if self._seen is not None and not free(self._seen, self._terms, self._clock()):
            return False
        wanted = claim(self._terms, self._seen, datetime.now(UTC))
        try:
            if self._seen is None:
                body = await self._api.create(LEASE, wanted)
            else:
                body = await self._api.update(LEASE, wanted, self._terms.renew_every)
        except (Conflict, Exists):
            await self._read()
            return False
        self._seen = Seen(body, since=self._clock())
        return True

    async def _read(self) -> None:
        try:
            body = await self._api.get(LEASE, self._terms.namespace, self._terms.name)
        except Missing:
            self._seen = None
        else:
            self._seen = look(self._seen, body, self._clock(), age_of(body, self._terms, datetime.now(UTC)))

    def _stand_by(self) -> None:
        self._hold_until(float("-inf"))
        if self._seen and self._seen.holder != self._leader:
            self._leader = self._seen.holder
            logger.info("standing by as %s; %s leads", self._terms.identity, self._leader)

    def _hold_until(self, moment: float) -> None:
        before, self._may_write_until = self.held(), moment
        if self.held() != before:
            logger.info("leading as %s" if self.held() else "not leading, as %s", self._terms.identity)
            self._changed.set()

    async def _give_back(self) -> None:
        """Name no holder, so that nobody has to wait."""
        self._hold_until(float("-inf"))
        if self._seen is None:
            return
        body = claim(self._terms, self._seen, datetime.now(UTC))
        body["spec"]["holderIdentity"] = ""
        try:
            async with asyncio.timeout(self._terms.renew_every):
                await self._api.update(LEASE, body, self._terms.renew_every)
        except (ApiServerError, TimeoutError) as error:
            logger.warning("the Lease was not given back, another replica has to wait: %s", error or "timeout")
