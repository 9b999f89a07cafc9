"""An endpoint in the hands of its claimants, in a namespace that does what plans say."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from feedback_operator.api import FeedbackIteration
from feedback_operator.plan.endpoint import claimants, holder
from feedback_operator.plan.planner import Plan, plan
from feedback_operator.plan.snapshot import Claimant, Endpoint, Pod, Snapshot
from feedback_operator.resources import FIELD_MANAGER
from feedback_operator.resources.deployment import REVISION_ANNOTATION
from tests.unit.worlds import IMAGES, NOW, Simulation, promoted, with_metadata

SERVING = {"serving": {"endpoint": "chat", "replicas": 2}}
SCALABLE = {"serving": {"endpoint": "chat"}}
APPLIED = {"manager": FIELD_MANAGER, "operation": "Apply", "fieldsV1": {"f:spec": {"f:replicas": {}}}}
SCALED = {**APPLIED, "manager": "kube-controller-manager", "operation": "Update"}
LATER = NOW + timedelta(hours=1)
"""When the namespace is looked at."""

ONE = {"replicas": 1, "updatedReplicas": 1, "readyReplicas": 1, "availableReplicas": 1}
READY = {"replicas": 2, "updatedReplicas": 2, "readyReplicas": 2, "availableReplicas": 2}
HALF = {"replicas": 3, "updatedReplicas": 1, "readyReplicas": 2, "availableReplicas": 2}


@dataclass
class Namespace:
    """Promoted iterations and the objects of one endpoint."""

    image: str = IMAGES["generate"]
    """The operator's own for servers."""
    iterations: dict[str, FeedbackIteration] = field(default_factory=dict)
    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    pods: tuple[Pod, ...] = ()
    refused: set[str] = field(default_factory=set)
    """Kinds that the API server does not let the operator make."""

    def add(self, name: str, **spec: Any) -> None:
        """One iteration more, newer than all before."""
        number = len(self.iterations)
        found = promoted(name, f"u-{number}", NOW + timedelta(minutes=number), **{**SERVING, **spec})
        self.iterations[name] = found

    def plan(self, name: str) -> Plan:
        """Plan for one iteration and carry it out."""
        iteration = self.iterations[name]
        observed = Endpoint(tuple(self.objects.values()), claimants(self.iterations.values(), "chat"), self.pods)
        world = Snapshot(iteration, (), LATER, endpoint=observed)
        decided = plan(world, {**IMAGES, "generate": self.image})
        for wanted in decided.apply:
            if wanted["kind"] not in self.refused:
                self._apply(wanted)
        self.iterations[name] = iteration.model_copy(update={"status": decided.status})
        return decided

    def _apply(self, wanted: dict[str, Any]) -> None:
        before = self.objects.get(wanted["kind"], {"metadata": {"generation": 0}, "spec": {}})
        made = copy.deepcopy(wanted)
        made["metadata"]["generation"] = before["metadata"]["generation"] + 1
        made["status"] = before.get("status", {})
        if made["kind"] == "Deployment":
            _apply_replicas(made, before)
        self.objects[wanted["kind"]] = made

    def scale(self, replicas: int) -> None:
        """What an autoscaler does."""
        deployment = self.objects["Deployment"]
        deployment["metadata"]["generation"] += 1
        deployment["metadata"]["managedFields"] = [SCALED]
        deployment["spec"]["replicas"] = replicas

    @property
    def replicas(self) -> int:
        return int(self.objects["Deployment"]["spec"]["replicas"])

    def settle(self) -> None:
        """Plan until nothing changes."""
        for _ in range(5):
            before = copy.deepcopy((self.iterations, self.objects))
            for name in self.iterations:
                self.plan(name)
            if (self.iterations, self.objects) == before:
                return
        raise AssertionError("it does not settle")

    def deployment(self, progress: str = "NewReplicaSetAvailable", **numbers: int) -> None:
        """What the Deployment controller reports of the latest generation."""
        deployment = self.objects["Deployment"]
        conditions = [{"type": "Progressing", "reason": progress, "status": "True"}]
        generation = deployment["metadata"]["generation"]
        deployment["status"] = {"observedGeneration": generation, "conditions": conditions, **numbers}

    def served_by(self) -> str:
        metadata = self.objects["Deployment"]["metadata"]
        (owner,) = (reference["name"] for reference in metadata["ownerReferences"] if reference["controller"])
        return str(owner)

    def edit(self, name: str, **serving: Any) -> None:
        simulation = Simulation(self.iterations[name])
        simulation.edit(serving={**SERVING["serving"], **serving})
        self.iterations[name] = simulation.iteration

    def serves_with(self) -> str:
        """The server's image."""
        (container,) = self.objects["Deployment"]["spec"]["template"]["spec"]["containers"]
        return str(container["image"])

    def forget_images(self) -> None:
        """Statuses as they were before images were recorded."""
        for name, iteration in self.iterations.items():
            assert iteration.status.promoted is not None
            promoted = iteration.status.promoted.model_copy(update={"image": ""})
            status = iteration.status.model_copy(update={"promoted": promoted})
            self.iterations[name] = iteration.model_copy(update={"status": status})

    def told(self, name: str, kind: str = "Serving") -> tuple[str, str, str]:
        return Simulation(self.iterations[name]).told(kind)


