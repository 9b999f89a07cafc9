"""Specs made at random from the schema that the API server checks: good ones, and good ones with something wrong."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from feedback_operator.api.schema import root_schema

Json = Any
Schema = dict[str, Any]

SPEC: Final[Schema] = root_schema()["properties"]["spec"]
DECIMALS: Final = ("0.5", "1", "1.0", "0.1", "0.000000000001", "00.25")
STRINGS: Final[dict[str, tuple[str, ...]]] = {
    "url": ("https://api.example/v1", "http://vllm.models:8000/v1/", "https://api.example"),
    "uri": ("s3://bucket/some/prefix", "hf://owner/name", "/data/model", "folder", "s3://b"),
    "revision": ("main", "v1.0", "0123abc"),
    "sha256": ("0" * 64, "9f" * 32),
    "iteration": ("parent", "a" * 36),
    "endpoint": ("shapes", "a-1"),
    "language": ("en", "deu"),
    "parityLimit": ("0.2", "0.030000000001", "1000"),
    "labelSmoothing": ("0.1", "0.499999999999"),
    "questionTemplate": ("{claim}?", "Is it so that {claim}? Yes or no."),
    "image": ("registry.example/generate:1", "generate@sha256:" + "0" * 64),
    "key": ("example.com-pool", "gpu"),
    "value": ("a100", "", "A_b.c-1"),
    "nodeSelector": ("a100", "", "A_b.c-1"),
    "name": ("one", "a-1"),
    "labels": ("vision", ""),
    "annotations": ("false", "two words"),
    "mountPath": ("/data", "/models/llava"),
    "reference": ("registry.example/model:1",),
}
"""Good values of text fields, by the field's name; names of objects where it is not here."""
MIXTURES: Final = (
    ("Sigmoid",), ("IPO",), ("SigmoidNorm", "SFT"), ("Robust",), ("APOZero", "SFT"), ("APODown",),
    ("Sigmoid", "BCOPair", "SFT"), ("Sigmoid", "Conditional", "Anchored"), ("Anchored", "Robust"),
)  # fmt: skip
"""Terms of a loss that go together."""
KEYS: Final = {
    "requests": ("cpu", "memory"),
    "limits": ("cpu", "memory", "nvidia.com/gpu", "ephemeral-storage"),
    "nodeSelector": ("kubernetes.io/arch", "pool", "example.com/Pool_1"),
    "labels": ("team", "example.com/team"),
    "annotations": ("sidecar.istio.io/inject", "note"),
}
QUANTITIES: Final = {
    "requests": (1, "500m", "1.5", "2"),
    "limits": (2, "64Gi", "4G", "3"),
    "size": ("100Gi", 1),
    "sizeLimit": ("20Gi", "1.5Ti"),
}
AFFINITY: Final = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "gpu", "operator": "Exists"}]}]
        }
    }
}


# ── good ones ────────────────────────────────────────────────────────────────────────────────────────────────────────


def good_spec(chance: random.Random) -> Json:
    """A spec that meets every rule, with some of the optional fields."""
    spec = _good(SPEC, "spec", chance)
    for repair in REPAIRS:
        repair(spec, chance)
    return spec


def _good(schema: Schema, name: str, chance: random.Random) -> Json:
    if "enum" in schema:
        return chance.choice(schema["enum"])
    match schema.get("type"):
        case "array":
            return _good_list(schema, name, chance)
        case "object":
            return _good_object(schema, name, chance)
        case kind:
            return _good_scalar(kind, schema, name, chance)


def _good_scalar(kind: str | None, schema: Schema, name: str, chance: random.Random) -> Json:
    if kind == "boolean":
        return chance.random() < 0.5
    if kind == "integer":
        low, high = schema["minimum"], schema["maximum"]
        return chance.choice([low, high, schema.get("default", low), chance.randint(low, min(high, low + 20))])
    return chance.choice(_strings(schema, name) if kind == "string" else QUANTITIES[name])


