"""The Job that runs one attempt at a stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from feedback_operator.api import API_VERSION, GROUP, KIND, Metadata, StageSection
from feedback_operator.resources import Manifest
from feedback_operator.stages import Stage
from feedback_workloads.contract import ExitCode, StageConfig

CONFIG_MOUNT: Final = "/etc/feedback"
CACHE_MOUNT: Final = "/var/cache/feedback"
METRICS_PORT: Final = 9464
ADDRESS_ANNOTATION: Final = f"{GROUP}/address"
GENERATION_ANNOTATION: Final = f"{GROUP}/generation"
RETRIES_ANNOTATION: Final = f"{GROUP}/retries"
QUEUE_LABEL: Final = "kueue.x-k8s.io/queue-name"
STAGE_LABEL: Final = f"{GROUP}/stage"
ITERATION_LABEL: Final = f"{GROUP}/iteration"
ATTEMPT_LABEL: Final = f"{GROUP}/attempt"


@dataclass(frozen=True)
class StageRun:
    """One attempt at one stage of one iteration: all that its Job and ConfigMap are made from."""

    owner: Metadata
    stage: Stage
    section: StageSection
    config: StageConfig
    address: str
    attempt: int
    retries: int
    pods: int
    image: str
    deadline_seconds: int | None
    ttl_seconds_after_finished: int | None

    @property
    def name(self) -> str:
        """Deterministic, so that a second creation is refused by the API server instead of doubling the work."""
        return f"{self.owner.name}-{self.stage.name}-{self.address[:8]}-{self.attempt}"


def labels(run: StageRun) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "feedback-iteration",
        "app.kubernetes.io/instance": run.owner.name,
        "app.kubernetes.io/component": run.stage.name,
        "app.kubernetes.io/managed-by": "feedback-operator",
        ITERATION_LABEL: run.owner.name,
        STAGE_LABEL: run.stage.name,
        ATTEMPT_LABEL: str(run.attempt),
    }


def owner_reference(owner: Metadata) -> Manifest:
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": owner.name,
        "uid": owner.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def build_job(run: StageRun) -> Manifest:
    """An Indexed Job of `run.pods` pods, each of which runs its shard of the stage."""
    optional = {
        "activeDeadlineSeconds": run.deadline_seconds,
        "ttlSecondsAfterFinished": run.ttl_seconds_after_finished,
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": run.name,
            "namespace": run.owner.namespace,
            "labels": labels(run),
            "annotations": {
                ADDRESS_ANNOTATION: run.address,
                GENERATION_ANNOTATION: str(run.owner.generation),
                RETRIES_ANNOTATION: str(run.retries),
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
            "template": {"metadata": {"labels": labels(run)}, "spec": _pod_spec(run)},
        },
    }


def _pod_spec(run: StageRun) -> Manifest:
    pod = run.section.pod
    optional: Manifest = {
        "nodeSelector": pod.node_selector,
        "tolerations": [t.model_dump(by_alias=True, exclude_none=True) for t in pod.tolerations],
        "affinity": pod.affinity,
        "priorityClassName": pod.priority_class_name,
        "runtimeClassName": pod.runtime_class_name,
        "serviceAccountName": pod.service_account_name,
        "imagePullSecrets": [{"name": name} for name in pod.image_pull_secrets],
    }
    cache = {"persistentVolumeClaim": {"claimName": pod.cache.claim_name}} if pod.cache else {"emptyDir": {}}
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "fsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(run)],
        "volumes": [
            {"name": "config", "configMap": {"name": run.name}},
            {"name": "cache", **cache},
            {"name": "tmp", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
        ],
        **{key: value for key, value in optional.items() if value},
    }


def _container(run: StageRun) -> Manifest:
    resources = run.section.resources.model_dump(exclude_defaults=True)
    env_from = [{"secretRef": {"name": secret.name}} for secret in run.section.pod.env_from]
    return {
        "name": "stage",
        "image": run.section.pod.image or run.image,
        "command": ["python", "-m", "feedback_workloads", run.stage.name],
        "args": ["--config", f"{CONFIG_MOUNT}/config.json"],
        "env": [
            {"name": "FEEDBACK_METRICS_PORT", "value": str(METRICS_PORT)},
            {"name": "FEEDBACK_CACHE", "value": CACHE_MOUNT},
            {"name": "HOME", "value": "/tmp"},
        ],
        **({"envFrom": env_from} if env_from else {}),
        "ports": [{"name": "metrics", "containerPort": METRICS_PORT}],
        **({"resources": resources} if resources else {}),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "config", "mountPath": CONFIG_MOUNT, "readOnly": True},
            {"name": "cache", "mountPath": CACHE_MOUNT},
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "shm", "mountPath": "/dev/shm"},
        ],
    }