def _apply_replicas(made: dict[str, Any], before: dict[str, Any]) -> None:
    """As server-side apply does it: what is applied is ours; what was ours and is not applied gets its default."""
    set_by = before["metadata"].get("managedFields", [])
    if "replicas" in made["spec"]:
        made["metadata"]["managedFields"] = [APPLIED]
    elif APPLIED in set_by:
        made["spec"]["replicas"] = 1
    else:
        made["metadata"]["managedFields"] = set_by
        made["spec"]["replicas"] = before["spec"].get("replicas", 1)


@pytest.fixture
def namespace() -> Namespace:
    """One iteration that holds the endpoint and serves."""
    made = Namespace()
    made.add("first")
    made.settle()
    made.deployment(**READY)
    made.settle()
    return made


def test_a_promoted_iteration_makes_its_endpoint_and_is_ready_once_it_serves() -> None:
    namespace = Namespace()
    namespace.add("first")
    decided = namespace.plan("first")
    assert [made["kind"] for made in decided.apply] == [
        "Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy",
    ]  # fmt: skip
    namespace.settle()
    assert namespace.told("first")[:2] == ("False", "RollingOut")
    assert namespace.told("first", "Reconciling")[:2] == ("True", "RollingOut")
    namespace.deployment(**READY)
    namespace.settle()
    assert namespace.told("first")[:2] == ("True", "Serving")
    assert namespace.told("first", "Ready")[0] == "True"
    serving = namespace.iterations["first"].status.serving
    assert serving is not None
    assert (serving.endpoint, serving.replicas, serving.ready_replicas) == ("chat", 2, 2)
    assert namespace.plan("first").apply == ()


def test_a_newer_promoted_iteration_takes_over_and_the_older_stays_ready(namespace: Namespace) -> None:
    namespace.add("second")
    namespace.settle()
    assert namespace.served_by() == "second"
    namespace.deployment("ReplicaSetUpdated", **HALF)
    namespace.settle()
    assert namespace.told("first")[:2] == ("False", "Superseded")
    assert namespace.told("first", "Ready")[0] == "True"
    assert namespace.told("second")[1] == "RollingOut"
    namespace.deployment(**READY)
    namespace.settle()
    assert namespace.told("second")[:2] == ("True", "Serving")


def test_a_gate_that_fails_leaves_the_endpoint_alone(namespace: Namespace) -> None:
    gate = [{"metric": "responseHallucination", "max": "0.1"}]
    evaluation = {"benchmarks": [{"name": "shapes", "type": "shapes", "uri": "s3://b/benchmark"}], "gate": gate}
    namespace.add("second", evaluation=evaluation)
    namespace.settle()
    assert namespace.served_by() == "first"
    assert namespace.told("second")[:2] == ("False", "NotPromoted")
    assert namespace.told("second", "Ready")[0] == "True"
    assert namespace.told("first")[:2] == ("True", "Serving")


