"""Volumes that pods may be given: certificates, models and data to read, and a cache."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from feedback_operator.api.base import ObjectName, Quantity, Resource
from feedback_operator.api.rules import Rule, exactly_one


class KeyReference(Resource):
    """One key of a ConfigMap or a Secret of the same namespace."""

    name: ObjectName = Field(description="Name of the object.")
    key: Annotated[str, Field(min_length=1, max_length=253, pattern="^[-._a-zA-Z0-9]+$")] = Field(
        description="Key of certificates in PEM."
    )


class CABundle(Resource):
    """Certificate authorities that the pods trust, in the place of those of the image."""

    RULES = (exactly_one("configMapKeyRef", "secretKeyRef"),)

    config_map_key_ref: KeyReference | None = Field(default=None, description="In a ConfigMap.")
    secret_key_ref: KeyReference | None = Field(default=None, description="In a Secret.")


class ClaimSource(Resource):
    """A PersistentVolumeClaim of the same namespace."""

    claim_name: ObjectName = Field(description="Name of the claim.")


class ConfigMapSource(Resource):
    """A ConfigMap of the same namespace: each key is a file."""

    name: ObjectName = Field(description="Name of the ConfigMap.")


class ImageSource(Resource):
    """An OCI image or artifact, such as a model."""

    reference: Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[^\x00-\x20\x7f]+$")] = Field(
        description="Its address; pulled with the pods' secrets."
    )


_OWN_VOLUMES: Final = ("config", "cache", "tmp", "shm", "ca-bundle")
_OWN_PATHS: Final = ("/dev", "/etc/feedback", "/etc/feedback-ca", "/proc", "/sys", "/tmp", "/var/cache/feedback")


def _apart(path: str) -> bool:
    return not any(f"{path}/".startswith(f"{own}/") or f"{own}/".startswith(f"{path}/") for own in _OWN_PATHS)


class Volume(Resource):
    """Something to be mounted, as in a pod's `volumes`."""

    RULES = (exactly_one("persistentVolumeClaim", "configMap", "image"),)

    name: Annotated[
        str,
        Field(min_length=1, max_length=63, pattern="^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"),
        Rule(
            cel=f"!(self in {list(_OWN_VOLUMES)})",
            message="must not be a volume of the operator: " + ", ".join(_OWN_VOLUMES),
            holds=lambda name: name not in _OWN_VOLUMES,
        ),
    ] = Field(description="Name by which `volumeMounts` mounts it.")
    persistent_volume_claim: ClaimSource | None = Field(default=None, description="A claim of the namespace.")
    config_map: ConfigMapSource | None = Field(default=None, description="A ConfigMap of the namespace.")
    image: ImageSource | None = Field(default=None, description="An OCI image; its files are what is mounted.")


class VolumeMount(Resource):
    """Where a volume is mounted, read-only, as in a container's `volumeMounts`."""

    name: Annotated[str, Field(min_length=1, max_length=63, pattern="^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")] = Field(
        description="Name of the volume."
    )
    mount_path: Annotated[
        str,
        Field(min_length=1, max_length=256, pattern=r"^(/[^/:.\x00-\x20\x7f][^/:\x00-\x20\x7f]*)+$"),
        Rule(
            cel=f"{list(_OWN_PATHS)}.all(own, "
            "!(self + '/').startsWith(own + '/') && !(own + '/').startsWith(self + '/'))",
            message="must be neither in nor above these: " + ", ".join(_OWN_PATHS),
            holds=_apart,
        ),
    ] = Field(description="Absolute path, such as /models.")


class EphemeralClaim(Resource):
    """A PersistentVolumeClaim that is made for each pod and goes with it."""

    size: Quantity = Field(description="What the claim asks for, such as 100Gi.")
    storage_class_name: ObjectName | None = Field(
        default=None, description="StorageClass of the claim; absent: the cluster's default."
    )


class CacheVolume(Resource):
    """Where downloaded models are: on a claim, which keeps them between pods, or on space of the pod's own."""

    RULES = (exactly_one("claimName", "ephemeral", "sizeLimit"),)

    claim_name: ObjectName | None = Field(
        default=None, description="PersistentVolumeClaim of the same namespace to mount as the cache."
    )
    ephemeral: EphemeralClaim | None = Field(
        default=None, description="A claim for each pod: its node's disk need not hold the models."
    )
    size_limit: Quantity | None = Field(
        default=None, description="How much of its node's disk the pod may take; who takes more is evicted."
    )


class ScratchVolume(Resource):
    """Where a pod writes what goes with it: `/tmp`, with the states and checkpoints of training until they are
    stored."""

    RULES = (exactly_one("ephemeral", "sizeLimit"),)

    ephemeral: EphemeralClaim | None = Field(default=None, description="A claim for each pod.")
    size_limit: Quantity | None = Field(
        default=None, description="How much of its node's disk the pod may take; who takes more is evicted."
    )
