"""Two operators, one of which leads: what happens when it dies, and when it freezes and thaws too late."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.cluster.accounts import operator_token
from tests.cluster.api import LEASES, Object
from tests.cluster.control_plane import ControlPlane
from tests.cluster.history import History
from tests.cluster.proxy import Call, Proxy
from tests.cluster.world import READY, STAGES, World, iteration
from tests.integration.operator.conftest import new_world
from tests.long import first_of

LEASE_SECONDS: Final = 15
GRACE_SECONDS: Final = 2
MANIFEST: Final = iteration("demo", serving={"endpoint": "answers"})


def creates_a_configuration(call: Call) -> bool:
    return call.method == "POST" and call.path.endswith("/configmaps")


def creates_a_job(call: Call) -> bool:
    return call.method == "POST" and call.path.endswith("/jobs")


def writes_the_status(call: Call) -> bool:
    return call.method == "PATCH" and call.path.endswith("/status")


def applies_the_deployment(call: Call) -> bool:
    return call.method == "PATCH" and "/deployments/" in call.path


async def test_the_other_one_takes_over_when_the_leader_is_killed(control_plane: ControlPlane, tmp_path: Path) -> None:
    async with (
        new_world(control_plane, "leader-killed", tmp_path) as world,
        Proxy.start(control_plane) as proxy,
        History.of(world) as history,
    ):
        held = world.script.hold("sampling")
        with world.operator("--identity", "a") as first:
            await world.apply(MANIFEST)
            await held.started.wait()
            with world.operator("--identity", "b", kubeconfig=proxy.kubeconfig(world.token)):
                await looks_at_the_lease(proxy)
                first.kill()
                killed = time.monotonic()
                await taken_over(world, "b")
                assert time.monotonic() - killed <= LEASE_SECONDS + GRACE_SECONDS
                held.release()
                await world.until("demo", READY)
        outcome = await history.outcome()
        assert (outcome.duplicates, outcome.changed) == ((), ())


@pytest.mark.parametrize(
    "moment",
    first_of([creates_a_job, creates_a_configuration, writes_the_status, applies_the_deployment]),
    ids=lambda moment: moment.__name__,
)
async def test_a_leader_that_froze_and_thaws_too_late_changes_nothing(
    control_plane: ControlPlane, tmp_path: Path, moment: Callable[[Call], bool]
) -> None:
    """The first one freezes with a call carried out and its answer not yet read; the second finishes the work."""
    async with (
        new_world(control_plane, f"frozen-{moment.__name__}", tmp_path) as world,
        Proxy.start(control_plane) as proxy,
        Proxy.start(control_plane) as standby,
        History.of(world) as history,
    ):
        other = await operator_token(world.api, world.namespace, "operator-b")
        frozen = asyncio.Event()
        with world.operator("--identity", "a", kubeconfig=proxy.kubeconfig(world.token)) as first:

            def freeze(call: Call) -> bool:
                if not frozen.is_set() and moment(call):
                    first.freeze()
                    frozen.set()
                return False

            await taken_over(world, "a")
            with world.operator("--identity", "b", kubeconfig=standby.kubeconfig(other)):
                await looks_at_the_lease(standby)
                proxy.after = freeze
                await world.apply(MANIFEST)
                await frozen.wait()
                began = time.monotonic()
                await taken_over(world, "b")
                assert time.monotonic() - began <= LEASE_SECONDS + GRACE_SECONDS
                done = await world.until("demo", READY)
                first.thaw()
                await looks_at_the_lease(proxy)
                assert (await world.look("demo"))["status"] == done["status"]
        outcome = await history.outcome()
        assert (outcome.duplicates, outcome.changed) == ((), ())
        assert await world.stages_run("demo") == list(STAGES)
        assert writes_of(control_plane, world, "operator-b") > 0
        assert writes_after_take_over(control_plane, world) == []


async def taken_over(world: World, identity: str) -> None:
    """Return once the Lease names this operator as its holder."""
    async for event, lease in world.api.watch(LEASES, world.namespace):
        if event != "DELETED" and lease["spec"].get("holderIdentity") == identity:
            return


async def looks_at_the_lease(proxy: Proxy) -> None:
    """Return once the operator behind the proxy has found out who leads: it has asked twice."""
    asked: asyncio.Queue[Call] = asyncio.Queue()

    def tell(call: Call) -> bool:
        if call.lease:
            asked.put_nowait(call)
        return False

    proxy.after = tell
    for _ in range(2):
        await asked.get()


def audited(control_plane: ControlPlane, world: World) -> list[Object]:
    """Writes in the test's namespace as the API server has logged them, Leases aside, in order."""
    events = [json.loads(line) for line in control_plane.audit_log.read_text().splitlines()]
    return [
        event
        for event in events
        if event.get("objectRef", {}).get("namespace") == world.namespace
        and event["objectRef"]["resource"] not in ("leases", "events")
        and event["verb"] in ("create", "update", "patch", "delete")
    ]


def writes_of(control_plane: ControlPlane, world: World, account: str) -> int:
    return sum(event["user"]["username"].endswith(f":{account}") for event in audited(control_plane, world))


def writes_after_take_over(control_plane: ControlPlane, world: World) -> list[str]:
    """Writes of the first operator that the API server carried out after the first one of the second."""
    events = audited(control_plane, world)
    names = [event["user"]["username"].rpartition(":")[2] for event in events]
    start = names.index("operator-b")
    return [
        f"{event['verb']} {event['requestURI']}"
        for name, event in list(zip(names, events, strict=True))[start:]
        if name == "feedback-operator" and event["responseStatus"]["code"] < 400
    ]
