"""What was read of a cluster, as the API server gives it, and what is found by it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, Literal

from feedback_workloads.contract import TrialReport

Object = Mapping[str, Any]
"""A Kubernetes object as JSON."""

Outcome = Literal["ok", "warning", "failed", "not looked at"]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's: what was looked at, how it is, and what to do where it is not well."""

    check: str
    outcome: Outcome
    message: str
    remedy: str = ""


@dataclass(frozen=True)
class Unknown:
    """Something that was not read, and why not: as a rule, since the user may not."""

    why: str


Found = Object | None | Unknown
"""An object, that there is none, or that it was not read."""
Listed = tuple[Object, ...] | Unknown


@dataclass(frozen=True)
class Right:
    """One thing that somebody may do or not. `resource` is as in a rule of RBAC, such as `pods/log`."""

    verb: str
    group: str
    resource: str

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}{f'.{self.group}' if self.group else ''}"


@dataclass(frozen=True)
class Trial:
    """How a pod that is like those of `sections` fared. `trouble` is why there is no report: pods, images, time."""

    sections: tuple[str, ...]
    image: str
    report: TrialReport | None = None
    trouble: str = ""


@dataclass(frozen=True)
class DryRun:
    """What the API server says of a pod of a section without making it: the pod as it would be, or why it would not."""

    pod: Object | None = None
    refusal: str = ""


NOT_ASKED: Final = Unknown("it was not asked for")


@dataclass(frozen=True)
class Facts:
    """Everything that is known of a cluster. `now` is by the API server's clock.

    `objects` are those that an iteration names: by kind (`Secret`) and name, of the namespace where it has one.
    """

    namespace: str
    version: str = ""
    now: datetime = datetime(1970, 1, 1, tzinfo=UTC)
    groups: frozenset[str] = frozenset()
    definition: Found = NOT_ASKED
    space: Found = NOT_ASKED
    """The namespace itself."""
    operators: Listed = NOT_ASKED
    leases: Mapping[str, Found] = field(default_factory=dict)
    """The operator's Lease by the namespace of its Deployment."""
    rights: Mapping[Right, bool | Unknown] = field(default_factory=dict)
    """The user's own, in the namespace."""
    operator_rights: Mapping[Right, bool | Unknown] = field(default_factory=dict)
    account_rights: Mapping[str, bool | Unknown] = field(default_factory=dict)
    """Of each ServiceAccount of stages: whether it may read Secrets."""
    nodes: Listed = NOT_ASKED
    pods: Listed = NOT_ASKED
    """Of all namespaces, that have a node and have not ended."""
    device_classes: Listed = NOT_ASKED
    storage_classes: Listed = NOT_ASKED
    quotas: Listed = NOT_ASKED
    limit_ranges: Listed = NOT_ASKED
    objects: Mapping[tuple[str, str], Found] = field(default_factory=dict)
    cluster_queue: Found = NOT_ASKED
    dry_run: DryRun | Unknown = NOT_ASKED
    """Of the iteration itself."""
    dry_runs: Mapping[str, DryRun | Unknown] = field(default_factory=dict)
    """Of a pod of each section."""
    trials: tuple[Trial, ...] | Unknown = NOT_ASKED


_UNITS: Final = {
    **{unit: Decimal(1000) ** power for unit, power in zip("num", (-3, -2, -1), strict=True)},
    "": Decimal(1),
    **{unit: Decimal(1000) ** power for power, unit in enumerate(("k", "M", "G", "T", "P", "E"), start=1)},
    **{unit: Decimal(1024) ** power for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), start=1)},
}
_QUANTITY: Final = re.compile(r"([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)([numkMGTPE]?i?)")


def quantity(text: str | int) -> Decimal:
    """Any quantity that the API server writes, as a number: `500m` is 0.5, `1Gi` is 1073741824, `1e3` is 1000."""
    found = _QUANTITY.fullmatch(str(text))
    if found is None or found[2] not in _UNITS:
        raise ValueError(f"{text!r} is no quantity")
    return Decimal(found[1]) * _UNITS[found[2]]


def name_of(item: Object) -> str:
    return str(item["metadata"]["name"])


def condition(item: Object, kind: str) -> Object:
    """The object's condition of this type, or an empty one."""
    return next((one for one in item.get("status", {}).get("conditions") or () if one["type"] == kind), {})


def listed(names: list[str], most: int = 3) -> str:
    """`a, b, c and 4 more`."""
    shown, rest = names[:most], len(names) - most
    return ", ".join(shown) + (f" and {rest} more" if rest > 0 else "")
