"""What is said of pods: resources, and what they may be given beyond the defaults."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import BeforeValidator, Field

from feedback_operator.api.base import GROUP, Integer, Name, ObjectName, Quantity, Resource, WithoutNulls, amount
from feedback_operator.api.rules import OPERATIONAL, Rule, UniqueBy
from feedback_operator.api.volumes import CABundle, CacheVolume, ScratchVolume, Volume, VolumeMount
from feedback_workloads.contract import COMMON_KEY_VARIABLE, KEY_VARIABLES

_STANDARD: Final = ("cpu", "memory", "ephemeral-storage")


def _whole_devices(amounts: dict[str, str]) -> bool:
    return all("/" not in name or text.isdecimal() for name, text in amounts.items())


Amounts = Annotated[
    dict[str, Quantity],
    Field(max_length=16),
    Rule(
        cel="self.all(name, name in ['cpu', 'memory', 'ephemeral-storage'] "
        "|| name.matches('^[a-z0-9]([-.a-z0-9]{0,250}[a-z0-9])?/[A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?$'))",
        message="names must be cpu, memory, ephemeral-storage, or a device such as nvidia.com/gpu",
        holds=lambda amounts: all(
            name in _STANDARD
            or re.fullmatch(r"[a-z0-9]([-.a-z0-9]{0,250}[a-z0-9])?/[A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?", name)
            for name in amounts
        ),
    ),
    Rule(
        cel="self.all(name, !name.contains('/') || string(self[name]).matches('^[0-9]+$'))",
        message="devices such as nvidia.com/gpu must be counted in whole numbers without a unit",
        holds=_whole_devices,
    ),
    WithoutNulls,
]


def _within_limits(resources: Resources) -> bool:
    return all(
        amount(text) <= amount(resources.limits[name])
        for name, text in resources.requests.items()
        if name in resources.limits
    )


def _devices_are_limits(resources: Resources) -> bool:
    return all(
        name in resources.limits and amount(resources.limits[name]) == amount(text)
        for name, text in resources.requests.items()
        if "/" in name
    )


class DeviceClaim(Resource):
    """Devices by dynamic resource allocation: each pod gets a claim of its own, made from a template."""

    name: Name = Field(description="Name of the claim within the pod.")
    resource_claim_template_name: ObjectName = Field(description="ResourceClaimTemplate of the same namespace.")
    devices: Integer = Field(
        default=1,
        ge=1,
        le=64,
        description="GPUs that the template asks for: a model is split over as many as its pod has.",
    )


class Resources(Resource):
    """Compute resources of each pod, as in a container's `resources`."""

    RULES = (
        Rule(
            cel="!has(self.requests) || !has(self.limits) || self.requests.all(name, !(name in self.limits) "
            "|| quantity(string(self.requests[name])).compareTo(quantity(string(self.limits[name]))) <= 0)",
            message="a request must not be greater than its limit",
            holds=_within_limits,
        ),
        Rule(
            cel="!has(self.requests) || self.requests.all(name, !name.contains('/') || (has(self.limits) "
            "&& name in self.limits && string(self.requests[name]) == string(self.limits[name])))",
            message="a device such as nvidia.com/gpu must be under limits; a request for it, if any, must be equal",
            holds=_devices_are_limits,
        ),
    )

    requests: Amounts = Field(default={}, description="What the scheduler reserves: cpu, memory.")
    limits: Amounts = Field(default={}, description="What the pod may use at most: cpu, memory, nvidia.com/gpu.")
    claims: Annotated[list[DeviceClaim], Field(max_length=8), UniqueBy(("name",))] = Field(
        default=[],
        description="Devices by dynamic resource allocation, in the place of those under limits.",
    )


_LABEL_KEY: Final = r"^([a-z0-9]([-.a-z0-9]*[a-z0-9])?/)?[A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?$"
LabelKey = Annotated[str, Field(min_length=1, max_length=317, pattern=_LABEL_KEY)]
LabelValue = Annotated[str, Field(max_length=63, pattern=r"^([A-Za-z0-9]([-_.A-Za-z0-9]*[A-Za-z0-9])?)?$")]


