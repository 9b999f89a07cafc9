"""What is meant for Argo CD and Flux: the folder of a chain, and the judgement of an iteration's health."""

from __future__ import annotations

from typing import Any, Final

import pytest
import yaml
from lupa import lua51

from feedback_operator.cli.manifests import load
from feedback_operator.stages import STAGES
from tests.chart.rendering import ROOT

HEALTH: Final = yaml.safe_load((ROOT / "deploy/argocd-cm.yaml").read_text())["data"]
ORDER: Final = ("Ready", "Reconciling", "Stalled", "Promoted", "Serving")


def test_the_folder_is_a_chain_of_four() -> None:
    loaded = load(ROOT / "examples/gitops")
    assert loaded.problems == ()
    parents = [
        (one.metadata.name, one.spec.model.from_ and one.spec.model.from_.iteration) for one in loaded.iterations
    ]
    assert parents == [("llava-1", None), ("llava-2", "llava-1"), ("llava-3", "llava-2"), ("llava-4", "llava-3")]


def test_every_iteration_of_the_chain_hands_its_endpoint_on() -> None:
    endpoints = {one.spec.serving and one.spec.serving.endpoint for one in load(ROOT / "examples/gitops").iterations}
    assert endpoints == {"llava"}


def iteration(observed: int = 1, suspend: bool = False, **conditions: tuple[str, str, str]) -> dict[str, Any]:
    found = [
        {"type": kind, "status": status, "reason": reason, "message": message}
        for kind, (status, reason, message) in conditions.items()
    ]
    status = {"observedGeneration": observed, "conditions": found} if observed else {}
    return {"metadata": {"generation": 1}, "spec": {"suspend": suspend}, "status": status}


def standing(holds: str, reason: str, message: str) -> dict[str, tuple[str, str, str]]:
    """Ready, Reconciling and Stalled as the operator writes them."""
    return {kind: ("True" if kind == holds else "False", reason, message) for kind in ORDER[:3]}


@pytest.mark.parametrize(
    ("given", "expect"),
    [
        pytest.param(iteration(observed=0), ("Progressing", "waits for the operator"), id="never seen"),
        pytest.param(
            iteration(observed=0, **standing("Ready", "Complete", "all stages are done")),
            ("Progressing", "waits for the operator"),
            id="another generation was seen",
        ),
        pytest.param(
            iteration(**standing("Reconciling", "StageRunning", "at stage training")),
            ("Progressing", "StageRunning: at stage training"),
            id="at work",
        ),
        pytest.param(
            iteration(**standing("Stalled", "OutOfMemory", "raise the limit")),
            ("Degraded", "OutOfMemory: raise the limit"),
            id="stalled",
        ),
        pytest.param(
            iteration(suspend=True, **standing("Nothing", "Suspended", "suspended at stage pairing")),
            ("Suspended", "Suspended: suspended at stage pairing"),
            id="suspended",
        ),
        pytest.param(
            iteration(**standing("Ready", "Complete", "done"), Promoted=("True", "GatePassed", "every rule")),
            ("Healthy", "GatePassed: every rule"),
            id="promoted",
        ),
        pytest.param(
            iteration(**standing("Ready", "Complete", "done"), Promoted=("False", "GateFailed", "recall is low")),
            ("Healthy", "GateFailed: recall is low"),
            id="finished, and not promoted",
        ),
    ],
)
def test_argo_cd_judges_health_in_lua(given: dict[str, Any], expect: tuple[str, str]) -> None:
    assert len(HEALTH) == 1
    runtime = lua51.LuaRuntime()
    judge = runtime.eval("function(obj) " + next(iter(HEALTH.values())) + " end")
    answer = judge(runtime.table_from(given, recursive=True))
    assert (answer["status"], answer["message"]) == expect


def test_the_quickstarts_iteration_is_the_demos_with_credentials() -> None:
    demo, quick = (
        yaml.safe_load((ROOT / f"examples/{file}").read_text()) for file in ("shapes.yaml", "quickstart/shapes.yaml")
    )
    pods = {name: section.pop("pod", None) for name, section in quick["spec"].items() if isinstance(section, dict)}
    assert quick == demo
    given = {name for name, pod in pods.items() if pod == {"envFrom": [{"name": "s3"}]}}
    assert given == {*STAGES, "serving"}
