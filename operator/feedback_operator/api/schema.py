"""The custom resource definition, made from the models of this room."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Any, Final, get_args

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from feedback_operator.api import GROUP, KIND, NAME_PATTERN, VERSION, FeedbackIteration, IterationSpec
from feedback_operator.api.rules import LIST_TYPE, OPERATIONAL, VALIDATIONS

Schema = dict[str, Any]

PLURAL: Final = "feedbackiterations"
SINGULAR: Final = "feedbackiteration"
NAME: Final = f"{PLURAL}.{GROUP}"
NAME_LIMIT: Final = 36
HEADER: Final = "# Made from operator/feedback_operator/api/ by `make generate`; edit that, not this.\n"

COLUMNS: Final = (
    ("Stage", "string", ".status.stage", "Stage at work, or the last one.", 0),
    ("Progress", "string", ".status.progress", "How far the stage is.", 0),
    ("Ready", "string", '.status.conditions[?(@.type=="Ready")].status', "Whether all stages are done.", 0),
    ("Reason", "string", '.status.conditions[?(@.type=="Ready")].reason', "Why it is ready or not.", 0),
    ("Before", "string", ".status.hallucination.baseline", "Share of hallucinated answers before alignment.", 0),
    ("After", "string", ".status.hallucination.aligned", "Share of hallucinated answers of the aligned policy.", 0),
    ("Promoted", "string", '.status.conditions[?(@.type=="Promoted")].status', "Whether the gate passed.", 0),
    ("Serving", "string", '.status.conditions[?(@.type=="Serving")].status', "Whether the endpoint serves it.", 0),
    ("Endpoint", "string", ".spec.serving.endpoint", "Endpoint that promoted iterations take over.", 1),
    ("Message", "string", '.status.conditions[?(@.type=="Ready")].message', "What goes on, or what to do.", 1),
    ("Age", "date", ".metadata.creationTimestamp", "Time since it was created.", 0),
)
"""Where is it, did it help, is it serving: name, type, path, description and priority (1: with -o wide)."""


def crd() -> Schema:
    """The CustomResourceDefinition of FeedbackIteration."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": NAME},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": SINGULAR,
                "shortNames": ["fbi"],
                "categories": ["feedback"],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [
                        {"name": name, "type": kind, "jsonPath": path, "description": text, "priority": priority}
                        for name, kind, path, text, priority in COLUMNS
                    ],
                    "schema": {"openAPIV3Schema": root_schema()},
                }
            ],
        },
    }


def root_schema() -> Schema:
    """The structural schema of the whole resource."""
    made = FeedbackIteration.model_json_schema(by_alias=True)
    definitions = made["$defs"]
    properties = made["properties"]
    return {
        "description": made["description"],
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": f"{GROUP}/{VERSION}."},
            "kind": {"type": "string", "description": f"{KIND}."},
            "metadata": {
                "type": "object",
                "properties": {"name": {"type": "string", "maxLength": NAME_LIMIT, "pattern": NAME_PATTERN}},
            },
            "spec": structural(properties["spec"], definitions),
            "status": observed(structural(properties["status"], definitions)),
        },
        VALIDATIONS: [
            *made[VALIDATIONS],
            *(_unchanged(path, optional) for path, optional in frozen_fields(IterationSpec)),
            ENDPOINT_STAYS,
        ],
    }


# ── from JSON schema to structural schema ────────────────────────────────────────────────────────────────────────────

KEPT: Final = (
    "description", "type", "format", "enum", "pattern", "minLength", "maxLength", "minimum", "maximum", "minItems",
    "maxItems", "maxProperties",
)  # fmt: skip
"""Keywords that mean the same in both."""


def structural(schema: Mapping[str, Any], definitions: Mapping[str, Schema]) -> Schema:
    """The schema with references resolved and in the keywords that a structural schema may have."""
    schema = _resolved(schema, definitions)
    made: Schema = {keyword: schema[keyword] for keyword in KEPT if keyword in schema}
    if "const" in schema:
        made["enum"] = [schema["const"]]
    if made.get("type") == "integer":
        made["format"] = "int32" if made.get("maximum", 2**63) < 2**31 else "int64"
    if "properties" in schema:
        made["properties"] = {name: structural(field, definitions) for name, field in schema["properties"].items()}
        if schema.get("required"):
            made["required"] = schema["required"]
    if "items" in schema:
        made["items"] = structural(schema["items"], definitions)
        made[LIST_TYPE] = "atomic"
    if "propertyNames" in schema:  # a map whose keys are known is an object
        value = structural(schema["additionalProperties"], definitions)
        made["properties"] = dict.fromkeys(schema["propertyNames"]["enum"], value)
    elif isinstance(schema.get("additionalProperties"), dict):
        made["additionalProperties"] = structural(schema["additionalProperties"], definitions)
    made |= {keyword: value for keyword, value in schema.items() if keyword.startswith("x-kubernetes-")}
    if made.get("x-kubernetes-int-or-string"):
        made["anyOf"] = [{"type": made.pop("type")}, {"type": "integer"}][::-1]
    if (default := _default(schema, made)) is not None:
        made["default"] = default
    return made


