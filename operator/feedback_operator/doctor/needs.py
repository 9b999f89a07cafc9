"""What an iteration needs of a cluster: the pods of its stages and of its endpoint, and the objects that they name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from feedback_operator.api import FeedbackIteration, IterationSpec, Metadata, PodOverrides, SecretKey, StageSection
from feedback_operator.doctor.facts import Object, quantity
from feedback_operator.resources import Manifest
from feedback_operator.resources.job import KUEUE_LABELS, QUEUE_LABEL
from feedback_operator.resources.owner import standard_labels
from feedback_operator.resources.pod import (
    container_settings,
    environment,
    mounts,
    pod_metadata,
    pod_settings,
    volumes,
)
from feedback_operator.stages import Image, stages_of
from feedback_workloads.contract import Source, TrialOrder

SERVING: Final = "serving"
DEFAULT_ACCOUNT: Final = "default"


@dataclass(frozen=True)
class Need:
    """The pods of one section of the spec: `pods` side by side, each as `section` says, with the Secrets `keys`."""

    name: str
    section: StageSection
    pods: int
    image: str
    keys: Mapping[str, SecretKey]

    @property
    def field(self) -> str:
        return f"spec.{self.name}"

    @property
    def account(self) -> str:
        return self.section.pod.service_account_name or DEFAULT_ACCOUNT


def needs_of(iteration: FeedbackIteration, images: Mapping[Image, str]) -> tuple[Need, ...]:
    """The pods of every stage, and of the endpoint where there is one."""
    spec = iteration.spec
    found = [
        Need(
            name=stage.name,
            section=(section := stage.section(spec)),
            pods=stage.pods(spec),
            image=section.pod.image or images[stage.image],
            keys=stage.keys(spec),
        )
        for stage in stages_of(spec)
    ]
    if spec.serving is not None and spec.serving.endpoint and spec.serving.replicas != 0:
        image = spec.serving.pod.image or images["generate"]
        found.append(Need(SERVING, spec.serving, spec.serving.replicas or 1, image, {}))
    return tuple(found)


def images_alone(images: Mapping[Image, str]) -> tuple[Need, ...]:
    """A pod of each image, where there is no iteration that would say more of it."""
    return tuple(Need(name, StageSection(), 1, image, {}) for name, image in images.items() if image)


def queue_of(iteration: FeedbackIteration) -> str | None:
    return iteration.metadata.labels.get(QUEUE_LABEL)


def named_objects(iteration: FeedbackIteration, needs: Sequence[Need]) -> Iterator[tuple[str, str]]:
    """Kind and name of each object of the namespace that the pods cannot do without."""
    for need in needs:
        pod = need.section.pod
        yield "ServiceAccount", need.account
        yield from (("Secret", name) for name in named_secrets(need))
        yield from (("PersistentVolumeClaim", name) for name in named_claims(pod))
        yield from (("ConfigMap", volume.config_map.name) for volume in pod.volumes if volume.config_map)
        if pod.ca_bundle and pod.ca_bundle.config_map_key_ref:
            yield "ConfigMap", pod.ca_bundle.config_map_key_ref.name
        for claim in need.section.resources.claims:
            yield "ResourceClaimTemplate", claim.resource_claim_template_name
    if queue := queue_of(iteration):
        yield "LocalQueue", queue
    if parent := iteration.spec.model.from_:
        yield "FeedbackIteration", parent.iteration


def named_secrets(need: Need) -> dict[str, tuple[str, ...]]:
    """Secrets by name, each with the keys that it must have; none where all that it has is taken."""
    pod = need.section.pod
    found: dict[str, tuple[str, ...]] = {one.name: () for one in pod.env_from}
    found.update(dict.fromkeys(pod.image_pull_secrets, (".dockerconfigjson",)))
    for key in need.keys.values():
        found[key.name] = (*found.get(key.name, ()), key.key)
    if pod.ca_bundle and (secret := pod.ca_bundle.secret_key_ref):
        found[secret.name] = (*found.get(secret.name, ()), secret.key)
    return found


def named_claims(pod: PodOverrides) -> list[str]:
    cache = [pod.cache.claim_name] if pod.cache and pod.cache.claim_name else []
    given = [one.persistent_volume_claim.claim_name for one in pod.volumes if one.persistent_volume_claim]
    return [*cache, *given]


def pod_manifest(owner: Metadata, need: Need) -> Manifest:
    """A pod as the section's are, but for its configuration: what the API server would say of one."""
    pod = need.section.pod
    metadata = pod_metadata(standard_labels(owner, need.name), pod)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**metadata, "generateName": "feedback-doctor-", "namespace": owner.namespace},
        "spec": {
            "restartPolicy": "Never",
            **pod_settings(need.section),
            "containers": [
                {
                    "name": "stage",
                    "image": need.image,
                    "env": environment(pod),
                    **container_settings(need.section),
                    "volumeMounts": mounts(pod),
                }
            ],
            "volumes": volumes(pod),
        },
    }


def requested(pod: Object) -> dict[str, Decimal]:
    """What the scheduler has to find for a pod: a limit counts as a request where there is none."""
    found: dict[str, Decimal] = {"pods": Decimal(1)}
    for container in pod["spec"]["containers"]:
        resources = container.get("resources", {})
        asked = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
        for name, text in asked.items():
            found[name] = found.get(name, Decimal(0)) + quantity(text)
    return found


def limited(pod: Object) -> dict[str, Decimal]:
    """The limits of all of a pod's containers."""
    found: dict[str, Decimal] = {}
    for container in pod["spec"]["containers"]:
        for name, text in (container.get("resources", {}).get("limits") or {}).items():
            found[name] = found.get(name, Decimal(0)) + quantity(text)
    return found


def order_of(spec: IterationSpec, names: Sequence[str]) -> TrialOrder:
    """What the pods of these sections would read and write, but for what lies on volumes."""
    models: list[Source] = []
    data: list[Source] = []
    for name in names:
        models += _models(spec, name)
        data += _data(spec, name)
    artifacts = spec.artifacts.uri if _afar(spec.artifacts.uri) else None
    return TrialOrder(artifacts=artifacts, models=_each_once(models), data=_each_once(data))


def _models(spec: IterationSpec, name: str) -> list[Source]:
    policy = [_source(spec.model)] if spec.model.uri else []
    match name:
        case "sampling" | "training" | "evaluation" | "serving":
            return policy
        case "labeling" if spec.labeling and spec.labeling.model:
            return [_source(spec.labeling.model)] if spec.labeling.model.uri else policy
        case "splitting" if spec.splitting.llm and spec.splitting.llm.model:
            return [_source(spec.splitting.llm.model)]
    return []


def _data(spec: IterationSpec, name: str) -> list[Source]:
    match name:
        case "sampling" | "labeling" if spec.instructions:
            return [_source(spec.instructions)]
        case "pairing" if spec.pairs:
            return [_source(spec.pairs.source)]
        case "evaluation":
            return [_source(one) for one in spec.evaluation.benchmarks]
    return []


def _source(named: Any) -> Source:
    """Where something is; which bytes of it is for the stages to see."""
    return Source(uri=named.uri.rstrip("/"), revision=named.revision)


def _afar(uri: str) -> bool:
    return uri.startswith(("s3://", "hf://"))


def _each_once(sources: list[Source]) -> tuple[Source, ...]:
    return tuple(dict.fromkeys(source for source in sources if _afar(source.uri)))


def queue_labels(owner: Metadata) -> dict[str, str]:
    return {key: owner.labels[key] for key in KUEUE_LABELS if owner.labels.get(key)}
