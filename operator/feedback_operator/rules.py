"""Rules that JSON schema cannot say, declared once: pydantic checks them here, CEL checks them in the API server.

A rule stands in the metadata of an annotated type, where it is about one value, or in `RULES` of a model, where it is
about several of its fields.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any, Final

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

VALIDATIONS: Final = "x-kubernetes-validations"
LIST_TYPE: Final = "x-kubernetes-list-type"
LIST_MAP_KEYS: Final = "x-kubernetes-list-map-keys"


class Operational:
    """Marks a field that may change while an iteration runs, because it decides nothing about its artifacts."""

    def __repr__(self) -> str:
        return "OPERATIONAL"


OPERATIONAL: Final = Operational()


@dataclass(frozen=True)
class Rule:
    """What must hold: `cel` for the API server and `holds` for pydantic say the same.

    `message` may show fields of a model in braces by their names in manifests, or `{self}` for a scalar.
    """

    cel: str
    message: str
    holds: Callable[[Any], bool]

    def check(self, value: Any) -> Any:
        """The value itself. Raises ValueError with the message where the rule does not hold."""
        if not self.holds(value):
            fields = value.model_dump(by_alias=True) if isinstance(value, BaseModel) else {"self": value}
            raise ValueError(self.message.format(**fields))
        return value

    def validation(self) -> dict[str, str]:
        """The rule as an entry of x-kubernetes-validations."""
        parts = [(text, field) for text, field, _, _ in Formatter().parse(self.message)]
        if all(field is None for _, field in parts):
            return {"rule": self.cel, "message": self.message}
        terms = [term for text, field in parts for term in (_quoted(text) if text else "", _shown(field)) if term]
        return {"rule": self.cel, "messageExpression": " + ".join(terms)}

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core)
        return {**schema, VALIDATIONS: [*schema.get(VALIDATIONS, []), self.validation()]}


def _quoted(text: str) -> str:
    """The text as a CEL string literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _shown(field: str | None) -> str:
    """A CEL expression for the text of a field."""
    if field is None:
        return ""
    return "string(self)" if field == "self" else f"string(self.{field})"


@dataclass(frozen=True)
class UniqueBy:
    """A list without two items of one key: x-kubernetes-list-type map. Without keys the items are the keys: a set."""

    keys: tuple[str, ...] = ()

    def check(self, items: list[Any]) -> list[Any]:
        """The list itself. Raises ValueError naming the first key that comes twice."""
        seen: set[Any] = set()
        for item in items:
            key = tuple(getattr(item, name) for name in self.keys) or item
            if key in seen:
                shown = ", ".join(f"{name} {value!r}" for name, value in zip(self.keys, key, strict=True)) or repr(item)
                raise ValueError(f"{shown} comes twice; every entry needs its own")
            seen.add(key)
        return items

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        marks = {LIST_TYPE: "map", LIST_MAP_KEYS: list(self.keys)} if self.keys else {LIST_TYPE: "set"}
        return {**handler(core), **marks}


def check_all(rules: Sequence[Rule], value: Any) -> None:
    """Raises ValueError for the first rule that does not hold."""
    for rule in rules:
        rule.check(value)
