"""An API server that errs, refuses, forgets and vanishes: same end, nothing made twice."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from aiohttp import web

from tests.cluster.api import ITERATIONS, JOBS
from tests.cluster.control_plane import ControlPlane
from tests.cluster.history import History
from tests.cluster.proxy import Call, Proxy, expired, refusal
from tests.cluster.world import READY, condition, condition_of, iteration, stage_of
from tests.integration.operator.conftest import new_world

MANIFEST: Final = iteration("demo", training={"nodes": 2, "globalBatchSize": 8}, serving={"endpoint": "answers"})
OUTAGE_SECONDS: Final = float(os.environ.get("FEEDBACK_TEST_OUTAGE_SECONDS", "30"))
"""Five minutes shows no more than half of one, and takes ten times as long: set 300 to see."""

Fault = Callable[[Proxy, random.Random], None]


def errors(proxy: Proxy, dice: random.Random) -> None:
    """One call in ten fails with a server error."""

    async def before(call: Call) -> web.Response | None:
        return refusal(dice.choice((500, 502, 503, 504)), "InternalError") if dice.random() < 0.1 else None

    proxy.before = before


def conflicts(proxy: Proxy, dice: random.Random) -> None:
    """One write in three meets a conflict that is none."""

    async def before(call: Call) -> web.Response | None:
        writes = call.method in ("PATCH", "PUT")
        return refusal(409, "Conflict") if writes and dice.random() < 0.33 else None

    proxy.before = before


def too_many_requests(proxy: Proxy, dice: random.Random) -> None:
    """One call in five is told to come back in a second."""

    async def before(call: Call) -> web.Response | None:
        return refusal(429, "TooManyRequests", retry_after_seconds=1) if dice.random() < 0.2 else None

    proxy.before = before


def lost_answers(proxy: Proxy, dice: random.Random) -> None:
    """One call in five is carried out and its answer never arrives."""
    proxy.after = lambda call: not call.watch and dice.random() < 0.2


def dropped_watches(proxy: Proxy, dice: random.Random) -> None:
    """Every watch is cut whenever the operator writes."""

    def after(call: Call) -> bool:
        if call.write and not call.lease:
            proxy.cut_watches()
        return False

    proxy.after = after


def stale_caches(proxy: Proxy, dice: random.Random) -> None:
    """Watches are a second and a half behind."""
    proxy.lag_seconds = 1.5


@pytest.mark.parametrize(
    "fault",
    [errors, conflicts, too_many_requests, lost_answers, dropped_watches, stale_caches],
    ids=lambda f: f.__name__,
)
async def test_an_iteration_and_its_rollout_under(control_plane: ControlPlane, tmp_path: Path, fault: Fault) -> None:
    async with (
        new_world(control_plane, fault.__name__, tmp_path) as world,
        Proxy.start(control_plane) as proxy,
        History.of(world) as history,
    ):
        fault(proxy, random.Random(0))
        async with world.operator(kubeconfig=proxy.kubeconfig(world.token)):
            await world.apply(MANIFEST)
            done = await world.until("demo", READY, seconds=300)
        outcome = await history.outcome()
        assert (outcome.duplicates, outcome.changed) == ((), ())
        assert proxy.faults > 0
        assert condition_of(done, "Serving")["status"] == "True"


async def test_a_long_time_without_an_api_server(control_plane: ControlPlane, tmp_path: Path) -> None:
    async with (
        new_world(control_plane, "outage", tmp_path) as world,
        Proxy.start(control_plane) as proxy,
        History.of(world) as history,
    ):
        held = world.script.hold("training")
        async with world.operator(kubeconfig=proxy.kubeconfig(world.token)) as operator:
            await world.apply(MANIFEST)
            await held.started.wait()
            running = await world.until("demo", lambda item: stage_of(item, "training").get("state") == "Running")
            proxy.down = True
            proxy.cut_watches()
            held.release()
            job = stage_of(running, "training")["job"]
            await world.api.wait(
                JOBS, world.namespace, job, lambda item: condition_of(item, "Complete").get("status") == "True"
            )
            await asyncio.sleep(OUTAGE_SECONDS)
            assert operator.process.poll() is None
            proxy.down = False
            await world.until("demo", READY, seconds=300)
        outcome = await history.outcome()
        assert (outcome.duplicates, outcome.changed) == ((), ())
        assert proxy.faults > 0


async def test_the_watch_of_pods_broken_for_good(control_plane: ControlPlane, tmp_path: Path) -> None:
    """What the pods of an ended Job have left is read, not given up."""

    async def no_watch_of_pods(call: Call) -> web.Response | None:
        return refusal(503, "ServiceUnavailable") if call.watch and call.path.endswith("/pods") else None

    async with (
        new_world(control_plane, "blind", tmp_path) as world,
        Proxy.start(control_plane) as proxy,
        History.of(world) as history,
    ):
        held = world.script.hold("training")
        async with world.operator(kubeconfig=proxy.kubeconfig(world.token)):
            await world.apply(MANIFEST)
            await held.started.wait()
            proxy.before = no_watch_of_pods
            proxy.cut_watches()
            held.release()
            await world.until("demo", READY, seconds=120)
        outcome = await history.outcome()
        assert (outcome.duplicates, outcome.changed) == ((), ())
        assert proxy.faults > 0


async def test_a_holder_deleted_while_its_watch_was_broken_gives_its_endpoint_up(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    """The API server does not remember any more where the watch stood, so that nothing says what has gone since."""
    gone = asyncio.Event()
    relisted = asyncio.Event()

    async def broken_and_then_expired(call: Call) -> web.Response | None:
        if not (call.watch and call.path.endswith("/feedbackiterations")) or relisted.is_set():
            return None
        if not gone.is_set():
            return refusal(503, "ServiceUnavailable")
        relisted.set()
        return expired()

    async with new_world(control_plane, "expired", tmp_path) as world, Proxy.start(control_plane) as proxy:
        async with world.operator(kubeconfig=proxy.kubeconfig(world.token)):
            await world.apply(iteration("old", serving={"endpoint": "answers"}))
            await world.until("old", READY)
            await world.apply(iteration("new", seed=1, serving={"endpoint": "answers"}))
            await world.until("new", READY)
            proxy.before = broken_and_then_expired
            proxy.cut_watches()
            await world.delete("new")
            await world.api.wait_gone(ITERATIONS, world.namespace, "new")
            gone.set()
            await world.until("old", condition("Serving", "True"))
        assert relisted.is_set()
