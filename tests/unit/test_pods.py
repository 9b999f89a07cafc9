"""What pods may be given, and what is refused, with the field and the remedy. The API server is asked the same table by
tests/integration/operator/test_validation.py."""

from __future__ import annotations

from typing import Any, Final

import pytest
from pydantic import ValidationError

from feedback_operator.api import CA_VARIABLES, FeedbackIteration, PodOverrides, StageSection
from feedback_operator.cluster.local.cluster import local_variables
from feedback_operator.resources.job import CONFIG_MOUNT
from feedback_operator.resources.pod import (
    CA_MOUNT,
    MOUNTS,
    container_settings,
    environment,
    pod_metadata,
    pod_settings,
    volumes,
)
from tests.unit.worlds import manifest

Pod = dict[str, Any]


def volume(name: str = "data", **source: Any) -> Pod:
    return {"name": name, **(source or {"persistentVolumeClaim": {"claimName": "pictures"}})}


def mounted(path: str) -> Pod:
    return {"volumes": [volume()], "volumeMounts": [{"name": "data", "mountPath": path}]}


BUNDLE: Final[Pod] = {"configMapKeyRef": {"name": "ca", "key": "ca.crt"}}
TWO_BUNDLES: Final[Pod] = {**BUNDLE, "secretKeyRef": {"name": "ca", "key": "k"}}
CHOOSE: Final = "choose another key"
ONE_BUNDLE: Final = "exactly one of configMapKeyRef and secretKeyRef"
ONE_CACHE: Final = "exactly one of claimName, ephemeral and sizeLimit"
ONE_SOURCE: Final = "exactly one of persistentVolumeClaim, configMap and image"
APPARMOR: Final = "container.apparmor.security.beta.kubernetes.io/stage"
ELSEWHERE: Final = "neither in nor above"


def variable(name: str) -> Pod:
    return {"env": [{"name": name, "value": "x"}]}


REFUSED: Final[dict[str, tuple[Pod, str, str]]] = {
    "a label of ours": ({"labels": {"feedback.rlaif.dev/stage": "x"}}, ".labels", CHOOSE),
    "a recommended label, ours": ({"labels": {"app.kubernetes.io/name": "x"}}, ".labels", CHOOSE),
    "a label of Jobs": ({"labels": {"job-name": "x"}}, ".labels", CHOOSE),
    "no label": ({"labels": {"a/b/c": "x"}}, ".labels", "keys must be such as team"),
    "an annotation of ours": ({"annotations": {"feedback.rlaif.dev/x": "x"}}, ".annotations", CHOOSE),
    "no confinement": ({"annotations": {APPARMOR: "unconfined"}}, ".annotations", "leave out those of AppArmor"),
    "a variable of ours": (variable("FEEDBACK_CACHE"), ".env[0].name", "the operator sets"),
    "the home": (variable("HOME"), ".env[0].name", "the operator sets"),
    "no variable": (variable("a-b"), ".env[0].name", "match"),
    "a variable twice": ({"env": variable("A")["env"] * 2}, ".env", ""),
    "a secret": (variable("AWS_SECRET_ACCESS_KEY"), ".env[0].name", "a Secret that envFrom names"),
    "trust, twice": ({"caBundle": BUNDLE, **variable("AWS_CA_BUNDLE")}, "", "leave them out of env"),
    "a bundle of nothing": ({"caBundle": {}}, ".caBundle", ONE_BUNDLE),
    "two bundles": ({"caBundle": TWO_BUNDLES}, ".caBundle", ONE_BUNDLE),
    "a cache of nothing": ({"cache": {}}, ".cache", ONE_CACHE),
    "two caches": ({"cache": {"claimName": "models", "sizeLimit": "1Gi"}}, ".cache", ONE_CACHE),
    "scratch of nothing": ({"scratch": {}}, ".scratch", "exactly one of ephemeral and sizeLimit"),
    "a claim of no size": ({"scratch": {"ephemeral": {}}}, ".scratch.ephemeral.size", ""),
    "a capability that no stage has a use for": ({"capabilities": ["SYS_ADMIN"]}, ".capabilities[0]", "IPC_LOCK"),
    "no time to end": ({"terminationGracePeriodSeconds": 0}, ".terminationGracePeriodSeconds", "1"),
    "a volume of ours": (
        {"volumes": [volume("cache")], "volumeMounts": [{"name": "cache", "mountPath": "/x"}]},
        ".volumes[0].name",
        "a volume of the operator",
    ),
    "a volume of nothing": ({"volumes": [{"name": "data"}]}, ".volumes[0]", ONE_SOURCE),
    "a volume of two": ({"volumes": [{**volume(), "configMap": {"name": "x"}}]}, ".volumes[0]", ONE_SOURCE),
    "a path of the host": ({"volumes": [{**volume(), "hostPath": {"path": "/"}}]}, ".volumes[0].hostPath", ""),
    "a volume that is nowhere": ({"volumes": [volume()]}, "", "every volume must be mounted"),
    "a mount of nothing": ({"volumeMounts": [{"name": "x", "mountPath": "/x"}]}, "", "every name in volumeMounts"),
    "one place twice": ({**mounted("/x"), "volumeMounts": mounted("/x")["volumeMounts"] * 2}, ".volumeMounts", ""),
    **{
        f"mounted at {path}": (mounted(path), ".volumeMounts[0].mountPath", words)
        for path, words in {
            "/tmp": ELSEWHERE,
            "/tmp/x": ELSEWHERE,
            "/var/cache": ELSEWHERE,
            "/etc": ELSEWHERE,
            "/etc/feedback-ca": ELSEWHERE,
            "/dev/shm": ELSEWHERE,
            "/": "match",
            "data": "match",
            "/data/": "match",
            "/data/../tmp": "match",
            "/a:b": "match",
        }.items()
    },
}
"""What it is: the pod section, the path of the field below it, and words of the message."""

