"""What a stage's attempt consists of, as a person would have written it, compared whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from feedback_operator.resources.configmap import build_configmap
from feedback_operator.resources.headless_service import build_headless_service
from feedback_operator.resources.job import StageRun, build_job
from feedback_operator.resources.networkpolicy import build_stages_policy
from feedback_operator.stages import GRAPH, STAGES, Stage
from feedback_workloads.contract import Artifact, EngineConfig, SamplingConfig, Source, TrainingConfig
from tests.unit.worlds import IMAGES, iteration, with_metadata

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
            "labels": {"team": "vision"},
            "annotations": {"sidecar.istio.io/inject": "false"},
            "schedulerName": "volcano",
            "terminationGracePeriodSeconds": 300,
            "securityContext": {"fsGroupChangePolicy": "OnRootMismatch"},
            "env": [{"name": "AWS_REGION", "value": "eu-west-1"}],
            "caBundle": {"configMapKeyRef": {"name": "ca", "key": "bundle.pem"}},
            "volumes": [
                {"name": "data", "persistentVolumeClaim": {"claimName": "pictures"}},
                {"name": "model", "image": {"reference": "registry.example/llava:1"}},
                {"name": "prompts", "configMap": {"name": "prompts"}},
            ],
            "volumeMounts": [
                {"name": "data", "mountPath": "/data"},
                {"name": "data", "mountPath": "/again"},
                {"name": "model", "mountPath": "/models/llava"},
                {"name": "prompts", "mountPath": "/prompts"},
            ],
        },
    },
    "deadlineSeconds": 7200,
    "ttlSecondsAfterFinished": 3600,
}
SAMPLING = SamplingConfig(output="", model=Source(uri="s3://b/policy"), instructions=Source(uri="s3://b/instructions"))
TRAINING = TrainingConfig(
    output="", model=Source(uri="s3://b/policy"), pairs=(Artifact(uri="s3://b/p", sha256="a" * 64),)
)


def run_of(stage: str = "sampling", name: str = "it", queue: str = "", attempt: int = 0, **spec: object) -> StageRun:
    """An attempt at an address that does not move with the contract."""
    labels = {"kueue.x-k8s.io/queue-name": queue} if queue else {}
    given, found = with_metadata(iteration(**spec), name=name, labels=labels), STAGES[stage]
    return StageRun(
        owner=given.metadata,
        stage=found,
        section=found.section(given.spec),
        keys=found.keys(given.spec),
        config=TRAINING if stage == "training" else SAMPLING,
        address="ab" * 32,
        attempt=attempt,
        retries=0,
        reached=0,
        pods=found.pods(given.spec),
        image=IMAGES[found.image],
        deadline_seconds=given.spec.deadline_seconds,
        ttl_seconds_after_finished=given.spec.ttl_seconds_after_finished,
    )


@pytest.mark.parametrize(
    ("file", "run"),
    [
        pytest.param("job-default", run_of(), id="defaults"),
        pytest.param("job-overrides", run_of(**OVERRIDES), id="everything that may be given"),
        pytest.param("job-nodes", run_of("training", training={"nodes": 2}), id="training on two nodes"),
        pytest.param("job-queue", run_of(queue="gpus"), id="in a queue"),
    ],
)
def test_job(file: str, run: StageRun) -> None:
    assert build_job(run) == yaml.safe_load((EXPECTED / f"{file}.yaml").read_text())


def test_headless_service() -> None:
    made = build_headless_service(run_of("training", training={"nodes": 2}))
    assert made == yaml.safe_load((EXPECTED / "headless-service.yaml").read_text())


def test_network_policy_of_the_stages() -> None:
    made = build_stages_policy(iteration().metadata)
    assert made == yaml.safe_load((EXPECTED / "networkpolicy-stages.yaml").read_text())


def test_the_configuration_is_immutable_and_mounted_by_its_name() -> None:
    made, job = build_configmap(run_of()), build_job(run_of())
    assert made["immutable"] is True
    assert made["metadata"]["name"] == job["spec"]["template"]["spec"]["volumes"][0]["configMap"]["name"]


def test_another_configuration_has_another_name_even_at_the_same_address() -> None:
    given = run_of()
    engine = given.config.model_copy(update={"engine": EngineConfig(tensor_parallel_size=2)})
    other = StageRun(**{**vars(given), "config": engine})
    assert (other.name, other.config_name != given.config_name) == (given.name, True)


def test_children_of_a_deleted_iteration_and_of_a_new_one_of_its_name_do_not_meet() -> None:
    given = run_of()
    again = StageRun(**{**vars(given), "owner": given.owner.model_copy(update={"uid": "u-2"})})
    assert given.name != again.name
    policies = [build_stages_policy(run.owner)["metadata"]["name"] for run in (given, again)]
    assert len(set(policies)) == 2


@pytest.mark.parametrize("stage", GRAPH, ids=lambda stage: stage.name)
def test_names_of_jobs_and_pods_stay_within_a_label(stage: Stage) -> None:
    job = build_job(run_of(stage.name, name="x" * 36, attempt=99))
    assert len(f"{job['metadata']['name']}-255") <= 63