def test_pods_that_do_not_become_ready_are_taken_back(namespace: Namespace) -> None:
    before = namespace.objects["Deployment"]["metadata"]["annotations"][REVISION_ANNOTATION]
    namespace.add("second")
    namespace.settle()
    namespace.pods = (Pod(0, reason="ImagePullBackOff", message="no such tag"),)
    namespace.deployment("ProgressDeadlineExceeded", **HALF)
    namespace.settle()
    assert namespace.served_by() == "first"
    assert namespace.objects["Deployment"]["metadata"]["annotations"][REVISION_ANNOTATION] == before
    status, reason, message = namespace.told("second")
    assert (status, reason) == ("False", "RolledBack")
    assert "progressDeadlineSeconds (1800)" in message
    assert "no such tag" in message
    assert namespace.told("second", "Stalled")[:2] == ("True", "RolledBack")
    namespace.pods = ()
    namespace.deployment(**READY)
    namespace.settle()
    assert namespace.told("first")[:2] == ("True", "Serving")
    assert namespace.told("second")[2] == message, "why is still known"


def test_an_edit_gives_what_was_taken_back_another_try(namespace: Namespace) -> None:
    namespace.add("second")
    namespace.settle()
    namespace.deployment("ProgressDeadlineExceeded", **HALF)
    namespace.settle()
    namespace.edit("second", bestOf=2)
    namespace.settle()
    assert namespace.served_by() == "second"
    assert namespace.told("second")[1] == "RollingOut"


@pytest.fixture
def succession(namespace: Namespace) -> Namespace:
    """Two iterations, the newer of which serves."""
    namespace.add("second")
    namespace.settle()
    namespace.deployment(**READY)
    namespace.settle()
    assert namespace.told("second")[:2] == ("True", "Serving")
    return namespace


def test_an_upgrade_of_the_operator_rolls_no_endpoint(succession: Namespace) -> None:
    before = copy.deepcopy(succession.objects)
    succession.image = "generate:upgraded"
    succession.settle()
    assert succession.objects == before
    assert succession.told("second")[:2] == ("True", "Serving")


def test_an_upgrade_from_a_version_that_recorded_no_image_rolls_no_endpoint(succession: Namespace) -> None:
    before = copy.deepcopy(succession.objects)
    succession.forget_images()
    succession.image = "generate:upgraded"
    succession.settle()
    assert succession.objects == before
    assert [one.status.promoted.image for one in succession.iterations.values() if one.status.promoted] == [
        "generate:upgraded", "generate:test",
    ], "of the first one no pods tell"  # fmt: skip


def test_an_image_that_is_asked_for_is_not_taken_for_the_operators_own(namespace: Namespace) -> None:
    namespace.edit("first", pod={"image": "mine:1"})
    namespace.settle()
    namespace.forget_images()
    namespace.settle()
    namespace.edit("first")
    namespace.settle()
    assert namespace.serves_with() == "generate:test"


def test_an_edit_of_the_image_goes_before_what_was_recorded(succession: Namespace) -> None:
    succession.edit("second", pod={"image": "mine:1"})
    succession.settle()
    assert succession.serves_with() == "mine:1"


def test_the_next_model_is_served_with_the_image_of_the_operator_that_promotes_it(namespace: Namespace) -> None:
    namespace.image = "generate:upgraded"
    namespace.add("second")
    recorded = namespace.iterations["second"].status
    assert recorded.promoted is not None
    assert recorded.promoted.image == "generate:test"
    status = recorded.model_copy(update={"promoted": recorded.promoted.model_copy(update={"sha256": "f" * 64})})
    namespace.iterations["second"] = namespace.iterations["second"].model_copy(update={"status": status})
    namespace.settle()
    assert namespace.serves_with() == "generate:upgraded"


