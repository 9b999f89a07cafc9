"""Many requests to one API: some under way at a time, each answered once, those that fail for now sent again."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from threading import Event
from typing import Any, Final, Protocol, TypeVar

from feedback_workloads.apis.client import Busy, Client, Garbled, Refused, Reply
from feedback_workloads.apis.ledger import Ledger
from feedback_workloads.apis.replies import readable
from feedback_workloads.contract import BadInput, Temporary

Key = TypeVar("Key")

AT_ONCE: Final = 8
ATTEMPTS: Final = 6
LONGEST_WAIT_SECONDS: Final = 60.0
"""Between two attempts, unless the API asks for more; the first one lasts a second, and each twice the one before."""
LONGEST_HEEDED_SECONDS: Final = 3600.0
"""As long as that an API may ask to be left alone."""


@dataclass(frozen=True)
class Request:
    """What a model is asked. `parameters` are those of the API beside model and messages, such as `temperature`.

    `run` tells apart what is asked several times on purpose.
    """

    messages: tuple[Mapping[str, Any], ...]
    parameters: Mapping[str, Any]
    run: int = 1

    @staticmethod
    def of(user: str, *, system: str = "", run: int = 1, **parameters: Any) -> Request:
        """One message of a user, after one of the system where there is such a text."""
        first = ({"role": "system", "content": system},) if system else ()
        return Request((*first, {"role": "user", "content": user}), parameters, run)

    def key(self, model: str) -> str:
        """SHA-256 (hex) of all that the reply depends on but for where the model is."""
        identity = {"model": model, "messages": self.messages, "run": self.run, **self.parameters}
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


class Queue(Iterator[Key]):
    """What follows from earlier replies, before what begins something new. It may end and go on later."""

    def __init__(self, following: deque[Key], new: Iterable[Key]) -> None:
        self._following = following
        self._new = iter(new)

    def __next__(self) -> Key:
        return self._following.popleft() if self._following else next(self._new)


class Kept(Protocol):
    """Where replies stay, by their requests' keys. Threads share it."""

    def find(self, key: str) -> Reply | None:
        """The reply that was kept, if any."""
        ...

    def keep(self, key: str, reply: Reply) -> None:
        """Keep a reply; once this returns, no kill loses it."""
        ...


@dataclass(frozen=True)
class Asking:
    """How one model is asked. `at_once` requests are under way at most, and each is sent `attempts` times at most.

    `pause` waits for some seconds, or until the event.
    """

    client: Client
    kept: Kept
    ledger: Ledger
    at_once: int = AT_ONCE
    attempts: int = ATTEMPTS
    pause: Callable[[Event, float], object] = Event.wait

    def replies(
        self, requests: Iterable[tuple[Key, Request]], usable: Callable[[Reply], bool] = readable
    ) -> Iterator[tuple[Key, Reply | Refused]]:
        """Yield `(key, reply)` as soon as it is there, in any order; Refused of a request that the API does not take.

        Reads a request when there is room for it. An iterator of requests that ends is asked again after each reply,
        since a reply may give rise to a request. What was kept is not asked, and every usable reply is kept before it
        counts. However this ends, requests under way are waited for, so that what they cost is not lost.

        Raises BadInput where the API refuses altogether, replies stay unusable or a limit is reached; Temporary where
        the API goes on to fail.
        """
        stop, source, waiting = Event(), iter(requests), dict[Future[Reply | Refused], Key]()
        with ThreadPoolExecutor(self.at_once) as pool:
            try:
                while True:
                    while len(waiting) < self.at_once and (given := next(source, None)):
                        key, request = given
                        waiting[pool.submit(self._reply, request, usable, stop)] = key
                    if not waiting:
                        return
                    done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in done:
                        yield waiting.pop(future), future.result()
            finally:
                stop.set()
                pool.shutdown(cancel_futures=True)
                self.ledger.write()

    def _reply(self, request: Request, usable: Callable[[Reply], bool], stop: Event) -> Reply | Refused:
        key = request.key(self.client.model)
        if (found := self.kept.find(key)) is not None:
            return found
        trouble: BadInput | Temporary | None = None
        for attempt in range(self.attempts):
            if isinstance(trouble, Busy | Garbled):
                self.pause(stop, _patience(trouble, attempt))
            if stop.is_set():
                raise Temporary("the stage is ending; run it again, it goes on")
            self.ledger.check()
            try:
                reply = self.client.send({"messages": request.messages, **request.parameters})
            except Refused as refused:
                return refused
            except (Busy, Garbled) as failed:
                trouble = failed
                continue
            self.ledger.pay(reply)
            if usable(reply):
                self.kept.keep(key, reply)
                return reply
            trouble = self._unusable(reply)
        assert trouble
        raise type(trouble)(f"after {self.attempts} attempts: {trouble}")

    def _unusable(self, reply: Reply) -> BadInput:
        shown = json.dumps(reply, ensure_ascii=False)[:200]
        names = self.client.names
        return BadInput(
            f"{self.client.model} of {names.api} does not keep to the form that it is asked for: {shown}; name another "
            f"model by {names.model}"
        )


def _patience(trouble: Busy | Garbled, attempt: int) -> float:
    """Seconds before the attempt of this number, from 1 on."""
    if isinstance(trouble, Busy) and trouble.after is not None:
        return min(trouble.after, LONGEST_HEEDED_SECONDS)
    return min(2.0 ** (attempt - 1), LONGEST_WAIT_SECONDS)
