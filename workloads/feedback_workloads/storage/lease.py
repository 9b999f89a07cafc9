"""One process at a time on a folder that changes as its work goes on: a lease, kept in the folder itself.

The record `lease.json` is only ever replaced by conditional writes. Its holder replaces it every few seconds; who wants
it watches it, and takes it over where it was released, or where it stayed as it was for LEASE_SECONDS. Those are
counted on the watcher's own clock, and only while it can read the record: clocks need not agree, and a server that is
out of reach for both makes nobody lose anything.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from pydantic import ValidationError

from feedback_workloads.contract import BadInput, Frozen, Temporary, canonical_json
from feedback_workloads.storage.artifacts import ArtifactStore
from feedback_workloads.storage.objects import Absent, Objects, join

LEASE_NAME = "lease.json"
HEARTBEAT_SECONDS = 5.0
LEASE_SECONDS = 30.0
LOOK_SECONDS = 1.0
"""Between two looks at a lease that somebody else has."""
MAY_PASS = (Temporary, BadInput, OSError)
"""What storage raises. Saying that one is alive is tried again, and what it is about is met by the next change, too."""
ITERATION_VARIABLE = "FEEDBACK_ITERATION"
"""For whom a stage process works, `namespace/name/uid`: set on every pod by the operator."""


class Record(Frozen):
    """Who has the lease. `holder` is a random name of one process, `owner` the iteration that it works for."""

    holder: str
    owner: str
    beats: int = 0
    released: bool = False

    @property
    def run(self) -> str:
        """A name for what this holder alone writes: eight hex digits of its owner's, and eight of its own."""
        return f"{owner_digest(self.owner)}-{self.holder[:8]}"

    @property
    def who(self) -> str:
        """The owner for a person to read."""
        return f"iteration {self.owner.rpartition('/')[0]}" if self.owner else "another process"

    def encode(self) -> bytes:
        return canonical_json(self.model_dump(mode="json"))


def owner_of_this_process() -> str:
    return os.environ.get(ITERATION_VARIABLE, "")


def owner_digest(owner: str) -> str:
    return hashlib.sha256(owner.encode()).hexdigest()[:8]


@dataclass(frozen=True)
class _Seen:
    record: Record
    tag: str


def look(objects: Objects, uri: str) -> Record | None:
    """The record of the folder `uri`; None where nobody ever had the lease."""
    seen = _look(objects, uri)
    return seen.record if seen else None


def _look(objects: Objects, uri: str) -> _Seen | None:
    name = join(uri, LEASE_NAME)
    try:
        version = objects.version(name)
    except Absent:
        return None
    try:
        return _Seen(Record.model_validate_json(version.data), version.tag)
    except ValidationError as error:
        raise BadInput(
            f"{name} is not a lease of ours; give spec.artifacts.uri a folder that nobody else uses"
        ) from error


class Watch:
    """Tells when a record has stayed as it is for too long, from looks at it no further apart than two heartbeats."""

    def __init__(self) -> None:
        self._tag = ""
        self._since = self._last = 0.0

    def is_dead(self, tag: str, now: float) -> bool:
        """Whether the record, which has this tag at `now` (in seconds of a monotonic clock), has lost its holder."""
        if tag != self._tag or now - self._last > 2 * HEARTBEAT_SECONDS:
            self._tag, self._since = tag, now
        self._last = now
        return now - self._since >= LEASE_SECONDS


class Lease:
    """The lease of this process on the folder `uri`."""

    def __init__(
        self,
        objects: Objects,
        uri: str,
        owner: str,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._objects = objects
        self._uri = uri
        self._name = join(uri, LEASE_NAME)
        self._first = Record(holder=uuid.uuid4().hex, owner=owner)
        self._clock = clock
        self._pause = pause
        self._watch = Watch()
        self._beating = threading.Lock()
        self._heard = 0.0
        self._lost_to: Record | None = None

    def acquire(self, waiting: Callable[[Record], None]) -> None:
        """Return once the lease is this process's; call `waiting` with whose it is meanwhile, at every look."""
        while not self.take(waiting):
            self._pause(LOOK_SECONDS)

    def take(self, waiting: Callable[[Record], None]) -> bool:
        """Take the lease if it is to be had, and tell whether it is this process's now."""
        taken = self._take(waiting)
        if taken:
            self._heard = self._clock()
        return taken

    def _take(self, waiting: Callable[[Record], None]) -> bool:
        seen = _look(self._objects, self._uri)
        if seen is None:
            return self._objects.create(self._name, self._first.encode())
        if seen.record.holder == self._first.holder:  # written, although the answer did not say so
            return True
        if seen.record.released or self._watch.is_dead(seen.tag, self._clock()):
            return self._objects.replace(self._name, self._first.encode(), seen.tag)
        waiting(seen.record)
        return False

    def beat(self) -> None:
        """Say that the holder is alive. Once another one has the record, this one has lost the lease for good."""
        with self._beating:
            self._beat()

    def _beat(self) -> None:
        seen = _look(self._objects, self._uri)
        if seen is None:  # somebody removed it
            self._objects.create(self._name, self._first.encode())
        elif seen.record.holder != self._first.holder:
            self._lost_to = seen.record
        else:
            again = seen.record.model_copy(update={"beats": seen.record.beats + 1})
            if self._objects.replace(self._name, again.encode(), seen.tag):
                self._heard = self._clock()

    def check(self) -> None:
        """Raise Temporary where another process has the lease: to be called before each change of the folder."""
        with self._beating:
            if self._lost_to is None and self._clock() - self._heard > 2 * HEARTBEAT_SECONDS:
                self._beat()
        if self._lost_to:
            raise Temporary(
                f"{self._lost_to.who} has taken over the work on {self._uri}, since this process was not heard of for "
                f"{LEASE_SECONDS:.0f} seconds; run the stage again: it uses what the other one makes"
            )

    def release(self) -> None:
        """Let the next process have it at once."""
        seen = _look(self._objects, self._uri)
        if seen and seen.record.holder == self._first.holder:
            released = seen.record.model_copy(update={"released": True})
            self._objects.replace(self._name, released.encode(), seen.tag)


@contextmanager
def held(store: ArtifactStore, uri: str, say: Callable[[str], None]) -> Iterator[ArtifactStore]:
    """Wait for the lease of the folder `uri` and keep it; give a store that changes nothing once it is lost."""
    objects = store.objects(uri)
    lease = Lease(objects, uri, owner_of_this_process())
    lease.acquire(lambda record: say(_waiting(record)))
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(HEARTBEAT_SECONDS):
            with suppress(*MAY_PASS):
                lease.beat()

    heart = threading.Thread(target=beat, name="lease", daemon=True)
    heart.start()
    try:
        yield store.guarded(lease.check)
    finally:
        ended.set()
        heart.join()
        with suppress(*MAY_PASS):  # the lease ends by itself then, and what was made is made
            lease.release()


def follow(store: ArtifactStore, uri: str, finished: Callable[[], bool], say: Callable[[str], None]) -> None:
    """For a process that helps the holder: return once one of its own iteration has the lease, or all is made."""
    while not finished():
        record = look(store.objects(uri), uri)
        if record and record.owner == owner_of_this_process():
            return
        say(f"waiting for {record.who}, which does the same work" if record else "waiting for the first node")
        time.sleep(LOOK_SECONDS)


def _waiting(record: Record) -> str:
    return f"waiting for {record.who}, which does the same work"
