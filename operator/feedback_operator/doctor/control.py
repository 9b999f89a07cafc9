"""The API server, the custom resource, the operator, and who may do what."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from feedback_operator.api import GROUP, VERSION, FeedbackIteration
from feedback_operator.api.calls import FINALIZERS, KINDS
from feedback_operator.api.schema import NAME as DEFINITION
from feedback_operator.api.schema import PLURAL, crd
from feedback_operator.doctor.facts import Facts, Finding, Object, Right, Unknown, listed, name_of
from feedback_operator.resources.house_rules import HouseRules
from feedback_operator.stages import Image

OLDEST: Final = (1, 30)
WITH_SHARDS: Final = (1, 33)
"""Where Jobs with several shards need no feature gate."""
OF_THE_CHART: Final = "app.kubernetes.io/part-of=feedback-operator"
INSTALL: Final = "install it as docs/install.md says, or: kubectl apply --server-side -f deploy/operator.yaml"
EDIT: Final = tuple(Right(verb, GROUP, PLURAL) for verb in ("get", "list", "create", "patch", "delete"))
LOGS: Final = (Right("list", "", "pods"), Right("get", "", "pods/log"))
TRY: Final = (Right("create", "batch", "jobs"), Right("delete", "batch", "jobs"))
"""What the doctor itself needs to have a pod try things out."""
CREATE_PODS: Final = Right("create", "", "pods")
USER: Final = (*EDIT, *LOGS, *TRY, CREATE_PODS)
OPERATOR: Final = (
    *(
        Right(verb, kind.group, kind.plural)
        for kind in KINDS
        if kind.name not in ("Lease", "Workload") and not kind.optional
        for verb in kind.verbs
    ),
    Right("patch", GROUP, f"{PLURAL}/status"),
    *(Right(verb, FINALIZERS[0], FINALIZERS[1]) for verb in FINALIZERS[2]),
)
"""What the operator does where iterations are."""
FOR_CANARIES: Final = tuple(
    Right(verb, kind.group, kind.plural) for kind in KINDS if kind.optional for verb in kind.verbs
)
"""What it does besides where an endpoint has a canary."""


def rights_of_the_operator(iteration: FeedbackIteration | None) -> tuple[Right, ...]:
    """What the operator has to be allowed, for this iteration where there is one."""
    serving = iteration.spec.serving if iteration else None
    return (*OPERATOR, *(FOR_CANARIES if serving and serving.canary else ()))


# ── API server and definition ────────────────────────────────────────────────────────────────────────────────────────


def check_version(facts: Facts, several_shards: bool) -> Finding:
    """Kubernetes is new enough; `several_shards` of one Job ask for more."""
    numbers = re.match(r"v?(\d+)\.(\d+)", facts.version)
    if numbers is None:
        return Finding("kubernetes", "warning", f"says version {facts.version!r}", "see that it is 1.30 or newer")
    version = (int(numbers[1]), int(numbers[2]))
    if version < OLDEST:
        return Finding("kubernetes", "failed", f"is {facts.version}, older than 1.30", "upgrade the cluster")
    if several_shards and version < WITH_SHARDS:
        return Finding(
            "kubernetes",
            "warning",
            f"is {facts.version}; Jobs with several shards need its gate JobBackoffLimitPerIndex, on by default",
            "see that the platform has not turned it off, or set shards to 1",
        )
    return Finding("kubernetes", "ok", facts.version)


def check_definition(facts: Facts) -> Finding:
    """The custom resource is there and is the one that this client knows."""
    definition = facts.definition
    if isinstance(definition, Unknown):
        if GROUP in facts.groups:
            return Finding("definition", "not looked at", f"{DEFINITION} is there; {definition.why}")
        return Finding("definition", "failed", f"the cluster does not know {DEFINITION}", INSTALL)
    if definition is None:
        return Finding("definition", "failed", f"the cluster does not know {DEFINITION}", INSTALL)
    served = {version["name"]: version for version in definition["spec"]["versions"] if version["served"]}
    if VERSION not in served:
        return Finding(
            "definition",
            "failed",
            f"{DEFINITION} serves {', '.join(served) or 'nothing'}, and this client knows {VERSION}",
            "use a client of the operator's version",
        )
    ours, theirs = (one["schema"]["openAPIV3Schema"] for one in (crd()["spec"]["versions"][0], served[VERSION]))
    if ours == theirs:
        return Finding("definition", "ok", f"{DEFINITION}, as this client knows it")
    less, more = _fields(ours) - _fields(theirs), _fields(theirs) - _fields(ours)
    words = [
        *([f"it lacks {listed(sorted(less))}"] if less else []),
        *([f"it has {listed(sorted(more))} besides"] if more else []),
    ]
    return Finding(
        "definition",
        "warning",
        f"{DEFINITION} is of another version than this client: {'; '.join(words) or 'its rules differ'}",
        "kubectl apply --server-side -f crds/ (Helm: upgrade the release), or use the client of that version",
    )


def _fields(schema: Mapping[str, Any], path: str = "") -> set[str]:
    """Paths of all fields."""
    inner = schema.get("items", schema)
    found: set[str] = set()
    for name, below in (inner.get("properties") or {}).items():
        here = f"{path}.{name}" if path else name
        found |= {here} | _fields(below, here)
    return found


def check_namespace(facts: Facts) -> Iterator[Finding]:
    """It is there; who may not look at it sees by all else whether it is."""
    if facts.space is None:
        yield Finding(
            "namespace",
            "failed",
            f"there is no namespace {facts.namespace}",
            f"kubectl create namespace {facts.namespace}, or name another one with -n",
        )


# ── the operator ─────────────────────────────────────────────────────────────────────────────────────────────────────


def environment_of(deployment: Object) -> dict[str, str]:
    """Plain variables of the operator's container."""
    [container, *_] = deployment["spec"]["template"]["spec"]["containers"]
    return {one["name"]: one.get("value", "") for one in container.get("env") or ()}


