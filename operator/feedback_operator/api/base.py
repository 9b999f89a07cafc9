"""What every part of the resource is, and the types of its fields."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetJsonSchemaHandler, Strict, model_validator
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from feedback_operator.api.rules import VALIDATIONS, Rule, check_all

GROUP: Final = "feedback.rlaif.dev"
"""API group of the resource, and domain of the labels and annotations that the operator sets."""


class Resource(BaseModel):
    """A part of the resource. Its rules are those over more than one field."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)
    RULES: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _as_the_api_server_reads(cls, data: Any) -> Any:
        """Fields that are null are absent, and 8.0 is the integer 8."""
        if not isinstance(data, dict):
            return data
        known = {field.alias for field in cls.model_fields.values()}
        return {key: _whole_number(value) for key, value in data.items() if value is not None or key not in known}

    @model_validator(mode="after")
    def _rules(self) -> Self:
        check_all(self.RULES, self)
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core)
        if cls.RULES:
            handler.resolve_ref_schema(schema)[VALIDATIONS] = [rule.validation() for rule in cls.RULES]
        return schema


def _whole_number(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def plain_json(value: Any) -> Any:
    """JSON as the API server keeps it: 8.0 is the integer 8, and what is no number is refused."""
    match value:
        case dict():
            return {name: plain_json(inner) for name, inner in value.items()}
        case list():
            return [plain_json(inner) for inner in value]
        case float() if not math.isfinite(value):
            raise ValueError(f"{value} is not a number")
        case float() if value.is_integer():
            return int(value)
        case _:
            return value


def _pruned(value: object) -> object:
    return {key: one for key, one in value.items() if one is not None} if isinstance(value, dict) else value


WithoutNulls: Final = BeforeValidator(_pruned)
"""Of a map whose values are never null: the API server takes such a key for one that is not given."""

Integer = Annotated[int, Strict()]
Switch = Annotated[bool, Strict()]
"""Neither is "8" an integer nor "true" a boolean: as the API server has it."""


def _above(low: str, high: str) -> Rule:
    return Rule(
        cel=f"double(self) > {float(low)} && double(self) <= {float(high)}",
        message=f"must be greater than {low} and at most {high}",
        holds=lambda text: float(low) < float(text) <= float(high),
    )


def _between(low: str, high: str) -> Rule:
    return Rule(
        cel=f"double(self) >= {float(low)} && double(self) <= {float(high)}",
        message=f"must be between {low} and {high}",
        holds=lambda text: float(low) <= float(text) <= float(high),
    )


def _within(low: str, high: str) -> Rule:
    return Rule(
        cel=f"double(self) > {float(low)} && double(self) < {float(high)}",
        message=f"must be greater than {low} and less than {high}",
        holds=lambda text: float(low) < float(text) < float(high),
    )


DECIMAL_PATTERN: Final = r"^[0-9]{1,9}(\.[0-9]{1,12})?$"
_DECIMAL = Field(pattern=DECIMAL_PATTERN, max_length=22)
Fraction = Annotated[str, _DECIMAL, _between("0", "1")]
"""A decimal string from 0 to 1."""
Temperature = Annotated[str, _DECIMAL, _between("0", "2")]
Heat = Annotated[str, _DECIMAL, _above("0", "2")]
"""A temperature that gives different answers."""
Share = Annotated[str, _DECIMAL, _above("0", "1")]
"""A decimal string greater than 0 and at most 1."""
Positive = Annotated[str, _DECIMAL, _above("0", "1000")]
Bound = Annotated[str, _DECIMAL]
"""A decimal string of a metric or a ratio of metrics."""

NAME_PATTERN: Final = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
Name = Annotated[str, Field(pattern=NAME_PATTERN, min_length=1, max_length=63)]
"""Lower case letters, digits and dashes; starts with a letter, as names of Services must."""
IterationName = Annotated[str, Field(pattern=NAME_PATTERN, min_length=1, max_length=36)]
"""Short enough that the names of Jobs and of their pods, with stage, hash, attempt and index, stay within 63."""
ObjectName = Annotated[str, Field(pattern=r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$", min_length=1, max_length=253)]
"""Name of a Secret, a PersistentVolumeClaim, a ServiceAccount or a class."""
Uri = Annotated[
    str,
    Field(min_length=1, max_length=1024, pattern=r"^[^\x00-\x20\x7f]+$"),
    Rule(
        cel="self.startsWith('s3://') || self.startsWith('hf://') || !self.contains('://')",
        message="must be s3://bucket/prefix, hf://owner/name or a path",
        holds=lambda uri: uri.startswith(("s3://", "hf://")) or "://" not in uri,
    ),
]
HTTPAddress = Annotated[
    str,
    Field(min_length=1, max_length=1024, pattern=r"^https?://[^/?#\x00-\x20\x7f]+(/[^?#\x00-\x20\x7f]*)?$"),
]
Money = Annotated[str, _DECIMAL]
"""A decimal string of some currency."""
Revision = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00-\x20\x7f]+$")]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$", max_length=64)]
Toggle = Literal["Enabled", "Disabled"]


def _integer_as_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Quantity = Annotated[
    str,
    Field(
        pattern=r"^[0-9]{1,12}(\.[0-9]{1,9})?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$",
        max_length=26,
        json_schema_extra={"x-kubernetes-int-or-string": True},
    ),
    BeforeValidator(_integer_as_text),
]
"""As in Kubernetes: `4`, `"500m"`, `64Gi`."""
_FACTORS: Final = {
    "m": Decimal("0.001"),
    "": Decimal(1),
    **{unit: Decimal(1000) ** power for power, unit in enumerate(("k", "M", "G", "T"), start=1)},
    **{unit: Decimal(1024) ** power for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti"), start=1)},
}


def amount(quantity: str) -> Decimal:
    """A quantity as a number: `500m` is 0.5, `1Gi` is 1073741824."""
    digits = quantity.rstrip("kmKMGTi")
    return Decimal(digits) * _FACTORS[quantity[len(digits) :]]