def _strings(schema: Schema, name: str) -> tuple[str, ...]:
    pattern = schema.get("pattern", "")
    if pattern.startswith("^[0-9]{1,9}"):
        return STRINGS.get(name, DECIMALS)
    if pattern.startswith("^[A-Za-z_]"):
        return ("AWS_REGION", "A_")
    return STRINGS.get(name, ("some-name", "n1"))


def _good_list(schema: Schema, name: str, chance: random.Random) -> Json:
    if allowed := schema["items"].get("enum"):
        return chance.sample(allowed, chance.randint(0, len(allowed)))
    length = chance.randint(schema.get("minItems", 0), 3)
    items = [_good(schema["items"], name, chance) for _ in range(length)]
    for number, item in enumerate(items):
        for key in schema.get("x-kubernetes-list-map-keys", ()):
            item[key] = f"{item[key]}{number}"
    return [f"{item}{number}" for number, item in enumerate(items)] if _is_set(schema) else items


def _good_object(schema: Schema, name: str, chance: random.Random) -> Json:
    if name == "affinity":
        return chance.choice([{}, copy.deepcopy(AFFINITY)])
    if name == "parameters":
        return chance.choice([{}, {"reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": False}}])
    if name == "processorKwargs":
        return chance.choice([{}, {"max_pixels": 1003520, "size": {"longest_edge": 8.0}, "image_mean": [0.5]}])
    if "additionalProperties" in schema:
        keys = [key for key in KEYS[name] if chance.random() < 0.5]
        return {key: _good(schema["additionalProperties"], name, chance) for key in keys}
    fields = schema["properties"]
    chosen = [field for field in fields if field in schema.get("required", ()) or chance.random() < 0.4]
    return {field: _good(fields[field], field, chance) for field in chosen}


def _is_set(schema: Schema) -> bool:
    return schema.get("x-kubernetes-list-type") == "set"


def _one_model(spec: Json, chance: random.Random) -> None:
    model = spec["model"]
    if "from" in model and chance.random() < 0.5:
        spec["model"] = {"from": model["from"]}
    else:
        model.pop("from", None)
        model.setdefault("uri", "s3://bucket/policy")


MAKING_PAIRS: Final = {
    "sampling": ("candidates", "temperature", "topP", "temperatures", "prompts", "shards"),
    "splitting": ("type", "sentences", "llm", "questionTemplate", "shards"),
    "pairing": ("perInstruction", "minScoreDifference", "lengthBalance", "truth"),
}
"""What says how pairs are made."""


def _pairs_or_what_makes_them(spec: Json, chance: random.Random) -> None:
    if spec.pop("only", None) and chance.random() < 0.5:
        spec["only"] = "Evaluation"
        for name in ("instructions", "pairs", "labeling", "serving", "training"):
            spec.pop(name, None)
        for name in ("gate", "choice", "rewardOnBaseline"):
            spec["evaluation"].pop(name, None)
        _pop_what_makes_pairs(spec)
    elif spec.pop("pairs", None) and chance.random() < 0.5:
        spec["pairs"] = {"source": {"uri": "hf://datasets/owner/pairs"}}
        spec.pop("instructions", None)
        spec.pop("labeling", None)
        _pop_what_makes_pairs(spec)
    else:
        spec.setdefault("instructions", {"uri": "s3://bucket/instructions"})
        spec.setdefault("labeling", {"model": {"uri": "s3://bucket/labeler"}})


def _pop_what_makes_pairs(spec: Json) -> None:
    for section, fields in MAKING_PAIRS.items():
        for field in fields:
            spec.get(section, {}).pop(field, None)


API: Final[dict[str, Json]] = {"url": "https://api.example/v1", "model": "sees"}


def _one_model_that_judges(spec: Json, chance: random.Random) -> None:
    labeling = spec.get("labeling")
    if labeling is None:
        return
    if labeling.get("type") == "API":
        labeling.pop("model", None)
        labeling.setdefault("api", {**API})
    else:
        model = labeling.setdefault("model", {"uri": "s3://bucket/labeler"})
        labeling.pop("api", None)
        if "from" in model and chance.random() < 0.5:
            labeling["model"] = {"from": model["from"]}
        else:
            model.pop("from", None)
            model.setdefault("uri", "s3://bucket/labeler")


