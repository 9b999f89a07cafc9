"""docs/reference.md: every type and field of the resource, from the same source as the custom resource definition."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from feedback_operator.api import DECIMAL_PATTERN, KIND, VERSION, FeedbackIteration
from feedback_operator.api.rules import LIST_MAP_KEYS, LIST_TYPE, OPERATIONAL_MARK, VALIDATIONS

Schema = Mapping[str, Any]

INTRODUCTION: Final = f"""<!-- Made from operator/feedback_operator/api/ by `make generate`; edit that, not this. -->

# {KIND} {VERSION}

Every field of the resource. `kubectl explain fbi.spec` says the same on a cluster, and `feedback validate FILE` checks
a manifest without one. A decimal is a number in a string (`"0.7"`), a quantity is as in pods (`4`, `500m`, `64Gi`).

Fields of the spec marked _live_ may change while an iteration runs, with all that is below them; all others decide what
is computed, and change only while it rests: before its first stage, at its end, stalled or suspended.
"""


def reference() -> str:
    """The whole page."""
    made = FeedbackIteration.model_json_schema(by_alias=True)
    definitions = made["$defs"]
    root = {**made, "properties": {name: made["properties"][name] for name in ("spec", "status")}}
    sections = [_section(KIND, root)]
    sections += [_section(name, definitions[name]) for name in _types(root, definitions)]
    return INTRODUCTION + "\n" + "\n".join(sections)


def _types(root: Schema, definitions: Mapping[str, Schema]) -> list[str]:
    """Names of all types below the root, each before the types that only it leads to."""
    found: list[str] = []

    def visit(schema: Schema) -> None:
        for name in [name for field in schema.get("properties", {}).values() for name in _references(field)]:
            if name not in found:
                found.append(name)
                visit(definitions[name])

    visit(root)
    return found


def _references(schema: Schema) -> Iterator[str]:
    """Names of the types that a field holds, directly or in a list or map."""
    if "$ref" in schema:
        yield schema["$ref"].rsplit("/", 1)[-1]
    for part in (*schema.get("anyOf", ()), schema.get("items"), schema.get("additionalProperties")):
        if isinstance(part, dict):
            yield from _references(part)


def _section(name: str, schema: Schema) -> str:
    required = schema.get("required", ())
    rows = [
        f"| `{field}` | {_type(part)} | {_default(part, field in required)} | {_description(part)} |"
        for field, part in schema["properties"].items()
    ]
    rules = [f"- {rule['message']}" for rule in schema.get(VALIDATIONS, ())]
    lines = [f"## {name}", "", schema["description"], "", "| Field | Type | Default | Description |"]
    lines += ["| --- | --- | --- | --- |", *rows, ""]
    return "\n".join([*lines, *(["Rules:", "", *rules, ""] if rules else [])])


def _type(schema: Schema) -> str:
    """The type of a field in words, with its limits; other types of the page are links."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})"
    if choices := [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]:
        return _type(choices[0])
    rules = "".join(f"; {rule['message']}" for rule in schema.get(VALIDATIONS, ()))
    return (_collection(schema) or _scalar(schema)) + rules


def _collection(schema: Schema) -> str:
    """A list or a map in words; empty for anything else."""
    if schema["type"] == "array":
        return f"list of {_type(schema['items'])}{_limits(schema, 'Items', 'entries')}{_keys(schema)}"
    if schema["type"] == "object":
        values = schema.get("additionalProperties")
        if "propertyNames" in schema:
            return f"object with {', '.join(f'`{name}`' for name in schema['propertyNames']['enum'])}"
        inner = _type(values) if isinstance(values, dict) else "anything"
        return f"map of {inner}{_limits(schema, 'Properties', 'entries')}"
    return ""


def _scalar(schema: Schema) -> str:
    if values := schema.get("enum", [schema["const"]] if "const" in schema else None):
        return ", ".join(f"`{value}`" for value in values)
    if schema.get("x-kubernetes-int-or-string"):
        return "quantity"
    if schema.get("pattern") == DECIMAL_PATTERN:
        return "decimal"
    if schema["type"] == "integer":
        return f"integer{_range(schema)}"
    pattern = f", like `{schema['pattern']}`".replace("|", "\\|") if "pattern" in schema else ""
    return f"{schema['type']}{_limits(schema, 'Length', 'characters')}{pattern}"


def _range(schema: Schema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f", {low} to {high}"
    return f", at least {low}" if low is not None else ""


def _limits(schema: Schema, of: str, unit: str) -> str:
    low, high = schema.get(f"min{of}"), schema.get(f"max{of}")
    if high is None:
        return ""
    return f", {low} to {high} {unit}" if low else f", at most {high} {unit}"


def _keys(schema: Schema) -> str:
    if keys := schema.get(LIST_MAP_KEYS):
        return f", one for each {' and '.join(f'`{key}`' for key in keys)}"
    return ", each once" if schema.get(LIST_TYPE) == "set" else ""


def _default(schema: Schema, required: bool) -> str:
    if required:
        return "required"
    default = schema.get("default")
    return "" if default in (None, {}, [], "") or isinstance(default, dict) else f"`{json.dumps(default)}`"


def _description(schema: Schema) -> str:
    live = "_Live._ " if schema.get(OPERATIONAL_MARK) else ""
    return live + str(schema["description"]).replace("|", "\\|")