def serves(deployment: Object, namespace: str) -> bool:
    """Whether an operator's iterations are those of this namespace, too."""
    given = environment_of(deployment)
    everywhere = given.get("FEEDBACK_ALL_NAMESPACES", "").lower() in ("1", "true", "yes", "on", "t", "y")
    return everywhere or namespace in re.split(r"[,\s]+", given.get("FEEDBACK_NAMESPACES", ""))


def account_of(deployment: Object) -> tuple[str, str]:
    """Namespace and name of the ServiceAccount that an operator runs as."""
    account = deployment["spec"]["template"]["spec"].get("serviceAccountName") or "default"
    return deployment["metadata"]["namespace"], account


def images_of(deployment: Object | None) -> dict[Image, str]:
    """The images that pods get where an iteration names none."""
    given = environment_of(deployment) if deployment else {}
    return {
        "generate": given.get("FEEDBACK_GENERATE_IMAGE", ""),
        "train": given.get("FEEDBACK_TRAIN_IMAGE", ""),
    }


def house_of(deployment: Object | None) -> HouseRules:
    """What the operator demands of everything that it makes."""
    given = environment_of(deployment) if deployment else {}
    return HouseRules(
        inherited_labels=tuple(filter(None, re.split(r"[,\s]+", given.get("FEEDBACK_INHERIT_LABELS", "")))),
        capabilities=tuple(given.get("FEEDBACK_ALLOW_CAPABILITIES", "").split()),
        platform_uid=given.get("FEEDBACK_PLATFORM_UID", "").lower() in ("1", "true", "yes"),
    )


def operator_for(facts: Facts) -> Object | None:
    """The Deployment of the operator that serves the namespace; None where none is known."""
    if isinstance(facts.operators, Unknown):
        return None
    return next((one for one in facts.operators if serves(one, facts.namespace)), None)


