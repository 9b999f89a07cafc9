"""The Job that runs one attempt at a stage."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from feedback_operator.api import GROUP, Metadata, SecretKey, StageSection
from feedback_operator.resources import Manifest
from feedback_operator.resources.owner import owner_reference, short_digest, standard_labels
from feedback_operator.resources.pod import (
    container_settings,
    environment,
    mounts,
    pod_metadata,
    pod_settings,
    volumes,
)
from feedback_operator.stages import Stage
from feedback_workloads.contract import ExitCode, StageConfig

CONFIG_MOUNT: Final = "/etc/feedback"
CONFIG_KEY: Final = "config.json"
METRICS_PORT: Final = 9464
MEETING_PORT: Final = 29400
"""Where the pods of one training meet, at the first of them."""
ADDRESS_ANNOTATION: Final = f"{GROUP}/address"
GENERATION_ANNOTATION: Final = f"{GROUP}/generation"
RETRIES_ANNOTATION: Final = f"{GROUP}/retries"
REACHED_ANNOTATION: Final = f"{GROUP}/reached"
"""How far the attempts before had come, in the stage's own units."""
PODS_ANNOTATION: Final = f"{GROUP}/pods"
SUSPENDED_ANNOTATION: Final = f"{GROUP}/suspended"
"""On a Job that we have suspended: only such a one is ours to resume."""
STAGE_LABEL: Final = f"{GROUP}/stage"
ATTEMPT_LABEL: Final = f"{GROUP}/attempt"
QUEUE_LABEL: Final = "kueue.x-k8s.io/queue-name"
PRIORITY_LABEL: Final = "kueue.x-k8s.io/priority-class"
KUEUE_LABELS: Final = (QUEUE_LABEL, PRIORITY_LABEL)
"""Labels of an iteration that its Jobs have, too."""
ASKED_ANNOTATION: Final = f"{GROUP}/asked-of-kueue"
"""The values of those labels that a Job was made with: Kueue gives them to Jobs that have none, too."""


@dataclass(frozen=True)
class StageRun:
    """One attempt at one stage of one iteration: all that its Job and what goes with it are made from."""

    owner: Metadata
    stage: Stage
    section: StageSection
    config: StageConfig
    address: str
    attempt: int
    retries: int
    reached: int
    pods: int
    image: str
    keys: Mapping[str, SecretKey]
    """Environment variables that hold keys of APIs, and the Secrets that they come from."""
    deadline_seconds: int | None
    ttl_seconds_after_finished: int | None

    @property
    def name(self) -> str:
        """Deterministic, so that a second creation is refused by the API server instead of doubling the work."""
        return f"{self.owner.name}-{self.stage.name}-{short_digest(self.owner.uid, self.address)}-{self.attempt}"

    @property
    def config_json(self) -> str:
        return self.config.model_dump_json(indent=1)

    @property
    def config_name(self) -> str:
        """Attempts may differ in infrastructure, which the address leaves out but the configuration holds."""
        return f"{self.name}-{short_digest(self.config_json)}"

    @property
    def queue(self) -> str | None:
        """Kueue's queue that the Job is to be admitted from."""
        return self.owner.labels.get(QUEUE_LABEL)

    @property
    def pods_meet(self) -> bool:
        """The pods work together and so need names."""
        return self.stage.together and self.pods > 1


def pods_digest(section: StageSection, config: StageConfig, pods: int, keys: Mapping[str, SecretKey]) -> str:
    """What of a spec makes a Job's pods what they are, in short: neither the attempt nor the operator's own image."""
    own = {
        "resources": section.resources.model_dump(exclude_defaults=True),
        "pod": section.pod.model_dump(exclude_defaults=True),
        **({"keys": {name: key.model_dump() for name, key in keys.items()}} if keys else {}),
    }
    return short_digest(json.dumps(own, sort_keys=True), config.model_dump_json(), str(pods))


