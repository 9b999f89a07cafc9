"""Whether an object is as it is wanted. The API server adds defaults, other writers add fields: those do not count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from feedback_operator.api import amount
from feedback_operator.resources import Manifest

QUANTITIES = ("requests", "limits")


def differs(wanted: Manifest, observed: Manifest | None) -> bool:
    """True where `observed` is not there or lacks something that is wanted."""
    return observed is None or not _holds(wanted, observed)


def _holds(wanted: object, observed: object, field: str = "") -> bool:
    match wanted:
        case Mapping() if field in QUANTITIES and isinstance(observed, Mapping):
            return {k: amount(v) for k, v in wanted.items()} == {k: amount(v) for k, v in observed.items()}
        case Mapping():
            there = observed if isinstance(observed, Mapping) else {}
            return (isinstance(observed, Mapping) or not wanted) and all(
                _holds(value, there.get(key), key) for key, value in wanted.items()
            )
        case str():
            return wanted == observed
        case Sequence() if _is_named(wanted):
            named = {_name(item): item for item in observed} if isinstance(observed, Sequence) else {}
            return all(_holds(item, named.get(_name(item))) for item in wanted)
        case Sequence():
            items = observed if isinstance(observed, Sequence) else ()
            return len(wanted) == len(items) and all(map(_holds, wanted, items))
        case _:
            return bool(wanted == observed)


def _is_named(items: Sequence[object]) -> bool:
    """Lists that others may add to: containers, variables, ports, volumes, mounts, owners."""
    return bool(items) and all(isinstance(item, Mapping) and ("name" in item or "uid" in item) for item in items)


def _name(item: Mapping[str, object]) -> object:
    return item.get("uid") or item.get("mountPath") or item["name"]