ALLOWED: Final[Pod] = {
    "labels": {"team": "vision", "example.com/cost-center": "7"},
    "annotations": {"sidecar.istio.io/inject": "false", "note": "two words"},
    "schedulerName": "volcano",
    "terminationGracePeriodSeconds": 600,
    "securityContext": {"fsGroupChangePolicy": "OnRootMismatch"},
    "env": [{"name": "AWS_REGION", "value": "eu-west-1"}, {"name": "HTTPS_PROXY", "value": ""}],
    "caBundle": BUNDLE,
    "cache": {"ephemeral": {"size": "100Gi", "storageClassName": "fast"}},
    "scratch": {"sizeLimit": "200Gi"},
    "capabilities": ["IPC_LOCK"],
    "volumes": [
        volume(),
        volume("model", image={"reference": "registry.example/llava:1"}),
        volume("prompts", configMap={"name": "prompts"}),
    ],
    "volumeMounts": [
        {"name": "data", "mountPath": "/data"},
        {"name": "data", "mountPath": "/again"},
        {"name": "model", "mountPath": "/models/llava"},
        {"name": "prompts", "mountPath": "/etc/prompts"},
    ],
}


def claimed(size: str, **more: str) -> Pod:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}, **more}
    return {"ephemeral": {"volumeClaimTemplate": {"spec": spec}}}


def wrong(pod: Pod) -> dict[str, str]:
    """What is wrong with a pod section, by the path below it."""
    with pytest.raises(ValidationError) as refused:
        FeedbackIteration.model_validate(manifest(sampling={"pod": pod}), by_alias=True, by_name=False)
    return {
        "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"][3:]): error["msg"]
        for error in refused.value.errors()
    }


@pytest.mark.parametrize(("pod", "path", "words"), REFUSED.values(), ids=REFUSED)
def test_what_clashes_is_refused_by_its_path(pod: Pod, path: str, words: str) -> None:
    found = wrong(pod)
    assert path in found
    assert words in found[path]


