"""What all pods have in common: the restricted Pod Security Standard, no token, and the allowed overrides."""

from __future__ import annotations

from typing import Final

from feedback_operator.api import PodOverrides, StageSection
from feedback_operator.resources import Manifest

CACHE_MOUNT: Final = "/var/cache/feedback"

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
    """What MOUNTS mounts: the only places that a container can write to."""
    cache = {"persistentVolumeClaim": {"claimName": pod.cache.claim_name}} if pod.cache else {"emptyDir": {}}
    return [
        {"name": "cache", **cache},
        {"name": "tmp", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory"}},
    ]


def pod_settings(section: StageSection) -> Manifest:
    """Everything of a pod's spec but its containers and volumes."""
    pod = section.pod
    optional: Manifest = {
        "nodeSelector": pod.node_selector,
        "tolerations": [t.model_dump(by_alias=True, exclude_none=True) for t in pod.tolerations],
        "affinity": pod.affinity,
        "priorityClassName": pod.priority_class_name,
        "runtimeClassName": pod.runtime_class_name,
        "serviceAccountName": pod.service_account_name,
        "imagePullSecrets": [{"name": name} for name in pod.image_pull_secrets],
        "resourceClaims": [
            {"name": claim.name, "resourceClaimTemplateName": claim.resource_claim_template_name}
            for claim in section.resources.claims
        ],
    }
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": POD_SECURITY,
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
        "securityContext": CONTAINER_SECURITY,
    }
