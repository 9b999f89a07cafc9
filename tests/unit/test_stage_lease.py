"""One process at a time on one folder: whoever checks its lease at a moment is the only one who may write then."""

from __future__ import annotations

import errno
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedback_workloads.contract import BadInput, Temporary
from feedback_workloads.process.progress import Progress
from feedback_workloads.storage import lease as lease_module
from feedback_workloads.storage.artifacts import ArtifactStore
from feedback_workloads.storage.lease import HEARTBEAT_SECONDS, LEASE_NAME, LEASE_SECONDS, Lease, Record, held, look
from feedback_workloads.storage.objects import Absent, FileObjects, Version


class TooLong(Exception):
    """The one that waits has waited for longer than the test lets it."""


@dataclass
class Time:
    """A clock that all processes of a test share, and what happens as it goes on."""

    now: float = 0.0
    happens: list[tuple[float, Callable[[], Any]]] = field(default_factory=list)
    end: float = 1000.0

    def pause(self, seconds: float) -> None:
        self.now += seconds
        if self.now > self.end:
            raise TooLong
        for event in [event for event in self.happens if event[0] <= self.now]:
            self.happens.remove(event)
            event[1]()


@pytest.fixture
def clock() -> Time:
    return Time()


def lease(folder: Path, clock: Time, owner: str = "") -> Lease:
    return Lease(FileObjects(), str(folder), owner, clock=lambda: clock.now, pause=clock.pause)


def waits(one: Lease, clock: Time) -> tuple[float, list[Record]]:
    """How long it waits for the lease, and whose it sees it to be meanwhile."""
    began, seen = clock.now, []
    one.acquire(seen.append)
    return clock.now - began, seen


def test_nobody_waits_for_what_nobody_has(tmp_path: Path, clock: Time) -> None:
    first = lease(tmp_path, clock, "default/a/1")
    assert waits(first, clock) == (0, [])
    first.release()
    assert waits(lease(tmp_path, clock, "default/b/2"), clock) == (0, [])


def test_the_second_waits_until_the_first_has_ended_and_knows_for_whom(tmp_path: Path, clock: Time) -> None:
    first = lease(tmp_path, clock, "team/policy-a/0f3c")
    first.acquire(lambda _: None)
    clock.happens = [(float(second), first.beat) for second in range(5, 600, 5)] + [(600.0, first.release)]
    waited, seen = waits(lease(tmp_path, clock, "team/policy-b/77aa"), clock)
    assert waited == pytest.approx(600, abs=2)
    assert {record.who for record in seen} == {"iteration team/policy-a"}


def test_one_that_was_killed_is_followed_after_its_lease(tmp_path: Path, clock: Time) -> None:
    first = lease(tmp_path, clock)
    first.acquire(lambda _: None)
    waited, seen = waits(lease(tmp_path, clock), clock)
    assert waited == pytest.approx(LEASE_SECONDS, abs=2)
    assert {record.who for record in seen} == {"another process"}
    with pytest.raises(Temporary, match=r"has taken over the work on .*; run the stage again: it uses what the other"):
        first.check()


def test_one_that_lost_its_lease_changes_nothing_any_more(tmp_path: Path, clock: Time) -> None:
    first, second = lease(tmp_path, clock), lease(tmp_path, clock)
    first.acquire(lambda _: None)
    own = ArtifactStore(tmp_path / "cache").guarded(first.check)
    own.put(b"mine", str(tmp_path), "checkpoint")
    waits(second, clock)
    objects = own.objects(str(tmp_path))
    for change in (
        lambda: objects.write(f"{tmp_path}/checkpoint", b"late"),
        lambda: objects.create(f"{tmp_path}/manifest.json", b"late"),
        lambda: objects.replace(f"{tmp_path}/checkpoint", b"late", objects.version(f"{tmp_path}/checkpoint").tag),
        lambda: objects.upload(tmp_path / "checkpoint", f"{tmp_path}/other"),
        lambda: objects.delete(f"{tmp_path}/checkpoint"),
    ):
        with pytest.raises(Temporary):
            change()
    assert objects.read(f"{tmp_path}/checkpoint") == b"mine"
    assert {file.name for file in tmp_path.iterdir() if not file.name.startswith(".")} == {"checkpoint", LEASE_NAME}
    second.check()


def test_an_outage_of_the_server_costs_nobody_the_lease(tmp_path: Path, clock: Time) -> None:
    """For ten minutes neither can reach it: the first has not beaten, and the second has not looked."""
    first, second = lease(tmp_path, clock), lease(tmp_path, clock)
    first.acquire(lambda _: None)
    clock.happens = [(10.0, lambda: clock.pause(600)), (612.0, first.beat), (615.0, first.release)]
    waited, _ = waits(second, clock)
    assert waited == pytest.approx(615, abs=2)
    second.check()