def check_operator(facts: Facts) -> Iterator[Finding]:
    """One operator serves the namespace, runs, and acts."""
    if isinstance(facts.operators, Unknown):
        yield Finding("operator", "not looked at", facts.operators.why)
        return
    serving = [one for one in facts.operators if serves(one, facts.namespace)]
    names = [f"{one['metadata']['namespace']}/{name_of(one)}" for one in serving]
    if not serving:
        others = [f"{one['metadata']['namespace']}/{name_of(one)}" for one in facts.operators]
        told = f"; {listed(others)} serves others" if others else ""
        remedy = f"add {facts.namespace} to its namespaces, or set scope to Cluster" if others else INSTALL
        yield Finding("operator", "failed", f"none serves the namespace {facts.namespace}{told}", remedy)
        return
    if len(serving) > 1:
        yield Finding(
            "operator",
            "failed",
            f"{' and '.join(names)} both serve the namespace {facts.namespace}, and undo each other's work",
            "uninstall one of them, or give them namespaces of their own",
        )
        return
    [deployment], [name] = serving, names
    yield _running(deployment, name)
    yield _acting(facts, deployment)


def _running(deployment: Object, name: str) -> Finding:
    ready = deployment.get("status", {}).get("readyReplicas") or 0
    wanted = deployment["spec"].get("replicas", 1)
    space = deployment["metadata"]["namespace"]
    told = f"{name}: {ready} of {wanted} pods are ready"
    if ready == 0:
        return Finding(
            "operator",
            "failed",
            f"{name} has no ready pod",
            f"kubectl describe pods -n {space}; kubectl logs -n {space} deployment/{name_of(deployment)}",
        )
    if ready < wanted:
        return Finding("operator", "warning", told, f"kubectl get pods -n {space}")
    return Finding("operator", "ok", told)


def _acting(facts: Facts, deployment: Object) -> Finding:
    space = deployment["metadata"]["namespace"]
    lease = facts.leases.get(space)
    if isinstance(lease, Unknown):
        return Finding("leader", "not looked at", lease.why)
    look = f"kubectl logs -n {space} deployment/{name_of(deployment)}"
    holder = lease["spec"].get("holderIdentity") if lease else None
    if lease is None or not holder:
        return Finding("leader", "failed", f"nobody holds the Lease feedback-operator in {space}, so nobody acts", look)
    silent = (facts.now - datetime.fromisoformat(lease["spec"]["renewTime"])).total_seconds()
    if silent > lease["spec"]["leaseDurationSeconds"]:
        return Finding(
            "leader", "failed", f"{holder} holds the Lease in {space} and has not renewed it for {silent:.0f} s", look
        )
    return Finding("leader", "ok", f"{holder} acts")


# ── rights ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def check_user(facts: Facts) -> Finding:
    """You may do what `feedback` does in the namespace."""
    known = {right: may for right, may in facts.rights.items() if not isinstance(may, Unknown)}
    there = f"in the namespace {facts.namespace}"
    if not known:
        why = next((may.why for may in facts.rights.values() if isinstance(may, Unknown)), "nothing was asked")
        return Finding("your rights", "not looked at", why)
    missing, silent = ([str(right) for right in wanted if known.get(right) is False] for wanted in (EDIT, LOGS))
    if missing:
        return Finding(
            "your rights",
            "failed",
            f"you may not {listed(missing)} {there}",
            "have the role edit there, or with scope Namespaced a RoleBinding to feedback-operator-iterations-edit",
        )
    if silent:
        told = f"you may submit iterations, and not {listed(silent)} {there}, so feedback logs shows nothing"
        return Finding("your rights", "warning", told, "have the role edit or view there")
    return Finding("your rights", "ok", f"you may submit iterations {there} and read their logs")


def check_operators_rights(facts: Facts) -> Finding:
    """The operator may do all that it does in the namespace."""
    unknown = next((may.why for may in facts.operator_rights.values() if isinstance(may, Unknown)), None)
    missing = [str(right) for right, may in facts.operator_rights.items() if may is False]
    if missing:
        return Finding(
            "operator's rights",
            "failed",
            f"the operator may not {listed(missing)} in the namespace {facts.namespace}",
            "helm upgrade with the chart of the operator's version, or apply its deploy/rbac-*.yaml",
        )
    if unknown or not facts.operator_rights:
        return Finding("operator's rights", "not looked at", unknown or "no operator serves the namespace")
    return Finding("operator's rights", "ok", f"it may do all that it does in the namespace {facts.namespace}")
