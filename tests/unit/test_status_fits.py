"""Whatever pods say, the status that follows is one that the API server takes."""

from __future__ import annotations

import re
from typing import Any

import pytest

from feedback_operator.api import FeedbackIteration, IterationStatus
from feedback_operator.api.schema import root_schema
from feedback_operator.plan.snapshot import Pod
from tests.unit.worlds import METRICS, Simulation, broken, succeeded

STATUS = root_schema()["properties"]["status"]


def problems(schema: dict[str, Any], value: Any, path: str = "status") -> list[str]:
    """Where a value breaks the schema's limits."""
    found = []
    match value:
        case str():
            if len(value) > schema.get("maxLength", len(value)) or len(value) < schema.get("minLength", 0):
                found.append(f"{path}: {len(value)} characters")
            if not re.search(schema.get("pattern", ""), value):
                found.append(f"{path}: {value[:80]!r} is not like {schema['pattern']}")
        case list():
            for number, item in enumerate(value):
                found += problems(schema["items"], item, f"{path}[{number}]")
        case dict():
            for key, item in value.items():
                inner = schema["properties"][key] if "properties" in schema else schema["additionalProperties"]
                found += problems(inner, item, f"{path}.{key}")
    return found


def written(status: IterationStatus) -> dict[str, Any]:
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)


@pytest.mark.parametrize(
    "pod",
    [
        pytest.param(broken("not a word: at all!", "x", exit_code=2), id="reason in words"),
        pytest.param(broken("9" * 300, "x", exit_code=2), id="reason of digits"),
        pytest.param(broken("BadInput", "x" * 20_000, exit_code=2), id="long message"),
        pytest.param(Pod(0, exit_code=1, message="\u2028\x00 trace" * 3000), id="long log"),
        pytest.param(Pod(0, exit_code=1, reason="A reason? Of the kubelet's!" * 50), id="kubelet's reason"),
    ],
)
def test_a_failure(pod: Pod) -> None:
    world = Simulation.of()
    world.step()
    world.finish(world.active()[0], "Failed", pod, reason="PodFailurePolicy")
    assert problems(STATUS, written(world.step().status)) == []


@pytest.mark.parametrize("odd", [1e300, -1e-300, 0.1 + 0.2, -0.0, 1e17])
def test_a_metric(odd: float) -> None:
    world = Simulation.of(
        evaluation={
            "benchmarks": [{"name": "shapes", "type": "shapes", "uri": "s3://b/benchmark"}],
            "gate": [{"metric": "recall", "min": "0.5"}, {"metric": "recall", "relativeTo": "Baseline", "min": "0.5"}],
        }
    )
    job = world.run_until("evaluation")
    metrics = {**METRICS, "selection.aligned.recall": odd, "selection.baseline.recall": odd}
    world.finish(job, "Complete", succeeded("evaluation", 0, metrics))
    decided = world.step()
    assert problems(STATUS, written(decided.status)) == []


def test_the_longest_names_and_places() -> None:
    world = Simulation.of(artifacts={"uri": "s3://" + "b" * 507})
    data = world.iteration.model_dump(by_alias=True, exclude_none=True)
    world.iteration = FeedbackIteration.model_validate({**data, "metadata": {"name": "n" * 36, "uid": "u"}})
    world.run()
    assert problems(STATUS, written(world.iteration.status)) == []
    assert max(len(name) for name in world.jobs) + len("-255") <= 63
