"""What the operator's benchmark reads off a watch and an audit log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.accounts import Call, Latency, Transitions, calls_of

ITERATION = ("iteration-1", 1)
CHAIN = ("chain-1", 1)


def event(**changes: Any) -> dict[str, Any]:
    return {
        "stage": "ResponseComplete",
        "verb": "create",
        "user": {"username": "system:serviceaccount:bench:feedback-operator"},
        "objectRef": {"resource": "jobs", "namespace": "bench", "name": "job-1"},
        "requestReceivedTimestamp": "2026-01-01T00:00:01.250000Z",
        "stageTimestamp": "2026-01-01T00:00:01.500000Z",
        **changes,
    }


@pytest.mark.parametrize(
    ("given", "expect"),
    [
        pytest.param({}, ["create jobs"], id="a call"),
        pytest.param(
            {"verb": "patch", "objectRef": {"resource": "feedbackiterations", "subresource": "status", "name": "it"}},
            ["patch feedbackiterations status"],
            id="of a subresource",
        ),
        pytest.param({"objectRef": {"resource": "leases", "name": "lease"}}, [], id="leader election"),
        pytest.param({"stage": "ResponseStarted"}, [], id="a watch that goes on"),
        pytest.param({"user": {"username": "kwok"}}, [], id="of somebody else"),
    ],
)
def test_calls_of(given: dict[str, Any], expect: list[str], tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    log.write_text(json.dumps(event(**given), separators=(",", ":")) + "\n")
    calls = calls_of(log, "bench")
    assert [call.what for call in calls] == expect
    assert all(call.answered - call.received == 0.25 for call in calls)


def test_latency_by_its_parts() -> None:
    """A ConfigMap and a Job follow one completion, a Job alone another one, and nothing a third, which was late."""
    seen = Transitions(
        completed={("iteration-1", 0): 10.0, ("chain-1", 0): 10.0, ("iteration-1", 1): 30.0},
        created={ITERATION: 11.0, CHAIN: 10.5, ("iteration-1", 2): 31.0},
        names={ITERATION: "iteration-1-splitting-ab-0", CHAIN: "chain-1-1"},
    )
    calls = [
        Call("create configmaps", "iteration-1-splitting-ab-0-cd", 10.25, 10.375),
        Call("create jobs", "iteration-1-splitting-ab-0", 10.5, 10.75),
        Call("create jobs", "chain-1-1", 10.125, 10.25),
    ]
    assert seen.latencies(calls, 0, 20) == [Latency(0.125, 0.125, 0.25), Latency(0.25, 0.5, 0.25)]
