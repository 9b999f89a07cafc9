"""What the operator may do, made from the table of what it calls: RBAC manifests for one namespace and for a cluster.

Secrets are not in the table: results come by termination messages, and the kubelet gives pods their credentials.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import yaml

from feedback_operator.api import GROUP
from feedback_operator.api.calls import FINALIZERS, KINDS, Kind

Manifest = dict[str, Any]

NAME: Final = "feedback-operator"
NAMESPACE: Final = "feedback-system"
RBAC: Final = "rbac.authorization.k8s.io"
OWN: Final = ("Lease",)
"""Kinds that the operator touches in its own namespace alone."""

NAMESPACED_HEADER: Final = f"""\
# Made from operator/feedback_operator/api/calls.py by `make generate`; edit that, not this.
# The operator for one namespace, {NAMESPACE}, in which it runs and its iterations live:
#   kubectl create namespace {NAMESPACE} && kubectl apply -f deploy/rbac-namespaced.yaml
# People are given the Roles feedback-iterations-edit and feedback-iterations-view by a RoleBinding.
"""
CLUSTER_HEADER: Final = f"""\
# Made from operator/feedback_operator/api/calls.py by `make generate`; edit that, not this.
# The operator for all namespaces; it runs in {NAMESPACE}:
#   kubectl create namespace {NAMESPACE} && kubectl apply -f deploy/rbac-cluster.yaml
# Who may edit or view a namespace may edit or view its iterations.
"""

ROUTES_HEADER: Final = f"""\
# Made from operator/feedback_operator/api/calls.py by `make generate`; edit that, not this.
# For canaries (spec.serving.canary) besides: the operator may write routes of the Gateway API, everywhere or in TEAM.
#   kubectl apply -f deploy/rbac-routes.yaml
#   kubectl create clusterrolebinding {NAME}-routes --clusterrole {NAME}-routes --serviceaccount {NAMESPACE}:{NAME}
#   kubectl create rolebinding {NAME}-routes --clusterrole {NAME}-routes --serviceaccount {NAMESPACE}:{NAME} -n TEAM
"""

CHART_HEADER: Final = """\
# Made from operator/feedback_operator/api/calls.py by `make generate`; edit that, not this.
"""
_EDIT: Final = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
_VIEW: Final = ("get", "list", "watch")


def rules(kinds: Iterable[Kind]) -> list[Manifest]:
    """One rule for each kind, and one for its status where that is written."""
    made = []
    for kind in kinds:
        made.append(_rule(kind.group, kind.plural, kind.verbs))
        if kind.status:
            made.append(_rule(kind.group, f"{kind.plural}/status", kind.status))
    return made


def _rule(group: str, resource: str, verbs: Sequence[str]) -> Manifest:
    return {"apiGroups": [group], "resources": [resource], "verbs": list(verbs)}


def namespaced() -> list[Manifest]:
    """ServiceAccount, Role and RoleBinding of an operator for its own namespace, and Roles for people there."""
    made = chart_rules()
    return [
        _account(),
        _role("Role", [*rules(kind for kind in KINDS if not kind.optional), _rule(*FINALIZERS)]),
        _binding("RoleBinding", "Role"),
        _people_there("edit", made["edit"]),
        _people_there("view", made["view"]),
    ]


def cluster() -> list[Manifest]:
    """The same for all namespaces; what is its own stays in its own."""
    made = chart_rules()
    return [
        _account(),
        _role("ClusterRole", made["iterations"]),
        _binding("ClusterRoleBinding", "ClusterRole"),
        _role("Role", made["leader"]),
        _binding("RoleBinding", "Role"),
        _people("edit", made["edit"]),
        _people("view", made["view"]),
    ]


def routes() -> list[Manifest]:
    """What canaries need besides, to be bound for all namespaces or for one."""
    role = _role("ClusterRole", chart_rules()["routes"])
    return [{**role, "metadata": {**role["metadata"], "name": f"{NAME}-routes"}}]


def chart_rules() -> dict[str, list[Manifest]]:
    """The rules by themselves: where iterations are, for canaries, where the operator is, and for
    people."""
    everywhere = [kind for kind in KINDS if kind.name not in OWN and not kind.optional]
    return {
        "iterations": [*rules(everywhere), _rule(*FINALIZERS)],
        "routes": rules(kind for kind in KINDS if kind.optional),
        "leader": rules(kind for kind in KINDS if kind.name in OWN),
        "edit": [_rule(GROUP, "feedbackiterations", _EDIT)],
        "view": [_rule(GROUP, "feedbackiterations", _VIEW)],
    }


def chart_text() -> str:
    """The rules as the Helm chart reads them."""
    return CHART_HEADER + yaml.safe_dump(chart_rules(), sort_keys=False, width=120)


def _metadata(kind: str) -> Manifest:
    """Names alone for what has no namespace."""
    labels = {"app.kubernetes.io/name": NAME}
    space = {} if kind.startswith("Cluster") else {"namespace": NAMESPACE}
    return {"name": NAME, **space, "labels": labels}


def _account() -> Manifest:
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _metadata("ServiceAccount")}


def _role(kind: str, of: list[Manifest]) -> Manifest:
    return {"apiVersion": f"{RBAC}/v1", "kind": kind, "metadata": _metadata(kind), "rules": of}


def _binding(kind: str, role: str) -> Manifest:
    return {
        "apiVersion": f"{RBAC}/v1",
        "kind": kind,
        "metadata": _metadata(kind),
        "roleRef": {"apiGroup": RBAC, "kind": role, "name": NAME},
        "subjects": [{"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}],
    }


def _people(role: str, of: list[Manifest]) -> Manifest:
    """A role that Kubernetes adds to its own `edit` and `admin`, or `view`."""
    towards = {"edit": ("edit", "admin"), "view": ("view",)}[role]
    return {
        "apiVersion": f"{RBAC}/v1",
        "kind": "ClusterRole",
        "metadata": {
            "name": f"feedback-iterations-{role}",
            "labels": {
                "app.kubernetes.io/name": NAME,
                **{f"{RBAC}/aggregate-to-{builtin}": "true" for builtin in towards},
            },
        },
        "rules": of,
    }


def _people_there(role: str, of: list[Manifest]) -> Manifest:
    """The same in one namespace, where it has to be bound: only ClusterRoles are added to those of Kubernetes."""
    return {
        "apiVersion": f"{RBAC}/v1",
        "kind": "Role",
        "metadata": {**_metadata("Role"), "name": f"feedback-iterations-{role}"},
        "rules": of,
    }


def text(header: str, manifests: Sequence[Manifest]) -> str:
    """The manifests as one file."""
    return header + yaml.safe_dump_all(manifests, sort_keys=False, width=120)