AffinityKind = Literal["nodeAffinity", "podAffinity", "podAntiAffinity"]


def _without_nulls(value: object) -> object:
    if not isinstance(value, dict):
        return value
    return {kind: rules for kind, rules in value.items() if rules is not None or kind not in get_args(AffinityKind)}


Affinity = Annotated[
    dict[
        AffinityKind,
        Annotated[
            dict[str, Any],
            Field(
                description="As in a pod; the API server checks it when the pod is made.",
                json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
            ),
        ],
    ],
    BeforeValidator(_without_nulls),
]


class Toleration(Resource):
    """A taint of nodes that the pods put up with, as in a pod's `tolerations`."""

    RULES = (
        Rule(
            cel="has(self.key) || (has(self.operator) && self.operator == 'Exists')",
            message="a toleration without a key needs operator Exists",
            holds=lambda toleration: toleration.key is not None or toleration.operator == "Exists",
        ),
        Rule(
            cel="!has(self.operator) || self.operator != 'Exists' || !has(self.value) || self.value == ''",
            message="a toleration with operator Exists must have no value",
            holds=lambda toleration: toleration.operator != "Exists" or not toleration.value,
        ),
        Rule(
            cel="!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            message="tolerationSeconds needs effect NoExecute",
            holds=lambda toleration: toleration.toleration_seconds is None or toleration.effect == "NoExecute",
        ),
    )

    key: LabelKey | None = Field(default=None, description="Key of the taint; absent with Exists: every taint.")
    operator: Literal["Exists", "Equal"] | None = Field(
        default=None, description="Equal compares the value; Exists is content with the key. Absent: Equal."
    )
    value: LabelValue | None = Field(default=None, description="Value of the taint; absent with Exists.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="Effect of the taint; absent: every effect."
    )
    toleration_seconds: Annotated[Integer, Field(ge=0, le=31536000)] | None = Field(
        default=None, description="How long a NoExecute taint is put up with; absent: for ever."
    )


# ── labels, annotations, environment ─────────────────────────────────────────────────────────────────────────────────

_KEYS: Final = Rule(
    cel=f"self.all(key, key.matches('{_LABEL_KEY}'))",
    message="keys must be such as team or example.com/team",
    holds=lambda pairs: all(re.fullmatch(_LABEL_KEY.strip("^$"), key) for key in pairs),
)


def _free_of(prefixes: tuple[str, ...], keys: tuple[str, ...], message: str) -> Rule:
    """A map whose keys are none of these, nor begin with any of the prefixes."""
    tests = [*(f"key.startsWith('{prefix}')" for prefix in prefixes), *([f"key in {list(keys)}"] if keys else [])]
    return Rule(
        cel=f"self.all(key, !({' || '.join(tests)}))",
        message=message,
        holds=lambda pairs: not any(key in keys or key.startswith(prefixes) for key in pairs),
    )


PodLabels = Annotated[
    dict[str, LabelValue],
    Field(max_length=32),
    _KEYS,
    _free_of(
        (f"{GROUP}/", "batch.kubernetes.io/"),
        (
            *(f"app.kubernetes.io/{name}" for name in ("name", "instance", "component", "managed-by")),
            *("controller-uid", "job-name", "pod-template-hash"),
        ),
        f"must not be labels that the operator or Kubernetes sets: {GROUP}/*, batch.kubernetes.io/*, app.kubernetes.io/"
        "name, instance, component, managed-by, controller-uid, job-name, pod-template-hash; choose another key",
    ),
    WithoutNulls,
]
PodAnnotations = Annotated[
    dict[str, Annotated[str, Field(max_length=4096)]],
    Field(max_length=32),
    _KEYS,
    _free_of(
        (f"{GROUP}/", "batch.kubernetes.io/"),
        (),
        f"must not be what the operator or Kubernetes sets: {GROUP}/*, batch.kubernetes.io/*; choose another key",
    ),
    _free_of(
        ("container.apparmor.security.", "seccomp.security."),
        (),
        "must not change what confines containers; leave out those of AppArmor and seccomp",
    ),
    WithoutNulls,
]

