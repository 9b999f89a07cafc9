"""The best-of-N server of a promoted policy."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from feedback_operator.api import GROUP, Metadata, PromotedModel, RankingStatus, ServingSpec
from feedback_operator.resources import ENDPOINT_LABEL, FIELD_MANAGER, Manifest
from feedback_operator.resources.owner import owner_reference, standard_labels
from feedback_operator.resources.pod import (
    container_settings,
    environment,
    mounts,
    pod_metadata,
    pod_settings,
    volumes,
)
from feedback_operator.stages import gpus

CONTAINER: Final = "serving"
HTTP_PORT: Final = 8000
REVISION_ANNOTATION: Final = f"{GROUP}/revision"
PROBE_SECONDS: Final = 5
UNLISTED_SECONDS: Final = 5
"""For so long a pod that ends still takes requests: load balancers hear of it only then."""
DRAIN_SECONDS: Final = 60
LAST_SECONDS: Final = 10
CANARY_SUFFIX: Final = "-canary"


@dataclass(frozen=True)
class Serving:
    """One endpoint as one iteration wants it: all that its objects are made from.

    `owner` holds the endpoint. `co_owners` are the uids and names of the iterations that would take it over: as owners
    beside the holder they keep the endpoint alive when the holder is deleted.
    `spec.replicas` are `applied_replicas`. `canary`: these are the pods beside those that serve, under the same name to
    clients.
    """

    name: str
    owner: Metadata
    co_owners: tuple[tuple[str, str], ...]
    spec: ServingSpec
    promoted: PromotedModel
    max_model_len: int | None
    canary: bool = False

    @property
    def object_name(self) -> str:
        """Name of its objects, and what its pods are labelled with."""
        return f"{self.name}{CANARY_SUFFIX}" if self.canary else self.name


def applied_replicas(wanted: int | None, deployment: Manifest | None) -> int | None:
    """The number of pods to apply; None leaves it to whoever scales the Deployment.

    A number that is left out after it was applied is applied on until somebody else changes it: the API server gives a
    field that nobody applies any more its default, which is one pod, whatever the load. Only 0 becomes one pod again.
    """
    if wanted is not None or deployment is None or not _replicas_are_ours(deployment):
        return wanted
    return max(1, int(deployment["spec"]["replicas"]))


def _replicas_are_ours(deployment: Manifest) -> bool:
    return any(
        (entry["manager"], entry["operation"]) == (FIELD_MANAGER, "Apply") and sets_replicas(entry)
        for entry in deployment["metadata"].get("managedFields", ())
    )


def sets_replicas(entry: Mapping[str, Any]) -> bool:
    """Whether an entry of managedFields is about `spec.replicas`."""
    return "f:replicas" in entry.get("fieldsV1", {}).get("f:spec", {})


def endpoint_metadata(serving: Serving) -> Manifest:
    """Of all objects: named and labelled like the endpoint."""
    holder = owner_reference(serving.owner)
    return {
        "name": serving.object_name,
        "namespace": serving.owner.namespace,
        "labels": {**standard_labels(serving.owner, "serving"), ENDPOINT_LABEL: serving.name},
        "ownerReferences": [
            holder,
            *(
                {**holder, "name": name, "uid": uid, "controller": False, "blockOwnerDeletion": False}
                for uid, name in serving.co_owners
            ),
        ],
    }


def build_deployment(serving: Serving) -> Manifest:
    """A rolling update that has as many pods as the spec allows, and is given up when it makes no progress."""
    template = _template(serving)
    metadata = endpoint_metadata(serving)
    replicas = {} if serving.spec.replicas is None else {"replicas": serving.spec.replicas}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {**metadata, "annotations": {REVISION_ANNOTATION: revision(serving)}},
        "spec": {
            **replicas,
            "revisionHistoryLimit": 2,
            "progressDeadlineSeconds": serving.spec.progress_deadline_seconds,
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxUnavailable": serving.spec.max_unavailable, "maxSurge": serving.spec.max_surge},
            },
            "selector": {"matchLabels": {ENDPOINT_LABEL: serving.object_name}},
            "template": template,
        },
    }


def revision(serving: Serving) -> str:
    """Identity of the pods, a canary's or not: ten hex digits over everything that makes a new rollout."""
    text = json.dumps(_template(replace(serving, canary=False)), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _template(serving: Serving) -> Manifest:
    labels = {**standard_labels(serving.owner, "serving"), ENDPOINT_LABEL: serving.object_name}
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {ENDPOINT_LABEL: serving.object_name}},
    }
    return {
        "metadata": pod_metadata(labels, serving.spec.pod),
        "spec": {
            "terminationGracePeriodSeconds": UNLISTED_SECONDS + DRAIN_SECONDS + LAST_SECONDS,
            **pod_settings(serving.spec),
            "topologySpreadConstraints": [spread],
            "containers": [_container(serving)],
            "volumes": volumes(serving.spec.pod),
        },
    }


