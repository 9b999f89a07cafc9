"""Nodes: their GPUs and drivers, and whether the pods of an iteration fit any."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import chain
from typing import Any, Final

from feedback_operator.doctor.facts import Facts, Finding, Object, Unknown, condition, listed, name_of, quantity
from feedback_operator.doctor.needs import Need, requested
from feedback_workloads.contract import counted_gpus

OLDEST_DRIVER: Final = 580
"""The images have CUDA 13, which runs on drivers of this branch and of later ones (NVIDIA, "CUDA Compatibility")."""
DRIVER_LABELS: Final = ("nvidia.com/cuda.driver-version.major", "nvidia.com/cuda.driver.major")
"""Of GPU feature discovery: its own name, and the older one."""
AUTOSCALERS: Final = ("karpenter.sh", "autoscaling.x-k8s.io")
"""API groups of those who start nodes when pods wait."""
NO_EFFECT: Final = "PreferNoSchedule"


def check_gpus(facts: Facts, needs: Sequence[Need]) -> Iterator[Finding]:
    """What there is, and whether its drivers are new enough."""
    if isinstance(facts.nodes, Unknown):
        yield Finding("gpus", "not looked at", facts.nodes.why)
        return
    asked = any(counted_gpus(need.section.resources.limits) or need.section.resources.claims for need in needs)
    holders = [node for node in facts.nodes if gpus(node)]
    if not holders:
        yield _none(facts, bool(needs), asked)
    else:
        yield Finding("gpus", "ok", _inventory(facts, holders))
        yield from _drivers(holders)
    if isinstance(facts.device_classes, tuple) and facts.device_classes:
        names = listed([name_of(one) for one in facts.device_classes])
        yield Finding("device classes", "ok", f"by dynamic resource allocation: {names}")


def _none(facts: Facts, known: bool, asked: bool) -> Finding:
    if isinstance(facts.device_classes, tuple) and facts.device_classes:
        return Finding("gpus", "ok", "none as extended resources; claims are there")
    if known and not asked:
        return Finding("gpus", "ok", "none, and none is asked for")
    return Finding(
        "gpus",
        "failed" if asked else "warning",
        f"none of {len(facts.nodes) if isinstance(facts.nodes, tuple) else 0} nodes has any in its status.allocatable",
        "add nodes with GPUs, and on them a driver and a device plugin (NVIDIA's GPU operator has both): "
        "docs/first-run.md#2-the-cluster",
    )


def gpus(node: Object) -> dict[str, int]:
    """Allocatable GPUs of a node by resource: nvidia.com/gpu, amd.com/gpu, nvidia.com/mig-1g.10gb."""
    given = node.get("status", {}).get("allocatable", {})
    return {
        name: int(quantity(number))
        for name, number in given.items()
        if counted_gpus({name: "1"}) and quantity(number) > 0
    }


def _inventory(facts: Facts, holders: Sequence[Object]) -> str:
    total: Counter[str] = Counter()
    used: Counter[str] = Counter()
    taken = taken_by_node(facts)
    for node in holders:
        total.update(gpus(node))
        used.update({name: int(taken.get(name_of(node), {}).get(name, 0)) for name in gpus(node)})
    known = isinstance(facts.pods, tuple)
    words = [
        f"{number} {name}{f', {number - used[name]} free' if known else ''}" for name, number in sorted(total.items())
    ]
    taints = sorted({taint["key"] for node in holders for taint in _taints(node)})
    return f"{'; '.join(words)} on {len(holders)} node{'s' * (len(holders) > 1)}" + (
        f", tainted {listed(taints)}: sections need tolerations" if taints else ""
    )


def _drivers(holders: Sequence[Object]) -> Iterator[Finding]:
    drivers = {name_of(node): driver for node in holders if (driver := _driver(node)) is not None}
    nvidia = [node for node in holders if any(name.startswith("nvidia.com/") for name in gpus(node))]
    if not nvidia:
        return
    old = [f"{name} ({driver})" for name, driver in drivers.items() if driver < OLDEST_DRIVER]
    if old:
        yield Finding(
            "drivers",
            "failed",
            f"older than {OLDEST_DRIVER}, which CUDA 13 asks for: {listed(old)}",
            f"bring nodes with a driver of branch {OLDEST_DRIVER} or newer (a newer image of the nodes, or the GPU "
            "operator's driver.version)",
        )
    elif len(drivers) < len(nvidia):
        yield Finding(
            "drivers",
            "not looked at",
            f"{len(nvidia) - len(drivers)} of {len(nvidia)} nodes have no labels of GPU feature discovery",
            f"see that nvidia-smi says {OLDEST_DRIVER} or newer there, or install the discovery",
        )
    else:
        yield Finding("drivers", "ok", f"of branch {min(drivers.values())} or newer; CUDA 13 asks for {OLDEST_DRIVER}")


def _driver(node: Object) -> int | None:
    labels = node["metadata"].get("labels", {})
    found = next((labels[label] for label in DRIVER_LABELS if label in labels), "")
    return int(found) if found.isdecimal() else None


def taken_by_node(facts: Facts) -> dict[str, dict[str, Decimal]]:
    """What pods have been given of each node by its name; nothing where they were not read."""
    found: dict[str, dict[str, Decimal]] = {}
    for pod in facts.pods if isinstance(facts.pods, tuple) else ():
        here = found.setdefault(pod["spec"].get("nodeName", ""), {})
        for name, number in requested(pod).items():
            here[name] = here.get(name, Decimal(0)) + number
    return found


# ── does a pod fit ───────────────────────────────────────────────────────────────────────────────────────────────────


def check_fit(facts: Facts, need: Need, pod: Object) -> Finding:
    """Some node can take a pod of the section, and how many now. `pod` is one as the API server would make it."""
    check = f"{need.name}: nodes"
    if isinstance(facts.nodes, Unknown):
        return Finding(check, "not looked at", facts.nodes.why)
    wanted = requested(pod)
    refusals = {name_of(node): refusal(node, pod, wanted) for node in facts.nodes}
    fitting = [node for node in facts.nodes if not refusals[name_of(node)]]
    if not fitting:
        return _nowhere(facts, need, check, refusals)
    taken = taken_by_node(facts)
    room = sum(_room(node, wanted, taken.get(name_of(node), {})) for node in fitting)
    asks = _shown(wanted)
    told = f"{len(fitting)} of {len(facts.nodes)} nodes can take a pod ({asks})"
    if not isinstance(facts.pods, tuple):
        return Finding(check, "ok", told)
    if room < need.pods:
        together = "all of which have to run at once" if need.name == "training" and need.pods > 1 else "so some wait"
        return Finding(
            check,
            "warning",
            f"there is room for {room} of {need.pods} pods now ({asks}), {together}",
            f"wait until others end, add nodes, or lower {need.field}.resources",
        )
    return Finding(
        check, "ok", f"{len(fitting)} of {len(facts.nodes)} nodes can take a pod ({asks}); there is room now"
    )


def _nowhere(facts: Facts, need: Need, check: str, refusals: Mapping[str, str]) -> Finding:
    reasons = Counter(refusals.values())
    told = "; ".join(f"{number} {reason}" for reason, number in reasons.most_common(4)) or "there are none"
    scaled = next((group for group in AUTOSCALERS if group in facts.groups), None)
    remedy = (
        f"correct {need.field}.resources, .pod.nodeSelector, .pod.affinity or .pod.tolerations, or add nodes; an "
        "autoscaler that starts such a node from none is not seen here"
    )
    message = f"no node can take a pod: {told}"
    if scaled:
        return Finding(check, "warning", f"{message}; an autoscaler ({scaled}) may bring one", remedy)
    return Finding(check, "failed", message, remedy)


def refusal(node: Object, pod: Object, wanted: Mapping[str, Decimal]) -> str:
    """Why the scheduler would not put the pod there even if it were empty; empty where it would."""
    spec, labels = pod["spec"], node["metadata"].get("labels", {})
    return next(
        chain(
            _state(node),
            (
                f"without the label {key}={value}"
                for key, value in (spec.get("nodeSelector") or {}).items()
                if labels.get(key) != value
            ),
            () if _affine(spec.get("affinity") or {}, labels) else ("outside of the affinity",),
            (
                f"tainted {taint['key']}:{taint['effect']}"
                for taint in _taints(node)
                if not any(_tolerates(one, taint) for one in spec.get("tolerations") or ())
            ),
            _lack(node, wanted),
        ),
        "",
    )


def _state(node: Object) -> Iterator[str]:
    if condition(node, "Ready").get("status") != "True":
        yield "not ready"
    if node["spec"].get("unschedulable"):
        yield "cordoned"


def _lack(node: Object, wanted: Mapping[str, Decimal]) -> Iterator[str]:
    given = node.get("status", {}).get("allocatable", {})
    for name, number in wanted.items():
        there = quantity(given.get(name, 0))
        if number > there:
            yield f"with {_amount(name, there)} where {_amount(name, number)} is asked for"


def _taints(node: Object) -> list[Mapping[str, str]]:
    return [taint for taint in node["spec"].get("taints") or () if taint["effect"] != NO_EFFECT]


def _tolerates(toleration: Mapping[str, Any], taint: Mapping[str, str]) -> bool:
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    if toleration.get("operator") == "Exists":
        return toleration.get("key") in (None, "", taint["key"])
    return toleration.get("key") == taint["key"] and toleration.get("value", "") == taint.get("value", "")


def _affine(affinity: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    required = (affinity.get("nodeAffinity") or {}).get("requiredDuringSchedulingIgnoredDuringExecution")
    if not required:
        return True
    return any(
        all(_matches(rule, labels) for rule in term.get("matchExpressions") or ())
        for term in required.get("nodeSelectorTerms") or ()
    )


def _matches(rule: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    value, given = labels.get(rule["key"]), rule.get("values") or []
    match rule["operator"]:
        case "In":
            return value in given
        case "NotIn":
            return value not in given
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt":
            return value is not None and int(value) > int(given[0])
        case _:
            return value is not None and int(value) < int(given[0])


def _room(node: Object, wanted: Mapping[str, Decimal], taken: Mapping[str, Decimal]) -> int:
    """How many such pods the node can take beside those that it has."""
    given = node["status"]["allocatable"]
    return max(
        0,
        min(
            int((quantity(given.get(name, 0)) - taken.get(name, Decimal(0))) // number)
            for name, number in wanted.items()
            if number
        ),
    )


def _shown(wanted: Mapping[str, Decimal]) -> str:
    words = [_amount(name, number) for name, number in sorted(wanted.items()) if name != "pods"]
    return ", ".join(words) or "it asks for nothing"


def _amount(name: str, number: Decimal) -> str:
    """For people: memory and storage in GiB, all else as a number."""
    if name in ("memory", "ephemeral-storage"):
        return f"{number / 2**30:.1f} GiB of {name}"
    return f"{number.normalize():f} {name}"
