"""The chart against a real API server: what it says of every object, and a release's life."""

from __future__ import annotations

import copy
import json
import os
import ssl
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from feedback_operator.api.calls import FINALIZERS, KINDS
from tests.chart.openapi import LOCATION, write_schemas
from tests.chart.plain import FILE
from tests.chart.rendering import CHART, NAME, NAMESPACE, RELEASE, ROOT, Rendered, Values, helm, render
from tests.chart.test_templates import EVERYTHING
from tests.chart.tools import program
from tests.cluster.api import DEFINITIONS, DEPLOYMENTS, ITERATIONS, PODS, SERVICE_ACCOUNTS, Api, Kind
from tests.cluster.api import Refused as ApiRefused
from tests.cluster.control_plane import ControlPlane
from tests.cluster.world import condition_of

REVIEWS: Final = Kind("SubjectAccessReview", "authorization.k8s.io/v1", "subjectaccessreviews")
DEFINITION: Final = "feedbackiterations.feedback.rlaif.dev"
OF_OTHERS: Final = ("ServiceMonitor", "PodMonitor")
"""Kinds that the API server itself does not have."""

EVERY_MODE: Final[dict[str, Values]] = {
    "cluster": {},
    "namespaced": {"scope": "Namespaced"},
    "everything": EVERYTHING,
}
TOOLS: Final = Path(sys.executable).parent
PLAIN: Final = ROOT / FILE
RESTRICTED: Final = {"pod-security.kubernetes.io/enforce": "restricted"}


def on(cluster: ControlPlane, *arguments: str | Path, values: Values | None = None) -> str:
    """Helm on this cluster; what it says."""
    ended = helm(*arguments, "--namespace", NAMESPACE, "--kubeconfig", cluster.kubeconfig, values=values)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def own(rendered: Rendered) -> list[dict[str, Any]]:
    return [item for item in rendered if item["kind"] not in OF_OTHERS]


@pytest.fixture
async def namespace(api: Api) -> str:
    await api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": RESTRICTED}})
    await api.wait(SERVICE_ACCOUNTS, NAMESPACE, "default", bool)
    return NAMESPACE


