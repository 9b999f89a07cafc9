"""Pods as the API server gave them in public reports of other projects, and what a user is told here.

Which report is held by which test: docs/field-reports.md.
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from feedback_operator.cluster.kubernetes.observed import pod_of, pods_by_index
from tests.unit.worlds import NOW, Simulation, result

AT = "2026-01-01T00:05:00Z"
REPORTS = Path("docs/field-reports.md")
Status = dict[str, Any]


def ended(code: int, reason: str = "Error", message: str = "") -> Status:
    return {"terminated": {"exitCode": code, "reason": reason, "message": message, "finishedAt": AT}}


def container(name: str, state: Status, **more: Any) -> Status:
    return {"name": name, "state": state, **more}


DONE = ended(0, "Completed", result("sampling").model_dump_json())
INITIALIZING = container("stage", {"waiting": {"reason": "PodInitializing"}})
DENIED = {
    "initContainerStatuses": [container("istio-init", ended(1, message="denied"))],
    "containerStatuses": [INITIALIZING],
}
REFUSED = {"phase": "Failed", "reason": "UnexpectedAdmissionError", "message": "Allocate failed: nvidia.com/gpu"}
LOST = {
    "containerStatuses": [container("stage", {"running": {}}, ready=True)],
    "conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": AT}],
}


def seen(status: Status, minutes: float, *, failed: bool = False, retries: int = 0) -> Simulation:
    """An iteration whose sampling has this pod, so long after it began."""
    body = {"metadata": {"name": "p", "creationTimestamp": AT, "labels": {}}, "status": status}
    world = Simulation.of()
    world.step()
    (job,) = world.active()
    world.change(job, pods=pods_by_index(iter([pod_of(body)])), retries=retries)
    world.now = NOW + timedelta(minutes=minutes)
    if failed:
        world.jobs[job.name] = replace(world.jobs[job.name], state="Failed", finished=world.now, pods_read=True)
    world.step()
    return world


def test_a_proxy_that_runs_on_keeps_no_stage_from_its_end() -> None:
    world = seen({"containerStatuses": [container("istio-proxy", {"running": {}}), container("stage", DONE)]}, 5)
    assert world.states()["sampling"] == "Done"
    assert [job.stage for job in world.active()] == ["sampling", "splitting"]


def test_the_image_of_a_sidecar_is_not_taken_for_that_of_the_stage() -> None:
    waiting = {"waiting": {"reason": "ImagePullBackOff"}}
    world = seen({"containerStatuses": [container("proxy", waiting), container("stage", {"running": {}})]}, 60)
    assert world.told("Reconciling")[:2] == ("True", "StageRunning")


@pytest.mark.parametrize(
    ("world", "kind", "reason", "words"),
    [
        pytest.param(
            seen(REFUSED, 8, failed=True), "Reconciling", "NodeRefused", "Allocate failed: nvidia.com/gpu",
            id="refused by the kubelet: tried again",
        ),
        pytest.param(
            seen(REFUSED, 8, failed=True, retries=3), "Stalled", "NodeRefused", "device plugin",
            id="refused by the kubelet: four times",
        ),
        pytest.param(
            seen(DENIED, 8), "Reconciling", "InjectedContainer", "istio-init ended with exit code 1: denied",
            id="an init container failed: at once",
        ),
        pytest.param(
            seen(DENIED, 30), "Stalled", "InjectedContainer", "`kubectl logs p -c CONTAINER`",
            id="an init container failed: for long",
        ),
        pytest.param(
            seen(DENIED, 8, failed=True, retries=3), "Stalled", "InjectedContainer", "denied",
            id="an init container failed: four Jobs",
        ),
        pytest.param(seen(LOST, 6), "Reconciling", "NodeLost", "is not heard of", id="a silent node: at once"),
        pytest.param(
            seen(LOST, 24 * 60), "Stalled", "NodeLost", "`kubectl delete pod p --force`", id="a silent node: for long"
        ),
    ],
)  # fmt: skip
def test_what_a_user_is_told(world: Simulation, kind: str, reason: str, words: str) -> None:
    status, told, message = world.told(kind)
    assert (status, told) == ("True", reason)
    assert words in message


def test_every_report_names_a_test_that_there_is() -> None:
    named = re.findall(r"`(tests/\S+\.py)::(\w+)`", REPORTS.read_text())
    assert len(named) > 20
    assert [(file, test) for file, test in named if f"def {test}(" not in Path(file).read_text()] == []
