"""What the administrators of a cluster demand of pods, and what the operator does to give it."""

from __future__ import annotations

from tests.cluster.api import ADMISSION_BINDINGS, ADMISSION_POLICIES, ITERATIONS, JOBS, PODS
from tests.cluster.world import READY, World, condition, condition_of, iteration

DEMANDED = {
    "failurePolicy": "Fail",
    "matchConstraints": {
        "resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]
    },
    "validations": [
        {"expression": "'team' in object.metadata.?labels.orValue({})", "message": "label team is required"}
    ],
}


async def test_a_label_that_a_policy_demands_is_taken_over_from_the_iteration(world: World) -> None:
    name = world.namespace
    await world.api.create(ADMISSION_POLICIES, "", {"metadata": {"name": name}, "spec": DEMANDED})
    here = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}
    bound = {"policyName": name, "validationActions": ["Deny"], "matchResources": here}
    await world.api.create(ADMISSION_BINDINGS, "", {"metadata": {"name": name}, "spec": bound})
    try:
        with world.operator("--inherit-label", "team"):
            await world.apply(iteration("demo"))
            told = await world.until("demo", condition("Reconciling", "True", "PodsNotCreated"))
            assert "denied request: label team is required" in condition_of(told, "Reconciling")["message"]
            await world.api.patch(ITERATIONS, name, "demo", {"metadata": {"labels": {"team": "vision"}}})
            await world.until("demo", READY, seconds=200)
    finally:
        await world.api.delete(ADMISSION_BINDINGS, "", name)
        await world.api.delete(ADMISSION_POLICIES, "", name)
    for kind in (JOBS, PODS):
        made = await world.api.list(kind, name, "app.kubernetes.io/managed-by=feedback-operator")
        assert {one["metadata"]["labels"].get("team") for one in made} == {"vision"}


async def test_a_capability_is_given_by_leave_alone(world: World) -> None:
    await world.apply(iteration("demo", training={"pod": {"capabilities": ["IPC_LOCK"]}}))
    with world.operator():
        stalled = await world.until("demo", condition("Stalled", "True", "NotAllowed"))
        assert "spec.training.pod.capabilities: IPC_LOCK" in condition_of(stalled, "Stalled")["message"]
    assert await world.jobs("demo") == {}
    with world.operator("--allow-capability", "IPC_LOCK"):
        await world.until("demo", READY)