def _resolved(schema: Mapping[str, Any], definitions: Mapping[str, Schema]) -> Schema:
    """The schema with what it refers to, or may be besides null, merged in; its own keywords win."""
    choices = [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]
    own = {keyword: value for keyword, value in schema.items() if keyword not in ("$ref", "anyOf", "allOf")}
    if "$ref" in schema:
        return {**_resolved(definitions[schema["$ref"].rsplit("/", 1)[-1]], definitions), **own}
    if len(choices) == 1:
        return {**_resolved(choices[0], definitions), **own}
    if choices:
        raise TypeError(f"a structural schema has no unions; use a discriminator and a member a type: {schema}")
    return dict(schema)


def _default(schema: Mapping[str, Any], made: Schema) -> Any:
    """The default to publish; None where there is none, or where it says no more than an absent field."""
    default = schema.get("default")
    if default is not None and "properties" in made:
        # Written out, because the API server checks the rules of a default before it fills it in.
        default = {name: field["default"] for name, field in made["properties"].items() if "default" in field}
    return default if default not in ({}, []) else None


def observed(schema: Schema) -> Schema:
    """The schema of what the operator writes: the API server adds nothing to it, and knows no better."""
    made = {keyword: value for keyword, value in schema.items() if keyword not in ("default", VALIDATIONS)}
    if "properties" in made:
        made["properties"] = {name: observed(field) for name, field in made["properties"].items()}
    for keyword in ("items", "additionalProperties"):
        if keyword in made:
            made[keyword] = observed(made[keyword])
    return made


# ── what must not change while it runs ───────────────────────────────────────────────────────────────────────────────

RUNNING: Final = (
    "has(oldSelf.status) && has(oldSelf.status.conditions) && has(oldSelf.status.stages) && !oldSelf.spec.suspend "
    "&& oldSelf.status.conditions.exists(c, c.type == 'Reconciling' && c.status == 'True') "
    "&& oldSelf.status.stages.exists(s, s.state != 'Waiting')"
)
"""CEL: the iteration has begun, is not at its end, and is not suspended."""


def frozen_fields(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], bool]]:
    """Paths below spec of the fields that determine artifacts, and whether each may be absent."""
    for name, field in model.model_fields.items():
        if OPERATIONAL in field.metadata:
            continue
        here = (*path, field.alias or name)
        section = _section(field)
        if section is None:
            yield here, field.default is None or field.default == []
        else:
            yield from frozen_fields(section, here)


def _section(field: FieldInfo) -> type[BaseModel] | None:
    """The model of a section that has operational fields of its own."""
    kinds = get_args(field.annotation) if isinstance(field.annotation, UnionType) else (field.annotation,)
    return next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel) and _has_operational(k)), None)


def _has_operational(model: type[BaseModel]) -> bool:
    fields = model.model_fields.values()
    return any(OPERATIONAL in field.metadata or _section(field) is not None for field in fields)


def _optional_sections(path: Sequence[str]) -> Iterator[str]:
    """The sections above a field that may be absent, outermost first."""
    model: type[BaseModel] | None = IterationSpec
    for depth, name in enumerate(path[:-1], start=1):
        assert model is not None, path
        field = next(field for own, field in model.model_fields.items() if (field.alias or own) == name)
        if field.default is None:
            yield ".".join(("spec", *path[:depth]))
        model = _section(field)


def _unchanged(path: Sequence[str], optional: bool) -> Schema:
    """The transition rule that keeps one field as it is while the iteration runs.

    A section that may be absent comes and goes with another field, which does not change either.
    """
    name = ".".join(("spec", *path))
    new, old = f"self.{name}", f"oldSelf.{name}"
    equal = f"has({new}) == has({old}) && (!has({new}) || {new} == {old})" if optional else f"{new} == {old}"
    absent = [f"!has(self.{section}) || !has(oldSelf.{section})" for section in _optional_sections(path)]
    if absent:
        equal = f"{' || '.join(absent)} || ({equal})"
    return {
        "rule": f"({equal}) || !({RUNNING})",
        "message": f"{name} decides what is computed and cannot change while the iteration runs; "
        "wait for its end, or set spec.suspend to true first",
        "fieldPath": f".{name}",
    }


ENDPOINT_STAYS: Final[Schema] = {
    "rule": "!has(oldSelf.status) || !has(oldSelf.status.promoted) || !has(oldSelf.spec.serving) "
    "|| !has(oldSelf.spec.serving.endpoint) || (has(self.spec.serving) && has(self.spec.serving.endpoint) "
    "&& self.spec.serving.endpoint == oldSelf.spec.serving.endpoint)",
    "message": "spec.serving.endpoint cannot change once a model was promoted to it; set spec.serving.replicas to 0 to "
    "stop serving, and name the other endpoint in a new iteration of this spec",
    "fieldPath": ".spec.serving",
}
"""The objects of an endpoint that is given up would be left behind: nobody but its claimants looks at them."""


# ── the file ─────────────────────────────────────────────────────────────────────────────────────────────────────────


LINE: Final = 1000
"""A text is not broken: each further line of it would begin with up to 30 blanks, and the file has a limit."""


class _Dumper(yaml.SafeDumper):
    """YAML without anchors: equal parts are written out."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def crd_text() -> str:
    """The definition as a file."""
    return HEADER + yaml.dump(crd(), Dumper=_Dumper, sort_keys=False, width=LINE, allow_unicode=True)