def test_an_older_model_does_not_take_over_from_one_that_has_served(succession: Namespace) -> None:
    """An edit whose pods do not come up: what served goes on, until they do."""
    succession.edit("second", bestOf=8)
    succession.settle()
    succession.pods = (Pod(0, reason="CrashLoopBackOff", message="back-off 5m0s"),)
    succession.deployment("ProgressDeadlineExceeded", **HALF)
    succession.settle()
    assert succession.served_by() == "second"
    assert succession.told("second")[:2] == ("False", "RolledBack")
    assert succession.told("second", "Stalled")[:2] == ("True", "RolledBack")
    assert "no older iteration takes over" in succession.told("second")[2]
    assert "CrashLoopBackOff back-off 5m0s" in succession.told("second")[2]
    assert succession.told("first")[1] == "Superseded"
    succession.pods = ()
    succession.edit("second", bestOf=8, replicas=3)
    succession.settle()
    assert (succession.replicas, succession.told("second")[1]) == (3, "RolledBack"), "it is still in charge"
    succession.deployment(**dict.fromkeys(READY, 3))
    succession.settle()
    assert succession.told("second")[:2] == ("True", "Serving")


def test_a_missing_gpu_brings_no_older_model_back(namespace: Namespace) -> None:
    """Though the newest has never served: its pods wait for a node, and then have their whole time to load."""
    namespace.add("second")
    namespace.settle()
    namespace.pods = (Pod(0, reason="Unschedulable", message="0/1 nodes are available: 1 Insufficient nvidia.com/gpu"),)
    namespace.deployment("ReplicaSetUpdated", **HALF)
    namespace.settle()
    assert namespace.told("second")[:2] == ("False", "RollingOut")
    namespace.deployment("ProgressDeadlineExceeded", **HALF)
    namespace.settle()
    assert namespace.served_by() == "second"
    status, reason, message = namespace.told("second", "Stalled")
    assert (status, reason) == ("True", "Unschedulable")
    assert "1 Insufficient nvidia.com/gpu" in message
    assert "set spec.serving.maxSurge to 0 and spec.serving.maxUnavailable to 1" in message
    assert namespace.told("first")[1] == "Superseded"
    placed = LATER - timedelta(seconds=1799)
    namespace.pods = (Pod(0, running=True, since=placed),)
    assert namespace.plan("second").wake_at == placed + timedelta(seconds=1800)
    namespace.settle()
    assert (namespace.served_by(), namespace.told("second")[1]) == ("second", "RollingOut")
    namespace.deployment(**READY)
    namespace.settle()
    assert namespace.told("second")[:2] == ("True", "Serving")


def test_pods_that_found_their_node_late_and_do_not_become_ready_in_their_time_are_taken_back(
    namespace: Namespace,
) -> None:
    namespace.add("second")
    namespace.settle()
    namespace.deployment("ProgressDeadlineExceeded", **HALF)
    namespace.pods = (Pod(0, running=True, since=LATER - timedelta(seconds=1800)),)
    namespace.settle()
    assert (namespace.served_by(), namespace.told("second")[1]) == ("first", "RolledBack")


@pytest.mark.parametrize("kind", ["Service", "PodDisruptionBudget", "NetworkPolicy"])
def test_nobody_is_told_that_it_serves_while_no_service_leads_to_its_pods(namespace: Namespace, kind: str) -> None:
    del namespace.objects[kind]
    namespace.refused = {kind}
    namespace.settle()
    if kind == "Service":
        assert namespace.told("first")[:2] == ("False", "Unavailable")
        assert "no Service chat leads to them" in namespace.told("first")[2]
        assert namespace.told("first", "Ready")[0] == "False"
    else:
        assert namespace.told("first")[:2] == ("True", "Serving")
    namespace.refused = set()
    namespace.plan("first")
    namespace.plan("first")
    assert namespace.told("first")[:2] == ("True", "Serving")


def test_a_service_that_leads_elsewhere_is_no_service(namespace: Namespace) -> None:
    namespace.objects["Service"]["spec"]["selector"] = {"app": "shop"}
    decided = namespace.plan("first")
    assert [made["kind"] for made in decided.apply] == ["Service"]
    assert namespace.told("first")[:2] == ("False", "Unavailable")
    namespace.plan("first")
    assert namespace.told("first")[:2] == ("True", "Serving")


def take_second_back(namespace: Namespace) -> None:
    """A second iteration's pods do not get ready in time, and those of the first are there again."""
    namespace.add("second")
    namespace.settle()
    namespace.deployment("ProgressDeadlineExceeded", **HALF)
    namespace.settle()
    namespace.deployment(**READY)
    namespace.settle()


