"""A new revision beside the one that serves: a route gives it a share of the requests, step by step.

The pods of the canary are a Deployment of their own. As long as it goes on, the endpoint's Deployment stays as it is;
once all steps have passed, that one is rolled over as without a canary, and then the canary ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from feedback_operator.api import CanarySpec, CanaryStatus, ServingStatus
from feedback_operator.api.status import moment_of, timestamp
from feedback_operator.plan.rollout import Rollout, lacks_a_node, loads_until, what_pods_say
from feedback_operator.plan.snapshot import Endpoint, Snapshot
from feedback_operator.resources import Manifest
from feedback_operator.resources.deployment import Serving, build_deployment, revision
from feedback_operator.resources.difference import differs
from feedback_operator.resources.http_route import build_http_route, canary_weight, is_accepted
from feedback_operator.resources.networkpolicy import build_endpoint_policy
from feedback_operator.resources.service import build_service

Builder = Callable[[Serving], Manifest]

ROUTE_LOOKED_AT: Final = timedelta(seconds=10)
"""Routes are not watched: how often one is looked at that has to change before anything else does."""


@dataclass(frozen=True)
class Trial:
    """What has come of the canary of a revision.

    `status`: None where there is none, and where it failed. `until`: the next moment at which time changes it.
    """

    status: CanaryStatus | None = None
    message: str = ""
    until: datetime | None = None
    failed: bool = False

    @property
    def goes_on(self) -> bool:
        return self.status is not None and not self.status.passed

    @property
    def weight(self) -> int:
        """Percent of the requests that the canary is to have."""
        return self.status.weight if self.status else 0


NO_TRIAL: Final = Trial()


def objects_of(endpoint: Endpoint, name: str) -> dict[str, Manifest]:
    """What there is of an endpoint under this name, by kind."""
    return {made["kind"]: made for made in endpoint.objects if made["metadata"]["name"] == name}


def trial_of(world: Snapshot, endpoint: Endpoint, serving: Serving, before: ServingStatus) -> Trial:
    """How the canary of this revision goes on. There is none where nothing serves that it could be compared with."""
    spec, own = serving.spec.canary, revision(serving)
    if spec is None or own in (before.rolled_back_revision, before.served_revision):
        return NO_TRIAL
    recorded = before.canary if before.canary and before.canary.revision == own else None
    if recorded and recorded.passed:
        return Trial(recorded)
    at_work = Rollout.of(objects_of(endpoint, serving.name).get("Deployment"))
    if at_work.wanted == 0 or at_work.revision == own:
        return NO_TRIAL
    beside = objects_of(endpoint, replace(serving, canary=True).object_name).get("Deployment")
    return _Trial(world, endpoint, serving, spec, Rollout.of(beside), recorded).next()


@dataclass(frozen=True)
class _Trial:
    """A canary that goes on. `recorded`: what the status says of it, None before it has begun."""

    world: Snapshot
    endpoint: Endpoint
    serving: Serving
    spec: CanarySpec
    rollout: Rollout
    recorded: CanaryStatus | None

    def next(self) -> Trial:
        if self.recorded is None or (self.recorded.step and self.rollout.revision != self._own):
            return self._of_start(CanaryStatus(revision=self._own, since=timestamp(self.world.now)))
        return self._of_step(self.recorded) if self.recorded.step else self._of_start(self.recorded)

    @property
    def _own(self) -> str:
        return revision(self.serving)

    def _of_start(self, status: CanaryStatus) -> Trial:
        """Before it is given any requests: its pods have to be ready, and a gateway has to have taken the route."""
        route = objects_of(self.endpoint, self.serving.name).get("HTTPRoute")
        ready, accepted = self.rollout.completes(self._own), is_accepted(route)
        if ready and accepted:
            return self._at(1)
        if self._is_late(status):
            return self._failed(
                f"no gateway accepted HTTPRoute {self.serving.name} within"
                if ready
                else f"the canary's pods of revision {self._own} did not become ready within",
                f" spec.serving.progressDeadlineSeconds ({self.serving.spec.progress_deadline_seconds})",
            )
        pods = f"{self.rollout.ready if self.rollout.revision == self._own else 0}/{self.spec.replicas} pods are ready"
        waits = f"waits until a gateway accepts HTTPRoute {self.serving.name}" if ready else pods
        message = f"canary of revision {self._own} begins: {waits}{what_pods_say(self.endpoint.canary_pods)}"
        return Trial(status, message, self.world.now + ROUTE_LOOKED_AT if ready else self._deadline(status))

    def _of_step(self, status: CanaryStatus) -> Trial:
        if self.rollout.observed and self.rollout.ready == 0:
            return self._failed(f"no pod of the canary of revision {self._own} was ready in step {status.step}")
        if status.step > len(self.spec.steps):
            return self._passed(status)
        step = self.spec.steps[status.step - 1]
        until = (moment_of(status.since) or self.world.now) + timedelta(seconds=step.seconds)
        if self.world.iteration.spec.suspend:
            return self._in_step(status, f"{self._told(status)}; it stays there while spec.suspend is true", None)
        if self.world.now < until:
            return self._in_step(status, f"{self._told(status)} until {timestamp(until)}", until)
        return self._at(status.step + 1) if status.step < len(self.spec.steps) else self._passed(status)

    def _at(self, number: int) -> Trial:
        """At the beginning of a step."""
        return self._of_step(CanaryStatus(revision=self._own, step=number, since=timestamp(self.world.now)))

    def _in_step(self, status: CanaryStatus, message: str, until: datetime | None) -> Trial:
        weight = self.spec.steps[status.step - 1].weight
        return Trial(status.model_copy(update={"weight": weight}), message, until)

    def _told(self, status: CanaryStatus) -> str:
        weight, count = self.spec.steps[status.step - 1].weight, len(self.spec.steps)
        return f"canary of revision {self._own}, step {status.step} of {count}: {weight}% of the requests"

    def _passed(self, status: CanaryStatus) -> Trial:
        return Trial(status.model_copy(update={"passed": True}))

    def _failed(self, *why: str) -> Trial:
        remedy = "it gets no more requests, and what served before goes on; correct spec.serving"
        return Trial(message=f"{''.join(why)}{what_pods_say(self.endpoint.canary_pods)}; {remedy}", failed=True)

    def _deadline(self, status: CanaryStatus) -> datetime:
        since = moment_of(status.since) or self.world.now
        return since + timedelta(seconds=self.serving.spec.progress_deadline_seconds)

    def _is_late(self, status: CanaryStatus) -> bool:
        """Pods that no node takes say nothing of the revision, and have their whole time to load once one does."""
        pods, seconds = self.endpoint.canary_pods, self.serving.spec.progress_deadline_seconds
        late = self._deadline(status) <= self.world.now
        return late and not lacks_a_node(pods) and loads_until(pods, seconds, self.world.now) is None


# ── its objects ──────────────────────────────────────────────────────────────────────────────────────────────────────


def canary_objects(world: Snapshot, endpoint: Endpoint, serving: Serving) -> list[Manifest]:
    """What a canary that goes on needs besides its route, as far as it is not there. It goes with its iteration."""
    replicas = serving.spec.canary.replicas if serving.spec.canary else 0
    return _unlike(world, endpoint, _beside(serving, replicas), build_service, build_endpoint_policy, build_deployment)


def ended_objects(world: Snapshot, endpoint: Endpoint, serving: Serving, weight: int) -> list[Manifest]:
    """What ends a canary that this iteration has made, once it is given no more requests: its pods go.

    `weight`: what the route gives it, as far as this iteration decides.
    """
    there = objects_of(endpoint, replace(serving, canary=True).object_name).get("Deployment")
    if there is None or weight or not is_held_by(there, serving.owner.uid) or there["spec"].get("replicas") == 0:
        return []
    return _unlike(world, endpoint, _beside(serving, 0), build_deployment)


def route_of(world: Snapshot, endpoint: Endpoint, serving: Serving, weight: int) -> list[Manifest]:
    """The route with this weight for the canary, if it is not so. Without spec.serving.canary one that is there goes on
    as it is, with all requests for the endpoint."""
    there = objects_of(endpoint, serving.name).get("HTTPRoute")
    wanted = build_http_route(serving, weight, there)
    if wanted is None:
        return []
    wanted = world.house.followed(wanted, serving.owner)
    return [wanted] if differs(wanted, there) else []


def weight_at_work(endpoint: Endpoint, serving: Serving) -> int:
    """What the route that is there gives to a canary."""
    return canary_weight(objects_of(endpoint, serving.name).get("HTTPRoute"), serving)


def _beside(serving: Serving, replicas: int) -> Serving:
    spec = serving.spec.model_copy(update={"replicas": replicas})
    return replace(serving, canary=True, co_owners=(), spec=spec)


def _unlike(world: Snapshot, endpoint: Endpoint, serving: Serving, *builders: Builder) -> list[Manifest]:
    there = objects_of(endpoint, serving.object_name)
    made = [world.house.followed(build(serving), serving.owner) for build in builders]
    return [manifest for manifest in made if differs(manifest, there.get(manifest["kind"]))]


def is_held_by(made: Manifest, uid: str) -> bool:
    """The iteration of this uid is the object's controller."""
    owners = made["metadata"].get("ownerReferences", ())
    return any(owner.get("controller") and owner["uid"] == uid for owner in owners)
