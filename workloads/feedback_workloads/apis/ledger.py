"""What was paid to an API for one piece of work, over all processes that had a part in it, and how much may be."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import asdict, dataclass
from threading import Lock
from typing import Final

from feedback_workloads.apis.client import Reply
from feedback_workloads.apis.replies import MILLION, Usage, usage_of
from feedback_workloads.contract import BadInput, Price
from feedback_workloads.storage.objects import Objects, join

WRITTEN_EVERY_SECONDS: Final = 1.0
FOLDER: Final = "usage"
"""Below an artifact's folder: a file a process. Not part of the artifact."""


FREE: Final = Price()


@dataclass(frozen=True)
class Limits:
    """Most tokens, and most money in the currency of `price`; `field` is where a person sets them."""

    tokens: float | None = None
    cost: float | None = None
    price: Price = FREE
    field: str = ""

    def check(self, paid: Usage) -> None:
        """Raise BadInput where one is reached."""
        if self.tokens is not None and paid.tokens >= self.tokens:
            self._reached("tokens", f"{paid.tokens} of {self.tokens:.0f} tokens")
        if self.cost is not None and paid.cost_micros >= self.cost * MILLION:
            self._reached("cost", f"{paid.cost_micros / MILLION:.6g} of {self.cost:.6g}")

    def _reached(self, limit: str, spent: str) -> None:
        raise BadInput(f"{self.field}.{limit} is reached: {spent} are spent; raise it, and the answers so far are kept")


NONE: Final = Limits()


class Ledger:
    """Counts what replies cost, against limits. Threads share it.

    With `objects` it is kept below the folder `uri`, in one file a process, written once a second at most: what a
    killed process paid in its last second is not counted there. Without, it begins with nothing and ends with the
    process.
    """

    def __init__(self, limits: Limits = NONE, objects: Objects | None = None, uri: str = "") -> None:
        self._limits = limits
        self._objects = objects
        self._file = join(uri, f"{FOLDER}/{uuid.uuid4().hex}.json")
        self._before = stored_usage(objects, uri) if objects else Usage()
        self._here = Usage()
        self._lock = Lock()
        self._written, self._written_at = Usage(), float("-inf")

    @property
    def paid(self) -> Usage:
        """By this process and all before it."""
        return self._before + self._here

    def check(self) -> None:
        """Raise BadInput where a limit is reached. Requests that are under way come on top."""
        self._limits.check(self.paid)

    def pay(self, reply: Reply) -> None:
        """Count a reply."""
        usage = usage_of(reply, self._limits.price)
        with self._lock:
            self._here += usage
            if time.monotonic() - self._written_at >= WRITTEN_EVERY_SECONDS:
                self._write()

    def write(self) -> None:
        """Store what is not stored yet."""
        with self._lock:
            self._write()

    def _write(self) -> None:
        if self._objects and self._here != self._written:
            self._objects.write(self._file, json.dumps(asdict(self._here)).encode())
            self._written = self._here
            self._written_at = time.monotonic()


def stored_usage(objects: Objects, uri: str) -> Usage:
    """What all processes have written below the folder `uri`."""
    folder = join(uri, FOLDER)
    files = [objects.read(join(folder, listed.name)) for listed in objects.list(folder)]
    return sum((Usage(**json.loads(data)) for data in files), Usage())
