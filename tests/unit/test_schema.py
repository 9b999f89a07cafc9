"""The generated files: complete, within the API server's limits, and in keeping with what determines artifacts."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from feedback_operator.api import FeedbackIteration, IterationSpec, model_of
from feedback_operator.api.generate import main
from feedback_operator.api.rbac import cluster, namespaced
from feedback_operator.api.schema import crd, frozen_fields, root_schema
from feedback_operator.stages import GRAPH, Inputs, stages_of
from feedback_workloads.contract import Artifact
from tests.specs import good_spec
from tests.unit.worlds import from_pairs, iteration, manifest

Schema = dict[str, Any]


def fields(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Every field, entry and value below a schema."""
    for name, field in schema.get("properties", {}).items():
        yield f"{path}.{name}", field
        yield from fields(field, f"{path}.{name}")
    for keyword in ("items", "additionalProperties"):
        if keyword in schema:
            yield f"{path}[]", schema[keyword]
            yield from fields(schema[keyword], f"{path}[]")


SPEC_AND_STATUS = [
    (path, field) for part in ("spec", "status") for path, field in fields(root_schema()["properties"][part], part)
]


@pytest.mark.parametrize(("path", "field"), SPEC_AND_STATUS, ids=[path for path, _ in SPEC_AND_STATUS])
def test_every_field_is_described_and_limited(path: str, field: Schema) -> None:
    assert path.endswith("[]") or field["description"]
    match field.get("type"):
        case "string":
            assert "maxLength" in field or "enum" in field
        case "array":
            assert "maxItems" in field
            assert "x-kubernetes-list-type" in field
        case "object":
            assert {"properties", "maxProperties", "x-kubernetes-preserve-unknown-fields"} & field.keys()
        case "integer":
            assert "format" in field
        case "boolean":
            pass
        case kind:
            assert kind is None
            assert field["x-kubernetes-int-or-string"]
    assert not {"$ref", "oneOf", "title", "const"} & field.keys()


def test_the_operator_writes_its_status_without_defaults() -> None:
    assert not [path for path, field in SPEC_AND_STATUS if path.startswith("status") and "default" in field]


def test_nothing_within_a_list_of_one_owner_has_a_default() -> None:
    """Who applies the list again without what the API server has filled in would be told of a conflict with others."""
    lists = [path for path, field in SPEC_AND_STATUS if field.get("x-kubernetes-list-type") == "atomic"]
    assert "spec.evaluation.gate" in lists
    within = tuple(f"{path}[]" for path in lists)
    assert not [path for path, field in SPEC_AND_STATUS if path.startswith(within) and "default" in field]


def test_lists_merge_by_their_keys() -> None:
    keys = {
        path: field.get("x-kubernetes-list-map-keys", ["the item itself"])
        for path, field in SPEC_AND_STATUS
        if field.get("x-kubernetes-list-type") in ("map", "set") and not {"pod", "resources"} & {*path.split(".")}
    }
    assert keys == {
        "spec.training.loss.terms": ["type"],
        "spec.evaluation.benchmarks": ["name"],
        "spec.serving.canary.gateways": ["name"],
        "spec.serving.canary.hostnames": ["the item itself"],
        "status.conditions": ["type"],
        "status.stages": ["name"],
        "status.stages[].shards": ["shard"],
    }


def test_the_names_that_people_type() -> None:
    names = crd()["spec"]["names"]
    assert (names["shortNames"], names["categories"]) == (["fbi"], ["feedback"])


def test_it_fits() -> None:
    """`kubectl apply` keeps the whole of it, as JSON, in an annotation, which Kubernetes limits."""
    assert len(json.dumps(crd(), separators=(",", ":"))) < 256 * 1024


def test_the_files_are_up_to_date() -> None:
    assert main(["--check"]) == 0, "run `make generate`"


def test_a_stale_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([]) == 0
    assert main(["--check"]) == 0
    Path("docs/reference.md").write_text("")
    assert main(["--check"]) == 1
    assert "docs/reference.md is not what the sources make of it; run `make generate`" in capsys.readouterr().err


# ── what determines artifacts ────────────────────────────────────────────────────────────────────────────────────────

