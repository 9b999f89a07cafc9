"""What the doctor says of a cluster: from facts, as the API server gives them, to findings."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pytest

from feedback_operator.api import FeedbackIteration, Metadata
from feedback_operator.api.schema import crd
from feedback_operator.cli.examining import as_json, as_text
from feedback_operator.doctor import control, nodes, space, trials, within
from feedback_operator.doctor.examination import examine
from feedback_operator.doctor.facts import DryRun, Facts, Finding, Object, Right, Trial, Unknown, listed, quantity
from feedback_operator.doctor.needs import Need, named_objects, needs_of, order_of, pod_manifest
from feedback_operator.resources.house_rules import HouseRules
from feedback_workloads.contract import Look, TrialReport
from tests.unit.worlds import IMAGES, from_pairs, manifest

NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
GPU: Final = "nvidia.com/gpu"
FORBIDDEN: Final = Unknown("you may not list nodes")


def iteration(**spec: Any) -> FeedbackIteration:
    return FeedbackIteration.model_validate(manifest(**spec))


def need(name: str = "sampling", **spec: Any) -> Need:
    return next(one for one in needs_of(iteration(**spec), IMAGES) if one.name == name)


def pod(one: Need) -> Object:
    return pod_manifest(Metadata(name="it"), one)


def node(
    name: str = "n", *, labels: dict[str, str] | None = None, taints: Any = (), ready: str = "True", **given: str
) -> Object:
    room = {
        "cpu": "8",
        "memory": "64Gi",
        "pods": "110",
        **{key.replace("_", "/"): value for key, value in given.items()},
    }
    return {
        "metadata": {"name": name, "labels": labels or {}},
        "spec": {"taints": list(taints)},
        "status": {"allocatable": room, "conditions": [{"type": "Ready", "status": ready}]},
    }


def one(finding: Finding, outcome: str, words: str) -> None:
    assert (finding.outcome, words in f"{finding.message}; {finding.remedy}") == (outcome, True), finding
    assert finding.outcome in ("ok", "not looked at") or finding.remedy


# ── quantities ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("500m", "0.5"),
        ("1Gi", "1073741824"),
        ("8", "8"),
        (8, "8"),
        ("1e3", "1000"),
        ("250000n", "0.00025"),
        ("2E", "2e18"),
    ],
)
def test_quantities_as_the_api_server_writes_them(text: str | int, number: str) -> None:
    assert quantity(text) == Decimal(number)


def test_what_is_no_quantity() -> None:
    with pytest.raises(ValueError, match="'12x' is no quantity"):
        quantity("12x")


# ── the control plane ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("version", "several", "outcome"),
    [
        ("v1.29.4", False, "failed"),
        ("v1.30.0", False, "ok"),
        ("v1.32.1-gke.3", True, "warning"),
        ("v1.33.0-eks-1", True, "ok"),
        ("unknown", False, "warning"),
    ],
)
def test_versions(version: str, several: bool, outcome: str) -> None:
    assert control.check_version(Facts("team", version=version), several).outcome == outcome


def changed_definition(**fields: Any) -> Object:
    made = crd()
    spec = made["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    for name, schema in fields.items():
        spec.pop(name) if schema is None else spec.update({name: schema})
    return made


@pytest.mark.parametrize(
    ("definition", "outcome", "words"),
    [
        (crd(), "ok", "as this client knows it"),
        (None, "failed", "kubectl apply --server-side -f deploy/operator.yaml"),
        (changed_definition(pairs=None), "warning", "it lacks spec.pairs"),
        (changed_definition(newer={"type": "string"}), "warning", "it has spec.newer besides"),
        ({"spec": {"versions": [{"name": "v1", "served": True}]}}, "failed", "serves v1"),
        (Unknown("you may not"), "not looked at", "is there; you may not"),
    ],
)
def test_definitions(definition: Any, outcome: str, words: str) -> None:
    facts = Facts("team", definition=definition, groups=frozenset({"feedback.rlaif.dev"}))
    one(control.check_definition(facts), outcome, words)


def deployment(space: str = "feedback-system", ready: int = 2, **env: str) -> Object:
    given = [{"name": name, "value": value} for name, value in {"FEEDBACK_ALL_NAMESPACES": "true", **env}.items()]
    return {
        "metadata": {"name": "operator", "namespace": space},
        "spec": {"replicas": 2, "template": {"spec": {"containers": [{"name": "operator", "env": given}]}}},
        "status": {"readyReplicas": ready},
    }


def lease(holder: str = "a-1", at: str = "2025-12-31T23:59:57.000000Z") -> Object:
    return {"spec": {"holderIdentity": holder, "renewTime": at, "leaseDurationSeconds": 15}}


HERE: Final = {"FEEDBACK_ALL_NAMESPACES": "", "FEEDBACK_NAMESPACES": "team,other"}


@pytest.mark.parametrize(
    ("deployments", "held", "expected"),
    [
        pytest.param((deployment(),), lease(), [("ok", "2 of 2"), ("ok", "a-1 acts")], id="all is well"),
        pytest.param((deployment(**HERE),), lease(), [("ok", "2 of 2"), ("ok", "a-1 acts")], id="of some namespaces"),
        pytest.param((), None, [("failed", "none serves the namespace team")], id="none"),
        pytest.param(
            (deployment(FEEDBACK_ALL_NAMESPACES="", FEEDBACK_NAMESPACES="other"),),
            None,
            [("failed", "feedback-system/operator serves others; add team to its namespaces")],
            id="of others",
        ),
        pytest.param(
            (deployment(), deployment("team", **HERE)),
            lease(),
            [("failed", "undo each other's work")],
            id="two of them",
        ),
        pytest.param(
            (deployment(ready=0),), lease(""), [("failed", "no ready pod"), ("failed", "nobody acts")], id="not running"
        ),
        pytest.param(
            (deployment(ready=1),),
            lease(at="2025-12-31T23:59:00.000000Z"),
            [("warning", "1 of 2"), ("failed", "not renewed it for 60 s")],
            id="silent",
        ),
        pytest.param(
            (deployment(),),
            Unknown("you may not"),
            [("ok", "2 of 2"), ("not looked at", "you may not")],
            id="no lease read",
        ),
        pytest.param(Unknown("you may not"), None, [("not looked at", "you may not")], id="nothing read"),
    ],
)
def test_operators(deployments: Any, held: Any, expected: list[tuple[str, str]]) -> None:
    facts = Facts("team", now=NOW, operators=deployments, leases={"feedback-system": held})
    findings = list(control.check_operator(facts))
    assert len(findings) == len(expected)
    for finding, (outcome, words) in zip(findings, expected, strict=True):
        one(finding, outcome, words)


def test_a_namespace_that_is_not_there() -> None:
    [finding] = control.check_namespace(Facts("team", space=None))
    one(finding, "failed", "kubectl create namespace team")
    assert list(control.check_namespace(Facts("team", space={"metadata": {}}))) == []
    assert list(control.check_namespace(Facts("team", space=FORBIDDEN))) == []


@pytest.mark.parametrize(
    ("refused", "outcome", "words"),
    [
        ((), "ok", "you may submit"),
        (
            (control.EDIT[2],),
            "failed",
            "create feedbackiterations.feedback.rlaif.dev in the namespace team",
        ),
        (control.LOGS, "warning", "list pods, get pods/log"),
    ],
)
def test_rights_of_the_user(refused: tuple[Right, ...], outcome: str, words: str) -> None:
    rights: dict[Right, bool | Unknown] = {right: right not in refused for right in control.USER}
    one(control.check_user(Facts("team", rights=rights)), outcome, words)


def test_routes_are_asked_for_where_there_is_a_canary() -> None:
    spec = {"gateways": [{"name": "public"}], "steps": [{"weight": 10, "seconds": 60}]}
    plain, tried = iteration(serving={"endpoint": "chat"}), iteration(serving={"endpoint": "chat", "canary": spec})
    assert {right.resource for right in control.rights_of_the_operator(tried)} - {
        right.resource for right in control.rights_of_the_operator(plain)
    } == {"httproutes"}
    assert control.rights_of_the_operator(None) == control.rights_of_the_operator(plain)


def test_rights_that_were_not_read() -> None:
    assert control.check_user(Facts("team", rights=dict.fromkeys(control.USER, FORBIDDEN))).outcome == "not looked at"
    assert control.check_operators_rights(Facts("team")).outcome == "not looked at"
    lacking = {right: right.verb != "patch" for right in control.OPERATOR}
    one(control.check_operators_rights(Facts("team", operator_rights=lacking)), "failed", "patch deployments.apps")


# ── nodes ────────────────────────────────────────────────────────────────────────────────────────────────────────────

LABELLED: Final = {"nvidia.com/cuda.driver-version.major": "580"}
TAINT: Final = {"key": GPU, "value": "present", "effect": "NoSchedule"}
EIGHT: Final = {"nvidia.com_gpu": "8"}


def running(node_name: str, **limits: str) -> Object:
    resources = {"limits": {key.replace("_", "/"): value for key, value in limits.items()}}
    return {"spec": {"nodeName": node_name, "containers": [{"resources": resources}]}}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param(FORBIDDEN, [("not looked at", "you may not list nodes")], id="nodes not read"),
        pytest.param((node(),), [("failed", "none of 1 nodes has any")], id="none"),
        pytest.param(
            (node(labels=LABELLED, taints=[TAINT], **EIGHT),),
            [("ok", f"8 {GPU}, 6 free on 1 node, tainted {GPU}"), ("ok", "580")],
            id="eight",
        ),
        pytest.param(
            (node(labels={"nvidia.com/cuda.driver.major": "535"}, **EIGHT),),
            [("ok", "8 nvidia"), ("failed", "older than 580, which CUDA 13 asks for: n (535)")],
            id="an old driver",
        ),
        pytest.param((node(**EIGHT),), [("ok", "8 nvidia"), ("not looked at", "nvidia-smi")], id="no labels"),
        pytest.param((node(**{"amd.com_gpu": "4"}),), [("ok", "4 amd.com/gpu")], id="of AMD"),
        pytest.param(
            (node(labels=LABELLED, **{"nvidia.com_mig-1g.10gb": "7"}),),
            [("ok", "7 nvidia.com/mig-1g.10gb"), ("ok", "580")],
            id="parts of GPUs",
        ),
    ],
)
def test_gpus(found: Any, expected: list[tuple[str, str]]) -> None:
    facts = Facts("team", nodes=found, pods=(running("n", **{"nvidia.com_gpu": "2"}),))
    asking = need(sampling={"resources": {"limits": {GPU: "1"}}})
    findings = list(nodes.check_gpus(facts, [asking]))
    assert len(findings) == len(expected), findings
    for finding, (outcome, words) in zip(findings, expected, strict=True):
        one(finding, outcome, words)


def test_who_asks_for_no_gpu_needs_none() -> None:
    assert [found.outcome for found in nodes.check_gpus(Facts("team", nodes=(node(),)), [need()])] == ["ok"]
    assert [found.outcome for found in nodes.check_gpus(Facts("team", nodes=(node(),)), [])] == ["warning"]


ASKS: Final = {"resources": {"requests": {"cpu": "6"}, "limits": {"memory": "32Gi", GPU: "2"}}}
TOLERANT: Final = {**ASKS, "pod": {"tolerations": [{"key": GPU, "operator": "Exists"}]}}
IN_POOL: Final = {**TOLERANT, "pod": {**TOLERANT["pod"], "nodeSelector": {"pool": "a"}}}
AFFINE: Final = {
    **ASKS,
    "pod": {
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [
                        {"matchExpressions": [{"key": "gpus", "operator": "Gt", "values": ["4"]}]},
                        {"matchExpressions": [{"key": "pool", "operator": "In", "values": ["a", "b"]}]},
                    ]
                }
            }
        }
    },
}


@pytest.mark.parametrize(
    ("section", "found", "outcome", "words"),
    [
        pytest.param(ASKS, (node(**EIGHT),), "ok", "1 of 1 nodes can take a pod (6 cpu, 32.0 GiB", id="fits"),
        pytest.param(ASKS, (node(),), "failed", "1 with 0 nvidia.com/gpu where 2 nvidia.com/gpu", id="no GPU"),
        pytest.param(ASKS, (node(taints=[TAINT], **EIGHT),), "failed", f"1 tainted {GPU}:NoSchedule", id="a taint"),
        pytest.param(TOLERANT, (node(taints=[TAINT], **EIGHT),), "ok", "room now", id="a toleration"),
        pytest.param(
            IN_POOL,
            (node(**EIGHT), node("m", labels={"pool": "b"}, **EIGHT)),
            "failed",
            "2 without the label pool=a",
            id="label",
        ),
        pytest.param(AFFINE, (node(**EIGHT),), "failed", "1 outside of the affinity", id="outside of the affinity"),
        pytest.param(AFFINE, (node(labels={"gpus": "8"}, **EIGHT),), "ok", "", id="one of two affinities"),
        pytest.param(AFFINE, (node(labels={"pool": "b"}, **EIGHT),), "ok", "", id="the other one"),
        pytest.param(ASKS, (node(ready="Unknown", **EIGHT),), "failed", "1 not ready", id="a dead node"),
        pytest.param(ASKS, (), "failed", "there are none", id="no node"),
        pytest.param(ASKS, FORBIDDEN, "not looked at", "you may not list nodes", id="nodes not read"),
    ],
)
def test_does_any_node_fit(section: Any, found: Any, outcome: str, words: str) -> None:
    asking = need(sampling=section)
    one(nodes.check_fit(Facts("team", nodes=found, pods=()), asking, pod(asking)), outcome, words)


def test_room_that_is_taken() -> None:
    asking = need(sampling={**ASKS, "shards": 4, "resources": {"limits": {GPU: "2"}}})
    busy = Facts("team", nodes=(node(**EIGHT),), pods=(running("n", **{"nvidia.com_gpu": "3"}),))
    one(nodes.check_fit(busy, asking, pod(asking)), "warning", "there is room for 2 of 4 pods now")
    one(nodes.check_fit(replace(busy, pods=FORBIDDEN), asking, pod(asking)), "ok", "1 of 1 nodes")


def test_a_node_that_an_autoscaler_may_bring() -> None:
    asking = need(sampling=ASKS)
    facts = Facts("team", nodes=(node(),), pods=(), groups=frozenset({"karpenter.sh"}))
    one(nodes.check_fit(facts, asking, pod(asking)), "warning", "an autoscaler (karpenter.sh) may bring one")


def test_the_driver_is_as_new_as_the_images_cuda_asks_for() -> None:
    """CUDA 13 runs from driver branch 580 on; another major version asks for another one."""
    for lock in ("torch.txt", "generate-cuda.txt"):
        [major] = set(re.findall(r"^nvidia-cuda-runtime==(\d+)\.", Path("requirements", lock).read_text(), re.M))
        assert (int(major), nodes.OLDEST_DRIVER) == (13, 580)


# ── the namespace ────────────────────────────────────────────────────────────────────────────────────────────────────


def facts_of(*objects: tuple[str, str, Any], **more: Any) -> Facts:
    return Facts("team", objects={(kind, name): found for kind, name, found in objects}, **more)


WITH_KEYS: Final = {
    "sampling": {"pod": {"envFrom": [{"name": "s3"}], "imagePullSecrets": ["registry"]}},
    "labeling": {
        "type": "API",
        "api": {"url": "https://api.example/v1", "model": "m", "keySecretRef": {"name": "api", "key": "token"}},
    },
    "evaluation": {
        "benchmarks": [{"name": "b", "type": "shapes", "uri": "s3://b/benchmark"}],
        "pod": {"caBundle": {"secretKeyRef": {"name": "ca", "key": "ca.crt"}}},
    },
}


@pytest.mark.parametrize(
    ("name", "found", "outcome", "words"),
    [
        ("s3", {"data": {"AWS_REGION": ""}}, "ok", "has AWS_REGION"),
        ("s3", {"data": {}}, "warning", "is empty"),
        ("s3", None, "failed", "is not in the namespace team; kubectl create secret generic s3 -n team"),
        ("s3", FORBIDDEN, "not looked at", "you may not"),
        ("registry", {"data": {"password": ""}}, "failed", "has no .dockerconfigjson; it has password"),
        ("api", {"data": {"key": ""}}, "failed", "has no token; it has key"),
        ("ca", {"data": {"tls.crt": ""}}, "failed", "has no ca.crt; it has tls.crt"),
    ],
)
def test_secrets(name: str, found: Any, outcome: str, words: str) -> None:
    needs = needs_of(iteration(**WITH_KEYS), IMAGES)
    findings = {one.check: one for one in within.check_secrets(facts_of(("Secret", name, found)), needs)}
    assert set(findings) == {"Secret s3", "Secret registry", "Secret api", "Secret ca"}
    one(findings[f"Secret {name}"], outcome, words)


def test_what_is_named_has_to_be_there() -> None:
    asked = iteration(
        model={"from": {"iteration": "before"}},
        sampling={
            "pod": {
                "serviceAccountName": "trainer",
                "volumes": [{"name": "c", "configMap": {"name": "words"}}],
                "volumeMounts": [{"name": "c", "mountPath": "/words"}],
            },
            "resources": {"claims": [{"name": "gpus", "resourceClaimTemplateName": "one-gpu"}]},
        },
    )
    needs = needs_of(asked, IMAGES)
    findings = {one.check: one for one in within.check_named(facts_of(), asked, needs)}
    one(findings["ServiceAccount trainer"], "failed", "create it, or correct spec.sampling.pod")
    one(findings["ConfigMap words"], "failed", "is not in the namespace")
    one(findings["ResourceClaimTemplate one-gpu"], "failed", "is not in the namespace")
    one(findings["parent"], "warning", "there is no iteration before")
    there = {key: {"metadata": {}} for key in named_objects(asked, needs)}
    rights: dict[str, bool | Unknown] = {"trainer": True, "default": False}
    findings = {
        one.check: one for one in within.check_named(Facts("t", objects=there, account_rights=rights), asked, needs)
    }
    assert {found.outcome for found in findings.values()} == {"ok", "warning"}
    one(findings["rights of trainer"], "warning", "it may read Secrets")


def storage_class(name: str, default: str = "false") -> Object:
    return {"metadata": {"name": name, "annotations": {within.DEFAULT_CLASS: default}}}


def claim(phase: str = "Bound", mode: str = "ReadWriteMany") -> Object:
    return {"spec": {"accessModes": [mode]}, "status": {"phase": phase}}


EPHEMERAL: Final = {"pod": {"cache": {"ephemeral": {"size": "100Gi"}}}}
NAMED_CLASS: Final = {"pod": {"scratch": {"ephemeral": {"size": "100Gi", "storageClassName": "fast"}}}}
ON_CLAIM: Final = {"shards": 4, "pod": {"cache": {"claimName": "models"}}}


@pytest.mark.parametrize(
    ("section", "classes", "found", "expected"),
    [
        pytest.param(EPHEMERAL, (storage_class("gp3", "true"),), None, [("ok", "gp3 is the default")], id="default"),
        pytest.param(
            EPHEMERAL,
            (storage_class("gp3"),),
            None,
            [("failed", "one of gp3"), ("warning", "")],
            id="no default",
        ),
        pytest.param(
            NAMED_CLASS,
            (storage_class("gp3", "true"),),
            None,
            [("failed", "class fast, which"), ("ok", "")],
            id="name",
        ),
        pytest.param({}, (), None, [("ok", "none is the default")], id="nobody asks"),
        pytest.param({}, FORBIDDEN, None, [("not looked at", "you may not")], id="classes not read"),
        pytest.param(ON_CLAIM, (), claim(), [("ok", ""), ("ok", "is bound")], id="a claim"),
        pytest.param(ON_CLAIM, (), None, [("ok", ""), ("failed", "is not in the namespace")], id="no claim"),
        pytest.param(ON_CLAIM, (), claim("Lost"), [("ok", ""), ("failed", "has lost its volume")], id="lost"),
        pytest.param(
            ON_CLAIM,
            (),
            claim("Bound", "ReadWriteOnce"),
            [("ok", ""), ("warning", "sampling may have pods")],
            id="once",
        ),
        pytest.param(ON_CLAIM, (), claim("Pending"), [("ok", ""), ("warning", "is Pending")], id="not bound"),
    ],
)
def test_storage(section: Any, classes: Any, found: Any, expected: list[tuple[str, str]]) -> None:
    facts = facts_of(("PersistentVolumeClaim", "models", found), storage_classes=classes)
    findings = list(within.check_storage(facts, [need(sampling=section)]))
    assert len(findings) == len(expected), findings
    for finding, (outcome, words) in zip(findings, expected, strict=True):
        one(finding, outcome, words)


def quota(hard: dict[str, str], used: dict[str, str] | None = None, **spec: Any) -> Object:
    return {"metadata": {"name": "team"}, "spec": {"hard": hard, **spec}, "status": {"hard": hard, "used": used or {}}}


def limits(**rule: Any) -> Object:
    return {"metadata": {"name": "most"}, "spec": {"limits": [{"type": "Container", **rule}]}}


FOUR: Final = {"shards": 4, "resources": {"requests": {"cpu": "2"}, "limits": {"memory": "8Gi", GPU: "1"}}}


@pytest.mark.parametrize(
    ("quotas", "ranges", "expected"),
    [
        pytest.param((), (), [("ok", "none"), ("ok", "none")], id="none"),
        pytest.param(
            (quota({f"requests.{GPU}": "4"}, {f"requests.{GPU}": "0"}),),
            (),
            [("ok", "0 of 4 used"), ("ok", "")],
            id="fits",
        ),
        pytest.param(
            (quota({f"requests.{GPU}": "2"}),),
            (),
            [("failed", "is 2, 0 used; its pods take 4"), ("ok", "")],
            id="never",
        ),
        pytest.param(
            (quota({f"requests.{GPU}": "4"}, {f"requests.{GPU}": "1"}),),
            (),
            [("warning", "1 used"), ("ok", "")],
            id="full",
        ),
        pytest.param((quota({"pods": "3"}),), (), [("failed", "pods is 3"), ("ok", "")], id="pods"),
        pytest.param((quota({"limits.memory": "16Gi"}),), (), [("failed", "limits.memory"), ("ok", "")], id="limits"),
        pytest.param((quota({"cpu": "7"}),), (), [("failed", "cpu is 7"), ("ok", "")], id="requests by a short name"),
        pytest.param((quota({"pods": "3"}, scopes=["BestEffort"]),), (), [("ok", ""), ("ok", "")], id="of other pods"),
        pytest.param((), (limits(max={"memory": "4Gi"}),), [("ok", ""), ("failed", "at most 4Gi")], id="a limit"),
        pytest.param((), (limits(min={"cpu": "4"}),), [("ok", ""), ("failed", "at least 4")], id="a least request"),
        pytest.param(FORBIDDEN, FORBIDDEN, [("not looked at", "you"), ("not looked at", "you")], id="not read"),
    ],
)
def test_quotas_and_limits(quotas: Any, ranges: Any, expected: list[tuple[str, str]]) -> None:
    asking = need(sampling=FOUR)
    facts = Facts("team", quotas=quotas, limit_ranges=ranges)
    findings = list(within.check_quotas(facts, [asking], {"sampling": pod(asking)}))
    assert len(findings) == len(expected), findings
    for finding, (outcome, words) in zip(findings, expected, strict=True):
        one(finding, outcome, words)


def queue(active: str = "True", gpus: str = "8", **spec: Any) -> Object:
    flavors = [{"name": "a100", "resources": [{"name": GPU, "nominalQuota": gpus}]}]
    return {
        "metadata": {"name": "gpus"},
        "spec": {"clusterQueue": "gpus", "resourceGroups": [{"flavors": flavors}], **spec},
        "status": {"conditions": [{"type": "Active", "status": active, "message": "is stopped"}]},
    }


KUEUE: Final = frozenset({"kueue.x-k8s.io"})


@pytest.mark.parametrize(
    ("local", "above", "groups", "expected"),
    [
        pytest.param(queue(), queue(), KUEUE, [("ok", "takes work"), ("ok", "takes work")], id="all is well"),
        pytest.param(None, None, KUEUE, [("failed", "create the LocalQueue")], id="no queue"),
        pytest.param(None, None, frozenset(), [("failed", "the cluster has no Kueue")], id="no Kueue"),
        pytest.param(queue("False"), None, KUEUE, [("failed", "is stopped"), ("failed", "is not there")], id="stopped"),
        pytest.param(
            queue(), queue(gpus="3"), KUEUE, [("ok", ""), ("ok", ""), ("failed", "4 pods ask for 4")], id="too small"
        ),
        pytest.param(queue(), queue(gpus="3", cohort="all"), KUEUE, [("ok", ""), ("ok", "")], id="others lend"),
        pytest.param(queue(), FORBIDDEN, KUEUE, [("ok", ""), ("not looked at", "you")], id="not read"),
    ],
)
def test_queues(local: Any, above: Any, groups: frozenset[str], expected: list[tuple[str, str]]) -> None:
    asked = iteration()
    labelled = {**asked.metadata.labels, "kueue.x-k8s.io/queue-name": "gpus"}
    asked = asked.model_copy(update={"metadata": asked.metadata.model_copy(update={"labels": labelled})})
    asking = need(sampling=FOUR)
    facts = facts_of(("LocalQueue", "gpus", local), cluster_queue=above, groups=groups)
    findings = list(within.check_queue(facts, asked, [asking], {"sampling": pod(asking)}))
    assert len(findings) == len(expected), findings
    for finding, (outcome, words) in zip(findings, expected, strict=True):
        one(finding, outcome, words)


def test_what_admission_says() -> None:
    facts = Facts("team", dry_run=DryRun({}), dry_runs={"sampling": DryRun(refusal="label team is required")})
    first, second = within.check_admission(facts, [need()])
    one(first, "ok", "would be admitted")
    one(second, "failed", "would be refused: label team is required; correct spec.sampling")


# ── pods that try ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_pods_that_are_alike_are_tried_once_and_with_all_that_they_read() -> None:
    asked = iteration(
        labeling={"model": {"uri": "hf://a/b", "revision": "c"}, "pod": {"env": [{"name": "A", "value": "b"}]}}
    )
    alike = {one.sections: one.order for one in trials.groups(asked, needs_of(asked, IMAGES))}
    assert set(alike) == {("sampling", "splitting", "evaluation"), ("labeling",), ("pairing", "training")}
    assert [(one.uri, one.revision) for one in alike["labeling",].models] == [("hf://a/b", "c")]
    assert [one.uri for one in alike["sampling", "splitting", "evaluation"].data] == [
        "s3://b/instructions",
        "s3://b/benchmark",
    ]
    assert alike["pairing", "training"].artifacts == "s3://b/artifacts"


def test_what_lies_on_volumes_is_not_tried_without_them() -> None:
    spec = iteration(model={"uri": "/models/llava"}).spec
    assert order_of(spec, ["sampling"]).models == ()
    published = FeedbackIteration.model_validate(from_pairs()).spec
    assert [one.uri for one in order_of(published, ["pairing"]).data] == ["s3://b/pairs"]


def test_the_job_is_like_those_of_the_stages_and_takes_next_to_nothing() -> None:
    section = {
        "resources": {"requests": {"cpu": "6", "memory": "48Gi"}, "limits": {"memory": "96Gi", GPU: "1"}},
        "pod": {
            "serviceAccountName": "trainer",
            "envFrom": [{"name": "s3"}],
            "tolerations": [{"operator": "Exists"}],
            "imagePullSecrets": ["registry"],
            "cache": {"claimName": "models"},
        },
    }
    asked = iteration(sampling=section)
    group = next(one for one in trials.groups(asked, needs_of(asked, IMAGES)) if "sampling" in one.sections)
    owner = Metadata(name="it", namespace="team", labels={"kueue.x-k8s.io/queue-name": "gpus", "team": "vision"})
    made = trials.job(group, owner, "feedback-doctor-1", HouseRules(inherited_labels=("team",)))
    spec = made["spec"]["template"]["spec"]
    [container] = spec["containers"]
    assert (spec["serviceAccountName"], spec["imagePullSecrets"]) == ("trainer", [{"name": "registry"}])
    assert container["envFrom"] == [{"secretRef": {"name": "s3"}}]
    assert container["resources"] == {"requests": trials.REQUESTS, "limits": {"memory": "96Gi"}}
    assert {volume["name"]: set(volume) - {"name"} for volume in spec["volumes"]}["cache"] == {"emptyDir"}
    assert made["spec"]["suspend"] is True
    assert made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert made["spec"]["template"]["metadata"]["labels"]["team"] == "vision"
    assert made["spec"]["ttlSecondsAfterFinished"] > 0


def test_the_pods_shared_memory_is_that_of_the_section_that_needs_it_most() -> None:
    asked = iteration(
        sampling={"resources": {"limits": {"memory": "96Gi", GPU: "1"}}},
        labeling={"model": {"uri": "s3://b/l"}, "resources": {"limits": {"memory": "8Gi", "cpu": "50m", GPU: "2"}}},
        evaluation={
            "benchmarks": [{"name": "b", "type": "shapes", "uri": "s3://b/benchmark"}],
            "resources": {"limits": {"memory": "64Gi", GPU: "4"}},
        },
    )
    group = next(one for one in trials.groups(asked, needs_of(asked, IMAGES)) if "labeling" in one.sections)
    assert set(group.sections) >= {"sampling", "labeling", "evaluation"}
    made = trials.job(group, asked.metadata, "feedback-doctor-1", HouseRules())
    [container] = made["spec"]["template"]["spec"]["containers"]
    assert container["resources"] == {"requests": {"memory": "256Mi"}, "limits": {"memory": "8Gi", "cpu": "50m"}}


def fate(state: dict[str, Any], **status: Any) -> Trial | None:
    group = trials.groups_of_images([need()])[0]
    return trials.ended(group, {"status": {"containerStatuses": [{"name": "stage", "state": state}], **status}})


REPORT: Final = TrialReport(looks=(), shared_memory_bytes=1 << 34)


@pytest.mark.parametrize(
    ("state", "trouble"),
    [
        ({"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}, "ImagePullBackOff: not found"),
        (
            {"terminated": {"exitCode": 1, "message": "... No module named feedback_workloads.stages.trial"}},
            "another version",
        ),
        ({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}, "exit code 137: OOMKilled"),
        ({"terminated": {"exitCode": 0, "message": "{}"}}, "without a report"),
    ],
)
def test_pods_that_bring_no_report(state: dict[str, Any], trouble: str) -> None:
    found = fate(state)
    assert found is not None
    assert trouble in found.trouble
    [finding] = trials.check_trials(Facts("team", trials=(found,)), [need()])
    one(finding, "failed", trouble)


def test_pods_that_may_still_bring_one_are_waited_for() -> None:
    assert fate({"running": {}}) is None
    assert fate({"waiting": {"reason": "ContainerCreating"}}) is None
    assert fate({"waiting": {"reason": "ErrImagePull"}}) is None, "the kubelet tries again"
    ended = fate({"terminated": {"exitCode": 0, "message": REPORT.model_dump_json()}})
    assert ended is not None
    assert ended.report == REPORT


@pytest.mark.parametrize(
    ("found", "job", "words"),
    [
        (None, {"spec": {"suspend": True}}, "not admitted by Kueue"),
        (None, {"spec": {}}, "no pod was made"),
        (
            {"status": {"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes"}]}},
            {"spec": {}},
            "no node takes it: 0/3 nodes",
        ),
        ({"status": {}}, {"spec": {}}, "running: it has not ended"),
    ],
)
def test_why_a_pod_whose_time_is_over_has_not_ended(found: Any, job: Any, words: str) -> None:
    assert words in trials.waits_for(found, job)


def test_what_pods_have_found() -> None:
    looks = (
        Look(what="artifacts s3://b/a"),
        Look(what="model hf://a/b", problem="the hub has no hf://a/b for this user; set HF_TOKEN"),
        Look(what="hub", problem="does not answer; let the pods reach it", severe=False),
    )
    several = need(sampling={"resources": {"limits": {GPU: "2"}}})
    report = TrialReport(looks=looks, shared_memory_bytes=64 << 20)
    findings = list(trials.check_trials(Facts("t", trials=(Trial(("sampling",), "image", report),)), [several]))
    assert [(one.outcome, one.remedy) for one in findings[1:4]] == [
        ("ok", ""),
        ("failed", "set HF_TOKEN"),
        ("warning", "let the pods reach it"),
    ]
    one(findings[4], "failed", "/dev/shm has 0.1 GiB, and the GPUs of sampling talk through it")
    assert [one.outcome for one in trials.check_trials(Facts("t", trials=Unknown("no")), [])] == ["not looked at"]
    unknown = Facts("t", trials=(Trial(("sampling",), ""),))
    assert [one.outcome for one in trials.check_trials(unknown, [several])] == ["not looked at"]


GIB: Final = 1 << 30


@pytest.mark.parametrize(
    ("cache", "disk", "outcome", "words"),
    [
        (None, "500Gi", "ok", "its models have 14.0 GiB; pod.cache.sizeLimit 16Gi would bound"),
        (
            None,
            "14Gi",
            "failed",
            "no node's disk has more than 14.0 GiB for pods; give spec.sampling.pod.cache.ephemeral",
        ),
        ({"sizeLimit": "10Gi"}, "500Gi", "failed", "is 10Gi; raise spec.sampling.pod.cache.sizeLimit to 16Gi"),
        ({"sizeLimit": "20Gi"}, "500Gi", "ok", "has 20Gi"),
        ({"ephemeral": {"size": "10Gi"}}, "500Gi", "failed", "raise spec.sampling.pod.cache.ephemeral.size to 16Gi"),
        ({"claimName": "models"}, "1Gi", "ok", "the claim models keeps them"),
    ],
)
def test_caches_hold_the_models(cache: Any, disk: str, outcome: str, words: str) -> None:
    asked = iteration(sampling={"pod": {"cache": cache}} if cache else {})
    report = TrialReport(looks=(Look(what="model s3://b/policy", bytes=14 * GIB),), shared_memory_bytes=GIB)
    facts = Facts("t", nodes=(node(**{"ephemeral-storage": disk}),), trials=(Trial(("sampling",), "image", report),))
    findings = {one.check: one for one in space.check_space(facts, asked, needs_of(asked, IMAGES))}
    assert set(findings) == {"sampling: cache", "training: cache", "evaluation: cache"}, (
        "the labeler's size is not known"
    )
    one(findings["sampling: cache"], outcome, words)


def test_evaluation_keeps_every_checkpoint_and_an_endpoint_two_models() -> None:
    training = {"epochs": 2, "checkpointsPerEpoch": 3}
    asked = iteration(training=training, serving={"endpoint": "e"})
    report = TrialReport(looks=(Look(what="model s3://b/policy", bytes=10 * GIB),), shared_memory_bytes=GIB)
    facts = Facts("t", trials=(Trial(("sampling",), "image", report),))
    findings = {one.check: one.message for one in space.check_space(facts, asked, needs_of(asked, IMAGES))}
    assert "have 70.0 GiB" in findings["evaluation: cache"]
    assert "have 20.0 GiB" in findings["serving: cache"]
    small = iteration(training={**training, "lora": {}})
    findings = {one.check: one.message for one in space.check_space(facts, small, needs_of(small, IMAGES))}
    assert "have 10.0 GiB" in findings["evaluation: cache"]


# ── all of it ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_who_may_look_at_nothing_is_told_so_line_by_line() -> None:
    blind = Facts(
        "team",
        version="v1.33.0",
        definition=FORBIDDEN,
        groups=frozenset({"feedback.rlaif.dev"}),
        operators=FORBIDDEN,
        rights=dict.fromkeys(control.USER, FORBIDDEN),
        nodes=FORBIDDEN,
        storage_classes=FORBIDDEN,
        quotas=FORBIDDEN,
        limit_ranges=FORBIDDEN,
        trials=FORBIDDEN,
    )
    findings = list(examine(blind, None, [], {}))
    assert [one.check for one in findings if one.outcome != "not looked at"] == ["kubernetes"]


def test_house_rules_are_those_of_the_operator_that_serves_the_namespace() -> None:
    asked = iteration(training={"pod": {"capabilities": ["IPC_LOCK"]}})
    needs = needs_of(asked, IMAGES)
    pods = {one.name: pod(one) for one in needs}
    strict = Facts("team", operators=(deployment(),))
    allowed = Facts("team", operators=(deployment(FEEDBACK_ALLOW_CAPABILITIES="IPC_LOCK"),))
    told = [found for found in examine(strict, asked, needs, pods) if found.check == "house rules"]
    one(told[0], "failed", "IPC_LOCK is not allowed on this cluster")
    assert [found for found in examine(allowed, asked, needs, pods) if found.check == "house rules"] == []


def test_a_line_a_check_and_below_it_what_to_do() -> None:
    findings = [Finding("gpus", "ok", "8"), Finding("queue", "failed", "is not there", "create it")]
    assert as_text({"llava": findings}).splitlines() == [
        "llava:",
        "ok            gpus: 8",
        "failed        queue: is not there",
        "              -> create it",
        "",
        "1 failed, 1 ok",
    ]
    [told] = json.loads(as_json({"": findings}))
    assert told["checks"][1] == {
        "check": "queue",
        "outcome": "failed",
        "message": "is not there",
        "remedy": "create it",
    }


def test_long_lists_are_cut() -> None:
    assert listed(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"