def labels(run: StageRun) -> dict[str, str]:
    return {
        **standard_labels(run.owner, run.stage.name),
        STAGE_LABEL: run.stage.name,
        ATTEMPT_LABEL: str(run.attempt),
    }


def _kueue_labels(owner: Metadata) -> dict[str, str]:
    return {label: value for label in KUEUE_LABELS if (value := owner.labels.get(label))}


def asked_of_kueue(labels: Mapping[str, str]) -> str:
    """Queue and priority that these labels name, in a form to compare; empty where they name neither."""
    return ",".join(labels.get(label, "") for label in KUEUE_LABELS).strip(",")


def build_job(run: StageRun) -> Manifest:
    """An Indexed Job of `run.pods` pods, each of which runs its shard of the stage."""
    optional = {
        "activeDeadlineSeconds": run.deadline_seconds,
        "ttlSecondsAfterFinished": run.ttl_seconds_after_finished,
        "suspend": True if run.queue else None,
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": run.name,
            "namespace": run.owner.namespace,
            "labels": {
                **labels(run),
                **_kueue_labels(run.owner),
            },
            "annotations": {
                ADDRESS_ANNOTATION: run.address,
                GENERATION_ANNOTATION: str(run.owner.generation),
                RETRIES_ANNOTATION: str(run.retries),
                REACHED_ANNOTATION: str(run.reached),
                PODS_ANNOTATION: pods_digest(run.section, run.config, run.pods, run.keys),
                **({ASKED_ANNOTATION: asked} if (asked := asked_of_kueue(run.owner.labels)) else {}),
            },
            "ownerReferences": [owner_reference(run.owner)],
        },
        "spec": {
            "completionMode": "Indexed",
            "completions": run.pods,
            "parallelism": run.pods,
            "backoffLimitPerIndex": 3,
            "maxFailedIndexes": 0,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {
                "rules": [
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                    {
                        "action": "FailJob",
                        "onExitCodes": {
                            "containerName": "stage",
                            "operator": "In",
                            "values": [int(ExitCode.BAD_INPUT)],
                        },
                    },
                ]
            },
            **{key: value for key, value in optional.items() if value is not None},
            "template": {"metadata": pod_metadata(labels(run), run.section.pod), "spec": _pod_spec(run)},
        },
    }


def _pod_spec(run: StageRun) -> Manifest:
    return {
        "restartPolicy": "Never",
        **({"subdomain": run.name} if run.pods_meet else {}),
        **pod_settings(run.section),
        "containers": [_container(run)],
        "volumes": [{"name": "config", "configMap": {"name": run.config_name}}, *volumes(run.section.pod)],
    }


def _container(run: StageRun) -> Manifest:
    return {
        "name": "stage",
        "image": run.section.pod.image or run.image,
        "command": ["python", "-m", "feedback_workloads", run.stage.name],
        "args": ["--config", f"{CONFIG_MOUNT}/{CONFIG_KEY}"],
        "env": [
            {"name": "FEEDBACK_METRICS_PORT", "value": str(METRICS_PORT)},
            {"name": "FEEDBACK_ITERATION", "value": f"{run.owner.key}/{run.owner.uid}"},
            *environment(run.section.pod),
            *(_from_secret(name, key) for name, key in run.keys.items()),
            *_meeting_point(run),
        ],
        "ports": [{"name": "metrics", "containerPort": METRICS_PORT}],
        **container_settings(run.section),
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": "config", "mountPath": CONFIG_MOUNT, "readOnly": True}, *mounts(run.section.pod)],
    }


def _from_secret(name: str, secret: SecretKey) -> Manifest:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret.name, "key": secret.key}}}


def _meeting_point(run: StageRun) -> list[Manifest]:
    """Where torchrun's processes find each other: at the stable name of the first pod (see headless_service.py)."""
    if not run.pods_meet:
        return []
    return [
        {"name": "MASTER_ADDR", "value": f"{run.name}-0.{run.name}"},
        {"name": "MASTER_PORT", "value": str(MEETING_PORT)},
    ]
