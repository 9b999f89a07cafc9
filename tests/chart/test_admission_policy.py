"""What iterations may name, by the policy that the chart brings: asked of a real API server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest

from tests.chart.rendering import NAMESPACE, Refused, Rendered, Values, render
from tests.cluster.api import ADMISSION_BINDINGS, ADMISSION_POLICIES, DEFINITIONS, ITERATIONS, Api, Object
from tests.cluster.api import Refused as ApiRefused
from tests.cluster.world import condition_of, iteration

ALLOWED: Final[Values] = {
    "allowed": {
        "images": ["registry.example/feedback/", "registry.example/models@"],
        "serviceAccounts": ["trainer"],
        "priorityClasses": [],
    }
}
POLICIES: Final = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
ADMIN: Final = {"serviceAccountName": "admin"}
DRY_RUN: Final = {"dryRun": "All"}
ACTIVE_WITHIN_SECONDS: Final = 60.0


def policies(rendered: Rendered) -> list[Object]:
    return [one for one in rendered if one["kind"] in POLICIES]


def with_image(reference: str) -> dict[str, Any]:
    volume = {"name": "model", "image": {"reference": reference}}
    return {"volumes": [volume], "volumeMounts": [{"name": "model", "mountPath": "/models"}]}


def test_without_a_list_there_is_no_policy() -> None:
    assert policies(render()) == []
    assert len(policies(render(ALLOWED))) == 2


def test_a_prefix_that_others_could_go_on_with_is_refused() -> None:
    """registry.example would allow registry.example.evil.example, too."""
    with pytest.raises(Refused, match="images"):
        render({"allowed": {"images": ["registry.example"]}})


@pytest.fixture(scope="module")
def rendered() -> Rendered:
    return render({**ALLOWED, "scope": "Namespaced"})


@pytest.fixture
async def guarded(api: Api, rendered: Rendered) -> AsyncIterator[Api]:
    """The API server with the definition and the policy, as soon as that is heeded."""
    for name in (NAMESPACE, "elsewhere"):
        await api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    definition = rendered.one("CustomResourceDefinition")
    await api.apply(definition)
    await api.wait(DEFINITIONS, "", definition["metadata"]["name"], established)
    for one in policies(rendered):
        await api.apply(one)
    await until_heeded(api, True)
    yield api
    for kind, one in zip((ADMISSION_POLICIES, ADMISSION_BINDINGS), policies(rendered), strict=True):
        await api.delete(kind, "", one["metadata"]["name"])


def established(definition: Object) -> bool:
    return bool(condition_of(definition, "Established").get("status") == "True")


async def until_heeded(api: Api, heeded: bool) -> None:
    """Admission hears of a policy a moment after it is there, or gone."""
    until = time.monotonic() + ACTIVE_WITHIN_SECONDS
    while bool(await refusal(api, ADMIN)) != heeded:
        assert time.monotonic() < until
        await asyncio.sleep(0.1)


async def refusal(api: Api, pod: dict[str, Any], section: str = "sampling", namespace: str = NAMESPACE) -> str:
    """What the API server says against an iteration with this pod section; empty where it takes it."""
    try:
        await api.create(ITERATIONS, namespace, iteration("demo", **{section: {"pod": pod}}), query=DRY_RUN)
    except ApiRefused as refused:
        return str(refused)
    return ""


async def test_what_is_not_allowed_is_refused_by_its_field_and_all_else_is_taken(guarded: Api) -> None:
    registry = "registry.example/feedback/, registry.example/models@"
    digest = f"registry.example/models@sha256:{'a' * 64}"
    for section, pod, words in (
        ("sampling", ADMIN, "spec.sampling.pod.serviceAccountName must be one of trainer"),
        ("serving", ADMIN, "spec.serving.pod.serviceAccountName must be one of trainer"),
        ("training", {"priorityClassName": "urgent"}, "spec.training.pod.priorityClassName must be left out"),
        ("labeling", {"image": "docker.io/x/y:1"}, f"spec.labeling.pod.image must begin with {registry}"),
        ("sampling", {"image": "registry.example/feedbacks/y"}, "spec.sampling.pod.image must begin with"),
        ("pairing", with_image("docker.io/x/y:1"), "spec.pairing.pod.volumes[].image.reference must begin with"),
    ):
        assert words in await refusal(guarded, pod, section), (section, pod)
    for section, pod in (
        ("sampling", {}),
        ("sampling", {"serviceAccountName": "trainer", "image": "registry.example/feedback/generate:1"}),
        ("training", {"runtimeClassName": "kata"}),
        ("pairing", with_image(digest)),
    ):
        assert await refusal(guarded, pod, section) == ""
    assert await refusal(guarded, ADMIN, namespace="elsewhere") == "", "not of this release"


async def test_one_that_was_there_before_can_be_deleted(guarded: Api, rendered: Rendered) -> None:
    """The policy is not asked of what is going, whose finalizers the garbage collector takes away."""
    _, binding = policies(rendered)
    before = iteration("before", sampling={"pod": ADMIN})
    before["metadata"]["finalizers"] = ["example.com/wait"]
    await guarded.delete(ADMISSION_BINDINGS, "", binding["metadata"]["name"])
    await until_heeded(guarded, False)
    await guarded.create(ITERATIONS, NAMESPACE, before)
    await guarded.apply(binding)
    await until_heeded(guarded, True)
    await guarded.delete(ITERATIONS, NAMESPACE, "before")
    await guarded.patch(ITERATIONS, NAMESPACE, "before", {"metadata": {"finalizers": None}})
    await guarded.wait_gone(ITERATIONS, NAMESPACE, "before")
