"""What an operator tells of its work: events, metrics, logs and spans; and what it does not leave behind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import islice

import httpx
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.parser import text_string_to_metric_families

from feedback_operator.cluster.local.ports import free_ports
from tests.cluster.api import ITERATIONS, JOBS, Kind, Object
from tests.cluster.operator_process import OperatorProcess
from tests.cluster.pod_agent import bad_input
from tests.cluster.world import READY, STAGES, STALLED, World, iteration

EVENTS = Kind("Event", "events.k8s.io/v1", "events")
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@dataclass
class Collector:
    """An OpenTelemetry collector that remembers the names of spans."""

    endpoint: str
    spans: list[str] = field(default_factory=list)
    more: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    @asynccontextmanager
    async def start(cls) -> AsyncIterator[Collector]:
        port = next(free_ports())
        collector = cls(f"http://127.0.0.1:{port}")
        application = web.Application()
        application.add_routes([web.post("/v1/traces", collector.take)])
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            yield collector
        finally:
            await runner.cleanup()

    async def take(self, request: web.Request) -> web.Response:
        message = ExportTraceServiceRequest.FromString(await request.read())
        for resource in message.resource_spans:
            for scope in resource.scope_spans:
                self.spans += [span.name for span in scope.spans]
        self.more.set()
        return web.Response(body=b"", content_type="application/x-protobuf")

    async def until(self, *names: str) -> None:
        while not set(names) <= set(self.spans):
            self.more.clear()
            await self.more.wait()


async def samples(port: int) -> Samples:
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        answer = await client.get(f"http://127.0.0.1:{port}/metrics")
    families = text_string_to_metric_families(answer.text)
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


async def test_one_iteration_seen_from_outside(world: World) -> None:
    metrics_port, health_port = islice(free_ports(), 2)
    flags = ("--metrics-port", str(metrics_port), "--health-port", str(health_port))
    async with Collector.start() as collector:
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
        }
        kubeconfig = world.control_plane.kubeconfig_for("operator", world.token, namespace=world.namespace)
        log = world.folder / "operator.log"
        with OperatorProcess(kubeconfig, world.namespace, log, flags, environment):
            await world.apply(iteration("demo"))
            await world.until("demo", READY)
            await collector.until("reconcile", "create jobs", "patch feedbackiterations")
            found = await samples(metrics_port)
            async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
                health = await client.get(f"http://127.0.0.1:{health_port}/healthz")
            lines = [json.loads(line) for line in log.read_text().splitlines()]

    labels = (("namespace", world.namespace), ("state", "Promoted"))
    assert found["feedback_operator_iterations", labels] == 1
    assert found["feedback_operator_leading", ()] == 1
    assert found["feedback_operator_queue_depth", ()] == 0
    for policy, share in (("baseline", 0.5), ("aligned", 0.2)):
        key = (("iteration", "demo"), ("namespace", world.namespace), ("policy", policy))
        assert found["feedback_operator_hallucination_ratio", key] == share
    for stage in STAGES:
        assert found["feedback_operator_stage_seconds_count", (("stage", stage), ("state", "Done"))] == 1
    creations = (("code", "201"), ("kind", "Job"), ("verb", "create"))
    assert found["feedback_operator_api_call_seconds_count", creations] == len(STAGES)
    assert (health.status_code, health.json()["leading"]) == (200, True)

    told = [line for line in lines if line.get("iteration") == f"{world.namespace}/demo"]
    assert [line["message"].split(" ")[1] for line in told if "is done" in line["message"]] == list(STAGES)
    assert [line["stage"] for line in told if "is done" in line["message"]] == list(STAGES)
    assert all(len(line["trace"]) == 32 for line in told)
    assert not [line for line in lines if line["level"] in ("warning", "error")]


async def events_until(world: World, reason: str) -> list[Object]:
    """Events about iterations, up to the first one with this reason."""
    found: list[Object] = []
    async for _, event in world.api.watch(EVENTS, world.namespace):
        if event["regarding"]["kind"] == ITERATIONS.name:
            found.append(event)
            if event["reason"] == reason:
                break
    return found


async def test_one_event_a_transition(world: World, operator: OperatorProcess) -> None:
    await world.apply(iteration("demo"))
    found = await events_until(world, "Promoted")
    assert [event["reason"] for event in found] == ["StageStarted", *["StageDone"] * (len(STAGES) - 1), "Promoted"]
    assert {event["type"] for event in found} == {"Normal"}


async def test_a_failure_is_told_once_with_its_remedy(world: World, operator: OperatorProcess) -> None:
    world.script.on("sampling", bad_input("row 7 has no picture; mend it"))
    await world.apply(iteration("demo"))
    found = await events_until(world, "StageFailed")
    await world.until("demo", STALLED)
    assert [event["type"] for event in found] == ["Normal", "Warning"]
    assert "row 7 has no picture; mend it" in found[-1]["note"]


async def test_the_watcher_leaves_no_marks_on_objects(world: World, operator: OperatorProcess) -> None:
    await world.apply(iteration("demo"))
    await world.until("demo", READY)
    for kind in (ITERATIONS, JOBS):
        for body in await world.api.list(kind, world.namespace):
            text = json.dumps(body["metadata"])
            assert "kopf" not in text
            assert body["metadata"].get("finalizers", []) == []