ASKED = {"systemPrompt": "Be brief.", "chatTemplate": "{{ messages }}", "trustRemoteCode": False}
EVERYTHING: dict[str, Any] = manifest(
    model={
        "uri": "s3://b/policy",
        "revision": "r",
        "sha256": "1" * 64,
        "systemPrompt": "Be brief.",
        "chatTemplate": "{{ messages }}",
        "processorKwargs": {"max_pixels": 1003520, "size": {"longest_edge": 8}},
    },
    instructions={"uri": "s3://b/instructions", "revision": "r", "sha256": "1" * 64},
    sampling={"temperatures": ["0.5"], "maxModelLen": 64},
    splitting={
        "type": "LLM",
        "llm": {"model": {"uri": "s3://b/text", "revision": "r", "sha256": "1" * 64, **ASKED}},
        "maxModelLen": 64,
    },
    labeling={
        "model": {
            "uri": "s3://b/labeler",
            "revision": "r",
            "sha256": "1" * 64,
            **ASKED,
            "processorKwargs": {"do_pad": False},
        },
        "maxModelLen": 64,
    },
    pairing={"truth": "shapes"},
    training={
        "lora": {},
        "loss": {
            "terms": [{"type": "Sigmoid"}, {"type": "Robust"}, {"type": "Anchored"}],
            "labelSmoothing": "0.1",
            "anchor": "0.1",
        },
    },
    serving={"endpoint": "e"},
    deadlineSeconds=60,
    ttlSecondsAfterFinished=60,
)["spec"]
ELSEWHERE: dict[type, Any] = {bool: True, int: 9, str: "0.25"}
OTHER: dict[str, Any] = {
    "questionTemplate": "{claim}!", "uri": "s3://b/other", "revision": "s", "sha256": "2" * 64, "name": "other",
    "precision": "Float32", "lengthBalance": "Disabled", "rewardOnBaseline": "Enabled", "truth": "coco-objects",
    "gradientCheckpointing": "Disabled", "reference": "Recomputed", "type": "coco-objects", "endpoint": "f",
    "globalBatchSize": 16, "nodes": 2, "perDeviceBatchSize": 2, "processesPerNode": 2, "seed": 1, "maxModelLen": 128,
    "maxPictureSide": 512, "url": "http://b",
    "zeroStage": 3, "maxNewTokens": 77, "maxLength": 77, "progressDeadlineSeconds": 77, "epochs": 5,
}  # fmt: skip
"""Another good value of a field, by its name; of other fields, by the type of its value."""


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of plain values in a spec; lists count as their first entry."""
    if isinstance(value, list):
        yield from leaves(value[0], path) if value else ()
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(inner, (*path, name))
    elif value is not None:
        yield path


def full(spec: Any) -> Any:
    """The spec with its defaults, as in a manifest."""
    dumped = valid(spec).model_dump(mode="json", by_alias=True, exclude_none=True)
    for section in dumped.values():
        if isinstance(section, dict):
            section.pop("pod", None)
            section.pop("resources", None)
    return dumped


def changed(spec: Any, path: tuple[str, ...]) -> Any:
    made = copy.deepcopy(spec)
    holder = made
    for name in path[:-1]:
        holder = holder[name][0] if isinstance(holder[name], list) else holder[name]
    old = holder[path[-1]]
    if isinstance(old, list):
        holder[path[-1]] = ["0.25"]
    elif path == ("splitting", "type"):
        made["splitting"] = {"type": "WholeAnswer"}
    elif path == ("labeling", "type"):
        made["labeling"] = {"type": "API", "api": {"url": "http://b/v1", "model": "m"}}
    elif path == ("training", "loss", "terms", "type"):
        holder["type"] = "APOZero"
    else:
        holder[path[-1]] = OTHER.get(path[-1], ELSEWHERE[type(old)])
    return made


def addresses(spec: Any) -> list[str]:
    """Content addresses of all stages, with the same inputs each time."""
    given = valid(spec)
    artifacts = {stage.name: (Artifact(uri="s3://b/a", sha256="0" * 64),) for stage in GRAPH}
    inputs = Inputs(given, model_of(given.model), artifacts)
    return [stage.addressed_config(inputs).content_hash() for stage in stages_of(given)]


def valid(spec: Any) -> IterationSpec:
    return FeedbackIteration.model_validate({**manifest(), "spec": spec}).spec


@pytest.mark.parametrize("path", sorted(set(leaves(full(EVERYTHING)))), ids=".".join)
def test_fixed_while_it_runs_is_what_changes_an_address(path: tuple[str, ...]) -> None:
    check_fixed(EVERYTHING, path)


@pytest.mark.parametrize("name", ["uri", "revision", "sha256"])
def test_published_pairs_are_fixed_and_change_an_address(name: str) -> None:
    source = {"uri": "s3://b/pairs", "revision": "r", "sha256": "1" * 64}
    check_fixed(from_pairs(pairs={"source": source})["spec"], ("pairs", "source", name))


API = {
    "url": "https://api.example/v1",
    "model": "sees",
    "keySecretRef": {"name": "keys", "key": "labeler"},
    "parameters": {"reasoning_effort": "low"},
    "price": {"input": "2.5", "output": "10"},
    "limits": {"tokens": 1000, "cost": "25"},
}
BEHIND_APIS = {
    **EVERYTHING,
    "labeling": {"type": "API", "api": {**API, "votes": {}, "maxPictureSide": 1024}},
    "splitting": {"type": "LLM", "llm": {"api": API}},
}


@pytest.mark.parametrize("path", sorted(one for one in set(leaves(full(BEHIND_APIS))) if "api" in one), ids=".".join)
def test_of_apis_what_they_say_is_fixed_and_how_they_are_asked_is_not(path: tuple[str, ...]) -> None:
    check_fixed(BEHIND_APIS, path)


def check_fixed(spec: dict[str, Any], path: tuple[str, ...]) -> None:
    fixed = {frozen for frozen, _ in frozen_fields(IterationSpec)}
    before = full(spec)
    moved = addresses(changed(before, path)) != addresses(before)
    is_fixed = any(path[: len(frozen)] == frozen for frozen in fixed)
    if path == ("artifacts", "uri"):
        moved = True  # the place of all artifacts, though not part of what they hold
    assert moved == is_fixed


def test_generated_specs_that_should_be_good_are() -> None:
    for seed in range(200):
        FeedbackIteration.model_validate({**manifest(), "spec": good_spec(random.Random(seed))})


@pytest.mark.parametrize(
    ("model", "good"),
    [
        pytest.param({"uri": "hf://a/b", "revision": "0a" * 20}, True, id="a commit"),
        pytest.param({"uri": "s3://b/m", "sha256": "1" * 64}, True, id="a digest"),
        pytest.param({"uri": "hf://a/b"}, False, id="nothing"),
        pytest.param({"uri": "hf://a/b", "revision": "main"}, False, id="a branch, which moves"),
        pytest.param({"uri": "s3://b/m", "revision": "0a" * 20}, False, id="a commit of what has none"),
    ],
)
def test_code_that_is_run_is_pinned(model: dict[str, str], good: bool) -> None:
    trusting = {"labeling": {"model": {**model, "trustRemoteCode": True}}}
    if good:
        assert iteration(**trusting).spec.labeling.model.trust_remote_code
        return
    with pytest.raises(ValueError, match="trustRemoteCode runs what lies beside the weights: say which by sha256 or"):
        iteration(**trusting)


def test_a_chain_asks_its_model_as_the_first_of_it_did() -> None:
    with pytest.raises(ValueError, match="must not be given with from; the model is asked as the iteration asked it"):
        iteration(model={"from": {"iteration": "parent"}, "systemPrompt": "Be brief."})


@pytest.mark.parametrize(("given", "kept"), [(8.0, 8), ([0.5, 1.0], [0.5, 1]), ({"a": {"b": 2.0}}, {"a": {"b": 2}})])
def test_settings_of_a_processor_are_as_the_api_server_keeps_them(given: Any, kept: Any) -> None:
    model = iteration(model={"uri": "s3://b/m", "processorKwargs": {"x": given}}).spec.model
    assert json.dumps(model.processor_kwargs) == json.dumps({"x": kept})


# ── RBAC ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("manifests", [namespaced(), cluster()], ids=["namespaced", "cluster"])
def test_the_operator_has_no_right_to_secrets_nor_to_everything(manifests: list[Schema]) -> None:
    granted = [rule for made in manifests for rule in made.get("rules", ())]
    assert granted
    for rule in granted:
        assert "secrets" not in rule["resources"]
        assert "*" not in [*rule["verbs"], *rule["resources"], *rule["apiGroups"]]


def test_one_namespace_needs_nothing_of_the_cluster() -> None:
    assert {made["kind"] for made in namespaced()} == {"ServiceAccount", "Role", "RoleBinding"}


def test_leases_are_the_operators_own() -> None:
    assert not [
        rule
        for made in cluster()
        if made["kind"] == "ClusterRole"
        for rule in made["rules"]
        if "leases" in rule["resources"]
    ]