def test_an_edit_of_what_is_no_part_of_the_pods_flaps_nothing(namespace: Namespace) -> None:
    """Not even in the moment in which it was not looked at yet."""
    take_second_back(namespace)
    before = copy.deepcopy(namespace.iterations["first"].status)
    simulation = Simulation(namespace.iterations["second"])
    simulation.edit(serving=SERVING["serving"], ttlSecondsAfterFinished=60)
    namespace.iterations["second"] = simulation.iteration
    assert namespace.plan("first").apply == ()
    assert namespace.iterations["first"].status == before
    namespace.settle()
    assert namespace.told("second")[1] == "RolledBack"


def test_without_a_spare_gpu_a_pod_may_go_before_the_next_one_comes(namespace: Namespace) -> None:
    namespace.edit("first", maxSurge=0, maxUnavailable=1)
    (deployment,) = namespace.plan("first").apply
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    namespace.settle()
    namespace.deployment(**READY)
    namespace.settle()
    assert namespace.told("first")[:2] == ("True", "Serving"), "that changes no pods"


def test_an_edit_that_changes_no_pods_does_not_bring_back_what_was_taken_back(namespace: Namespace) -> None:
    take_second_back(namespace)
    before = copy.deepcopy(namespace.objects["Deployment"]["spec"])
    namespace.edit("second", replicas=5)
    namespace.settle()
    assert namespace.objects["Deployment"]["spec"] == before
    assert namespace.served_by() == "first"
    assert namespace.told("first")[:2] == ("True", "Serving")


def test_with_nobody_to_fall_back_to_the_pods_may_still_come_up() -> None:
    namespace = Namespace()
    namespace.add("first")
    namespace.settle()
    namespace.deployment("ProgressDeadlineExceeded", **HALF)
    namespace.settle()
    assert namespace.told("first")[:2] == ("False", "RolledBack")
    assert namespace.plan("first").apply == ()
    namespace.deployment(**READY)
    namespace.settle()
    assert namespace.told("first")[:2] == ("True", "Serving")


def test_a_revision_that_has_served_is_not_taken_back(namespace: Namespace) -> None:
    namespace.deployment("ProgressDeadlineExceeded", **{**READY, "readyReplicas": 1, "availableReplicas": 1})
    namespace.settle()
    assert namespace.told("first")[:2] == ("True", "Serving")
    namespace.deployment("ProgressDeadlineExceeded", replicas=2, updatedReplicas=2)
    namespace.settle()
    assert namespace.told("first")[:2] == ("False", "Unavailable")
    assert namespace.told("first", "Ready")[0] == "False"


def test_when_the_holder_is_deleted_the_next_one_serves_and_the_objects_outlive_it(namespace: Namespace) -> None:
    namespace.add("second")
    namespace.settle()
    owners = namespace.objects["Deployment"]["metadata"]["ownerReferences"]
    assert {owner["name"]: owner["controller"] for owner in owners} == {"second": True, "first": False}
    namespace.iterations["second"] = with_metadata(namespace.iterations["second"], deletion_timestamp="2026-01-01")
    namespace.settle()
    assert namespace.served_by() == "first"
    del namespace.iterations["second"]
    namespace.settle()
    owners = namespace.objects["Deployment"]["metadata"]["ownerReferences"]
    assert [owner["name"] for owner in owners] == ["first"]


def test_an_edited_holder_goes_on_serving_while_it_trains_anew(namespace: Namespace) -> None:
    simulation = Simulation(namespace.iterations["first"])
    simulation.edit(training={"beta": "0.5"})
    namespace.iterations["first"] = simulation.iteration
    deployment = copy.deepcopy(namespace.objects["Deployment"])
    namespace.plan("first")
    namespace.plan("first")
    assert namespace.objects["Deployment"] == deployment
    assert namespace.told("first")[:2] == ("True", "Serving")
    assert namespace.told("first", "Promoted")[0] == "Unknown"


