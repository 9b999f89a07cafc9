"""Every call that the operator makes, in one table: the client refuses others, and RBAC follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from feedback_operator.api import API_VERSION, KIND

Verb = Literal["get", "list", "watch", "create", "update", "patch", "delete"]


@dataclass(frozen=True)
class Kind:
    """A kind of object: how its URL is made, what may be done with it, and why.

    `status` are verbs on the subresource `status`. `labels` selects the objects that are watched at all. `optional`:
    the right to it is given only where it is asked for.
    """

    name: str
    api_version: str
    plural: str
    verbs: tuple[Verb, ...]
    why: str
    status: tuple[Verb, ...] = ()
    labels: str = ""
    optional: bool = False

    @property
    def group(self) -> str:
        """API group; empty for the core group."""
        return self.api_version.rpartition("/")[0]

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """Path of an object, or of the kind in a namespace, or in all of them."""
        root = f"/apis/{self.api_version}" if self.group else f"/api/{self.api_version}"
        within = f"{root}/namespaces/{namespace}" if namespace else root
        return "/".join(part for part in (within, self.plural, name, subresource) if part)


MANAGED: Final = "app.kubernetes.io/managed-by=feedback-operator"
OF_ENDPOINTS: Final = "feedback.rlaif.dev/endpoint"

_WATCH: Final = ("get", "list", "watch")
_ENDPOINT: Final[tuple[Verb, ...]] = ("get", "list", "watch", "create", "patch")

KINDS: Final = (
    Kind(KIND, API_VERSION, "feedbackiterations", _WATCH, "what people want", status=("patch",)),
    Kind(
        "Job",
        "batch/v1",
        "jobs",
        (*_WATCH, "create", "patch", "delete"),
        "a Job a stage: created once, suspended and resumed; deleted where nobody wants it any more",
        labels=MANAGED,
    ),
    Kind("Pod", "v1", "pods", _WATCH, "results, exit codes, waiting reasons, addresses to scrape", labels=MANAGED),
    Kind("ConfigMap", "v1", "configmaps", ("create",), "configuration of a stage: created once, never read"),
    Kind("Deployment", "apps/v1", "deployments", _ENDPOINT, "pods of an endpoint", labels=OF_ENDPOINTS),
    Kind("Service", "v1", "services", _ENDPOINT, "an endpoint; rendezvous of training nodes", labels=OF_ENDPOINTS),
    Kind(
        "PodDisruptionBudget",
        "policy/v1",
        "poddisruptionbudgets",
        _ENDPOINT,
        "an endpoint stays up while nodes are drained",
        labels=OF_ENDPOINTS,
    ),
    Kind(
        "NetworkPolicy",
        "networking.k8s.io/v1",
        "networkpolicies",
        _ENDPOINT,
        "who may reach the pods",
        labels=OF_ENDPOINTS,
    ),
    Kind(
        "Event",
        "events.k8s.io/v1",
        "events",
        ("list", "create"),
        "what happened, for kubectl describe; and why a Job gets no pods",
    ),
    Kind("Workload", "kueue.x-k8s.io/v1beta2", "workloads", ("list",), "why Kueue does not admit a Job"),
    Kind(
        "HTTPRoute",
        "gateway.networking.k8s.io/v1",
        "httproutes",
        ("get", "create", "patch"),
        "the share of requests that a canary has",
        optional=True,
    ),
    Kind("Lease", "coordination.k8s.io/v1", "leases", ("get", "create", "update"), "one replica acts at a time"),
)
"""Leases only in the operator's own namespace."""

BY_NAME: Final = {kind.name: kind for kind in KINDS}
WATCHED: Final = tuple(kind for kind in KINDS if "watch" in kind.verbs)
FINALIZERS: Final = (API_VERSION.partition("/")[0], "feedbackiterations/finalizers", ("update",))
"""What blockOwnerDeletion in a child's ownerReference asks for where OwnerReferencesPermissionEnforcement is on."""
