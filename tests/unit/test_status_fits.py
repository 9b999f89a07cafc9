"""Whatever pods say, the status that follows is one that the API server takes."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from feedback_operator.api import FeedbackIteration, IterationStatus
from feedback_operator.api.schema import root_schema
from feedback_operator.plan.snapshot import Pod
from feedback_workloads.contract import STAGE_CONFIG, SplittingConfig, StageResult, shard_folder
from feedback_workloads.report.iteration import StageRecord
from tests.unit.worlds import METRICS, Simulation, broken, result, succeeded

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


def handed_in(shard: int, shards: int) -> Pod:
    """A pod that ended well, and whose result says as much as results say."""
    folder = shard_folder("s3://" + "b" * 200 + "/artifacts/sampling/" + "a" * 64, shard, shards)
    counts = {"rows": 10, "rejected": 1, "tokens": 123456, "pictures": 10}
    made = result("sampling", shard, {f"metric_{number}": 0.123456789 for number in range(20)})
    placed = made.model_copy(update={"manifest": made.manifest.model_copy(update={"uri": folder}), "counts": counts})
    return Pod(shard, exit_code=0, message=placed.model_dump_json())


@pytest.mark.parametrize("shards", [32, 33, 256])
def test_a_status_stays_small_however_many_shards_there_are(shards: int) -> None:
    world = Simulation.of(sampling={"shards": shards})
    job = world.run_until("sampling")
    world.finish(job, "Complete", *(handed_in(shard, shards) for shard in range(shards)))
    (made, *_) = (made for made in world.step().create if made["kind"] == "ConfigMap")
    sampling = world.iteration.status.stages[0]
    assert bool(sampling.combined) == (shards > 32)
    assert (sampling.count("rows"), sampling.count("rejected"), sampling.was_there) == (10 * shards, shards, False)
    given = STAGE_CONFIG.validate_json(made["data"]["config.json"])
    assert isinstance(given, SplittingConfig)
    pods = [StageResult.model_validate_json(handed_in(shard, shards).message) for shard in range(shards)]
    assert given.samples == tuple(pod.manifest for pod in pods), "the next stage is given each of them by its digest"
    assert problems(STATUS, written(world.iteration.status)) == []
    assert len(json.dumps(written(world.iteration.status))) < 64_000
    assert StageRecord.model_validate(written(world.iteration.status)["stages"][0]).artifacts == given.samples