_CREDENTIALS: Final = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "HF_TOKEN",
    *KEY_VARIABLES.values(),
    COMMON_KEY_VARIABLE,
)
_OWN_VARIABLES: Final = ("HOME", "MASTER_ADDR", "MASTER_PORT", "JOB_COMPLETION_INDEX")
CA_VARIABLES: Final = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
"""Where boto3, requests, and OpenSSL with what is built on it (httpx, the hub's client) find whom to trust."""


class EnvVar(Resource):
    """An environment variable, as in a container's `env`. It goes before one of its name from `envFrom`."""

    name: Annotated[
        str,
        Field(min_length=1, max_length=128, pattern="^[A-Za-z_][A-Za-z0-9_]*$"),
        Rule(
            cel=f"!(self.startsWith('FEEDBACK_') || self in {list(_OWN_VARIABLES)})",
            message="must not be what the operator sets: FEEDBACK_*, " + ", ".join(_OWN_VARIABLES),
            holds=lambda name: not (name.startswith("FEEDBACK_") or name in _OWN_VARIABLES),
        ),
        Rule(
            cel=f"!(self in {list(_CREDENTIALS)})",
            message="must be in a Secret that envFrom names: " + ", ".join(_CREDENTIALS),
            holds=lambda name: name not in _CREDENTIALS,
        ),
    ] = Field(description="Name of the variable, such as AWS_REGION or HTTPS_PROXY.")
    value: Annotated[str, Field(max_length=4096)] = Field(description="Its value; $(NAME) is that of an earlier one.")


class SecretEnv(Resource):
    """Environment variables from a Secret of the same namespace, such as S3 credentials."""

    name: ObjectName = Field(description="Name of the Secret; each of its keys becomes a variable.")


# ── all of it ────────────────────────────────────────────────────────────────────────────────────────────────────────


class PodSecurityContext(Resource):
    """What may be said of a pod's `securityContext`."""

    fs_group_change_policy: Literal["OnRootMismatch", "Always"] | None = Field(
        default=None,
        description="OnRootMismatch: files of a claim whose root belongs to the pods' group are not gone through at "
        "each start. Absent: Always.",
    )


Capability = Literal["IPC_LOCK"]


