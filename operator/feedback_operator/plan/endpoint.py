"""Who holds an endpoint, and how its rollout goes.

Promoted iterations take an endpoint over in turn: the newest holds it, and it alone applies the endpoint's objects. One
whose pods were taken back before it ever served yields to the next. The others are owners beside the holder, so that
the endpoint outlives it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Literal

from feedback_operator.api import FeedbackIteration, PromotedModel, ServingStatus
from feedback_operator.plan.failures import WORDS
from feedback_operator.plan.snapshot import Claimant, Endpoint, Snapshot
from feedback_operator.resources import Manifest
from feedback_operator.resources.deployment import (
    CONTAINER,
    REVISION_ANNOTATION,
    Serving,
    applied_replicas,
    build_deployment,
    revision,
)
from feedback_operator.resources.difference import differs
from feedback_operator.resources.networkpolicy import build_endpoint_policy
from feedback_operator.resources.poddisruptionbudget import build_pod_disruption_budget
from feedback_operator.resources.service import build_service


def claimants(iterations: Iterable[FeedbackIteration], endpoint: str) -> tuple[Claimant, ...]:
    """Those iterations of one namespace that have a promoted model for `endpoint`, the newest first.

    Whenever one of them changes or goes, the others need another look.
    """
    found = [_claim(iteration) for iteration in iterations if _claims(iteration, endpoint)]
    return _newest_first(found)


def _claims(iteration: FeedbackIteration, endpoint: str) -> bool:
    serving, meta = iteration.spec.serving, iteration.metadata
    named = serving is not None and serving.endpoint == endpoint
    return named and iteration.status.promoted is not None and not meta.deletion_timestamp


def _claim(iteration: FeedbackIteration) -> Claimant:
    """As it stands, whether or not its latest edit was looked at: only one that changes its pods is another try."""
    serving, promoted = iteration.status.serving, iteration.status.promoted
    same = serving and promoted and serving.rolled_back_revision == revision(_serving(iteration, promoted))
    return _claimant(iteration, yields=bool(same and serving and _yields(serving)))


def _serving(iteration: FeedbackIteration, promoted: PromotedModel) -> Serving:
    """The endpoint as this iteration alone wants it."""
    spec = iteration.spec.serving
    if spec is None or spec.endpoint is None:
        raise TypeError("only an iteration with spec.serving.endpoint has an endpoint")
    return Serving(
        name=spec.endpoint,
        owner=iteration.metadata,
        co_owners=(),
        spec=spec,
        promoted=promoted,
        max_model_len=iteration.spec.sampling.max_model_len,
    )


def _claimant(iteration: FeedbackIteration, *, yields: bool) -> Claimant:
    meta = iteration.metadata
    return Claimant(meta.name, meta.uid, meta.creation_timestamp, yields)


def _yields(serving: ServingStatus) -> bool:
    return bool(serving.rolled_back_revision) and not serving.served_revision


def _newest_first(claims: Iterable[Claimant]) -> tuple[Claimant, ...]:
    return tuple(sorted(claims, key=lambda claim: (claim.created, claim.name), reverse=True))


def holder(claims: Iterable[Claimant]) -> Claimant | None:
    """The newest one that does not yield; None where there is none."""
    return next((claim for claim in claims if not claim.yields), None)


def image_at_work(world: Snapshot) -> str:
    """The image of the pods that this iteration has behind its endpoint; empty where there are none, or where
    spec.serving.pod.image says which."""
    spec = world.iteration.spec.serving
    if spec is None or spec.endpoint is None or spec.pod.image or world.endpoint is None:
        return ""
    deployment = _objects(world.endpoint, spec.endpoint).get("Deployment")
    if deployment is None or not _is_held_by(deployment, world.iteration.metadata.uid):
        return ""
    containers = deployment["spec"]["template"]["spec"]["containers"]
    return next((str(one["image"]) for one in containers if one["name"] == CONTAINER), "")


def _is_held_by(deployment: Manifest, uid: str) -> bool:
    owners = deployment["metadata"].get("ownerReferences", ())
    return any(owner.get("controller") and owner["uid"] == uid for owner in owners)


# ── the decision of one iteration ────────────────────────────────────────────────────────────────────────────────────

State = Literal[
    "NotRequested", "NotPromoted", "Superseded", "RollingOut", "Serving", "Unavailable", "Unschedulable",
    "ScaledToZero", "RolledBack",
]  # fmt: skip


@dataclass(frozen=True)
class EndpointPlan:
    """What one iteration does about its endpoint, and what there is to say of it. `until`: see `Plan.wake_at`."""

    state: State
    message: str
    apply: tuple[Manifest, ...] = ()
    status: ServingStatus | None = None
    until: datetime | None = None


NOT_REQUESTED: Final = EndpointPlan("NotRequested", "spec.serving.endpoint is not given")


def endpoint_plan(world: Snapshot, promoted: PromotedModel | None) -> EndpointPlan:
    """Decide about the endpoint. `promoted` is the model that the iteration has for it now."""
    spec = world.iteration.spec.serving
    if spec is None or spec.endpoint is None or world.endpoint is None:
        return NOT_REQUESTED
    before = world.iteration.status.serving or ServingStatus(endpoint=spec.endpoint)
    before = before.model_copy(update={"endpoint": spec.endpoint})
    if promoted is None:
        return EndpointPlan("NotPromoted", "no model of this iteration was promoted yet", status=before)
    serving = _serving(world.iteration, promoted)
    if before.rolled_back_revision != revision(serving):
        before = before.model_copy(update={"rolled_back_revision": ""})
    own = _claimant(world.iteration, yields=_yields(before))
    claims = _newest_first([own, *(claim for claim in world.endpoint.claimants if claim.uid != own.uid)])
    held_by = holder(claims)
    deployment = _objects(world.endpoint, spec.endpoint).get("Deployment")
    if own.yields and not (held_by is None and Rollout.of(deployment).completes(before.rolled_back_revision)):
        return EndpointPlan("RolledBack", _still_rolled_back(world, held_by), status=before)
    if held_by is not None and held_by != own:
        message = f"iteration {held_by.name} is newer and holds endpoint {spec.endpoint}"
        nothing = {"revision": "", "replicas": 0, "ready_replicas": 0, "rolled_back_revision": ""}
        return EndpointPlan("Superseded", message, status=before.model_copy(update=nothing))
    in_hand = replace(
        serving,
        co_owners=tuple((claim.uid, claim.name) for claim in claims if claim != own),
        spec=spec.model_copy(update={"replicas": applied_replicas(spec.replicas, deployment)}),
    )
    return _Rollout(world, world.endpoint, in_hand, before).plan()


def _objects(endpoint: Endpoint, name: str) -> dict[str, Manifest]:
    """What there is of the endpoint, by kind."""
    return {made["kind"]: made for made in endpoint.objects if made["metadata"]["name"] == name}


def _still_rolled_back(world: Snapshot, held_by: Claimant | None) -> str:
    """The reason that was found when it was taken back, or what follows from it."""
    instead = f"iteration {held_by.name} serves in its place" if held_by else "the pods from before go on serving"
    return _said_when_taken_back(world) or f"the pods of this iteration did not become ready; {instead}"


def _said_when_taken_back(world: Snapshot) -> str:
    conditions = world.iteration.status.conditions
    return next((c.message for c in conditions if c.type == "Serving" and c.reason == "RolledBack"), "")


@dataclass(frozen=True)
class _Rollout:
    """The endpoint in the hands of its holder."""

    world: Snapshot
    endpoint: Endpoint
    serving: Serving
    before: ServingStatus

    def plan(self) -> EndpointPlan:
        service = build_service(self.serving)
        made = (
            build_deployment(self.serving),
            service,
            build_pod_disruption_budget(self.serving),
            build_endpoint_policy(self.serving),
        )
        wanted = [self.world.house.followed(manifest, self.serving.owner) for manifest in made]
        observed = _objects(self.endpoint, self.serving.name)
        rollout = Rollout.of(observed.get("Deployment"))
        own = revision(self.serving)
        apply = tuple(manifest for manifest in wanted if differs(manifest, observed.get(manifest["kind"])))
        if self._is_taken_back(rollout, own):
            return self._taken_back(rollout, own, apply)
        ready = self._ready(rollout, own)
        state, message = self._state(rollout, own, ready)
        served = own if state == "Serving" else self.before.served_revision
        if state == "Serving" and differs({"spec": service["spec"]}, observed.get("Service")):
            state, message = "Unavailable", f"{message}, but no Service {self.serving.name} leads to them"
        status = self.before.model_copy(
            update={
                "revision": own,
                "replicas": rollout.wanted,
                "ready_replicas": ready,
                "served_revision": served,
                "rolled_back_revision": "",
            }
        )
        return EndpointPlan(state, message, apply, status, self._loads_until() if rollout.gives_up(own) else None)

    def _is_taken_back(self, rollout: Rollout, own: str) -> bool:
        """Its pods did not become ready in time, and have not become so since. What has once served is never taken
        back; nor are pods that no node took, which have their whole time to load once one does."""
        if own == self.before.served_revision or rollout.completes(own):
            return False
        if own == self.before.rolled_back_revision:
            return True
        return rollout.gives_up(own) and not self._lacks_a_node() and self._loads_until() is None

    def _lacks_a_node(self) -> bool:
        return any(WORDS.get(pod.reason) == "Unschedulable" for pod in self.endpoint.pods)

    def _loads_until(self) -> datetime | None:
        """Until when the pod that found its node last has time to load; None where that is over."""
        deadline = timedelta(seconds=self.serving.spec.progress_deadline_seconds)
        loading = [pod for pod in self.endpoint.pods if not pod.reason and pod.exit_code is None]
        until = max((pod.since + deadline for pod in loading if pod.since), default=None)
        return until if until and until > self.world.now else None

    def _ready(self, rollout: Rollout, own: str) -> int:
        """Ready pods of this revision: those that were known, until what the Deployment says is about this revision.

        Somebody who scales the Deployment makes a new generation of it, too, and stops no pod from serving.
        """
        if rollout.revision != own:
            return 0
        known = self.before.ready_replicas if self.before.revision == own else 0
        return rollout.ready if rollout.observed else known

    def _state(self, rollout: Rollout, own: str, ready: int) -> tuple[State, str]:
        said = f"{ready}/{rollout.wanted} pods of revision {own} are ready"
        if rollout.revision != own or not (rollout.observed or ready):
            return "RollingOut", f"revision {own} is being rolled out"
        if rollout.wanted == 0:
            return "ScaledToZero", self._why_zero()
        if rollout.complete:
            return "Serving", said
        if own == self.before.served_revision:
            return ("Serving", said) if ready else ("Unavailable", f"{said}{self._said()}")
        if self._lacks_a_node():
            state: State = "Unschedulable" if rollout.given_up else "RollingOut"
            return state, f"{said}{self._said()}; the pods that are there go on; {self._makes_room()}"
        return "RollingOut", f"{said}{self._said()}"

    def _makes_room(self) -> str:
        """What helps pods that no node takes."""
        remedy = "add nodes, or lower spec.serving.resources"
        if self.serving.spec.max_unavailable:
            return remedy
        return f"{remedy}; without a spare GPU set spec.serving.maxSurge to 0 and spec.serving.maxUnavailable to 1"

    def _why_zero(self) -> str:
        if self.serving.spec.replicas == 0:
            return "spec.serving.replicas is 0"
        return f"Deployment {self.serving.name} is scaled to 0; scale it up, or give spec.serving.replicas"

    def _taken_back(self, rollout: Rollout, own: str, apply: tuple[Manifest, ...]) -> EndpointPlan:
        deadline = self.serving.spec.progress_deadline_seconds
        kept = ", and no older iteration takes over, since this one has served" if self.before.served_revision else ""
        message = (
            f"the pods of revision {own} did not become ready within spec.serving.progressDeadlineSeconds ({deadline})"
            f"{self._said()}; what served before goes on{kept}; correct spec.serving, or raise the deadline"
        )
        known = _said_when_taken_back(self.world) if self.before.rolled_back_revision == own else ""
        status = self.before.model_copy(
            update={"revision": own, "replicas": rollout.wanted, "ready_replicas": 0, "rolled_back_revision": own}
        )
        return EndpointPlan("RolledBack", known or message, apply, status)

    def _said(self) -> str:
        """What pods say is wrong, after a colon."""
        wrong = [pod for pod in self.endpoint.pods if pod.reason and not pod.running and pod.exit_code != 0]
        words = [f"{pod.reason} {pod.message}".strip() for pod in wrong]
        return f": {words[0][:500]}" if words else ""


@dataclass(frozen=True)
class Rollout:
    """A Deployment's own view of its rollout, as `kubectl rollout status` reads it."""

    revision: str = ""
    observed: bool = False
    wanted: int = 0
    ready: int = 0
    complete: bool = False
    given_up: bool = False

    def completes(self, revision: str) -> bool:
        """All pods are of this revision, and ready."""
        return self.complete and self.revision == revision

    def gives_up(self, revision: str) -> bool:
        """No pod of this revision got ready for as long as it may take."""
        return self.given_up and self.revision == revision

    @classmethod
    def of(cls, deployment: Manifest | None) -> Rollout:
        if deployment is None:
            return cls()
        meta, status = deployment["metadata"], deployment.get("status", {})
        wanted = deployment["spec"].get("replicas", 1)
        updated, total = status.get("updatedReplicas", 0), status.get("replicas", 0)
        available = status.get("availableReplicas", 0)
        observed = status.get("observedGeneration", 0) >= meta.get("generation", 0)
        old = total - updated
        return cls(
            revision=meta.get("annotations", {}).get(REVISION_ANNOTATION, ""),
            observed=observed,
            wanted=wanted,
            ready=max(0, status.get("readyReplicas", 0) - old),
            complete=observed and updated == total == available == wanted,
            given_up=observed and _progress_reason(status.get("conditions", ())) == "ProgressDeadlineExceeded",
        )


def _progress_reason(conditions: Sequence[Manifest]) -> str:
    return next((str(c.get("reason", "")) for c in conditions if c["type"] == "Progressing"), "")
