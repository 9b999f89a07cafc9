"""Who holds an endpoint, and how its rollout goes.

Promoted iterations take an endpoint over in turn: the newest holds it, and it alone applies the endpoint's objects. One
whose pods were taken back before it ever served yields to the next, and so does one that is tried as a canary first.
The others are owners beside the holder, so that the endpoint outlives it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Literal

from feedback_operator.api import FeedbackIteration, PromotedModel, ServingStatus
from feedback_operator.plan.canary import (
    NO_TRIAL,
    ROUTE_LOOKED_AT,
    Trial,
    canary_objects,
    ended_objects,
    is_held_by,
    objects_of,
    route_of,
    trial_of,
    weight_at_work,
)
from feedback_operator.plan.rollout import Rollout, lacks_a_node, loads_until, what_pods_say
from feedback_operator.plan.snapshot import Claimant, Endpoint, Snapshot
from feedback_operator.resources import Manifest
from feedback_operator.resources.deployment import (
    CANARY_SUFFIX,
    CONTAINER,
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


def has_canaries(iterations: Iterable[FeedbackIteration], objects: Iterable[Manifest], endpoint: str) -> bool:
    """Whether an endpoint may have a route: one of those that name it asks for canaries, or there was one."""
    asked = any(iteration.spec.serving and iteration.spec.serving.canary for iteration in iterations)
    return asked or any(made["metadata"]["name"] == f"{endpoint}{CANARY_SUFFIX}" for made in objects)


def _claims(iteration: FeedbackIteration, endpoint: str) -> bool:
    serving, meta = iteration.spec.serving, iteration.metadata
    named = serving is not None and serving.endpoint == endpoint
    return named and iteration.status.promoted is not None and not meta.deletion_timestamp


def _claim(iteration: FeedbackIteration) -> Claimant:
    """As it stands, whether or not its latest edit was looked at: only one that changes its pods is another try."""
    serving, promoted, spec = iteration.status.serving, iteration.status.promoted, iteration.spec.serving
    if serving is None or promoted is None or spec is None:
        return _claimant(iteration, yields=False)
    taken_back = bool(serving.rolled_back_revision) and serving.rolled_back_revision == revision(
        _serving(iteration, promoted)
    )
    tries = spec.canary is not None and serving.canary is not None and not serving.canary.passed and not taken_back
    return _claimant(iteration, yields=_yields(serving, taken_back or tries), tries=tries)


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


def _claimant(iteration: FeedbackIteration, *, yields: bool, tries: bool = False) -> Claimant:
    meta = iteration.metadata
    return Claimant(meta.name, meta.uid, meta.creation_timestamp, yields, tries)


def _yields(serving: ServingStatus, unfit: bool) -> bool:
    """What has served keeps its endpoint, whatever becomes of what follows."""
    return unfit and not serving.served_revision


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
    deployment = objects_of(world.endpoint, spec.endpoint).get("Deployment")
    if deployment is None or not is_held_by(deployment, world.iteration.metadata.uid):
        return ""
    containers = deployment["spec"]["template"]["spec"]["containers"]
    return next((str(one["image"]) for one in containers if one["name"] == CONTAINER), "")


# ── the decision of one iteration ────────────────────────────────────────────────────────────────────────────────────

State = Literal[
    "NotRequested", "NotPromoted", "Superseded", "Canary", "RollingOut", "Serving", "Unavailable", "Unschedulable",
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
    trial = trial_of(world, world.endpoint, serving, before)
    before = before.model_copy(update={"canary": trial.status})
    if trial.failed:
        before = before.model_copy(update={"rolled_back_revision": revision(serving)})
    unfit = bool(before.rolled_back_revision) or trial.goes_on
    own = _claimant(world.iteration, yields=_yields(before, unfit), tries=trial.goes_on)
    claims = _newest_first([own, *(claim for claim in world.endpoint.claimants if claim.uid != own.uid)])
    serving = replace(serving, co_owners=tuple((claim.uid, claim.name) for claim in claims if claim != own))
    return _Decision(world, world.endpoint, serving, before, trial, own, claims).plan()


@dataclass(frozen=True)
class _Decision:
    """What one of the claimants does. `claims`: all of them, the newest first, `own` among them."""

    world: Snapshot
    endpoint: Endpoint
    serving: Serving
    before: ServingStatus
    trial: Trial
    own: Claimant
    claims: tuple[Claimant, ...]

    def plan(self) -> EndpointPlan:
        held_by, name = holder(self.claims), self.serving.name
        newer = self.claims[: self.claims.index(self.own)]
        ahead = next((claim for claim in newer if not claim.yields or (claim.tries and self.own.yields)), None)
        if self.own.yields and not self.trial.goes_on and not (held_by is None and self._is_late_but_ready()):
            return self._out("RolledBack", self.trial.message or _still_rolled_back(self.world, held_by), self.before)
        if ahead is not None:
            does = "is tried there" if ahead.tries else f"holds endpoint {name}"
            nothing = {"revision": "", "replicas": 0, "ready_replicas": 0, "rolled_back_revision": "", "canary": None}
            status = self.before.model_copy(update=nothing)
            return self._out("Superseded", f"iteration {ahead.name} is newer and {does}", status)
        if self.trial.goes_on and held_by is not None and held_by != self.own:
            status = self.before.model_copy(update={"revision": revision(self.serving)})
            return EndpointPlan("Canary", self.trial.message, self._tried(), status, self.trial.until)
        return self._hold(tried_by=next((claim for claim in newer if claim.tries), None))

    def _is_late_but_ready(self) -> bool:
        deployment = objects_of(self.endpoint, self.serving.name).get("Deployment")
        return Rollout.of(deployment).completes(self.before.rolled_back_revision)

    def _out(self, state: State, message: str, status: ServingStatus) -> EndpointPlan:
        """Without the endpoint: a canary that this iteration has made ends as soon as it is given no requests."""
        route = route_of(self.world, self.endpoint, self.serving, 0) if self.trial.failed else []
        weight = 0 if self.trial.failed else weight_at_work(self.endpoint, self.serving)
        ended = ended_objects(self.world, self.endpoint, self.serving, weight)
        until = self.world.now + ROUTE_LOOKED_AT if weight else None
        return EndpointPlan(state, message, (*route, *ended), status, until)

    def _tried(self) -> tuple[Manifest, ...]:
        """Beside what serves."""
        made = canary_objects(self.world, self.endpoint, self.serving)
        return (*made, *route_of(self.world, self.endpoint, self.serving, self.trial.weight))

    def _hold(self, tried_by: Claimant | None) -> EndpointPlan:
        """The endpoint in hand. A canary of another iteration goes before one's own."""
        deployment = objects_of(self.endpoint, self.serving.name).get("Deployment")
        replicas = applied_replicas(self.serving.spec.replicas, deployment)
        in_hand = replace(self.serving, spec=self.serving.spec.model_copy(update={"replicas": replicas}))
        if tried_by is not None and self.trial.goes_on:
            message = f"its canary begins once that of iteration {tried_by.name} is over"
            trial = replace(self.trial, message=message, until=None)
            held = _Rollout(self.world, self.endpoint, in_hand, self.before, trial).plan()
            return replace(held, status=held.status and held.status.model_copy(update={"canary": None}))
        held = _Rollout(self.world, self.endpoint, in_hand, self.before, self.trial).plan()
        if self.trial.goes_on:
            return replace(held, apply=(*held.apply, *self._tried()))
        if tried_by is not None:
            return held
        over = self.trial.status is None or held.state in ("Serving", "RolledBack")
        weight = 0 if over else self.trial.weight
        route = route_of(self.world, self.endpoint, self.serving, weight)
        ended = ended_objects(self.world, self.endpoint, self.serving, weight)
        status = held.status and held.status.model_copy(update={"canary": None if over else self.trial.status})
        return replace(held, apply=(*held.apply, *route, *ended), status=status)