def test_a_write_whose_answer_was_lost_is_a_write(tmp_path: Path, clock: Time) -> None:
    class Forgetful(FileObjects):
        """Does what it is asked for, and says that it could not."""

        def create(self, uri: str, data: bytes) -> bool:
            super().create(uri, data)
            return False

        def replace(self, uri: str, data: bytes, tag: str) -> bool:
            super().replace(uri, data, tag)
            return False

    first = Lease(Forgetful(), str(tmp_path), "", clock=lambda: clock.now, pause=clock.pause)
    assert waits(first, clock)[0] < HEARTBEAT_SECONDS
    first.beat()
    first.check()


def test_without_conditional_writes_one_of_two_finds_that_it_is_not_alone(tmp_path: Path, clock: Time) -> None:
    class Unconditional(FileObjects):
        """A server that heeds no condition; both look before either writes."""

        def __init__(self) -> None:
            self.looks = 0

        def version(self, uri: str) -> Version:
            self.looks += 1
            if self.looks == 1:
                raise Absent(uri)
            return super().version(uri)

        def create(self, uri: str, data: bytes) -> bool:
            self.write(uri, data)
            return True

        def replace(self, uri: str, data: bytes, tag: str) -> bool:
            self.write(uri, data)
            return True

    both = [Lease(Unconditional(), str(tmp_path), "", clock=lambda: clock.now, pause=clock.pause) for _ in range(2)]
    assert [one.take(lambda _: None) for one in both] == [True, True]
    for one in both:
        one.beat()
    assert [passes(one) for one in both].count(True) == 1


class Failing(FileObjects):
    """A disk whose n-th writes of the lease fail, counted from 1; `well` is set by the write after the last of them."""

    def __init__(self, *failures: int) -> None:
        self.failures = set(failures)
        self.writes = 0
        self.well = threading.Event()

    def replace(self, uri: str, data: bytes, tag: str) -> bool:
        self.writes += 1
        if self.writes in self.failures:
            raise OSError(errno.EIO, "Input/output error")
        if self.writes > max(self.failures):
            self.well.set()
        return super().replace(uri, data, tag)


@pytest.fixture
def progress() -> Progress:
    return Progress("training")


def store_on(objects: FileObjects, cache: Path) -> ArtifactStore:
    store = ArtifactStore(cache)
    store._files = objects
    return store


def test_a_beat_that_fails_is_not_the_last(tmp_path: Path, progress: Progress, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a training that stores nothing for half a minute would be taken over from a process that lives."""
    monkeypatch.setattr(lease_module, "HEARTBEAT_SECONDS", 0.01)
    objects = Failing(1, 2)
    with held(store_on(objects, tmp_path / "cache"), str(tmp_path), progress.phase):
        assert objects.well.wait(30)


def test_what_was_made_is_not_lost_where_the_lease_cannot_be_released(tmp_path: Path, progress: Progress) -> None:
    with held(store_on(Failing(1), tmp_path / "cache"), str(tmp_path), progress.phase) as own:
        own.put(b"made", str(tmp_path), "model")
    assert (tmp_path / "model").read_bytes() == b"made"


def test_what_is_not_a_lease_is_not_taken_for_one(tmp_path: Path, clock: Time) -> None:
    (tmp_path / LEASE_NAME).write_text('{"tenant": "somebody"}')
    with pytest.raises(BadInput, match=r"lease.json is not a lease of ours; give spec.artifacts.uri a folder"):
        lease(tmp_path, clock).acquire(lambda _: None)
    assert (tmp_path / LEASE_NAME).read_text() == '{"tenant": "somebody"}'


def test_a_removed_record_is_written_again(tmp_path: Path, clock: Time) -> None:
    first = lease(tmp_path, clock, "default/a/1")
    first.acquire(lambda _: None)
    (tmp_path / LEASE_NAME).unlink()
    first.beat()
    record = look(FileObjects(), str(tmp_path))
    assert record is not None
    assert record.owner == "default/a/1"


STEP = st.tuples(st.integers(0, 2), st.sampled_from(["look", "beat", "check"]), st.sampled_from([0, 1, 4, 9, 31]))


@given(st.lists(STEP, max_size=60))
@settings(max_examples=150, deadline=None)
def test_two_never_hold_it_at_once(steps: list[tuple[int, str, int]]) -> None:
    """Three processes that look, beat, check and are frozen as it comes: a moment has one that may write, at most."""
    clock = Time(end=1e9)
    with tempfile.TemporaryDirectory() as folder:
        leases = [lease(Path(folder), clock) for _ in range(3)]
        holds = [False] * 3
        for who, what, seconds in steps:
            clock.now += seconds
            match what:
                case "look" if not holds[who]:
                    holds[who] = leases[who].take(lambda _: None)
                case "beat" if holds[who]:
                    leases[who].beat()
                case "check" if holds[who]:
                    may = [one for one in range(3) if holds[one] and passes(leases[one])]
                    assert len(may) <= 1


def passes(one: Lease) -> bool:
    try:
        one.check()
    except Temporary:
        return False
    return True
