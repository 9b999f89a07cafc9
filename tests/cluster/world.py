"""What a test of the operator looks at: a namespace of its own, its pods played, and the words to act and to wait."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.cluster.api import CONFIG_MAPS, ITERATIONS, JOBS, WAIT_SECONDS, Api, Object
from tests.cluster.control_plane import ControlPlane
from tests.cluster.operator_process import OperatorProcess
from tests.cluster.pod_agent import Script

STAGES: Final = ("sampling", "splitting", "labeling", "pairing", "training", "evaluation")

Expected = Callable[[Object], bool]


def iteration(name: str, **spec: Any) -> Object:
    """A small FeedbackIteration; keywords replace or extend parts of its spec, deeply."""
    plain = {
        "model": {"uri": "s3://feedback/policy"},
        "labeling": {"model": {"uri": "s3://feedback/labeler"}},
        "instructions": {"uri": "s3://feedback/instructions"},
        "artifacts": {"uri": "s3://feedback/iterations"},
        "evaluation": {
            "benchmarks": [{"name": "shapes", "type": "shapes", "uri": "s3://feedback/benchmark"}],
            "gate": [{"metric": "responseHallucination", "relativeTo": "Baseline", "max": "0.9"}],
        },
    }
    return {
        "apiVersion": ITERATIONS.group_version,
        "kind": ITERATIONS.name,
        "metadata": {"name": name},
        "spec": merged(plain, spec),
    }


def merged(base: Object, changes: Object) -> Object:
    """A copy of `base` with the changes in it; objects are merged, all else is replaced, None removes."""
    result = copy.deepcopy(base)
    for key, value in changes.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


# ── what is expected of an iteration ─────────────────────────────────────────────────────────────────────────────────


def condition(kind: str, status: str, reason: str | None = None) -> Expected:
    """A condition says so of the spec as it is now."""

    def holds(item: Object) -> bool:
        found = condition_of(item, kind)
        return (
            found.get("status") == status
            and reason in (None, found.get("reason"))
            and found.get("observedGeneration") == item["metadata"].get("generation")
        )

    return holds


def condition_of(item: Object, kind: str) -> Object:
    """The condition of this type, or an empty one."""
    conditions = item.get("status", {}).get("conditions") or []
    return next((found for found in conditions if found["type"] == kind), {})


def stage_is(stage: str, state: str) -> Expected:
    return lambda item: stage_of(item, stage).get("state") == state


def stage_of(item: Object, stage: str) -> Object:
    return next((found for found in item.get("status", {}).get("stages", []) if found["name"] == stage), {})


READY: Final = condition("Ready", "True")
STALLED: Final = condition("Stalled", "True")


@dataclass
class World:
    """One namespace of the tests' cluster."""

    api: Api
    control_plane: ControlPlane
    namespace: str
    script: Script
    folder: Path
    token: str
    """Of the operator's ServiceAccount."""
    _operators: int = field(default=0)

    async def apply(self, manifest: Object) -> Object:
        return await self.api.apply({**manifest, "metadata": {**manifest["metadata"], "namespace": self.namespace}})

    async def edit(self, name: str, **spec: Any) -> Object:
        """Change parts of an iteration's spec, as `kubectl edit` does."""
        return await self.api.patch(ITERATIONS, self.namespace, name, {"spec": spec})

    async def delete(self, name: str) -> None:
        await self.api.delete(ITERATIONS, self.namespace, name)

    async def look(self, name: str) -> Object:
        return await self.api.get(ITERATIONS, self.namespace, name)

    async def until(self, name: str, expected: Expected, seconds: float = WAIT_SECONDS) -> Object:
        """The iteration, as soon as it is as expected."""
        return await self.api.wait(ITERATIONS, self.namespace, name, expected, seconds)

    async def jobs(self, name: str | None = None) -> dict[str, Object]:
        """Jobs of an iteration (of all, without a name), by name."""
        selector = f"feedback.rlaif.dev/iteration={name}" if name else ""
        return {job["metadata"]["name"]: job for job in await self.api.list(JOBS, self.namespace, selector)}

    async def stages_run(self, name: str) -> list[str]:
        """Stage of each Job that the iteration ever had and that is still there, in the order of their creation."""
        found = sorted((await self.jobs(name)).values(), key=lambda job: job["metadata"]["creationTimestamp"])
        stages = [job["metadata"]["labels"]["feedback.rlaif.dev/stage"] for job in found]
        return sorted(stages, key=STAGES.index)

    async def config_maps(self, name: str) -> list[Object]:
        return await self.api.list(CONFIG_MAPS, self.namespace, f"feedback.rlaif.dev/iteration={name}")

    def operator(self, *flags: str, kubeconfig: Path | None = None) -> OperatorProcess:
        """One more operator on this namespace, with its own rights and no others."""
        self._operators += 1
        log = self.folder / f"{self.namespace}-operator-{self._operators}.log"
        shown = kubeconfig or self.control_plane.kubeconfig_for("operator", self.token, namespace=self.namespace)
        return OperatorProcess(shown, self.namespace, log, flags)
