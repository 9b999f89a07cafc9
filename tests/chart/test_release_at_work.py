"""A release at work: the operator as the chart configures it, with the rights that the chart gives it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path

import pytest

from feedback_operator.cluster.local.ports import free_ports
from tests.chart.rendering import CHART, NAME, NAMESPACE, RELEASE, Rendered, Values, helm, render
from tests.cluster.api import DEFINITIONS, DEPLOYMENTS, JOBS, NAMESPACES, NODES, SERVICE_ACCOUNTS, Api
from tests.cluster.control_plane import ControlPlane, Program, node
from tests.cluster.pod_agent import PodAgent, Script
from tests.cluster.world import READY, World, condition_of, iteration, stage_is

TEAM = "team-a"
TOKEN_REQUEST = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
DEFINITION = "feedbackiterations.feedback.rlaif.dev"


class Release:
    """What Helm installed, and the operator's process in place of its pods."""

    def __init__(self, cluster: ControlPlane, world: World, values: Values) -> None:
        self.cluster = cluster
        self.world = world
        self.values = values
        self.started = 0

    async def helm(self, command: str, values: Values | None = None) -> Rendered:
        """Install or upgrade; what it comes to."""
        given = {**self.values, **(values or {})}
        arguments = (RELEASE, CHART, "--namespace", NAMESPACE, "--kubeconfig", self.cluster.kubeconfig)
        ended = await asyncio.to_thread(helm, command, *arguments, values=given)
        assert ended.returncode == 0, ended.stderr
        return render(given)

    async def uninstall(self) -> None:
        arguments = (RELEASE, "--namespace", NAMESPACE, "--kubeconfig", self.cluster.kubeconfig)
        ended = await asyncio.to_thread(helm, "uninstall", *arguments)
        assert ended.returncode == 0, ended.stderr

    @asynccontextmanager
    async def operator(self, rendered: Rendered) -> AsyncIterator[int]:
        """One replica as the chart would start it; the port of its metrics."""
        await self.world.api.wait(SERVICE_ACCOUNTS, NAMESPACE, NAME, bool)
        answer = await self.world.api.create(SERVICE_ACCOUNTS, NAMESPACE, TOKEN_REQUEST, name=NAME, subresource="token")
        self.started += 1
        kubeconfig = self.cluster.kubeconfig_for(f"replica-{self.started}", answer["status"]["token"])
        metrics, health = islice(free_ports(), 2)
        told: Mapping[str, str] = {
            **rendered.environment(),
            "POD_NAMESPACE": NAMESPACE,
            "KUBECONFIG": str(kubeconfig),
            "FEEDBACK_METRICS_PORT": str(metrics),
            "FEEDBACK_HEALTH_PORT": str(health),
        }
        log = self.world.folder / f"operator-{self.started}.log"
        command = [sys.executable, *rendered.container()["command"][1:]]
        program = Program(command, log, environment={**os.environ, **told})
        try:
            yield metrics
        finally:
            await asyncio.to_thread(program.end)


@pytest.fixture(params=["Cluster", "Namespaced"])
async def release(
    request: pytest.FixtureRequest, bare: ControlPlane, api: Api, tmp_path: Path
) -> AsyncIterator[Release]:
    """A release that serves one namespace, or all of them, and pods that are played."""
    for name in (NAMESPACE, TEAM):
        await api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        await api.wait(SERVICE_ACCOUNTS, name, "default", bool)
    if await api.find(NODES, "", "node-1") is None:
        await api.create(NODES, "", node("node-1"))
    world = World(api, bare, TEAM, Script(), tmp_path, token="")
    agent = asyncio.create_task(PodAgent(api, TEAM, world.script).run())
    values: Values = (
        {"scope": "Cluster"} if request.param == "Cluster" else {"scope": "Namespaced", "namespaces": [TEAM]}
    )
    try:
        yield Release(bare, world, values)
    finally:
        await api.delete(NAMESPACES, "", TEAM)
        await api.wait_gone(NAMESPACES, "", TEAM)
        await api.delete(DEFINITIONS, "", DEFINITION)
        await api.wait_gone(DEFINITIONS, "", DEFINITION)
        agent.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await agent


async def test_an_iteration_outlives_upgrades_and_reinstallation(release: Release) -> None:
    world = release.world
    splitting = world.script.hold("splitting")
    first = await release.helm("install")
    async with contextlib.AsyncExitStack() as old:
        await old.enter_async_context(release.operator(first))
        await world.apply(iteration("demo", serving={"endpoint": "answers"}))
        await world.until("demo", stage_is("splitting", "Running"))
        upgraded = await release.helm("upgrade", {"workloads": {"train": {"tag": "newer"}}, "operator": {"workers": 2}})
        async with release.operator(upgraded) as port:
            await old.aclose()
            splitting.release()
            done = await world.until("demo", READY)
            assert await asyncio.to_thread(leads, port), "what `helm test` asks"
    assert condition_of(done, "Serving")["status"] == "True"
    jobs = await world.jobs("demo")
    assert len(jobs) == 6
    images = {job["metadata"]["labels"]["feedback.rlaif.dev/stage"]: image_of(job) for job in jobs.values()}
    assert images["sampling"] == "feedback-operator/generate:0.1.0"
    assert images["training"] == "feedback-operator/train:newer", "stages that start after an upgrade have its images"

    await release.uninstall()
    kept = await world.look("demo")
    assert kept["metadata"]["resourceVersion"] == done["metadata"]["resourceVersion"]
    assert await world.api.find(DEPLOYMENTS, TEAM, "answers"), "the endpoint serves on"

    again = await release.helm("install")
    async with release.operator(again) as port:
        assert await asyncio.to_thread(leads, port)
        await world.apply(iteration("next", model={"uri": None, "from": {"iteration": "demo"}}))
        await world.until("next", READY)
    assert {name: job["metadata"]["uid"] for name, job in (await world.jobs("demo")).items()} == {
        name: job["metadata"]["uid"] for name, job in jobs.items()
    }
    await release.uninstall()
    assert await world.api.list(JOBS, TEAM, "feedback.rlaif.dev/iteration=demo")


def image_of(job: Mapping[str, object]) -> str:
    image: str = job["spec"]["template"]["spec"]["containers"][0]["image"]  # type: ignore[index]
    return image


def leads(port: int) -> bool:
    """Run the script of the chart's test against this port."""
    environment = {"METRICS_HOST": "127.0.0.1", "METRICS_PORT": str(port), "PATIENCE_SECONDS": "60"}
    script = render().one("Pod")["spec"]["containers"][0]["args"][0]
    return subprocess.run([sys.executable, "-I", "-c", script], check=False, env=environment).returncode == 0
