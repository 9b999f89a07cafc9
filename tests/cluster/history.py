"""What happened in a namespace, and how it ended: to compare one run with another."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import json
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Self

from tests.cluster.api import (
    BUDGETS,
    CONFIG_MAPS,
    DEPLOYMENTS,
    ITERATIONS,
    JOBS,
    NETWORK_POLICIES,
    SERVICES,
    Object,
)
from tests.cluster.world import STAGES, World, condition_of

COMPARED: Final = (ITERATIONS, JOBS, CONFIG_MAPS, DEPLOYMENTS, SERVICES, BUDGETS, NETWORK_POLICIES)
PASSING: Final = frozenset(
    {
        "lastTransitionTime", "startTime", "completionTime", "creationTimestamp", "resourceVersion", "uid",
        "generation", "managedFields", "namespace", "clusterIP", "clusterIPs", "observedGeneration",
        "batch.kubernetes.io/controller-uid", "controller-uid", "lastProbeTime", "lastUpdateTime",
        "deployment.kubernetes.io/revision",
    }
)  # fmt: skip
"""What differs between two runs of the same work: times, versions and what the API server draws at random."""


CHILD: Final = re.compile(rf"(demo-(?:{'|'.join(STAGES)}|stages))-[0-9a-f]{{8}}")
FOR_WHOM: Final = re.compile(r'"[^"/]+/(demo)/[0-9a-f-]{36}"')
"""The variable by which a stage process knows its iteration: namespace, name and uid."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    objects: tuple[tuple[str, str], ...]
    """Everything that is there, by kind and name, without what passes."""
    duplicates: tuple[str, ...]
    """Stages that had more than one Job, or a Job that was made twice."""
    changed: tuple[str, ...]
    """Jobs that somebody wrote to, or removed, after they had finished."""

    def differences(self, other: Outcome) -> list[str]:
        """What is other than in `other`, for a person."""
        ours, theirs = dict(self.objects), dict(other.objects)
        names = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
        told = [f"{name}: {_lines(theirs.get(name, 'nothing'), ours.get(name, 'nothing'))}" for name in names]
        return [
            *told,
            *(f"duplicate Job of {stage}" for stage in self.duplicates),
            *map("changed {}".format, self.changed),
        ]


class History:
    """Follows the Jobs of a namespace from the start."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._made: dict[str, Object] = {}
        self._finished: dict[str, Object] = {}
        self._changed: set[str] = set()

    @classmethod
    @asynccontextmanager
    async def of(cls, world: World) -> AsyncIterator[Self]:
        history = cls(world)
        task = asyncio.create_task(history._follow())
        try:
            yield history
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def outcome(self) -> Outcome:
        """How things are now."""
        found = [
            (f"{kind.name}/{item['metadata']['name']}", json.dumps(lasting(_without_rollout(item)), indent=0))
            for kind in COMPARED
            for item in await self._world.api.list(kind, self._world.namespace)
        ]
        objects = [(_plain(name), _plain(text)) for name, text in found]
        stages = Counter(job["metadata"]["labels"]["feedback.rlaif.dev/stage"] for job in self._made.values())
        duplicates = tuple(sorted(stage for stage, number in stages.items() if number > 1))
        return Outcome(tuple(sorted(objects)), duplicates, tuple(sorted(self._changed)))

    async def _follow(self) -> None:
        async for event, job in self._world.api.watch(JOBS, self._world.namespace):
            name, uid = job["metadata"]["name"], job["metadata"]["uid"]
            if event == "ADDED":
                self._made[uid] = job
            if uid in self._finished and (event == "DELETED" or _written(job) != _written(self._finished[uid])):
                self._changed.add(name)
            if any(condition_of(job, kind).get("status") == "True" for kind in ("Complete", "Failed")):
                self._finished.setdefault(uid, job)


def _lines(expected: str, found: str) -> str:
    """The lines that differ, `-` expected and `+` found."""
    compared = difflib.unified_diff(expected.splitlines(), found.splitlines(), lineterm="", n=0)
    return " ".join(line for line in compared if not line.startswith(("---", "+++", "@@")))


def _plain(text: str) -> str:
    """Names without what follows from the namespace and the iteration's uid."""
    return FOR_WHOM.sub(r'"\1"', CHILD.sub(r"\1", text))


def _written(job: Object) -> Any:
    """What somebody else than the Job controller could have changed."""
    meta = job["metadata"]
    return job["spec"], meta.get("labels"), meta.get("annotations"), meta.get("ownerReferences")


def _without_rollout(item: Object) -> Object:
    """Objects of the endpoint as they were asked for; their status is the cluster's."""
    return item if "stages" in item.get("status", {}) else {key: item[key] for key in item if key != "status"}


def lasting(value: Any) -> Any:
    """A copy without what passes."""
    if isinstance(value, dict):
        return {key: lasting(value[key]) for key in sorted(value) if key not in PASSING}
    if isinstance(value, list):
        return [lasting(item) for item in value]
    return value