def _apis_that_have_a_price(spec: Json, chance: random.Random) -> None:
    llm = spec.get("splitting", {}).get("llm", {})
    for api in (spec.get("labeling", {}).get("api", {}), llm.get("api", {})):
        if "cost" in api.get("limits", {}):
            api.setdefault("price", {"input": "2.5"})


def _code_that_is_pinned(spec: Json, chance: random.Random) -> None:
    for model in (spec.get("labeling", {}).get("model", {}), spec.get("splitting", {}).get("llm", {}).get("model", {})):
        if model.get("trustRemoteCode"):
            model.setdefault("sha256", "0" * 64)


def _one_way_to_split(spec: Json, chance: random.Random) -> None:
    splitting = spec.get("splitting")
    if splitting is None:
        return
    kind = splitting.get("type", "Sentences")
    if kind == "LLM":
        llm = splitting.setdefault("llm", {"model": {"uri": "hf://owner/text"}})
        llm.pop("api" if "model" in llm else "model", None)
        if not {"api", "model"} & {*llm}:
            llm["api"] = {**API}
    else:
        splitting.pop("llm", None)
    if kind != "Sentences":
        splitting.pop("sentences", None)


def _weight_of_its_rule(spec: Json, chance: random.Random) -> None:
    ranking = spec.get("serving", {}).get("ranking")
    if ranking is None:
        return
    if ranking["rule"] == "Regularised":
        ranking.setdefault("lambda", "0.3")
    else:
        ranking.pop("lambda", None)


def _pods_that_can_be_replaced(spec: Json, chance: random.Random) -> None:
    serving = spec.get("serving", {})
    if serving.get("maxSurge") == 0 and not serving.get("maxUnavailable"):
        serving["maxUnavailable"] = 1


def _batches_that_divide(spec: Json, chance: random.Random) -> None:
    training = spec.get("training", {})
    for field in ("globalBatchSize", "perDeviceBatchSize", "nodes", "processesPerNode"):
        training.pop(field, None)
    if training and chance.random() < 0.5:
        training |= {"globalBatchSize": 48, "perDeviceBatchSize": 3, "nodes": chance.choice([1, 2, 4])}


def _weights_that_are_rounded_whole(spec: Json, chance: random.Random) -> None:
    training = spec.get("training", {})
    if training.get("lora", {}).get("quantization") and training.get("zeroStage") == 3:
        training["zeroStage"] = chance.choice([0, 2])


def _terms_that_go_together(spec: Json, chance: random.Random) -> None:
    loss = spec.get("training", {}).get("loss")
    if loss is None:
        return
    kinds = chance.choice(MIXTURES)
    loss["terms"] = [{**chance.choice(loss["terms"]), "type": kind} for kind in kinds]
    if "Robust" in kinds:
        loss.setdefault("labelSmoothing", "0.1")
    else:
        loss.pop("labelSmoothing", None)
    if "Anchored" not in kinds:
        loss.pop("anchor", None)
    if {"IPO", "SigmoidNorm", "Conditional", "Anchored"} & {*kinds}:
        loss.pop("ldAlpha", None)


def _gate_with_bounds(spec: Json, chance: random.Random) -> None:
    for rule in spec["evaluation"].get("gate", ()):
        low, high = rule.get("min"), rule.get("max", "1")
        if low is None or float(low) > float(high):
            rule.pop("min", None)
            rule["max"] = high
        if "relativeTo" not in rule:
            rule.pop("use", None)


MEASURED: Final[dict[str, tuple[str, ...]]] = {"mmstar": ("accuracy",), "pope": ("recall", "accuracy", "f1")}
"""Some metrics of types of benchmarks; of other types, recall is one."""