def _still_rolled_back(world: Snapshot, held_by: Claimant | None) -> str:
    """The reason that was found when it was taken back, or what follows from it."""
    instead = f"iteration {held_by.name} serves in its place" if held_by else "the pods from before go on serving"
    return _said_when_taken_back(world) or f"the pods of this iteration did not become ready; {instead}"


def _said_when_taken_back(world: Snapshot) -> str:
    conditions = world.iteration.status.conditions
    return next((c.message for c in conditions if c.type == "Serving" and c.reason == "RolledBack"), "")


@dataclass(frozen=True)
class _Rollout:
    """The endpoint's own objects, in the hands of its holder."""

    world: Snapshot
    endpoint: Endpoint
    serving: Serving
    before: ServingStatus
    trial: Trial = NO_TRIAL

    def plan(self) -> EndpointPlan:
        service = build_service(self.serving)
        made = (
            build_deployment(self.serving),
            service,
            build_pod_disruption_budget(self.serving),
            build_endpoint_policy(self.serving),
        )
        wanted = [self.world.house.followed(manifest, self.serving.owner) for manifest in made]
        observed = objects_of(self.endpoint, self.serving.name)
        rollout = Rollout.of(observed.get("Deployment"))
        own = revision(self.serving)
        stays = self._stays(rollout, own)
        apply = tuple(
            manifest
            for manifest in wanted
            if differs(manifest, observed.get(manifest["kind"])) and not (stays and manifest["kind"] == "Deployment")
        )
        if self.trial.goes_on:
            known = {"replicas": rollout.wanted, "ready_replicas": rollout.ready}
            return EndpointPlan(
                "Canary", self.trial.message, apply, self.before.model_copy(update=known), self.trial.until
            )
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

    def _stays(self, rollout: Rollout, own: str) -> bool:
        """The Deployment is left to what serves: a canary goes on beside it, or has failed."""
        failed = self.serving.spec.canary is not None and own == self.before.rolled_back_revision
        return self.trial.goes_on or (failed and rollout.revision not in ("", own))

    def _is_taken_back(self, rollout: Rollout, own: str) -> bool:
        """Its pods did not become ready in time, and have not become so since. What has once served is never taken
        back; nor are pods that no node took, which have their whole time to load once one does."""
        if own == self.before.served_revision or rollout.completes(own):
            return False
        if own == self.before.rolled_back_revision:
            return True
        return rollout.gives_up(own) and not lacks_a_node(self.endpoint.pods) and self._loads_until() is None

    def _loads_until(self) -> datetime | None:
        return loads_until(self.endpoint.pods, self.serving.spec.progress_deadline_seconds, self.world.now)

    def _ready(self, rollout: Rollout, own: str) -> int:
        """Ready pods of this revision: those that were known, until what the Deployment says is about this revision.

        Somebody who scales the Deployment makes a new generation of it, too, and stops no pod from serving.
        """
        if rollout.revision != own:
            return 0
        known = self.before.ready_replicas if self.before.revision == own else 0
        return rollout.ready if rollout.observed else known

    def _state(self, rollout: Rollout, own: str, ready: int) -> tuple[State, str]:
        said, wrong = f"{ready}/{rollout.wanted} pods of revision {own} are ready", what_pods_say(self.endpoint.pods)
        if rollout.revision != own or not (rollout.observed or ready):
            return "RollingOut", f"revision {own} is being rolled out"
        if rollout.wanted == 0:
            return "ScaledToZero", self._why_zero()
        if rollout.complete:
            return "Serving", said
        if own == self.before.served_revision:
            return ("Serving", said) if ready else ("Unavailable", f"{said}{wrong}")
        if lacks_a_node(self.endpoint.pods):
            state: State = "Unschedulable" if rollout.given_up else "RollingOut"
            return state, f"{said}{wrong}; the pods that are there go on; {self._makes_room()}"
        return "RollingOut", f"{said}{wrong}"

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
            f"{what_pods_say(self.endpoint.pods)}; what served before goes on{kept}; "
            "correct spec.serving, or raise the deadline"
        )
        known = self.trial.message
        if not known and self.before.rolled_back_revision == own:
            known = _said_when_taken_back(self.world)
        status = self.before.model_copy(
            update={"revision": own, "replicas": rollout.wanted, "ready_replicas": 0, "rolled_back_revision": own}
        )
        return EndpointPlan("RolledBack", known or message, apply, status)
