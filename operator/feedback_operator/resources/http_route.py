"""How requests from outside are shared between what serves and a canary: a route of the Gateway API."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from feedback_operator.resources import Manifest
from feedback_operator.resources.deployment import Serving, endpoint_metadata

SERVICE_PORT: Final = 80


def build_http_route(serving: Serving, weight: int, there: Manifest | None) -> Manifest | None:
    """All requests to the endpoint, but `weight` percent for the canary.

    Gateways and hostnames are those of spec.serving.canary, or else of the route that is `there`; None without either.
    """
    canary = serving.spec.canary
    if canary is not None:
        gateways = [gateway.model_dump(by_alias=True, exclude_none=True) for gateway in canary.gateways]
        attached: Manifest = {
            "parentRefs": gateways,
            **({"hostnames": list(canary.hostnames)} if canary.hostnames else {}),
        }
    elif there is not None:
        attached = {key: there["spec"][key] for key in ("parentRefs", "hostnames") if key in there["spec"]}
    else:
        return None
    shares = {serving.name: 100 - weight, **({_canary_of(serving): weight} if weight else {})}
    backends = [{"name": name, "port": SERVICE_PORT, "weight": share} for name, share in shares.items()]
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": endpoint_metadata(serving),
        "spec": {**attached, "rules": [{"backendRefs": backends}]},
    }


def canary_weight(route: Manifest | None, serving: Serving) -> int:
    """What a route gives to the canary of this endpoint; 0 without one."""
    rules = route["spec"].get("rules", ()) if route else ()
    backends = [backend for rule in rules for backend in rule.get("backendRefs", ())]
    return sum(backend.get("weight", 1) for backend in backends if backend["name"] == _canary_of(serving))


def is_accepted(route: Manifest | None) -> bool:
    """Whether one of its gateways has taken it."""
    parents = (route or {}).get("status", {}).get("parents", ())
    conditions = [condition for parent in parents for condition in parent.get("conditions", ())]
    return any(condition["type"] == "Accepted" and condition["status"] == "True" for condition in conditions)


def _canary_of(serving: Serving) -> str:
    return replace(serving, canary=True).object_name
