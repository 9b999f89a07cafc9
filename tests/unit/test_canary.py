"""A canary beside what serves: who is given which share of the requests, and what becomes of it."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from feedback_operator.api import FeedbackIteration, ServingSpec
from feedback_operator.plan.endpoint import claimants, has_canaries
from feedback_operator.plan.planner import Plan, plan
from feedback_operator.plan.snapshot import Endpoint, Pod, Snapshot
from tests.unit.worlds import IMAGES, NOW, Simulation, promoted, with_metadata

MAIN, BESIDE = ("Deployment", "chat"), ("Deployment", "chat-canary")
ROUTE = ("HTTPRoute", "chat")
STEPS = [{"weight": 10, "seconds": 600}, {"weight": 50, "seconds": 1200}]
CANARY = {"gateways": [{"name": "public", "namespace": "gateways"}], "steps": STEPS}
OTHER_PODS: dict[str, Any] = {"pod": {"env": [{"name": "A", "value": "b"}]}}
ACCEPTED = {"parents": [{"conditions": [{"type": "Accepted", "status": "True"}]}]}


@dataclass
class Namespace:
    """Promoted iterations, and the objects of one endpoint, by kind and name."""

    now: datetime = NOW + timedelta(hours=1)
    iterations: dict[str, FeedbackIteration] = field(default_factory=dict)
    objects: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    canary_pods: tuple[Pod, ...] = ()
    gateway: bool = True
    """It takes what routes it is given."""

    def add(self, name: str, **serving: Any) -> None:
        """One iteration more, newer than all before."""
        number = len(self.iterations)
        asked = {"endpoint": "chat", "replicas": 2, **serving}
        self.iterations[name] = promoted(name, f"u-{name}", NOW + timedelta(minutes=number), serving=asked)

    def delete(self, name: str) -> None:
        """What it alone owns goes with it."""
        uid = self.iterations.pop(name).metadata.uid
        for key, made in list(self.objects.items()):
            made["metadata"]["ownerReferences"] = [
                owner for owner in made["metadata"]["ownerReferences"] if owner["uid"] != uid
            ]
            if not made["metadata"]["ownerReferences"]:
                del self.objects[key]

    def plan(self, name: str) -> Plan:
        """Plan for one iteration and carry it out."""
        iteration = self.iterations[name]
        there = tuple(self.objects.values())
        if not has_canaries(self.iterations.values(), there, "chat"):
            there = tuple(made for made in there if made["kind"] != "HTTPRoute")
        observed = Endpoint(there, claimants(self.iterations.values(), "chat"), (), self.canary_pods)
        decided = plan(Snapshot(iteration, (), self.now, endpoint=observed), IMAGES)
        for wanted in decided.apply:
            self._apply(wanted)
        self.iterations[name] = iteration.model_copy(update={"status": decided.status})
        return decided

    def _apply(self, wanted: dict[str, Any]) -> None:
        key = (wanted["kind"], wanted["metadata"]["name"])
        before = self.objects.get(key, {"metadata": {"generation": 0}})
        made = copy.deepcopy(wanted)
        made["metadata"]["generation"] = before["metadata"]["generation"] + 1
        made["status"] = before.get("status", {})
        if key == ROUTE and self.gateway:
            made["status"] = ACCEPTED
        self.objects[key] = made

    def settle(self) -> None:
        """Plan until nothing changes."""
        for _ in range(8):
            before = copy.deepcopy((self.iterations, self.objects))
            for name in list(self.iterations):
                self.plan(name)
            if (self.iterations, self.objects) == before:
                return
        raise AssertionError("it does not settle")

    def report(self, key: tuple[str, str], ready: int | None = None) -> None:
        """What the Deployment controller says: all pods are of the latest revision, and so many are ready."""
        deployment = self.objects[key]
        wanted = deployment["spec"].get("replicas", 1)
        number = wanted if ready is None else ready
        deployment["status"] = {
            "observedGeneration": deployment["metadata"]["generation"],
            "replicas": wanted,
            "updatedReplicas": wanted,
            "readyReplicas": number,
            "availableReplicas": number,
            "conditions": [{"type": "Progressing", "reason": "NewReplicaSetAvailable", "status": "True"}],
        }

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        self.settle()

    def edit(self, name: str, **changes: Any) -> None:
        """Give other values to fields of spec.serving; None takes one out."""
        iteration = self.iterations[name]
        assert iteration.spec.serving is not None
        dumped = iteration.spec.serving.model_dump(by_alias=True, exclude_unset=True)
        wanted = {key: value for key, value in {**dumped, **changes}.items() if value is not None}
        spec = iteration.spec.model_copy(update={"serving": ServingSpec.model_validate(wanted)})
        generation = iteration.metadata.generation + 1
        self.iterations[name] = with_metadata(iteration.model_copy(update={"spec": spec}), generation=generation)

    def suspend(self, name: str, suspend: bool) -> None:
        iteration = self.iterations[name]
        spec = iteration.spec.model_copy(update={"suspend": suspend})
        self.iterations[name] = iteration.model_copy(update={"spec": spec})

    @property
    def weights(self) -> dict[str, int]:
        """What the route gives to whom."""
        (rule,) = self.objects[ROUTE]["spec"]["rules"]
        return {backend["name"]: backend["weight"] for backend in rule["backendRefs"]}

    def pods_of(self, key: tuple[str, str]) -> tuple[str, int]:
        """Whose pods they are, and how many there are to be."""
        made = self.objects[key]
        labels = made["spec"]["template"]["metadata"]["labels"]
        return labels["app.kubernetes.io/instance"], made["spec"]["replicas"]

    def told(self, name: str, kind: str = "Serving") -> tuple[str, str, str]:
        return Simulation(self.iterations[name]).told(kind)


@pytest.fixture
def namespace() -> Namespace:
    """An iteration that serves, and a newer one that wants a canary first."""
    found = Namespace()
    found.add("old")
    found.settle()
    found.report(MAIN)
    found.settle()
    found.add("new", canary=CANARY)
    found.settle()
    return found


@pytest.fixture
def at_work(namespace: Namespace) -> Namespace:
    """The same, with the canary in its first step."""
    namespace.report(BESIDE)
    namespace.settle()
    return namespace


def test_a_canary_is_given_nothing_until_it_is_ready(namespace: Namespace) -> None:
    assert (namespace.pods_of(MAIN), namespace.pods_of(BESIDE)) == (("old", 2), ("new", 1))
    assert namespace.weights == {"chat": 100}
    assert namespace.told("new")[:2] == ("False", "Canary")
    assert "0/1 pods are ready" in namespace.told("new")[2]
    assert namespace.told("new", "Reconciling")[:2] == ("True", "Canary")
    assert namespace.told("old")[:2] == ("True", "Serving"), "the older one holds the endpoint meanwhile"
    assert namespace.objects[ROUTE]["spec"]["parentRefs"] == [{"name": "public", "namespace": "gateways"}]


def test_pods_of_a_canary_are_none_of_the_endpoints_and_have_its_models_name(namespace: Namespace) -> None:
    main, beside = namespace.objects[MAIN]["spec"], namespace.objects[BESIDE]["spec"]
    assert main["selector"]["matchLabels"] == namespace.objects[("Service", "chat")]["spec"]["selector"]
    assert beside["selector"]["matchLabels"] == namespace.objects[("Service", "chat-canary")]["spec"]["selector"]
    assert main["selector"] != beside["selector"]
    (container,) = beside["template"]["spec"]["containers"]
    assert "--model-name=chat" in container["args"]


def test_step_by_step_it_is_given_more_and_then_takes_over(at_work: Namespace) -> None:
    assert at_work.weights == {"chat": 90, "chat-canary": 10}
    until = (at_work.now + timedelta(minutes=10)).strftime("%H:%M:%SZ")
    message = at_work.told("new")[2]
    assert "step 1 of 2: 10% of the requests until" in message
    assert message.endswith(until)
    assert at_work.plan("new").wake_at == at_work.now + timedelta(minutes=10)
    at_work.wait(599)
    assert at_work.weights == {"chat": 90, "chat-canary": 10}
    at_work.wait(1)
    assert at_work.weights == {"chat": 50, "chat-canary": 50}
    at_work.wait(1200)
    assert at_work.pods_of(MAIN) == ("new", 2)
    assert at_work.weights == {"chat": 50, "chat-canary": 50}, "until the endpoint's own pods have followed"
    assert at_work.told("new")[:2] == ("False", "RollingOut")
    assert at_work.told("old")[:2] == ("False", "Superseded")
    at_work.report(MAIN)
    at_work.settle()
    assert at_work.told("new")[:2] == ("True", "Serving")
    assert at_work.weights == {"chat": 100}
    assert at_work.pods_of(BESIDE) == ("new", 0)
    assert status_of(at_work, "new").canary is None


def status_of(namespace: Namespace, name: str) -> Any:
    serving = namespace.iterations[name].status.serving
    assert serving is not None
    return serving


def test_a_canary_that_is_not_ready_in_time_is_taken_back_and_the_old_one_serves_on(namespace: Namespace) -> None:
    namespace.wait(1799)
    assert namespace.told("new")[:2] == ("False", "Canary")
    namespace.wait(1)
    status, reason, message = namespace.told("new")
    assert (status, reason) == ("False", "RolledBack")
    assert "did not become ready within spec.serving.progressDeadlineSeconds (1800)" in message
    assert namespace.told("new", "Stalled")[0] == "True"
    assert (namespace.pods_of(MAIN), namespace.pods_of(BESIDE)) == (("old", 2), ("new", 0))
    namespace.wait(86400)
    assert namespace.told("new")[2] == message, "the reason stays"


def test_a_canary_that_no_node_takes_waits(namespace: Namespace) -> None:
    namespace.canary_pods = (Pod(0, reason="Unschedulable", message="0/3 nodes have a GPU"),)
    namespace.wait(86400)
    assert namespace.told("new")[:2] == ("False", "Canary")
    assert "0/3 nodes have a GPU" in namespace.told("new")[2]


def test_a_route_that_no_gateway_takes_moves_no_requests(namespace: Namespace) -> None:
    namespace.objects[ROUTE]["status"] = {}
    namespace.gateway = False
    namespace.report(BESIDE)
    namespace.settle()
    assert "waits until a gateway accepts HTTPRoute chat" in namespace.told("new")[2]
    namespace.wait(1800)
    assert namespace.told("new")[1] == "RolledBack"
    assert "no gateway accepted HTTPRoute chat" in namespace.told("new")[2]


@pytest.mark.parametrize("step", [1, 2])
def test_a_canary_that_gets_lost_in_a_step_gets_no_more_requests(at_work: Namespace, step: int) -> None:
    at_work.wait(600 * (step - 1))
    at_work.report(BESIDE, ready=0)
    at_work.canary_pods = (Pod(0, reason="CrashLoopBackOff", message="back-off 10s"),)
    decided = at_work.plan("new")
    assert [made["kind"] for made in decided.apply] == ["HTTPRoute", "Deployment"], "requests first, and at once"
    at_work.settle()
    assert at_work.weights == {"chat": 100}
    assert (at_work.pods_of(MAIN), at_work.pods_of(BESIDE)) == (("old", 2), ("new", 0))
    status, reason, message = at_work.told("new")
    assert (status, reason) == ("False", "RolledBack")
    assert f"was ready in step {step}: CrashLoopBackOff back-off 10s" in message
    assert at_work.told("old")[:2] == ("True", "Serving")
    at_work.edit("new", **OTHER_PODS)
    at_work.settle()
    assert at_work.told("new")[:2] == ("False", "Canary"), "another revision is another try"


def test_a_suspended_iteration_stays_at_its_step(at_work: Namespace) -> None:
    at_work.suspend("new", suspend=True)
    at_work.wait(86400)
    assert at_work.weights == {"chat": 90, "chat-canary": 10}
    assert "stays there while spec.suspend is true" in at_work.told("new")[2]
    assert at_work.plan("new").wake_at is None
    at_work.suspend("new", suspend=False)
    at_work.settle()
    assert at_work.weights == {"chat": 50, "chat-canary": 50}


def test_an_edit_of_the_steps_holds_at_once(at_work: Namespace) -> None:
    at_work.edit("new", canary={**CANARY, "steps": [{"weight": 25, "seconds": 60}]})
    at_work.settle()
    assert at_work.weights == {"chat": 75, "chat-canary": 25}
    at_work.wait(60)
    assert at_work.pods_of(MAIN) == ("new", 2)


def test_an_edit_of_the_pods_begins_anew(at_work: Namespace) -> None:
    at_work.edit("new", **OTHER_PODS)
    at_work.settle()
    assert at_work.weights == {"chat": 100}
    assert at_work.pods_of(MAIN) == ("old", 2)
    at_work.report(BESIDE)
    at_work.settle()
    assert at_work.weights == {"chat": 90, "chat-canary": 10}


def test_without_its_canary_it_takes_over_at_once(at_work: Namespace) -> None:
    at_work.edit("new", canary=None)
    at_work.settle()
    assert at_work.pods_of(MAIN) == ("new", 2)
    assert at_work.weights == {"chat": 100}
    assert at_work.pods_of(BESIDE) == ("new", 0)


def test_what_has_served_is_tried_beside_itself(namespace: Namespace) -> None:
    """An edit of the pods of an iteration that serves: its own pods from before go on."""
    serve(namespace)
    before = copy.deepcopy(namespace.objects[MAIN])
    namespace.edit("new", **OTHER_PODS)
    namespace.settle()
    assert namespace.told("new")[:2] == ("False", "Canary")
    assert namespace.told("old")[:2] == ("False", "Superseded"), "no older model comes back"
    namespace.report(BESIDE)
    namespace.settle()
    assert namespace.weights == {"chat": 90, "chat-canary": 10}
    namespace.report(BESIDE, ready=0)
    namespace.settle()
    assert namespace.told("new")[:2] == ("False", "RolledBack")
    assert namespace.weights == {"chat": 100}
    assert namespace.objects[MAIN]["spec"] == before["spec"]
    namespace.wait(86400)
    assert namespace.objects[MAIN]["spec"] == before["spec"], "what failed as a canary is not rolled out later"


def serve(namespace: Namespace) -> None:
    """Let the canary pass, and the endpoint follow."""
    namespace.report(BESIDE)
    namespace.settle()
    namespace.wait(600)
    namespace.wait(1200)
    namespace.report(MAIN)
    namespace.settle()
    assert namespace.told("new")[:2] == ("True", "Serving")


def test_the_old_one_is_deleted_in_the_middle_and_its_pods_go_on(at_work: Namespace) -> None:
    at_work.delete("old")
    at_work.settle()
    assert at_work.pods_of(MAIN) == ("old", 2)
    assert at_work.weights == {"chat": 90, "chat-canary": 10}
    at_work.wait(600)
    at_work.wait(1200)
    assert at_work.pods_of(MAIN) == ("new", 2)


def test_the_new_one_is_deleted_in_the_middle_and_nothing_goes_to_it(at_work: Namespace) -> None:
    at_work.delete("new")
    at_work.settle()
    assert BESIDE not in at_work.objects
    assert at_work.told("old")[:2] == ("True", "Serving")


def test_a_newer_canary_goes_before(at_work: Namespace) -> None:
    at_work.add("newest", canary=CANARY)
    at_work.settle()
    assert at_work.told("new")[:2] == ("False", "Superseded")
    assert at_work.pods_of(BESIDE) == ("newest", 1)
    assert at_work.weights == {"chat": 100}
    at_work.wait(1800)
    assert at_work.told("newest")[:2] == ("False", "RolledBack")
    assert at_work.told("new")[:2] == ("False", "Canary"), "the next one is tried anew"
    assert at_work.pods_of(BESIDE) == ("new", 1)


def test_a_newer_iteration_without_a_canary_takes_over_and_the_canary_ends(at_work: Namespace) -> None:
    at_work.add("newest")
    at_work.settle()
    assert at_work.pods_of(MAIN) == ("newest", 2)
    assert at_work.weights == {"chat": 100}
    assert at_work.pods_of(BESIDE) == ("new", 0)
    assert at_work.told("new")[:2] == ("False", "Superseded")


def test_pods_that_fail_after_a_canary_that_passed_bring_the_old_ones_back(at_work: Namespace) -> None:
    at_work.wait(600)
    at_work.wait(1200)
    at_work.report(MAIN, ready=0)
    at_work.objects[MAIN]["status"]["conditions"] = [{"type": "Progressing", "reason": "ProgressDeadlineExceeded"}]
    at_work.settle()
    assert at_work.told("new")[:2] == ("False", "RolledBack")
    assert at_work.pods_of(MAIN) == ("old", 2)
    assert at_work.weights == {"chat": 100}
    assert at_work.pods_of(BESIDE) == ("new", 0)


def test_where_nothing_serves_there_is_no_canary() -> None:
    namespace = Namespace()
    namespace.add("first", canary=CANARY)
    namespace.settle()
    assert namespace.pods_of(MAIN) == ("first", 2)
    assert BESIDE not in namespace.objects
    assert namespace.weights == {"chat": 100}


def test_an_endpoint_that_is_scaled_to_nothing_needs_no_canary(namespace: Namespace) -> None:
    namespace.edit("old", replicas=0)
    namespace.settle()
    assert namespace.pods_of(MAIN)[0] == "new"


def test_an_operator_that_starts_again_goes_on_where_it_was(at_work: Namespace) -> None:
    """All that it knows is in the status and the objects: a plan for the same says the same."""
    at_work.wait(600)
    again = at_work.plan("new")
    assert again.apply == ()
    assert status_of(at_work, "new").canary.step == 2


class Anything(RuleBasedStateMachine):
    """Whatever happens, requests go to pods that were ready, and in the end everything rests."""

    @initialize()
    def start(self) -> None:
        self.namespace = Namespace()
        self.namespace.add("i0")
        self.namespace.settle()
        self.namespace.report(MAIN)
        self.added = 1

    @rule(canary=st.booleans())
    def a_newer_iteration_is_promoted(self, canary: bool) -> None:
        if self.added < 5:
            self.namespace.add(f"i{self.added}", **({"canary": CANARY} if canary else {}))
            self.added += 1

    @rule(data=st.data())
    def one_looks(self, data: st.DataObject) -> None:
        self.namespace.plan(data.draw(st.sampled_from(sorted(self.namespace.iterations))))

    @rule(which=st.sampled_from([MAIN, BESIDE]), ready=st.sampled_from([0, None]))
    def pods_report(self, which: tuple[str, str], ready: int | None) -> None:
        if which in self.namespace.objects:
            self.namespace.report(which, ready)

    @rule(seconds=st.sampled_from([1, 600, 1800]))
    def time_passes(self, seconds: int) -> None:
        self.namespace.now += timedelta(seconds=seconds)

    @rule(
        data=st.data(),
        changes=st.sampled_from(
            [{"canary": CANARY}, {"canary": None}, {"pod": {"env": [{"name": "A", "value": "b"}]}}]
        ),
    )
    def edit(self, data: st.DataObject, changes: dict[str, Any]) -> None:
        self.namespace.edit(data.draw(st.sampled_from(sorted(self.namespace.iterations))), **changes)

    @rule(data=st.data(), suspend=st.booleans())
    def suspend_or_resume(self, data: st.DataObject, suspend: bool) -> None:
        self.namespace.suspend(data.draw(st.sampled_from(sorted(self.namespace.iterations))), suspend)

    @precondition(lambda self: len(self.namespace.iterations) > 1)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        self.namespace.delete(data.draw(st.sampled_from(sorted(self.namespace.iterations))))

    @invariant()
    def shares_are_a_whole(self) -> None:
        if ROUTE in self.namespace.objects:
            assert sum(self.namespace.weights.values()) == 100

    def teardown(self) -> None:
        """All pods get ready, and time passes: the newest iteration that did not fail serves, alone.

        Where each has failed with its last edit, the pods of before the edit go on.
        """
        if not hasattr(self, "namespace"):
            return
        for name in list(self.namespace.iterations):
            self.namespace.suspend(name, suspend=False)
        for _ in range(8):
            self.namespace.settle()
            for key in (MAIN, BESIDE):
                if key in self.namespace.objects:
                    self.namespace.report(key)
            self.namespace.wait(1200)
        states = {name: self.namespace.told(name)[1] for name in self.namespace.iterations}
        assert list(states.values()).count("Serving") == 1 or set(states.values()) == {"RolledBack"}, states
        assert self.namespace.pods_of(MAIN)[1] > 0
        assert set(states.values()) <= {"Serving", "Superseded", "RolledBack"}, states
        if ROUTE in self.namespace.objects:
            assert self.namespace.weights == {"chat": 100}
        if BESIDE in self.namespace.objects:
            assert self.namespace.pods_of(BESIDE)[1] == 0


TestAnything = Anything.TestCase
TestAnything.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
