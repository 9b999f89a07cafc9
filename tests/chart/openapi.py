"""The API server's own OpenAPI, as the JSON schemas that kubeconform reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

Schema = dict[str, Any]

GROUP_VERSION_KIND: Final = "x-kubernetes-group-version-kind"
LOCATION: Final = "{{ .ResourceKind }}{{ .KindSuffix }}.json"
"""Names of the files, as kubeconform looks for them."""


def write_schemas(openapi: Schema, folder: Path, kinds: set[str]) -> None:
    """One file for each of `kinds` in each of its versions, strict: what is not a field is refused."""
    definitions = {name: _strict(schema) for name, schema in openapi["definitions"].items()}
    for name, schema in openapi["definitions"].items():
        for served in schema.get(GROUP_VERSION_KIND, ()):
            if served["kind"] in kinds:
                group = served["group"].partition(".")[0]
                suffix = "-".join(part for part in (group, served["version"]) if part)
                file = folder / f"{served['kind'].lower()}-{suffix}.json"
                file.write_text(json.dumps({"$ref": f"#/definitions/{name}", "definitions": definitions}))


def _strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("format") == "int-or-string":
        return {"type": ["integer", "string"]}
    strict = {key: _strict(value) for key, value in schema.items()}
    if "properties" in schema and "additionalProperties" not in schema and isinstance(schema["properties"], dict):
        strict["additionalProperties"] = False
    return strict
