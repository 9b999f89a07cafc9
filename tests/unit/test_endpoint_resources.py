"""The objects of an endpoint, as a person would have written them, compared whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from feedback_operator.api import Metadata, PromotedModel, RankingStatus, ResolvedModel, ServingSpec
from feedback_operator.resources import FIELD_MANAGER, Manifest
from feedback_operator.resources.deployment import Serving, applied_replicas, build_deployment, revision
from feedback_operator.resources.difference import differs
from feedback_operator.resources.networkpolicy import build_endpoint_policy
from feedback_operator.resources.poddisruptionbudget import build_pod_disruption_budget
from feedback_operator.resources.service import build_service
from feedback_workloads.serving.settings import read_settings

EXPECTED = Path(__file__).parent / "expected"

SERVING = Serving(
    name="chat",
    owner=Metadata(name="it", uid="u-1"),
    co_owners=(),
    spec=ServingSpec(endpoint="chat", replicas=2),
    promoted=PromotedModel(
        uri="s3://b/artifacts/policy/x/checkpoint-000010",
        sha256="a" * 64,
        reference=ResolvedModel(uri="s3://b/policy"),
        beta="0.1",
        precision="Auto",
        temperature="0",
        top_p="1.0",
        ranked_temperature="0.7",
        ranked_top_p="0.9",
        ranking=RankingStatus(),
        max_new_tokens=512,
        image="generate:test",
        best_of=2,
    ),
    max_model_len=None,
)
EVERYTHING = replace(
    SERVING,
    co_owners=(("u-0", "older"),),
    spec=ServingSpec.model_validate(
        {
            "endpoint": "chat",
            "replicas": 3,
            "bestOf": 4,
            "progressDeadlineSeconds": 60,
            "resources": {"limits": {"nvidia.com/gpu": "2"}},
            "pod": {
                "envFrom": [{"name": "s3"}],
                "cache": {"claimName": "models"},
                "nodeSelector": {"gpu": "h200"},
                "labels": {"team": "vision"},
                "annotations": {"example.com/note": "x"},
                "terminationGracePeriodSeconds": 300,
                "env": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
                "caBundle": {"secretKeyRef": {"name": "ca", "key": "ca.pem"}},
            },
        }
    ),
    promoted=SERVING.promoted.model_copy(
        update={
            "reference": ResolvedModel(iteration="first", uri="hf://a/b", revision="main", sha256="b" * 64),
            "ranking": RankingStatus(rule="Regularised", lambda_="0.3"),
            "precision": "BFloat16",
        }
    ),
    max_model_len=4096,
)
BUILDERS = {
    "deployment": build_deployment,
    "service": build_service,
    "poddisruptionbudget": build_pod_disruption_budget,
    "networkpolicy": build_endpoint_policy,
}


@pytest.mark.parametrize("kind", BUILDERS)
def test_object(kind: str) -> None:
    assert BUILDERS[kind](SERVING) == yaml.safe_load((EXPECTED / f"{kind}-endpoint.yaml").read_text())


def test_deployment_with_everything_that_may_be_given() -> None:
    assert build_deployment(EVERYTHING) == yaml.safe_load((EXPECTED / "deployment-overrides.yaml").read_text())


def test_a_server_is_told_how_its_models_are_asked() -> None:
    said = {"system_prompt": "Be brief.", "chat_template": "{{ a }}\n", "processor_kwargs": {"max_pixels": 9}}
    reference = ResolvedModel(uri="s3://b/policy", **said)  # type: ignore[arg-type]
    serving = replace(SERVING, promoted=SERVING.promoted.model_copy(update={"reference": reference}))
    (container,) = build_deployment(serving)["spec"]["template"]["spec"]["containers"]
    (plain,) = build_deployment(SERVING)["spec"]["template"]["spec"]["containers"]
    more = [flag for flag in container["args"] if flag not in plain["args"]]
    assert more == ["--system-prompt=Be brief.", "--chat-template={{ a }}\n", '--processor-kwargs={"max_pixels": 9}']
    settings = read_settings(container["args"])
    for model in (settings.policy, settings.reference):
        assert model.model_dump(include=said.keys()) == said


def test_a_number_of_pods_that_is_not_given_is_not_applied() -> None:
    serving = replace(SERVING, spec=ServingSpec(endpoint="chat"))
    wanted = build_deployment(SERVING)
    del wanted["spec"]["replicas"]
    assert build_deployment(serving) == wanted


def scaled(replicas: int, manager: str = FIELD_MANAGER, operation: str = "Apply") -> Manifest:
    """A Deployment and who set its number of pods."""
    entry = {"manager": manager, "operation": operation, "fieldsV1": {"f:spec": {"f:replicas": {}}}}
    return {"metadata": {"managedFields": [entry]}, "spec": {"replicas": replicas}}


@pytest.mark.parametrize(
    ("given", "deployment", "expect"),
    [
        pytest.param(2, None, 2, id="given"),
        pytest.param(2, scaled(5, "kube-controller-manager", "Update"), 2, id="given, somebody else scaled"),
        pytest.param(0, scaled(5), 0, id="0 is given"),
        pytest.param(None, None, None, id="not given: the API server's one"),
        pytest.param(None, {"metadata": {}, "spec": {"replicas": 1}}, None, id="never given"),
        pytest.param(None, scaled(5), 5, id="not given any more: kept"),
        pytest.param(None, scaled(0), 1, id="0 is not given any more: serves again"),
        pytest.param(None, scaled(5, "kube-controller-manager", "Update"), None, id="an autoscaler's"),
        pytest.param(None, scaled(0, "kubectl", "Update"), None, id="scaled to 0 by somebody else"),
        pytest.param(None, scaled(5, FIELD_MANAGER, "Update"), None, id="not by server-side apply"),
    ],
)
def test_applied_replicas(given: int | None, deployment: Manifest | None, expect: int | None) -> None:
    assert applied_replicas(given, deployment) == expect


def test_the_server_of_a_model_that_was_promoted_before_rules_were_chosen_is_told_of_none() -> None:
    """Its image is of that time, too, and would end at a flag that it does not know."""
    before = {"ranking": None, "ranked_temperature": "", "ranked_top_p": ""}
    (container,) = build_deployment(replace(SERVING, promoted=SERVING.promoted.model_copy(update=before)))["spec"][
        "template"
    ]["spec"]["containers"]
    assert not [argument for argument in container["args"] if "rank" in argument]


@pytest.mark.parametrize("serving", [SERVING, EVERYTHING])
def test_the_server_understands_its_command_line(serving: Serving) -> None:
    (container,) = build_deployment(serving)["spec"]["template"]["spec"]["containers"]
    settings = read_settings(container["args"])
    assert settings.policy.uri == serving.promoted.uri
    ranking = serving.promoted.ranking
    assert ranking
    served = settings.defaults.ranking
    assert (served.rule, served.weight) == (ranking.rule, float(ranking.lambda_ or 0))
    assert (
        settings.drain_seconds + 5
        < build_deployment(serving)["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    )


@pytest.mark.parametrize(
    ("change", "rolls"),
    [
        pytest.param({"spec": SERVING.spec.model_copy(update={"replicas": 5})}, False, id="replicas"),
        pytest.param({"co_owners": (("u-9", "other"),)}, False, id="co_owners"),
        pytest.param({"promoted": SERVING.promoted.model_copy(update={"image": "generate:2"})}, True, id="image"),
        pytest.param({"spec": SERVING.spec.model_copy(update={"best_of": 4})}, True, id="best of"),
        pytest.param({"promoted": SERVING.promoted.model_copy(update={"best_of": 4})}, True, id="best of, as chosen"),
        pytest.param({"spec": SERVING.spec.model_copy(update={"best_of": 2})}, False, id="best of, given as chosen"),
        pytest.param({"owner": Metadata(name="newer", uid="u-2")}, True, id="holder"),
    ],
)
def test_what_makes_a_new_revision(change: dict[str, object], rolls: bool) -> None:
    assert (revision(replace(SERVING, **change)) != revision(SERVING)) == rolls


MOUNTS = [{"name": "data", "mountPath": "/b"}, {"name": "data", "mountPath": "/a"}]

# What the API server makes of an object, on the left what was applied.
APPLIED = {
    "metadata": {"name": "chat", "ownerReferences": [{"uid": "u-1", "controller": True}]},
    "spec": {
        "replicas": 2,
        "args": ["--a", "--b"],
        "containers": [
            {
                "name": "serving",
                "resources": {"limits": {"cpu": "1000m"}},
                "env": [{"name": "A"}],
                "volumeMounts": MOUNTS[::-1],
            }
        ],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
        "matchLabels": {},
    },
}


@pytest.mark.parametrize(
    ("path", "value", "expect"),
    [
        pytest.param((), None, False, id="as applied"),
        pytest.param(("metadata", "uid"), "x", False, id="a default was added"),
        pytest.param(("spec", "containers", 0, "resources", "limits", "cpu"), "1", False, id="a quantity in its form"),
        pytest.param(("spec", "containers", 0, "resources", "limits", "cpu"), "2", True, id="another quantity"),
        pytest.param(("spec", "replicas"), 3, True, id="scaled by hand"),
        pytest.param(("spec", "args"), ["--a"], True, id="a shorter list"),
        pytest.param(("spec", "containers", 0, "env"), [{"name": "B"}, {"name": "A"}], False, id="a variable more"),
        pytest.param(("spec", "containers", 0, "env"), [{"name": "B"}], True, id="a variable less"),
        pytest.param(
            ("spec", "containers", 0, "volumeMounts"), MOUNTS, False, id="mounts of one volume in another order"
        ),
        pytest.param(("spec", "containers", 0, "volumeMounts"), MOUNTS[:1], True, id="one of its mounts less"),
        pytest.param(("spec", "matchLabels"), None, False, id="something empty was dropped"),
        pytest.param(("metadata", "ownerReferences", 0, "controller"), False, True, id="another owner"),
    ],
)
def test_difference(path: tuple[str | int, ...], value: object, expect: bool) -> None:
    observed = yaml.safe_load(yaml.safe_dump(APPLIED))
    at = observed
    for step in path[:-1]:
        at = at[step]
    if path:
        at[path[-1]] = value
    assert differs(APPLIED, observed) is expect


@pytest.mark.parametrize("seconds", [None, 16, 300])
def test_requests_end_before_the_pod_is_killed(seconds: int | None) -> None:
    given = {} if seconds is None else {"pod": {"terminationGracePeriodSeconds": seconds}}
    serving = replace(SERVING, spec=ServingSpec.model_validate({"endpoint": "chat", **given}))
    pod = build_deployment(serving)["spec"]["template"]["spec"]
    settings = read_settings(pod["containers"][0]["args"])
    assert pod["terminationGracePeriodSeconds"] == (seconds or 75)
    assert settings.unlisted_seconds + settings.drain_seconds + 10 == pod["terminationGracePeriodSeconds"]


def test_an_object_that_is_not_there_differs() -> None:
    assert differs(APPLIED, None)