@pytest.fixture(scope="module")
def schemas(bare: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The API server's OpenAPI as files."""
    headers = {"Authorization": f"Bearer {bare.tokens['admin']}"}
    trusted = ssl.create_default_context(cafile=str(bare.certificate))
    with urllib.request.urlopen(
        urllib.request.Request(f"{bare.url}/openapi/v2", headers=headers), context=trusted
    ) as answer:
        openapi = json.loads(answer.read())
    folder = tmp_path_factory.mktemp("schemas")
    write_schemas(openapi, folder, {item["kind"] for values in EVERY_MODE.values() for item in own(render(values))})
    return folder


def kubeconform(schemas: Path, text: str) -> subprocess.CompletedProcess[str]:
    command = [program("kubeconform"), "-strict", "-summary", "-schema-location", str(schemas / LOCATION), "-"]
    return subprocess.run(command, check=False, input=text, capture_output=True, text=True)


@pytest.mark.parametrize("mode", EVERY_MODE)
def test_kubeconform_finds_nothing(schemas: Path, mode: str) -> None:
    objects = own(render(EVERY_MODE[mode]))
    ended = kubeconform(schemas, yaml.safe_dump_all(objects))
    assert ended.returncode == 0, ended.stdout
    assert f"Valid: {len(objects)}, Invalid: 0, Errors: 0, Skipped: 0" in ended.stdout


def test_kubeconform_would_find_a_field_that_is_none(schemas: Path) -> None:
    wrong = copy.deepcopy(render().one("Deployment"))
    wrong["spec"]["template"]["spec"]["containers"][0]["livenessProb"] = {}
    ended = kubeconform(schemas, yaml.safe_dump(wrong))
    assert ended.returncode == 1
    assert "livenessProb" in ended.stdout


async def test_pods_meet_the_restricted_standard(api: Api, namespace: str) -> None:
    rendered = render(EVERYTHING)
    replica = rendered.one("Deployment")["spec"]["template"]
    for name, pod in (("replica", replica), ("test", rendered.one("Pod"))):
        spec = {**pod["spec"], "serviceAccountName": "default", "priorityClassName": ""}
        body = {"metadata": {"name": name}, "spec": spec}
        await api.create(PODS, namespace, body, query={"dryRun": "All"})
    lax = {**replica["spec"], "serviceAccountName": "default", "priorityClassName": "", "hostNetwork": True}
    with pytest.raises(ApiRefused, match="violates PodSecurity"):
        await api.create(PODS, namespace, {"metadata": {"name": "lax"}, "spec": lax}, query={"dryRun": "All"})


async def test_the_plain_manifest_installs_the_operator_on_an_empty_cluster(
    bare: ControlPlane, api: Api, namespace: str
) -> None:
    """README's line as it stands there; a second time, nothing changes."""
    [line] = [
        line
        for line in (ROOT / "README.md").read_text().splitlines()
        if line.endswith("kubectl apply --server-side -f -")
    ]
    environment = {**os.environ, "KUBECONFIG": str(bare.kubeconfig), "PATH": f"{TOOLS}:{os.environ['PATH']}"}

    def typed(text: str) -> str:
        ended = subprocess.run(
            ["bash", "-ec", text], cwd=ROOT, env=environment, check=False, capture_output=True, text=True
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    try:
        assert "deployment.apps/feedback-operator serverside-applied" in typed(line)
        await established(api)
        first = await api.get(DEPLOYMENTS, namespace, "feedback-operator")
        [container] = first["spec"]["template"]["spec"]["containers"]
        assert container["image"].startswith("registry.example/team/feedback-operator/operator:")
        images = [one["value"] for one in container["env"] if one["name"].endswith("_IMAGE")]
        assert [image.rpartition(":")[0] for image in images] == [
            "registry.example/team/feedback-operator/generate",
            "registry.example/team/feedback-operator/train",
        ]
        for verb in ("create", "delete"):
            review = {"namespace": "team", "group": "batch", "resource": "jobs", "verb": verb}
            user = f"system:serviceaccount:{namespace}:feedback-operator"
            told = await api.create(REVIEWS, "", {"spec": {"user": user, "resourceAttributes": review}})
            assert told["status"]["allowed"]
        typed(line)
        second = await api.get(DEPLOYMENTS, namespace, "feedback-operator")
        assert second["metadata"]["generation"] == first["metadata"]["generation"]
    finally:
        kept = "Namespace"  # of the tests around this one
        objects = [item for item in yaml.safe_load_all(PLAIN.read_text()) if item["kind"] != kept]
        (bare.folder / "plain.json").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
        typed(f"kubectl delete --ignore-not-found -f {bare.folder / 'plain.json'}")


async def test_the_life_of_a_release(bare: ControlPlane, api: Api, namespace: str) -> None:
    """Install, upgrade while an iteration is there, uninstall, install again: the iteration is never touched."""
    on(bare, "install", RELEASE, CHART)
    definition = await established(api)
    iteration = yaml.safe_load((ROOT / "examples/shapes.yaml").read_text())
    created = (await api.create(ITERATIONS, namespace, iteration))["metadata"]

    on(bare, "upgrade", RELEASE, CHART, values={"replicas": 1, "commonLabels": {"team": "alignment"}})
    deployment = await api.get(DEPLOYMENTS, namespace, NAME)
    assert deployment["spec"]["replicas"] == 1
    upgraded = await api.get(DEFINITIONS, "", DEFINITION)
    assert upgraded["metadata"]["labels"]["team"] == "alignment", "Helm upgrades the definition"
    assert upgraded["metadata"]["uid"] == definition["metadata"]["uid"]

    said = on(bare, "uninstall", RELEASE)
    assert DEFINITION in said, "Helm says what it kept"
    await api.wait_gone(DEPLOYMENTS, namespace, NAME)
    kept = await api.get(ITERATIONS, namespace, "shapes")
    assert kept["metadata"]["uid"] == created["uid"]

    on(bare, "install", RELEASE, CHART)
    adopted = await api.get(ITERATIONS, namespace, "shapes")
    assert adopted["metadata"]["resourceVersion"] == created["resourceVersion"]
    assert (await api.get(DEFINITIONS, "", DEFINITION))["metadata"]["uid"] == definition["metadata"]["uid"]

    on(bare, "upgrade", RELEASE, CHART, values={"crds": {"keep": False}})
    on(bare, "uninstall", RELEASE)
    await api.wait_gone(DEFINITIONS, "", DEFINITION)


async def established(api: Api) -> dict[str, Any]:
    return await api.wait(
        DEFINITIONS, "", DEFINITION, lambda item: condition_of(item, "Established").get("status") == "True"
    )


@pytest.mark.parametrize("mode", ["cluster", "namespaced"])
async def test_the_operator_may_do_what_it_does_and_no_more(
    bare: ControlPlane, api: Api, namespace: str, mode: str
) -> None:
    routes = {"rbac": {"routes": mode == "cluster"}}
    on(bare, "install", RELEASE, CHART, values={**EVERY_MODE[mode], **routes})
    try:
        await api.wait(SERVICE_ACCOUNTS, namespace, NAME, bool)
        kinds = [kind for kind in KINDS if kind.name != "Lease" and not kind.optional]
        optional = {(kind.group, kind.plural, "", verb) for kind in KINDS if kind.optional for verb in kind.verbs}
        wanted = {(kind.group, kind.plural, "", verb) for kind in kinds for verb in kind.verbs} | {
            (kind.group, kind.plural, "status", verb) for kind in KINDS for verb in kind.status
        }
        wanted |= {(FINALIZERS[0], "feedbackiterations", "finalizers", verb) for verb in FINALIZERS[2]}
        leases = {(kind.group, kind.plural, "", verb) for kind in KINDS if kind.name == "Lease" for verb in kind.verbs}
        forbidden = {("", "secrets", "", "get"), ("", "pods", "exec", "create"), ("", "configmaps", "", "get")}
        elsewhere = mode == "cluster"
        for call in sorted(wanted):
            assert await may(api, call, namespace), call
            assert await may(api, call, "elsewhere") is elsewhere, call
        for call in sorted(optional):
            assert await may(api, call, namespace) is routes["rbac"]["routes"], call
        for call in sorted(leases):
            assert (await may(api, call, namespace), await may(api, call, "elsewhere")) == (True, False), call
        for call in sorted(forbidden):
            assert not await may(api, call, namespace), call
    finally:
        on(bare, "uninstall", RELEASE)


async def may(api: Api, call: tuple[str, str, str, str], namespace: str) -> bool:
    """Whether the operator's ServiceAccount may: (group, resource, subresource, verb)."""
    group, resource, subresource, verb = call
    asked = {"namespace": namespace, "group": group, "resource": resource, "subresource": subresource, "verb": verb}
    user = f"system:serviceaccount:{NAMESPACE}:{NAME}"
    answer = await api.create(REVIEWS, "", {"spec": {"user": user, "resourceAttributes": asked}})
    return bool(answer["status"]["allowed"])


async def test_examples_of_gitops_do_not_drift(bare: ControlPlane, api: Api, namespace: str) -> None:
    """Every example, applied twice as Argo CD and Flux do it: the second time nothing changes."""
    on(bare, "install", RELEASE, CHART)
    await established(api)
    files = sorted((ROOT / "examples").rglob("*.yaml"))
    manifests = [
        item for file in files for item in yaml.safe_load_all(file.read_text()) if item["kind"] == ITERATIONS.name
    ]
    assert len(manifests) >= 8
    try:
        for manifest in manifests:
            name = manifest["metadata"]["name"]
            first = await api.apply(manifest, namespace)
            second = await api.apply(manifest, namespace)
            await api.delete(ITERATIONS, namespace, name)
            await api.wait_gone(ITERATIONS, namespace, name)
            assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"], name
            assert second["metadata"]["generation"] == first["metadata"]["generation"] == 1, name
            assert second["spec"] == first["spec"], name
    finally:
        on(bare, "uninstall", RELEASE)