def _metrics_that_are_measured(spec: Json, chance: random.Random) -> None:
    evaluation = spec["evaluation"]
    for benchmark in evaluation["benchmarks"]:
        benchmark.pop("words", None)
        if benchmark["type"] == "chair":
            benchmark["words"] = chance.choice(["pos", "singularize", "noun"])
    for one in (*evaluation.get("gate", ()), *([evaluation["choice"]] if "choice" in evaluation else ())):
        named = chance.choice(evaluation["benchmarks"]) if "benchmark" in one else evaluation["benchmarks"][0]
        if "benchmark" in one:
            one["benchmark"] = named["name"]
        one["metric"] = chance.choice(MEASURED.get(named["type"], ("recall",)))


def _possible_pods(spec: Json, chance: random.Random) -> None:
    for section in spec.values():
        if not isinstance(section, dict):
            continue
        for toleration in section.get("pod", {}).get("tolerations", ()):
            if "key" not in toleration:
                toleration["operator"] = "Exists"
            if toleration.get("operator") == "Exists":
                toleration.pop("value", None)
            if "tolerationSeconds" in toleration:
                toleration["effect"] = "NoExecute"
        _mount(section.get("pod", {}))
        limits = section.get("resources", {}).get("limits", {})
        if "nvidia.com/gpu" in limits:
            limits["nvidia.com/gpu"] = chance.choice([1, "8"])


SOURCES: Final[dict[str, Json]] = {
    "image": {"reference": "registry.example/model:1"},
    "configMap": {"name": "prompts"},
    "persistentVolumeClaim": {"claimName": "pictures"},
}


def _mount(pod: Json) -> None:
    """Each volume has one source and one place, and a bundle of certificates one source; so has space to write to."""
    for name in ("cache", "scratch"):
        for field in list(pod.get(name, ()))[1:]:
            del pod[name][field]
        if name in pod and not pod[name]:
            pod[name] = {"sizeLimit": "20Gi"}
    if "caBundle" in pod:
        pod["caBundle"].setdefault("configMapKeyRef", {"name": "ca", "key": "ca.crt"})
        pod["caBundle"].pop("secretKeyRef", None)
    pod.pop("volumeMounts", None)
    for volume in pod.get("volumes", ()):
        source = next((name for name in SOURCES if name in volume), "image")
        for name in SOURCES:
            volume.pop(name, None)
        volume[source] = copy.deepcopy(SOURCES[source])
        pod.setdefault("volumeMounts", []).append({"name": volume["name"], "mountPath": f"/mnt/{volume['name']}"})


def _canary_of_an_endpoint(spec: Json, chance: random.Random) -> None:
    if "canary" in spec.get("serving", {}):
        spec["serving"].setdefault("endpoint", "shapes")


def _time_to_end(spec: Json, chance: random.Random) -> None:
    pod = spec.get("serving", {}).get("pod", {})
    if pod.get("terminationGracePeriodSeconds", 16) < 16:
        pod["terminationGracePeriodSeconds"] = 16


REPAIRS: Final = (
    _one_model,
    _pairs_or_what_makes_them,
    _one_way_to_split,
    _one_model_that_judges,
    _apis_that_have_a_price,
    _code_that_is_pinned,
    _weight_of_its_rule,
    _pods_that_can_be_replaced,
    _batches_that_divide,
    _weights_that_are_rounded_whole,
    _terms_that_go_together,
    _gate_with_bounds,
    _metrics_that_are_measured,
    _possible_pods,
    _time_to_end,
    _canary_of_an_endpoint,
)
"""What makes a random spec meet the rules over several fields."""


# ── with something wrong ─────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Slot:
    """A place in a spec: the field or entry `key` of `holder`, which `schema` describes."""

    holder: Json
    key: str | int
    schema: Schema

    @property
    def value(self) -> Json:
        return self.holder[self.key]

    def put(self, value: Json) -> None:
        self.holder[self.key] = value


