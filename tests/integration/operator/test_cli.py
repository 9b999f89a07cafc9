"""`feedback` on a cluster, as a person types it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from feedback_operator.cli.describe import HEADINGS
from feedback_operator.cluster.local.ports import free_ports
from tests.cluster.api import ITERATIONS
from tests.cluster.kubelet_logs import HOSTNAME_LABEL, kubelet_logs
from tests.cluster.operator_process import OperatorProcess
from tests.cluster.pod_agent import GOOD_SCORES, bad_input, succeeds
from tests.cluster.terminal import SECONDS, Terminal
from tests.cluster.world import READY, World, iteration, stage_is, stage_of


async def test_from_submit_to_delete(world: World, operator: OperatorProcess, terminal: Terminal) -> None:
    file = terminal.write(iteration("parent"), iteration("child", model={"uri": None, "from": {"iteration": "parent"}}))
    submitted = await terminal.type("submit", file, "--wait")
    assert submitted.code == 0, submitted
    assert "parent created" in submitted.printed
    assert "child: evaluation done" in submitted.printed
    assert "child: Answers with a hallucination: 0.5 before, 0.2 after." in submitted.printed

    again = await terminal.type("submit", file)
    assert (again.code, again.printed.splitlines()) == (0, ["parent unchanged", "child unchanged"])

    listed = await terminal.type("list")
    (heading, child, parent) = listed.printed.splitlines()
    assert tuple(heading.split()) == HEADINGS
    assert child.split()[:6] == ["child", "True", "Complete", "0.5", "0.2", "True"]
    assert parent.startswith("parent")

    shown = await terminal.type("status", "child")
    assert "Promoted     True" in shown.printed
    deleted = await terminal.type("delete", "child", "parent")
    assert deleted.printed.splitlines()[0] == "child deleted; its artifacts stay"
    await world.api.wait_gone(ITERATIONS, world.namespace, "child")


async def test_a_failed_stage_is_told_with_what_to_type(
    world: World, operator: OperatorProcess, terminal: Terminal
) -> None:
    world.script.on("splitting", bad_input("row 7 has no picture; mend it"))
    submitted = await terminal.type("submit", terminal.write(iteration("demo")), "--wait")
    assert submitted.code == 1
    assert "row 7 has no picture; mend it" in submitted.printed
    assert "feedback suspend demo && feedback resume demo" in submitted.printed

    for act in ("suspend", "resume"):
        assert (await terminal.type(act, "demo")).code == 0
    await world.until("demo", READY)


async def test_a_failed_gate_has_an_exit_code_of_its_own(
    world: World, operator: OperatorProcess, terminal: Terminal
) -> None:
    world.script.on("evaluation", then=succeeds({**GOOD_SCORES, "selection.aligned.response_hallucination": 0.49}))
    submitted = await terminal.type("submit", terminal.write(iteration("demo")), "--wait")
    assert submitted.code == 3
    assert "on the selection split, above 0.9" in submitted.printed
    assert "feedback report demo" in submitted.printed


async def test_suspend_and_resume(world: World, operator: OperatorProcess, terminal: Terminal) -> None:
    world.script.hold("splitting")
    await terminal.type("submit", terminal.write(iteration("demo")))
    await world.until("demo", stage_is("splitting", "Running"))
    assert "feedback resume demo" in (await terminal.type("suspend", "demo")).printed
    await world.until("demo", stage_is("splitting", "Suspended"))
    shown = await terminal.type("status", "demo")
    assert "splitting   suspended" in shown.printed
    assert "It is suspended; to go on:\n  feedback resume demo" in shown.printed
    world.script.forget("splitting")
    await terminal.type("resume", "demo")
    await world.until("demo", READY)


async def test_a_manifest_that_says_whether_to_suspend_goes_over_the_command(world: World, terminal: Terminal) -> None:
    file = terminal.write(iteration("demo", suspend=False))
    await terminal.type("submit", file)
    await terminal.type("suspend", "demo")
    assert (await terminal.type("submit", file)).printed == "demo configured\n"
    assert (await world.look("demo"))["spec"]["suspend"] is False


async def test_a_field_of_somebody_else_is_left_alone(world: World, terminal: Terminal) -> None:
    await world.apply(iteration("demo", seed=1))
    refused = await terminal.type("submit", terminal.write(iteration("demo", seed=2)))
    assert refused.code == 1
    assert 'conflict with "tests"' in refused.complained
    assert "change the field where its owner takes it from" in refused.complained


async def test_kubectl_get_says_where_it_is_whether_it_helped_and_whether_it_serves(
    world: World, operator: OperatorProcess
) -> None:
    await world.apply(iteration("demo"))
    await world.until("demo", READY)
    table = await world.api.table(ITERATIONS, world.namespace)
    names = [column["name"] for column in table["columnDefinitions"] if column["priority"] == 0]
    assert tuple(name.upper() for name in names) == HEADINGS
    row = dict(zip(names, table["rows"][0]["cells"], strict=False))
    shown = {name: row[name] for name in ("Name", "Ready", "Reason", "Before", "After", "Promoted")}
    assert shown == {
        "Name": "demo", "Ready": "True", "Reason": "Complete", "Before": "0.5", "After": "0.2", "Promoted": "True"
    }  # fmt: skip


async def test_a_change_of_what_is_being_computed_is_refused(
    world: World, operator: OperatorProcess, terminal: Terminal
) -> None:
    world.script.hold("sampling")
    await terminal.type("submit", terminal.write(iteration("demo")))
    await world.until("demo", stage_is("sampling", "Running"))
    refused = await terminal.type("submit", terminal.write(iteration("demo", sampling={"candidates": 3})))
    assert refused.code == 2
    assert "demo: spec.sampling.candidates: " in refused.complained
    assert "set spec.suspend to true first" in refused.complained


async def test_logs_of_all_shards(world: World, operator: OperatorProcess, terminal: Terminal) -> None:
    sampling = world.script.hold("sampling")
    async with kubelet_logs(world.api, world.control_plane, f"logs-{world.namespace}"[:63]) as logs:
        there = {"nodeSelector": {HOSTNAME_LABEL: logs.node}}
        await world.apply(iteration("demo", sampling={"shards": 2, "pod": there}))
        async with terminal.started("logs", "sampling", "-i", "demo") as early:
            _, complained = await early.communicate()
            if early.returncode:
                assert b"has not begun" in complained
        running = await world.until("demo", stage_is("sampling", "Running"))
        job = stage_of(running, "sampling")["job"]
        async with terminal.started("logs", "sampling", "-i", "demo", "-f") as following:
            assert following.stdout is not None
            pods = sorted([await logs.followed.get(), await logs.followed.get()])
            await logs.of(pods[0]).write("loading", "first row")
            heard = [(await following.stdout.readline()).decode(), (await following.stdout.readline()).decode()]
            assert heard == ["sampling/0: loading\n", "sampling/0: first row\n"]
            await logs.of(pods[1]).write("other shard", end=True)
            assert (await following.stdout.readline()).decode() == "sampling/1: other shard\n"
            await logs.of(pods[0]).write(end=True)
            sampling.release()
            assert await asyncio.wait_for(following.wait(), SECONDS) == 0
        assert all(pod.startswith(job) for pod in pods)
        read = await terminal.type("logs", "sampling", "-i", "demo")
        assert read.printed.splitlines() == ["sampling/0: loading", "sampling/0: first row", "sampling/1: other shard"]


async def test_a_report_from_the_artifacts(
    world: World, operator: OperatorProcess, terminal: Terminal, s3_environment: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in s3_environment.items():
        monkeypatch.setenv(variable, value)
    await world.apply(iteration("demo"))
    await world.until("demo", READY)
    made = await terminal.type("report", "demo", "--out", "there")
    assert made.code == 0, made
    assert "Stage evaluation is done, but" in made.complained  # the agent's artifacts are words alone
    summary = json.loads((terminal.folder / "there/summary.json").read_text())
    assert summary
    assert (terminal.folder / "there/report.html").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("status", "dem"), "there is no iteration dem in namespace {namespace}; did you mean demo?"),
        (("status", "zzz"), "feedback list shows what there is"),
        (("suspend", "dem"), "did you mean demo?"),
        (("delete", "dem"), "did you mean demo?"),
        (("logs", "sample", "-i", "demo"), "there is no stage sample; the stages are sampling, splitting"),
        (("logs", "sampling", "-i", "demo"), "stage sampling of demo has not begun"),
        (("list", "--context", "nowhere"), "nowhere"),
        (("submit", "none.yaml"), "No such file"),
    ],
)
async def test_mistakes_are_told_with_a_remedy(
    world: World, terminal: Terminal, words: tuple[str, ...], said: str
) -> None:
    await world.apply(iteration("demo"))
    answer = await terminal.type(*words)
    assert answer.code in (1, 2)
    assert said.format(namespace=world.namespace) in answer.complained
    assert "Traceback" not in answer.complained


async def test_who_may_not_is_told_whom_to_ask(world: World, terminal: Terminal) -> None:
    terminal.kubeconfig = world.control_plane.kubeconfig_for("operator", world.token, namespace=world.namespace)
    answer = await terminal.type("submit", terminal.write(iteration("demo")))
    assert answer.code == 1
    assert f"you may not patch feedbackiterations in namespace {world.namespace}; ask for the role" in answer.complained


async def test_no_cluster_is_told(world: World, terminal: Terminal) -> None:
    port = next(free_ports())
    nowhere = f"http://127.0.0.1:{port}"
    terminal.kubeconfig = world.control_plane.kubeconfig_for("admin", "x", server=nowhere, namespace="default")
    answer = await terminal.type("list")
    assert answer.code == 1
    assert f"cannot reach the API server {nowhere} of context tests: " in answer.complained
    assert "Connection refused" in answer.complained
    assert len(answer.complained.splitlines()) == 1
