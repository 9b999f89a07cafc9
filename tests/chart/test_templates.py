"""What the chart makes of its values."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterable
from typing import Any, Final

import pytest
import yaml
from typer.main import get_command

from feedback_operator import __main__ as operator_main
from feedback_operator.api import rbac
from feedback_operator.service.telemetry import IterationFigures, Telemetry
from tests.chart.rendering import CHART, NAME, NAMESPACE, ROOT, Refused, Rendered, Values, helm, render

EVERYTHING: Final[Values] = {
    "commonLabels": {"team": "alignment"},
    "commonAnnotations": {"example.com/owner": "alignment"},
    "metrics": {"monitor": "ServiceMonitor", "workloads": True, "dashboard": {"enabled": True}},
    "serviceAccount": {"annotations": {"example.com/role": "operator"}},
    "podLabels": {"sidecar": "none"},
    "podAnnotations": {"example.com/inject": "false"},
    "imagePullSecrets": ["pull"],
    "networkPolicy": {
        "metricsFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
        "egress": [{"ports": [{"protocol": "TCP", "port": 443}]}],
    },
    "allowed": {
        "images": ["registry.example/"],
        "serviceAccounts": ["trainer"],
        "priorityClasses": [],
        "runtimeClasses": [],
    },
    "operator": {"inheritLabels": ["team"], "allowCapabilities": ["IPC_LOCK"]},
    "tracing": {"endpoint": "http://collector:4318"},
    "extraEnv": [{"name": "OTEL_RESOURCE_ATTRIBUTES", "value": "cluster=a"}],
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"operator": "Exists"}],
    "priorityClassName": "system-cluster-critical",
}


def pod(rendered: Rendered) -> dict[str, Any]:
    template: dict[str, Any] = rendered.one("Deployment")["spec"]["template"]
    return template


def test_lint_finds_nothing() -> None:
    ended = helm("lint", "--strict", CHART, values=EVERYTHING)
    assert ended.returncode == 0, ended.stdout + ended.stderr


Look = Callable[[Rendered], object]

FACTS: Final[list[tuple[str, Values, Look, object]]] = [
    ("two replicas", {}, lambda r: r.one("Deployment")["spec"]["replicas"], 2),
    ("image: the chart's version", {}, lambda r: r.container()["image"], "feedback-operator/operator:0.1.0"),
    (
        "image: registry and tag",
        {"image": {"registry": "registry.example/team/", "tag": "1.2"}},
        lambda r: r.container()["image"],
        "registry.example/team/feedback-operator/operator:1.2",
    ),
    (
        "image: a digest goes before a tag",
        {"image": {"tag": "1.2", "digest": "sha256:" + "a" * 64}},
        lambda r: r.container()["image"],
        "feedback-operator/operator@sha256:" + "a" * 64,
    ),
    (
        "images of workloads",
        {"workloads": {"generate": {"registry": "r.example", "tag": "0.1.0-cpu"}}},
        lambda r: [r.environment()[f"FEEDBACK_{name}_IMAGE"] for name in ("GENERATE", "TRAIN")],
        ["r.example/feedback-operator/generate:0.1.0-cpu", "feedback-operator/train:0.1.0"],
    ),
    (
        "cluster: all namespaces",
        {},
        lambda r: (r.environment()["FEEDBACK_ALL_NAMESPACES"], "FEEDBACK_NAMESPACES" in r.environment()),
        ("true", False),
    ),
    (
        "cluster: rules for all, but the Lease at home",
        {},
        lambda r: (r.one("ClusterRole", NAME)["rules"], r.one("Role")["rules"], r.one("Role")["metadata"]["namespace"]),
        (rbac.chart_rules()["iterations"], rbac.chart_rules()["leader"], NAMESPACE),
    ),
    (
        "cluster: people's roles",
        {},
        lambda r: sorted(
            key.rpartition("-")[2]
            for role in r.all("ClusterRole")
            for key in role["metadata"]["labels"]
            if "/agg" in key
        ),
        ["admin", "edit", "view"],
    ),
    (
        "cluster: no people's roles",
        {"rbac": {"aggregate": False}},
        lambda r: len(r.all("ClusterRole")),
        1,
    ),
    (
        "namespaced: its own",
        {"scope": "Namespaced"},
        lambda r: (r.environment()["FEEDBACK_NAMESPACES"], r.one("Role", NAME)["metadata"]["namespace"]),
        (NAMESPACE, NAMESPACE),
    ),
    (
        "house rules",
        {"operator": {"inheritLabels": ["team", "a/b"], "allowCapabilities": ["IPC_LOCK"], "platformUid": True}},
        lambda r: [
            r.environment()[f"FEEDBACK_{name}"] for name in ("INHERIT_LABELS", "ALLOW_CAPABILITIES", "PLATFORM_UID")
        ],
        ["team,a/b", "IPC_LOCK", "true"],
    ),
    (
        "namespaced: roles for the people of each namespace",
        {"scope": "Namespaced", "namespaces": ["a", "b"]},
        lambda r: [
            (role["metadata"]["namespace"], "create" in role["rules"][0]["verbs"])
            for suffix in ("-iterations-edit", "-iterations-view")
            for role in r.all("Role", suffix)
        ],
        [("a", True), ("b", True), ("a", False), ("b", False)],
    ),
    (
        "namespaced: roles for people left out",
        {"scope": "Namespaced", "rbac": {"aggregate": False}},
        lambda r: r.all("Role", "-iterations-edit") + r.all("Role", "-iterations-view"),
        [],
    ),
    ("namespaced: nothing of the cluster's", {"scope": "Namespaced"}, lambda r: r.all("ClusterRole"), []),
    (
        "namespaced: several",
        {"scope": "Namespaced", "namespaces": ["a", "b"]},
        lambda r: (
            r.environment()["FEEDBACK_NAMESPACES"],
            [role["metadata"]["namespace"] for role in r.all("Role", NAME)],
            [binding["subjects"][0]["namespace"] for binding in r.all("RoleBinding")],
        ),
        ("a,b", ["a", "b"], [NAMESPACE] * 3),
    ),
    ("no RBAC", {"rbac": {"create": False}}, lambda r: [r.all("Role"), r.all("ClusterRole")], [[], []]),
    (
        "a ServiceAccount of yours",
        {"serviceAccount": {"create": False, "name": "mine"}},
        lambda r: (
            r.all("ServiceAccount"),
            pod(r)["spec"]["serviceAccountName"],
            r.one("ClusterRoleBinding")["subjects"][0]["name"],
        ),
        ([], "mine", "mine"),
    ),
    ("no definition", {"crds": {"install": False}}, lambda r: r.all("CustomResourceDefinition"), []),
    (
        "the definition is kept",
        {},
        lambda r: r.one("CustomResourceDefinition")["metadata"]["annotations"],
        {"helm.sh/resource-policy": "keep"},
    ),
    (
        "the definition goes",
        {"crds": {"keep": False}},
        lambda r: "annotations" in r.one("CustomResourceDefinition")["metadata"],
        False,
    ),
    ("no policy", {"networkPolicy": {"enabled": False}}, lambda r: r.all("NetworkPolicy"), []),
    (
        "policy: anybody to the metrics",
        {},
        lambda r: r.one("NetworkPolicy")["spec"]["ingress"],
        [{"ports": [{"protocol": "TCP", "port": "metrics"}]}],
    ),
    (
        "policy: only these, and the chart's test",
        EVERYTHING,
        lambda r: [sorted(peer) for peer in r.one("NetworkPolicy")["spec"]["ingress"][0]["from"]],
        [["podSelector"], ["namespaceSelector"]],
    ),
    (
        "policy: egress",
        EVERYTHING,
        lambda r: (r.one("NetworkPolicy")["spec"]["policyTypes"], r.one("NetworkPolicy")["spec"]["egress"]),
        (["Ingress", "Egress"], [{"ports": [{"protocol": "TCP", "port": 443}]}]),
    ),
    ("no budget", {"podDisruptionBudget": {"enabled": False}}, lambda r: r.all("PodDisruptionBudget"), []),
    ("no monitors", {}, lambda r: [r.all("ServiceMonitor"), r.all("PodMonitor")], [[], []]),
    (
        "a ServiceMonitor keeps the label namespace",
        {"metrics": {"monitor": "ServiceMonitor", "monitorLabels": {"release": "p"}}},
        lambda r: (
            r.one("ServiceMonitor")["spec"]["endpoints"],
            r.one("ServiceMonitor")["metadata"]["labels"]["release"],
        ),
        ([{"port": "metrics", "interval": "30s", "honorLabels": True}], "p"),
    ),
    (
        "a PodMonitor",
        {"metrics": {"monitor": "PodMonitor", "interval": "1m"}},
        lambda r: r.one("PodMonitor")["spec"]["podMetricsEndpoints"],
        [{"port": "metrics", "interval": "1m", "honorLabels": True}],
    ),
    (
        "workloads of all namespaces",
        {"metrics": {"workloads": True}},
        lambda r: r.one("PodMonitor", "-workloads")["spec"]["namespaceSelector"],
        {"any": True},
    ),
    (
        "workloads of the served namespaces",
        {"metrics": {"workloads": True}, "scope": "Namespaced", "namespaces": ["a"]},
        lambda r: r.one("PodMonitor", "-workloads")["spec"]["namespaceSelector"],
        {"matchNames": ["a"]},
    ),
    ("tracing", EVERYTHING, lambda r: r.environment()["OTEL_EXPORTER_OTLP_ENDPOINT"], "http://collector:4318"),
    ("environment", EVERYTHING, lambda r: r.environment()["OTEL_RESOURCE_ATTRIBUTES"], "cluster=a"),
    (
        "pull secrets, also of the test",
        EVERYTHING,
        lambda r: [pod(r)["spec"]["imagePullSecrets"], r.one("Pod")["spec"]["imagePullSecrets"]],
        [[{"name": "pull"}]] * 2,
    ),
    (
        "the pod's labels do not reach its selector",
        EVERYTHING,
        lambda r: (pod(r)["metadata"]["labels"]["sidecar"], "sidecar" in r.one("Deployment")["spec"]["selector"]),
        ("none", False),
    ),
    (
        "no uid where the platform gives one",
        {"podSecurityContext": {"runAsUser": None}},
        lambda r: sorted(pod(r)["spec"]["securityContext"]),
        ["runAsNonRoot", "seccompProfile"],
    ),
    ("names: one that says it all", {"fullnameOverride": "x"}, lambda r: r.one("Deployment")["metadata"]["name"], "x"),
]


@pytest.mark.parametrize(("values", "look", "expect"), [pytest.param(*fact[1:], id=fact[0]) for fact in FACTS])
def test_values_become_facts(values: Values, look: Look, expect: object) -> None:
    assert look(render(values)) == expect


def test_a_release_of_the_charts_name_does_not_say_it_twice() -> None:
    assert render(release="feedback-operator").one("Deployment")["metadata"]["name"] == "feedback-operator"


def names(rendered: Rendered) -> list[tuple[str, str, str]]:
    """Kind, namespace and name of everything but the definition, which belongs to all releases."""
    return [
        (item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"])
        for item in rendered
        if item["kind"] != "CustomResourceDefinition"
    ]


ALL_NAMES: Final[Values] = {"metrics": {"monitor": "ServiceMonitor", "workloads": True, "dashboard": {"enabled": True}}}


@pytest.mark.parametrize("length", [1, 32, 33, 48, 63])
@pytest.mark.parametrize("release", ["fo", "r" * 53])
def test_no_object_of_a_release_overwrites_another_one_however_long_its_namespace(length: int, release: str) -> None:
    found = names(render(ALL_NAMES, release, "n" * length))
    assert len(set(found)) == len(found)
    assert max(len(name) for _, _, name in found) <= 63
    assert not any(name.endswith("-") for _, _, name in found)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(("fo", "n" * 62 + "a"), ("fo", "n" * 62 + "b"), id="namespaces that end differently"),
        pytest.param(("r" * 52 + "a", NAMESPACE), ("r" * 52 + "b", NAMESPACE), id="releases that end differently"),
    ],
)
def test_no_release_overwrites_objects_of_another_one(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert not set(names(render(ALL_NAMES, *one))) & set(names(render(ALL_NAMES, *other)))


def test_names_that_fit_are_left_as_they_are() -> None:
    found = {name for kind, _, name in names(render()) if kind == "ClusterRole"}
    whole = f"{NAMESPACE}-{NAME}"
    assert found == {whole, f"{whole}-iterations-edit", f"{whole}-iterations-view"}


def test_common_labels_and_annotations_are_on_everything() -> None:
    for item in render(EVERYTHING):
        meta, where = item["metadata"], f"{item['kind']} {item['metadata']['name']}"
        assert meta["labels"]["team"] == "alignment", where
        assert meta["labels"]["app.kubernetes.io/part-of"] == "feedback-operator", where
        assert meta["annotations"]["example.com/owner"] == "alignment", where
    assert pod(render(EVERYTHING))["metadata"]["annotations"]["example.com/inject"] == "false"


def test_the_selector_finds_the_pods_and_nothing_else_of_the_chart() -> None:
    rendered = render(EVERYTHING)
    selector = rendered.one("Deployment")["spec"]["selector"]["matchLabels"]
    assert selector.items() <= pod(rendered)["metadata"]["labels"].items()
    assert not selector.items() <= rendered.one("Pod")["metadata"]["labels"].items(), "the test's pod is no replica"
    for kind in ("NetworkPolicy", "PodDisruptionBudget", "Service", "ServiceMonitor"):
        spec = rendered.one(kind)["spec"]
        found = spec.get("podSelector") or spec["selector"]
        wanted = rendered.one("Service")["metadata"]["labels"] if kind == "ServiceMonitor" else selector
        assert found.get("matchLabels", found).items() <= wanted.items(), kind


def test_containers_may_do_nothing() -> None:
    for spec in (pod(render())["spec"], render().one("Pod")["spec"]):
        assert spec["securityContext"]["runAsNonRoot"] is True
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def test_the_definition_is_the_generated_one() -> None:
    made = yaml.safe_load(next((ROOT / "crds").glob("*.yaml")).read_text())
    rendered = render().one("CustomResourceDefinition")
    assert rendered["spec"] == made["spec"]
    assert rendered["metadata"]["name"] == made["metadata"]["name"]


@pytest.mark.parametrize(
    ("values", "namespaces", "everywhere"),
    [({}, [], True), ({"scope": "Namespaced", "namespaces": ["a", "b"]}, ["a,b"], False)],
)
def test_the_operator_takes_every_option_that_the_chart_sets(
    values: Values, namespaces: list[str], everywhere: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = render(values).environment()
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    command = get_command(operator_main.app)
    read = command.make_context("operator", []).params
    known = {option.envvar for option in command.params}
    assert {name for name in given if name.startswith("FEEDBACK_")} - known == set()
    assert (read["namespace"], read["all_namespaces"]) == (namespaces, everywhere)
    assert (read["metrics_port"], read["health_port"], read["train_image"]) == (
        8080,
        8081,
        "feedback-operator/train:0.1.0",
    )


def test_the_charts_defaults_are_the_operators_own() -> None:
    usual = {option.envvar: option.default for option in get_command(operator_main.app).params}
    values = yaml.safe_load((CHART / "values.yaml").read_text())["operator"]
    names = {key: "FEEDBACK_" + re.sub("([A-Z])", r"_\1", key).upper() for key in values}
    assert values == {key: usual[name] for key, name in names.items()}


REFUSED: Final[list[tuple[Values, str]]] = [
    ({"replica": 2}, "replica"),
    ({"replicas": "2"}, "replicas"),
    ({"scope": "Everywhere"}, "scope"),
    ({"scope": "Cluster", "namespaces": ["a"]}, "namespaces"),
    ({"namespaces": ["Not A Name"]}, "namespaces"),
    ({"image": {"digest": "sha256:1"}}, "digest"),
    ({"image": {"repository": ""}}, "repository"),
    ({"image": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
    ({"workloads": {"serve": {}}}, "serve"),
    ({"operator": {"logFormat": "xml"}}, "logFormat"),
    ({"operator": {"leaseSeconds": 1}}, "leaseSeconds"),
    ({"metrics": {"port": 0}}, "port"),
    ({"metrics": {"monitor": True}}, "monitor"),
    ({"tracing": {"endpoint": "collector:4318"}}, "endpoint"),
    ({"commonLabels": {"a": 1}}, "commonLabels"),
    ({"podDisruptionBudget": {"maxUnavailable": 0}}, "maxUnavailable"),
]


@pytest.mark.parametrize(("values", "named"), [pytest.param(*case, id=json.dumps(case[0])) for case in REFUSED])
def test_wrong_values_are_refused_by_name(values: Values, named: str) -> None:
    with pytest.raises(Refused, match=named):
        render(values)


def test_the_schema_knows_every_value() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert schema["properties"].keys() - {"global"} == values.keys()


def metric_names() -> set[str]:
    """Of the operator, with what a histogram and a counter add."""
    telemetry = Telemetry()
    telemetry.watch(lambda: 0, lambda: True, lambda: iter([IterationFigures("a", "b", "c", (0.4, 0.2))]))
    names = set()
    for family in telemetry.registry.collect():
        suffixes = {"histogram": ("_bucket", "_count", "_sum"), "counter": ("_total",)}.get(family.type, ("",))
        names |= {family.name + suffix for suffix in suffixes}
    return names


def labels_of(expression: str) -> Iterable[str]:
    for found in re.findall(r"by \(([^)]*)\)", expression):
        yield from (label.strip() for label in found.split(","))


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    text = render({"metrics": {"dashboard": {"enabled": True}}}).one("ConfigMap")["data"]["feedback-operator.json"]
    board = json.loads(text)
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    queries.append(board["templating"]["list"][1]["query"]["query"])
    asked = {name for query in queries for name in re.findall(r"feedback_operator_\w+", query)}
    assert asked - metric_names() == set()
    known = {"le", "stage", "state", "namespace", "iteration", "policy", "outcome", "kind", "verb", "code"}
    assert {label for query in queries for label in labels_of(query)} <= known


def test_the_script_of_helm_test_is_python_that_an_image_without_packages_runs() -> None:
    pod_spec = render().one("Pod")["spec"]["containers"][0]
    tree = ast.parse(pod_spec["args"][0])
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert imported == {"os", "socket", "sys", "time", "urllib.request"}