def slots(value: Json, schema: Schema) -> Iterator[Slot]:
    """Every place below `value`, filled or left out."""
    if isinstance(value, list) and "items" in schema:
        for number, item in enumerate(value):
            yield Slot(value, number, schema["items"])
            yield from slots(item, schema["items"])
    elif isinstance(value, dict) and "additionalProperties" in schema:
        for key in value:
            yield Slot(value, key, schema["additionalProperties"])
    elif isinstance(value, dict):
        for key, field in schema.get("properties", {}).items():
            yield Slot(value, key, field)
            if key in value:
                yield from slots(value[key], field)


ODD: Final[tuple[Json, ...]] = (
    5, -1, 0, 5.0, 5.5, 1e300, 2**31, 2**63, 2**70, True, False, None, "", "x", "5", "true", "5.", ".5", "-1", "1e3",
    "+1", "NaN", "1.0000000000001", "1.000000000001", "2.000000000001", "1000.1", "0", "0.0", "0.000000000000", " ",
    "x y", "tab\t", "line\n", "\u00e9", "\u00a0", "\U0001f642", "A", "-a", "a-", "a.b", "9a", "s4://b/c", "http://x", "s3://",
    "x" * 37, "x" * 64, "x" * 254, "x" * 1025, "{claim}", "1Gi", "1gi", "500m", "1.5", [], [None], ["x"], ["x", "x"],
    [{}], [{"name": "x"}], [1], {}, {"x": 1}, {"x": None}, {"name": "x"}, {"uri": "x"},
    {"cpu": "3", "memory": 1}, {"nvidia.com/gpu": "1"}, {"nvidia.com/gpu": "0.5"}, {"nvidia.com/gpu": "1k"},
    {"storage": "1"}, {"cpu": "1000"}, {"a/b/c": "1"}, {"": "x"}, {"key": "Exists"},
)  # fmt: skip
"""What a person, or a template, may write where something else belongs."""


def _absent(slot: Slot, chance: random.Random) -> None:
    if isinstance(slot.holder, dict):
        slot.holder.pop(slot.key, None)


def _another(slot: Slot, chance: random.Random) -> None:
    slot.put(copy.deepcopy(chance.choice(ODD)))


def _beyond(slot: Slot, chance: random.Random) -> None:
    """A value at or just beyond a limit of the schema."""
    schema = slot.schema
    beyond: list[Json] = []
    for keyword, step in (("minimum", -1), ("maximum", 1)):
        if keyword in schema:
            beyond += [schema[keyword], schema[keyword] + step]
    if "maxLength" in schema:
        beyond += ["1" * schema["maxLength"], "a" * (schema["maxLength"] + 1), "\u00e9" * schema["maxLength"]]
    if "maxItems" in schema:
        item = slot.holder.get(slot.key) if isinstance(slot.holder, dict) else None
        beyond += [[copy.deepcopy(item[0])] * (schema["maxItems"] + 1)] if item else [[]]
    if "maxProperties" in schema:
        beyond += [{f"example.com/d{number}": "1" for number in range(schema["maxProperties"] + 1)}]
    slot.put(chance.choice(beyond or [None]))


def _unknown(slot: Slot, chance: random.Random) -> None:
    """A field that does not exist, or a field by its Python name."""
    if isinstance(slot.holder, dict) and slot.key in slot.holder:
        snake = "".join(f"_{c.lower()}" if c.isupper() else c for c in str(slot.key))
        slot.holder[chance.choice(["unknown", snake, str(slot.key).upper()])] = slot.value


def _twice(slot: Slot, chance: random.Random) -> None:
    if isinstance(slot.holder, list):
        slot.holder.append(copy.deepcopy(slot.value))


CHANGES: Final[tuple[Callable[[Slot, random.Random], None], ...]] = (_absent, _another, _beyond, _unknown, _twice)


def spec(seed: int) -> Json:
    """One spec: in a third of the cases a good one, in the others one with up to three changes."""
    chance = random.Random(seed)
    made = good_spec(chance)
    for _ in range(chance.choice([0, 0, 1, 1, 2, 3])):
        places = list(slots(made, SPEC))
        chance.choice(CHANGES)(chance.choice(places), chance)
        if not isinstance(made, dict):
            break
    return made