def test_an_endpoint_needs_time_beyond_that_for_requests() -> None:
    with pytest.raises(ValidationError, match=r"pod\.terminationGracePeriodSeconds must be at least 16"):
        FeedbackIteration.model_validate(manifest(serving={"pod": {"terminationGracePeriodSeconds": 15}}))


def test_what_may_be_given_may_be_given() -> None:
    FeedbackIteration.model_validate(manifest(sampling={"pod": ALLOWED}), by_alias=True, by_name=False)


@pytest.mark.parametrize("field", ["labels", "annotations", "nodeSelector"])
def test_null_in_a_map_is_as_good_as_nothing(field: str) -> None:
    """As the API server has it, which prunes it."""
    section = StageSection.model_validate({"resources": {"limits": {"memory": None}}, "pod": {field: {"team": None}}})
    assert section == StageSection()


def test_no_place_and_no_variable_of_ours_can_be_given() -> None:
    """The lists in the API are of what is built: whatever a pod has by itself is refused."""
    for path in (CONFIG_MOUNT, CA_MOUNT, *(mount["mountPath"] for mount in MOUNTS)):
        assert ".volumeMounts[0].mountPath" in wrong(mounted(path))
    for name in (*(one["name"] for one in environment(PodOverrides())), "FEEDBACK_ITERATION", "MASTER_ADDR"):
        assert ".env[0].name" in wrong(variable(name))


def test_pods_stay_restricted_whatever_is_given() -> None:
    context = pod_settings(StageSection.model_validate({"pod": ALLOWED}))["securityContext"]
    plain = pod_settings(StageSection())["securityContext"]
    assert context == {**plain, "fsGroupChangePolicy": "OnRootMismatch"}


def test_containers_are_given_no_capability_but_those_that_are_asked_for() -> None:
    given = container_settings(StageSection.model_validate({"pod": ALLOWED}))["securityContext"]
    plain = container_settings(StageSection())["securityContext"]
    assert plain["capabilities"] == {"drop": ["ALL"]}
    assert given == {**plain, "capabilities": {"drop": ["ALL"], "add": ["IPC_LOCK"]}}


@pytest.mark.parametrize(
    ("pod", "cache", "tmp"),
    [
        ({}, {"emptyDir": {}}, {"emptyDir": {}}),
        ({"cache": {"claimName": "m"}}, {"persistentVolumeClaim": {"claimName": "m"}}, {"emptyDir": {}}),
        (
            {"cache": {"sizeLimit": "20Gi"}, "scratch": {"sizeLimit": "1Gi"}},
            {"emptyDir": {"sizeLimit": "20Gi"}},
            {"emptyDir": {"sizeLimit": "1Gi"}},
        ),
        (
            {
                "cache": {"ephemeral": {"size": "20Gi", "storageClassName": "fast"}},
                "scratch": {"ephemeral": {"size": "1Ti"}},
            },
            claimed("20Gi", storageClassName="fast"),
            claimed("1Ti"),
        ),
    ],
    ids=["the node's disk", "a claim", "so much of the node's disk", "claims of the pod's own"],
)
def test_where_pods_write(pod: Pod, cache: Pod, tmp: Pod) -> None:
    made = {one["name"]: one for one in volumes(PodOverrides.model_validate(pod))}
    assert made["cache"] == {"name": "cache", **cache}
    assert made["tmp"] == {"name": "tmp", **tmp}


def test_labels_of_ours_are_beside_those_that_are_given() -> None:
    made = pod_metadata({"app.kubernetes.io/name": "feedback-iteration"}, PodOverrides.model_validate(ALLOWED))
    assert made["labels"] == {**ALLOWED["labels"], "app.kubernetes.io/name": "feedback-iteration"}
    assert made["annotations"] == ALLOWED["annotations"]


def test_on_this_machine_its_own_certificates_hold() -> None:
    """The bundle is a file of the pod; a variable that led to it would break every connection here."""
    given = PodOverrides.model_validate(ALLOWED)
    here = local_variables({"env": environment(given)})
    assert {one["name"] for one in environment(given)} - {one["name"] for one in here} == set(CA_VARIABLES)