@pytest.mark.parametrize("kind", ["Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"])
def test_what_somebody_deletes_or_changes_is_mended(namespace: Namespace, kind: str) -> None:
    del namespace.objects[kind]
    assert [made["kind"] for made in namespace.plan("first").apply] == [kind]
    assert namespace.plan("first").apply == ()


def test_replicas_may_be_edited_without_a_rollout(namespace: Namespace) -> None:
    namespace.edit("first", replicas=4)
    (deployment,) = namespace.plan("first").apply
    assert deployment["spec"]["replicas"] == 4
    namespace.edit("first", replicas=0)
    namespace.plan("first")
    namespace.deployment(replicas=0)
    namespace.settle()
    assert namespace.told("first") == ("False", "ScaledToZero", "spec.serving.replicas is 0")
    assert namespace.told("first", "Ready")[0] == "True"
    namespace.edit("first", replicas=None)
    namespace.settle()
    assert namespace.replicas == 1


def test_the_number_of_an_autoscaler_outlives_take_overs() -> None:
    namespace = Namespace()
    namespace.add("first", **SCALABLE)
    namespace.settle()
    assert namespace.replicas == 1
    namespace.deployment(**ONE)
    namespace.settle()
    namespace.scale(3)
    namespace.settle()
    assert namespace.told("first")[:2] == ("True", "Serving"), "before the Deployment controller has seen it, too"
    assert namespace.told("first")[2].startswith("1/3 pods")
    namespace.add("second", **SCALABLE)
    namespace.settle()
    assert (namespace.served_by(), namespace.replicas) == ("second", 3)
    namespace.scale(0)
    namespace.deployment(replicas=0)
    namespace.settle()
    assert namespace.told("second")[1:] == (
        "ScaledToZero", "Deployment chat is scaled to 0; scale it up, or give spec.serving.replicas",
    )  # fmt: skip


def test_a_number_that_is_not_given_any_more_stays_until_somebody_scales(namespace: Namespace) -> None:
    namespace.edit("first", replicas=None)
    assert namespace.plan("first").apply == ()
    namespace.add("second", **SCALABLE)
    namespace.settle()
    assert (namespace.served_by(), namespace.replicas) == ("second", 2)
    namespace.scale(5)
    assert namespace.plan("second").apply == ()
    namespace.edit("second", replicas=4)
    namespace.settle()
    namespace.scale(5)
    namespace.settle()
    assert namespace.replicas == 4, "a number that is given holds"
    namespace.edit("second", replicas=None, bestOf=2)
    namespace.settle()
    assert namespace.replicas == 4


def test_who_gets_the_endpoint_back_serves_once_its_own_pods_are_seen(namespace: Namespace) -> None:
    namespace.add("second")
    namespace.settle()
    namespace.deployment(**READY)
    namespace.settle()
    del namespace.iterations["second"]
    namespace.settle()
    assert namespace.told("first")[:2] == ("False", "RollingOut"), "the ready pods are those of the second"
    namespace.deployment(**READY)
    namespace.settle()
    assert namespace.told("first")[:2] == ("True", "Serving")


def test_a_status_of_another_version_does_not_make_an_iteration_invalid(namespace: Namespace) -> None:
    written = namespace.iterations["first"].model_dump(mode="json", by_alias=True, exclude_none=True)
    written["status"]["serving"]["rolledBackGeneration"] = 1
    assert FeedbackIteration.model_validate(written) == namespace.iterations["first"]


@pytest.mark.parametrize(
    ("claims", "expect"),
    [
        pytest.param([], None, id="nobody"),
        pytest.param([("a", "1", False), ("b", "2", False)], "b", id="the newest"),
        pytest.param([("a", "1", False), ("b", "1", False)], "b", id="of one moment the last by name"),
        pytest.param([("a", "1", False), ("b", "2", True)], "a", id="not the one that yields"),
        pytest.param([("a", "1", True), ("b", "2", True)], None, id="all yield"),
    ],
)
def test_holder(claims: list[tuple[str, str, bool]], expect: str | None) -> None:
    found = [Claimant(name, name, created, yields) for name, created, yields in claims]
    newest_first = sorted(found, key=lambda claim: (claim.created, claim.name), reverse=True)
    held_by = holder(newest_first)
    assert (held_by.name if held_by else None) == expect