def _container(serving: Serving) -> Manifest:
    health = {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": PROBE_SECONDS, "timeoutSeconds": 5}
    starting = math.ceil(serving.spec.progress_deadline_seconds / PROBE_SECONDS)
    return {
        "name": CONTAINER,
        "image": serving.spec.pod.image or serving.promoted.image,
        "command": ["python", "-m", "feedback_workloads.serving"],
        "args": _arguments(serving),
        "env": environment(serving.spec.pod),
        "ports": [{"name": "http", "containerPort": HTTP_PORT}],
        # It answers only after it has loaded its models and tried them with a request.
        "startupProbe": {**health, "failureThreshold": starting},
        "readinessProbe": {**health, "failureThreshold": 2},
        "livenessProbe": {**health, "failureThreshold": 6},
        **container_settings(serving.spec),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts(serving.spec.pod),
    }


def _arguments(serving: Serving) -> list[str]:
    here: dict[str, str | int] = {
        "--model-name": serving.name,
        "--tensor-parallel-size": gpus(serving.spec),
        "--host": "0.0.0.0",
        "--port": HTTP_PORT,
        "--unlisted-seconds": UNLISTED_SECONDS,
        "--drain-seconds": _drain_seconds(serving.spec),
    }
    return [
        *model_arguments(serving.promoted, serving.spec, serving.max_model_len),
        *(f"{flag}={value}" for flag, value in here.items()),
    ]


def _drain_seconds(spec: ServingSpec) -> int:
    """What is left to requests of the time between SIGTERM and SIGKILL."""
    grace = spec.pod.termination_grace_period_seconds
    return grace - UNLISTED_SECONDS - LAST_SECONDS if grace else DRAIN_SECONDS


def model_arguments(model: PromotedModel, asked: ServingSpec, max_model_len: int | None) -> list[str]:
    """What a server is told of its model, wherever it runs: it is served as it was scored, but for what is `asked`."""
    reference = model.reference
    ranking = (
        RankingStatus(rule=asked.ranking.rule, lambda_=asked.ranking.lambda_ or "") if asked.ranking else model.ranking
    )
    flags: dict[str, str | int | None] = {
        "--policy": model.uri,
        "--policy-sha256": model.sha256,
        "--reference": reference.uri,
        "--reference-revision": reference.revision,
        "--reference-sha256": reference.sha256,
        "--system-prompt": reference.system_prompt,
        "--chat-template": reference.chat_template,
        "--processor-kwargs": _json(reference.processor_kwargs),
        "--beta": model.beta,
        "--temperature": model.temperature,
        "--top-p": model.top_p,
        "--max-tokens": model.max_new_tokens,
        "--ranked-temperature": model.ranked_temperature or None,
        "--ranked-top-p": model.ranked_top_p or None,
        "--best-of": asked.best_of or model.best_of,
        "--ranking": ranking.rule if ranking else None,
        "--ranking-lambda": (ranking.lambda_ or None) if ranking else None,
        "--precision": model.precision.lower(),
        "--max-model-len": max_model_len,
    }
    return [f"{flag}={value}" for flag, value in flags.items() if value is not None]


def _json(value: Mapping[str, Any] | None) -> str | None:
    return None if value is None else json.dumps(value, sort_keys=True)
