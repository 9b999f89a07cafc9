"""What whoever runs the operator demands of everything that it makes, and what they have to allow."""

from __future__ import annotations

import pytest
import typer

from feedback_operator.__main__ import capabilities, label_keys
from feedback_operator.plan.snapshot import Endpoint, Pod
from feedback_operator.resources.house_rules import HouseRules
from tests.unit.worlds import Simulation, with_metadata

DEMANDED = HouseRules(inherited_labels=("team", "example.com/cost-center"))
LABELS = {"team": "vision", "example.com/cost-center": "7", "other": "x"}


def labelled(**spec: object) -> Simulation:
    world = Simulation.of(**spec)
    world.iteration = with_metadata(world.iteration, labels=LABELS)
    world.house = DEMANDED
    return world


def test_every_child_and_its_pods_have_the_labels_that_are_demanded() -> None:
    world = labelled(sampling={"pod": {"labels": {"team": "sampling"}}}, training={"nodes": 2})
    made = [*world.step().create]
    while not any(one["kind"] == "Service" for one in made):  # that of training's nodes
        world.complete(world.active()[0])
        made += world.step().create
    assert {one["kind"] for one in made} == {"NetworkPolicy", "ConfigMap", "Job", "Service"}
    for one in made:
        found = one["metadata"]["labels"]
        assert (found["team"], found["example.com/cost-center"], "other" in found) == ("vision", "7", False)
        assert found["app.kubernetes.io/managed-by"] == "feedback-operator"
    pods = next(one for one in made if one["kind"] == "Job")["spec"]["template"]["metadata"]["labels"]
    assert (pods["team"], pods["example.com/cost-center"]) == ("sampling", "7"), "a section may say another one"


def test_an_endpoint_has_them_too_and_they_are_no_part_of_its_revision() -> None:
    revisions = set()
    for house in (DEMANDED, HouseRules()):
        world = labelled(serving={"endpoint": "chat"})
        world.house, world.endpoint = house, Endpoint()
        world.complete(world.run_until("evaluation"))
        made = world.step().apply
        assert len(made) == 4
        labels = [one["metadata"]["labels"] for one in made] + [made[0]["spec"]["template"]["metadata"]["labels"]]
        assert {one.get("team") for one in labels} == ({"vision"} if house == DEMANDED else {None})
        assert "team" not in made[0]["spec"]["selector"]["matchLabels"]
        revisions.add(made[0]["metadata"]["annotations"]["feedback.rlaif.dev/revision"])
    assert len(revisions) == 1


@pytest.mark.parametrize("house", [HouseRules(platform_uid=True), HouseRules()], ids=["the platform's", "ours"])
def test_user_and_group_may_be_left_to_the_platform(house: HouseRules) -> None:
    world = labelled(serving={"endpoint": "chat"})
    world.house, world.endpoint = house, Endpoint()
    templates = [one["spec"]["template"] for one in world.step().create if one["kind"] == "Job"]
    world.complete(world.run_until("evaluation"))
    templates += [one["spec"]["template"] for one in world.step().apply if one["kind"] == "Deployment"]
    assert len(templates) == 2
    for template in templates:
        context = template["spec"]["securityContext"]
        assert context["runAsNonRoot"] is True
        assert {"runAsUser", "fsGroup"} & context.keys() == (set() if house.platform_uid else {"runAsUser", "fsGroup"})


def test_a_job_that_waits_follows_the_labels_and_one_that_runs_does_not() -> None:
    world = labelled()
    job = world.run_until("sampling")
    world.iteration = with_metadata(world.iteration, labels={**LABELS, "team": "language"})
    assert world.step().delete == ()
    world.change(job, pods=())
    assert world.step().delete == (job.name,), "as where a policy refuses its pods for a label"
    (made,) = [one for one in world.step().create if one["kind"] == "Job"]
    assert made["spec"]["template"]["metadata"]["labels"]["team"] == "language"
    (again,) = world.active()
    world.change(again, pods=(Pod(0, running=True),))
    assert world.step().delete == ()


def test_a_label_that_nobody_demands_replaces_nothing() -> None:
    world = Simulation.of()
    job = world.run_until("sampling")
    world.change(job, pods=())
    world.iteration = with_metadata(world.iteration, labels=LABELS)
    assert world.step().delete == ()


def test_what_is_not_allowed_is_told_with_the_remedy_and_goes_on_once_it_is() -> None:
    world = Simulation.of(training={"pod": {"capabilities": ["IPC_LOCK"]}})
    assert world.step().create == ()
    status, reason, message = world.told("Stalled")
    assert (status, reason) == ("True", "NotAllowed")
    assert message.startswith("spec.training.pod.capabilities: IPC_LOCK is not allowed on this cluster; ")
    assert "--allow-capability IPC_LOCK" in message
    world.house = HouseRules(capabilities=("IPC_LOCK",))
    job = world.run_until("training")
    assert job.stage == "training"
    assert world.conditions()["Stalled"] == "False"


@pytest.mark.parametrize(
    ("given", "keys"),
    [
        ([], ()),
        (["team,example.com/cost-center", "team"], ("team", "example.com/cost-center")),
        (["feedback.rlaif.dev/stage"], "the operator or Kubernetes sets"),
        (["a/b/c"], "keys must be such as team"),
    ],
)
def test_keys_of_labels(given: list[str], keys: tuple[str, ...] | str) -> None:
    if isinstance(keys, tuple):
        assert label_keys(given) == keys
        return
    with pytest.raises(typer.BadParameter, match=keys):
        label_keys(given)


def test_no_capability_is_allowed_that_nobody_may_ask_for() -> None:
    assert capabilities(["IPC_LOCK"]) == ("IPC_LOCK",)
    with pytest.raises(typer.BadParameter, match="SYS_ADMIN is none of IPC_LOCK"):
        capabilities(["SYS_ADMIN"])
