"""What all pods have in common: the restricted Pod Security Standard, no token, and the allowed overrides."""

from __future__ import annotations

from typing import Final

from feedback_operator.api import CA_VARIABLES, PodOverrides, StageSection
from feedback_operator.api.base import Resource
from feedback_operator.api.volumes import CABundle, CacheVolume, KeyReference, ScratchVolume
from feedback_operator.resources import Manifest

CACHE_MOUNT: Final = "/var/cache/feedback"
CA_MOUNT: Final = "/etc/feedback-ca"
CA_FILE: Final = "ca.crt"

POD_SECURITY: Final[Manifest] = {
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "fsGroup": 65532,
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY: Final[Manifest] = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
ENVIRONMENT: Final = (
    {"name": "FEEDBACK_CACHE", "value": CACHE_MOUNT},
    {"name": "HOME", "value": "/tmp"},
)
MOUNTS: Final = (
    {"name": "cache", "mountPath": CACHE_MOUNT},
    {"name": "tmp", "mountPath": "/tmp"},
    {"name": "shm", "mountPath": "/dev/shm"},
)


def volumes(pod: PodOverrides) -> list[Manifest]:
    """What `mounts` mounts: the only places that a container can write to, and what it is given to read."""
    ca_bundle = [{"name": "ca-bundle", **_certificates(pod.ca_bundle)}] if pod.ca_bundle else []
    return [
        {"name": "cache", **_space(pod.cache)},
        {"name": "tmp", **_space(pod.scratch)},
        {"name": "shm", "emptyDir": {"medium": "Memory"}},
        *ca_bundle,
        *(_given(volume) for volume in pod.volumes),
    ]


def mounts(pod: PodOverrides) -> list[Manifest]:
    """Where the volumes are in the container."""
    ca_bundle = [{"name": "ca-bundle", "mountPath": CA_MOUNT, "readOnly": True}] if pod.ca_bundle else []
    return [*MOUNTS, *ca_bundle, *({**_given(mount), "readOnly": True} for mount in pod.volume_mounts)]


def environment(pod: PodOverrides) -> list[Manifest]:
    """Variables of every container, then those of this one's section."""
    trusted = CA_VARIABLES if pod.ca_bundle else ()
    return [
        *ENVIRONMENT,
        *({"name": name, "value": f"{CA_MOUNT}/{CA_FILE}"} for name in trusted),
        *map(_given, pod.env),
    ]


def _space(given: CacheVolume | ScratchVolume | None) -> Manifest:
    """The source of a volume to write to."""
    if isinstance(given, CacheVolume) and given.claim_name:
        return {"persistentVolumeClaim": {"claimName": given.claim_name}}
    if given and given.ephemeral:
        claim: Manifest = {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": given.ephemeral.size}},
        }
        if given.ephemeral.storage_class_name:
            claim["storageClassName"] = given.ephemeral.storage_class_name
        return {"ephemeral": {"volumeClaimTemplate": {"spec": claim}}}
    return {"emptyDir": {"sizeLimit": given.size_limit} if given else {}}


def _certificates(bundle: CABundle) -> Manifest:
    """The source of a volume with the bundle as its one file."""
    match bundle.config_map_key_ref, bundle.secret_key_ref:
        case KeyReference() as config_map, _:
            return {"configMap": {"name": config_map.name, "items": [{"key": config_map.key, "path": CA_FILE}]}}
        case _, KeyReference() as secret:
            return {"secret": {"secretName": secret.name, "items": [{"key": secret.key, "path": CA_FILE}]}}
    raise AssertionError(bundle)


def _given(part: Resource) -> Manifest:
    """A part of the section that is written as in a pod."""
    return part.model_dump(by_alias=True, exclude_none=True)


def pod_metadata(labels: dict[str, str], pod: PodOverrides) -> Manifest:
    """Of the pods' template: the section's labels, which are none of ours, and ours."""
    return {"labels": {**pod.labels, **labels}, **({"annotations": pod.annotations} if pod.annotations else {})}


def pod_settings(section: StageSection) -> Manifest:
    """Everything of a pod's spec but its containers and volumes."""
    pod = section.pod
    optional: Manifest = {
        "nodeSelector": pod.node_selector,
        "tolerations": [_given(toleration) for toleration in pod.tolerations],
        "affinity": pod.affinity,
        "priorityClassName": pod.priority_class_name,
        "runtimeClassName": pod.runtime_class_name,
        "schedulerName": pod.scheduler_name,
        "serviceAccountName": pod.service_account_name,
        "terminationGracePeriodSeconds": pod.termination_grace_period_seconds,
        "imagePullSecrets": [{"name": name} for name in pod.image_pull_secrets],
        "resourceClaims": [
            {"name": claim.name, "resourceClaimTemplateName": claim.resource_claim_template_name}
            for claim in section.resources.claims
        ],
    }
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {**POD_SECURITY, **(_given(pod.security_context) if pod.security_context else {})},
        **{key: value for key, value in optional.items() if value},
    }


def container_settings(section: StageSection) -> Manifest:
    """What every container is given of its section: resources, Secrets as environment, and the security context."""
    resources = section.resources.model_dump(exclude_defaults=True, exclude={"claims"})
    if section.resources.claims:
        resources["claims"] = [{"name": claim.name} for claim in section.resources.claims]
    env_from = [{"secretRef": {"name": secret.name}} for secret in section.pod.env_from]
    return {
        **({"envFrom": env_from} if env_from else {}),
        **({"resources": resources} if resources else {}),
        "securityContext": _with_capabilities(section.pod),
    }


def _with_capabilities(pod: PodOverrides) -> Manifest:
    if not pod.capabilities:
        return CONTAINER_SECURITY
    return {**CONTAINER_SECURITY, "capabilities": {"drop": ["ALL"], "add": list(pod.capabilities)}}
