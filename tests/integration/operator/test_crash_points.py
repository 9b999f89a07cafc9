"""The operator killed after each single call that it makes: whatever the moment, a new one comes to the same end.

A proxy counts the calls of one undisturbed iteration with its rollout. Then the same iteration runs once for each of
them: the operator gets SIGKILL when the API server has carried that call out and before its answer arrives, and a new
one is started in its place.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from pathlib import Path
from typing import Final

import pytest

from tests.cluster.control_plane import ControlPlane
from tests.cluster.history import History, Outcome
from tests.cluster.proxy import Call, Proxy
from tests.cluster.world import READY, iteration
from tests.integration.operator.conftest import new_world
from tests.long import first_of

SIDE_BY_SIDE: Final = 8
MANIFEST: Final = iteration("demo", training={"nodes": 2, "globalBatchSize": 8}, serving={"endpoint": "answers"})


def counted(call: Call) -> bool:
    """Calls of leader election come with the clock, not with the work: they are no points of an iteration."""
    return not call.lease


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("every", first_of([5, 1]), ids="one of {}".format)
async def test_killed_after_any_call_a_new_operator_comes_to_the_same_end(
    every: int, control_plane: ControlPlane, tmp_path: Path
) -> None:
    """The first of the calls that are tried is drawn, so that each has its turn."""
    calls, expected = await run(control_plane, tmp_path, kill_after=None)
    assert expected.duplicates == expected.changed == ()
    print(f"\n{len(calls)} crash points:", *(str(call) for call in calls), sep="\n  ")
    room = asyncio.Semaphore(SIDE_BY_SIDE)

    async def at(point: int) -> tuple[int, Outcome]:
        async with room:
            return point, (await run(control_plane, tmp_path, kill_after=point))[1]

    first = random.SystemRandom().randrange(1, every + 1)
    outcomes = await asyncio.gather(*(at(point) for point in range(first, len(calls) + 1, every)))
    different = {
        f"{point}: after {calls[point - 1]}": differences
        for point, found in outcomes
        if (differences := found.differences(expected))
    }
    print(f"{len(outcomes)} crash points, {len(different)} of them with another end")
    assert different == {}


async def run(control_plane: ControlPlane, folder: Path, kill_after: int | None) -> tuple[list[Call], Outcome]:
    """Run the iteration, with one kill after the given number of calls; the calls made, and how it ended."""
    async with (
        new_world(control_plane, f"point-{kill_after or 'none'}", folder) as world,
        Proxy.start(control_plane) as proxy,
        History.of(world) as history,
    ):
        kubeconfig = proxy.kubeconfig(world.token)
        numbers, calls, reached = itertools.count(1), list[Call](), asyncio.Event()
        async with world.operator("--identity", "a", kubeconfig=kubeconfig) as first:

            def carried_out(call: Call) -> bool:
                if not counted(call) or reached.is_set():
                    return False
                calls.append(call)
                if next(numbers) != kill_after:
                    return False
                first.kill()
                reached.set()
                return True

            proxy.after = carried_out
            await world.apply(MANIFEST)
            if kill_after is None:
                await world.until("demo", READY)
                return calls, await history.outcome()
            ended = asyncio.create_task(world.until("demo", READY, seconds=300))
            killed = asyncio.create_task(reached.wait())
            await asyncio.wait({ended, killed}, return_when=asyncio.FIRST_COMPLETED)
            killed.cancel()
            if not reached.is_set():  # this run made fewer calls than the first one did
                await ended
                return calls, await history.outcome()
            async with world.operator("--identity", "a", kubeconfig=kubeconfig):
                await ended
                return calls, await history.outcome()
