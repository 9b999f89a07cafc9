"""What carrying a plan out leaves behind where the cluster refuses a part of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from feedback_operator.api import FeedbackIteration, IterationStatus
from feedback_operator.cluster.protocol import Blocked
from feedback_operator.cluster.reconciler import reconcile
from feedback_operator.plan.endpoint import claimants
from feedback_operator.plan.snapshot import Endpoint, Snapshot
from tests.unit.worlds import IMAGES, NOW, promoted

READY = {"replicas": 1, "updatedReplicas": 1, "readyReplicas": 1, "availableReplicas": 1, "observedGeneration": 1}


@dataclass
class OneEndpoint:
    """A cluster with one promoted iteration, whose pods are ready as soon as they are asked for."""

    iteration: FeedbackIteration
    refused: frozenset[str]
    objects: dict[str, dict[str, Any]] = field(default_factory=dict)

    async def snapshot(self, key: str) -> Snapshot:
        observed = Endpoint(tuple(self.objects.values()), claimants([self.iteration], "chat"))
        return Snapshot(self.iteration, (), NOW, endpoint=observed)

    async def apply(self, manifest: dict[str, Any]) -> None:
        kind = manifest["kind"]
        if kind in self.refused:
            raise Blocked(f"{kind}Refused", f"{kind} chat: exceeded quota")
        self.objects[kind] = {**manifest, "metadata": {**manifest["metadata"], "generation": 1}, "status": READY}

    async def write_status(self, iteration: FeedbackIteration, status: IterationStatus) -> None:
        self.iteration = iteration.model_copy(update={"status": status})

    async def read_pods(self, namespace: str, job: str) -> None: ...

    async def ask(self, namespace: str, job: str) -> None: ...

    async def create(self, manifest: dict[str, Any]) -> None: ...

    async def suspend(self, namespace: str, job: str, suspended: bool) -> None: ...

    async def adjust(self, namespace: str, job: str, deadline: int | None, ttl: int | None) -> None: ...

    async def delete(self, namespace: str, job: str) -> None: ...


@pytest.mark.parametrize(
    ("refused", "serving"),
    [
        ("", ("True", "Serving")),
        ("Service", ("False", "Unavailable")),
        ("PodDisruptionBudget", ("True", "Serving")),
        ("NetworkPolicy", ("True", "Serving")),
    ],
)
def test_an_object_of_an_endpoint_that_is_refused_shows_and_keeps_no_other_away(
    refused: str, serving: tuple[str, str]
) -> None:
    cluster = OneEndpoint(promoted("it", "u-1", serving={"endpoint": "chat"}), frozenset({refused}))
    asyncio.run(reconcile(cluster, "default/it", IMAGES))
    assert cluster.objects.keys() == {"Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"} - {refused}
    told = {c.type: (c.status, c.reason) for c in cluster.iteration.status.conditions}
    assert told["Serving"] == serving
    assert told["Stalled"] == (("True", f"{refused}Refused") if refused else ("False", "Complete"))