class PodOverrides(Resource):
    """What pods may be given beyond the defaults; anything else is refused."""

    RULES = (
        Rule(
            cel=f"!has(self.caBundle) || !has(self.env) || self.env.all(one, !(one.name in {list(CA_VARIABLES)}))",
            message=f"{', '.join(CA_VARIABLES)} follow from caBundle; leave them out of env, or leave out caBundle",
            holds=lambda pod: pod.ca_bundle is None or not {one.name for one in pod.env} & set(CA_VARIABLES),
        ),
        Rule(
            cel="!has(self.volumeMounts) || self.volumeMounts.all(mount, has(self.volumes) "
            "&& self.volumes.exists(volume, volume.name == mount.name))",
            message="every name in volumeMounts must be that of a volume in volumes",
            holds=lambda pod: {mount.name for mount in pod.volume_mounts} <= {volume.name for volume in pod.volumes},
        ),
        Rule(
            cel="!has(self.volumes) || self.volumes.all(volume, has(self.volumeMounts) "
            "&& self.volumeMounts.exists(mount, mount.name == volume.name))",
            message="every volume must be mounted: name it in volumeMounts, or leave it out",
            holds=lambda pod: {volume.name for volume in pod.volumes} <= {mount.name for mount in pod.volume_mounts},
        ),
    )

    labels: PodLabels = Field(default={}, description="Labels of the pods, beside the operator's own.")
    annotations: PodAnnotations = Field(
        default={}, description='Annotations of the pods, such as sidecar.istio.io/inject: "false".'
    )
    image: Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[^\x00-\x20\x7f]+$")] | None = Field(
        default=None, description="Container image in place of the operator's default."
    )
    image_pull_secrets: Annotated[list[ObjectName], Field(max_length=8), UniqueBy()] = Field(
        default=[], description="Names of Secrets with credentials of the image's registry."
    )
    node_selector: Annotated[
        dict[str, LabelValue],
        Field(max_length=32),
        Rule(
            cel=f"self.all(key, key.matches('{_LABEL_KEY}'))",
            message="keys must be labels of nodes, such as example.com/pool",
            holds=lambda labels: all(re.fullmatch(_LABEL_KEY.strip("^$"), key) for key in labels),
        ),
        WithoutNulls,
    ] = Field(default={}, description="Labels that a node must have.")
    tolerations: Annotated[list[Toleration], Field(max_length=16)] = Field(
        default=[], description="Taints of nodes that the pods put up with."
    )
    affinity: Affinity = Field(default={}, description="Which nodes, as in a pod's `affinity`.")
    priority_class_name: ObjectName | None = Field(default=None, description="PriorityClass of the pods.")
    runtime_class_name: ObjectName | None = Field(default=None, description="RuntimeClass of the pods.")
    service_account_name: ObjectName | None = Field(
        default=None,
        description="Identity of the pods towards the cloud (IRSA, workload identity); no token is mounted.",
    )
    scheduler_name: ObjectName | None = Field(default=None, description="Scheduler of the pods; absent: default.")
    termination_grace_period_seconds: Annotated[Integer, Field(ge=1, le=86400)] | None = Field(
        default=None,
        description="Time between SIGTERM and SIGKILL, in which a stage leaves what is complete; absent: 30. At an "
        "endpoint, requests end in all of it but 15 seconds; absent: 75.",
    )
    capabilities: Annotated[list[Capability], Field(max_length=1), UniqueBy()] = Field(
        default=[],
        description="What the containers may do beyond nothing: IPC_LOCK pins memory for RDMA between GPUs of several "
        "nodes. Only where whoever runs the operator allows it.",
    )
    security_context: PodSecurityContext | None = Field(default=None, description="About the files of claims.")
    env: Annotated[list[EnvVar], Field(max_length=32), UniqueBy(("name",))] = Field(
        default=[], description="Environment variables that are no secrets, such as AWS_REGION or HTTPS_PROXY."
    )
    env_from: Annotated[list[SecretEnv], Field(max_length=8), UniqueBy(("name",))] = Field(
        default=[], description="Secrets whose keys become environment variables, such as S3 credentials."
    )
    ca_bundle: CABundle | None = Field(
        default=None,
        description="Whom the pods trust on every TLS connection: S3, the hub and all else. It replaces the image's "
        "own list: a bundle for a private S3 and the public hub holds the authorities of both.",
    )
    volumes: Annotated[list[Volume], Field(max_length=8), UniqueBy(("name",))] = Field(
        default=[], description="More volumes, to be read: models and data on claims, in ConfigMaps or in images."
    )
    volume_mounts: Annotated[list[VolumeMount], Field(max_length=8), UniqueBy(("mount_path",))] = Field(
        default=[], description="Where they are mounted, all read-only."
    )
    cache: CacheVolume | None = Field(
        default=None,
        description="Volume for downloaded models; absent: the node's disk, on which each pod downloads them anew.",
    )
    scratch: ScratchVolume | None = Field(
        default=None, description="Volume for what goes with the pod; absent: the node's disk."
    )


class StageSection(Resource):
    """What every section that becomes pods has in common. Nothing here changes what is computed."""

    resources: Annotated[Resources, OPERATIONAL] = Field(
        default=Resources(),
        description="Compute resources of each pod. Devices are asked for by stages that run a model, "
        "which pairing does not, and splitting only with type LLM.",
    )
    pod: Annotated[PodOverrides, OPERATIONAL] = Field(
        default=PodOverrides(), description="What the pods are given beyond the defaults."
    )
