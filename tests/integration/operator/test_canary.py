"""A canary on a real API server: its objects, its route's weights, and what becomes of them. The gateway is played."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.cluster.accounts import OPERATOR
from tests.cluster.api import DEPLOYMENTS, HTTP_ROUTES, Object
from tests.cluster.operator_process import OperatorProcess
from tests.cluster.pod_agent import SERVING, exits, never_ready, ready
from tests.cluster.setup import CRDS
from tests.cluster.world import READY, World, condition, condition_of, iteration

ROUTES = CRDS.parent / "deploy/rbac-routes.yaml"
GATEWAY = {"name": "public", "namespace": "gateways"}
TRIED = condition("Serving", "False", "Canary")


def served(name: str, *steps: tuple[int, int], **changes: Any) -> Object:
    """An iteration that serves; with steps (percent, seconds) after a canary. Its pods load for 10 s at most."""
    canary = {"gateways": [GATEWAY], "steps": [{"weight": weight, "seconds": seconds} for weight, seconds in steps]}
    serving = {"endpoint": "answers", "replicas": 1, "progressDeadlineSeconds": 10}
    return iteration(name, serving={**serving, **({"canary": canary} if steps else {})}, **changes)


async def may_write_routes(world: World) -> None:
    """Bind the role of deploy/rbac-routes.yaml, as its header says."""
    (role,) = yaml.safe_load_all(ROUTES.read_text())
    await world.api.apply(role)
    name = role["metadata"]["name"]
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": OPERATOR, "namespace": world.namespace}],
    }
    await world.apply(binding)


async def accept_route(world: World) -> None:
    """What a gateway says of a route that it takes."""
    await world.api.wait(HTTP_ROUTES, world.namespace, "answers", bool)
    accepted = {"type": "Accepted", "status": "True", "reason": "Accepted", "message": ""}
    parent = {
        "controllerName": "tests/gateway",
        "parentRef": GATEWAY,
        "conditions": [{**accepted, "lastTransitionTime": "2026-01-01T00:00:00Z"}],
    }
    body = {"status": {"parents": [parent]}}
    await world.api.patch(HTTP_ROUTES, world.namespace, "answers", body, subresource="status")


def weights(route: Object) -> dict[str, int]:
    (rule,) = route["spec"]["rules"]
    return {backend["name"]: backend["weight"] for backend in rule["backendRefs"]}


def gives(**wanted: int) -> Any:
    return lambda route: weights(route) == {name.replace("_", "-"): share for name, share in wanted.items()}


@pytest.fixture
def operator(world: World) -> Iterator[OperatorProcess]:
    with world.operator() as running:
        yield running


async def test_a_canary_takes_over_step_by_step_over_a_restart_of_the_operator(world: World) -> None:
    await may_write_routes(world)
    with world.operator() as first:
        await world.apply(served("old"))
        old = await world.until("old", READY)
        await world.apply(served("new", (10, 4), (50, 4), seed=1))
        await accept_route(world)
        told = await world.until("new", TRIED)
        await world.api.wait(HTTP_ROUTES, world.namespace, "answers", gives(answers=90, answers_canary=10))
        first.kill()
    main = await world.api.get(DEPLOYMENTS, world.namespace, "answers")
    assert old["status"]["aligned"]["uri"] in str(main["spec"]["template"]), "it serves as before"
    assert condition_of(told, "Reconciling")["reason"] == "Canary"
    with world.operator():
        await world.api.wait(HTTP_ROUTES, world.namespace, "answers", gives(answers=50, answers_canary=50))
        await world.until("new", READY)
        await world.api.wait(HTTP_ROUTES, world.namespace, "answers", gives(answers=100))
        await world.api.wait(DEPLOYMENTS, world.namespace, "answers-canary", lambda item: item["spec"]["replicas"] == 0)
        await world.until("old", condition("Serving", "False", "Superseded"))
    main = await world.api.get(DEPLOYMENTS, world.namespace, "answers")
    assert old["status"]["aligned"]["uri"] not in str(main["spec"]["template"])


@pytest.mark.long
async def test_a_canary_that_dies_in_its_step_gets_no_more_requests(world: World, operator: OperatorProcess) -> None:
    await may_write_routes(world)
    await world.apply(served("old"))
    await world.until("old", READY)
    world.script.on(SERVING, dying := world.script.hold(SERVING, after=exits(1)), then=never_ready())
    await world.apply(served("new", (10, 600), seed=1))
    await accept_route(world)
    await world.api.wait(HTTP_ROUTES, world.namespace, "answers", gives(answers=90, answers_canary=10))
    dying.release()
    stalled = await world.until("new", condition("Stalled", "True", "RolledBack"))
    assert "was ready in step 1" in condition_of(stalled, "Stalled")["message"]
    await world.api.wait(HTTP_ROUTES, world.namespace, "answers", gives(answers=100))
    await world.until("old", condition("Serving", "True"))


async def test_an_operator_that_may_write_no_routes_says_so(world: World, operator: OperatorProcess) -> None:
    await world.apply(served("demo", (10, 600)))
    told = await world.until("demo", condition("Ready", "False", "HTTPRouteRefused"))
    assert 'cannot get resource "httproutes"' in condition_of(told, "Ready")["message"]
    await may_write_routes(world)
    await world.until("demo", condition("Serving", "True"))
    world.script.on(SERVING, then=ready())
