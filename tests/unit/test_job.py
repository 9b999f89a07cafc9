"""The Job that a person would have written, compared whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from feedback_operator.resources import Manifest
from feedback_operator.resources.job import StageRun, build_job
from feedback_operator.snapshot import Snapshot
from feedback_operator.stages import GRAPH
from feedback_workloads.contract import SamplesConfig, Source
from tests.unit.worlds import IMAGES, NOW, decide, iteration

EXPECTED = Path(__file__).parent / "expected"

OVERRIDES = {
    "sampling": {
        "shards": 4,
        "resources": {"limits": {"nvidia.com/gpu": "1", "memory": "64Gi"}},
        "pod": {
            "image": "registry.example/generate:2",
            "imagePullSecrets": ["pull"],
            "nodeSelector": {"gpu": "a100"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            "priorityClassName": "batch",
            "serviceAccountName": "s3-writer",
            "envFrom": [{"name": "s3"}],
            "cache": {"claimName": "models"},
        },
    },
    "deadlineSeconds": 7200,
    "ttlSecondsAfterFinished": 3600,
}


def samples_job(**sections: object) -> Manifest:
    """The Job of the stage samples, at an address that does not move with the contract."""
    given = iteration(**sections)
    stage = GRAPH[0]
    config = SamplesConfig(output="", model=Source(uri="s3://b/policy"), instructions=Source(uri="s3://b/instructions"))
    run = StageRun(
        owner=given.metadata,
        stage=stage,
        section=stage.section(given.spec),
        config=config,
        address="ab" * 32,
        attempt=0,
        retries=0,
        pods=stage.pods(given.spec),
        image=IMAGES[stage.image],
        deadline_seconds=given.spec.deadline_seconds,
        ttl_seconds_after_finished=given.spec.ttl_seconds_after_finished,
    )
    return build_job(run)


@pytest.mark.parametrize(("name", "spec"), [("job-default", {}), ("job-overrides", OVERRIDES)])
def test_job(name: str, spec: dict[str, object]) -> None:
    assert samples_job(**spec) == yaml.safe_load((EXPECTED / f"{name}.yaml").read_text())


def test_the_configuration_is_immutable_and_named_as_its_job() -> None:
    configmap, job = decide(Snapshot(iteration(), (), NOW)).create
    assert configmap["immutable"] is True
    assert configmap["metadata"]["name"] == job["metadata"]["name"]


def test_names_stay_within_a_label() -> None:
    longest = iteration().model_copy(update={"metadata": iteration().metadata.model_copy(update={"name": "x" * 40})})
    _, job = decide(Snapshot(longest, (), NOW)).create
    assert len(job["metadata"]["name"]) <= 63
