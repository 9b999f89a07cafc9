"""Rules that JSON schema cannot say, declared once: pydantic checks them here, CEL checks them in the API server.

A rule stands in the metadata of an annotated type, where it is about one value, or in `RULES` of a model, where it is
about several of its fields.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.alias_generators import to_camel, to_snake
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

VALIDATIONS: Final = "x-kubernetes-validations"
LIST_TYPE: Final = "x-kubernetes-list-type"
LIST_MAP_KEYS: Final = "x-kubernetes-list-map-keys"


class Operational:
    """Marks a field that may change while an iteration runs, because it decides nothing about its artifacts."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(core), OPERATIONAL_MARK: True}


OPERATIONAL_MARK: Final = "x-operational"
OPERATIONAL: Final = Operational()


@dataclass(frozen=True)
class Rule:
    """What must hold: `cel` for the API server and `holds` for pydantic say the same."""

    cel: str
    message: str
    holds: Callable[[Any], bool]

    def check(self, value: Any) -> Any:
        """The value itself. Raises ValueError with the message where the rule does not hold."""
        if not self.holds(value):
            raise ValueError(self.message)
        return value

    def validation(self) -> dict[str, str]:
        """The rule as an entry of x-kubernetes-validations."""
        return {"rule": self.cel, "message": self.message}

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core)
        return {**schema, VALIDATIONS: [*schema.get(VALIDATIONS, []), self.validation()]}


def exactly_one(*fields: str) -> Rule:
    """Of these optional fields of a model, by their names in manifests, one is given."""
    given = ", ".join(f"has(self.{name})" for name in fields)
    return Rule(
        cel=f"[{given}].exists_one(given, given)",
        message=f"give exactly one of {', '.join(fields[:-1])} and {fields[-1]}",
        holds=lambda part: sum(getattr(part, to_snake(name)) is not None for name in fields) == 1,
    )


@dataclass(frozen=True)
class UniqueBy:
    """A list without two items of one key: x-kubernetes-list-type map. Without keys the items are the keys: a set.

    Keys are names of attributes.
    """

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
        marks = (
            {LIST_TYPE: "map", LIST_MAP_KEYS: [to_camel(key) for key in self.keys]} if self.keys else {LIST_TYPE: "set"}
        )
        return {**handler(core), **marks}


def check_all(rules: Sequence[Rule], value: Any) -> None:
    """Raises ValueError for the first rule that does not hold."""
    for rule in rules:
        rule.check(value)
