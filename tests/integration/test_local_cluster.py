"""Job manifests as processes of this machine: what the Job controller and the kubelet would do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from feedback_operator.cluster.local import cluster as local_cluster
from feedback_operator.cluster.local import process as process_module
from feedback_operator.cluster.local.capacity import Capacity
from feedback_operator.cluster.local.cluster import LocalCluster
from feedback_operator.cluster.local.process import AlreadyRunning
from feedback_operator.plan.snapshot import Job, Snapshot
from tests.unit.worlds import NOW, decide, iteration

# A stage that obeys a script in its configuration folder, so that each test says what its pods do.
PROGRAM = """
import os, signal, sys, time
from pathlib import Path
index = os.environ["JOB_COMPLETION_INDEX"]
work = Path(os.environ["WORK"])
log = work / f"pods-{index}"
tried = len(log.read_text()) if log.exists() else 0
log.write_text("x" * (tried + 1))
def leave(*_):
    (work / f"terminated-{index}").touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, leave)
exec((work / "script.py").read_text())
"""


@pytest.fixture
async def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LocalCluster]:
    monkeypatch.setattr(local_cluster, "FIRST_BACKOFF_SECONDS", 0.01)
    async with LocalCluster.open(tmp_path / "state", {"WORK": str(tmp_path)}, Capacity(2, 10**12, ())) as opened:
        opened.add(iteration())
        yield opened


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., tuple[dict[str, Any], dict[str, Any]]]:
    """A Job of the planner's making whose container runs `script`."""

    def make(script: str, pods: int = 1, **spec: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        (tmp_path / "script.py").write_text(script)
        sections = {"sampling": {"shards": pods, "resources": {"requests": {"cpu": "1"}}}, **spec}
        _, configmap, made = decide(Snapshot(iteration(**sections), (), NOW)).create
        made["spec"]["template"]["spec"]["containers"][0].update(command=["python", "-c", PROGRAM], args=[])
        return configmap, made

    return make


async def run(cluster: LocalCluster, made: tuple[dict[str, Any], dict[str, Any]]) -> Job:
    """Create the Job and wait until it has ended."""
    for manifest in made:
        await cluster.create(manifest)
    return await ended(cluster)


async def ended(cluster: LocalCluster) -> Job:
    while True:
        cluster.changed.clear()
        (observed,) = (await cluster.snapshot("default/it")).jobs
        if observed.state in ("Complete", "Failed"):
            return observed
        await cluster.changed.wait()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


async def test_each_index_runs_and_hands_in_its_message(cluster: LocalCluster, job: Any) -> None:
    script = "Path(os.environ['FEEDBACK_TERMINATION_LOG']).write_text('result ' + index)"
    observed = await run(cluster, job(script, pods=3))
    assert observed.state == "Complete"
    assert {pod.index: pod.message for pod in observed.pods} == {0: "result 0", 1: "result 1", 2: "result 2"}


async def test_the_configuration_is_where_the_manifest_mounts_it(cluster: LocalCluster, job: Any) -> None:
    script = "Path(os.environ['FEEDBACK_TERMINATION_LOG']).write_text(Path(sys.argv[1]).read_text())"
    configmap, made = job(script)
    made["spec"]["template"]["spec"]["containers"][0]["args"] = ["/etc/feedback/config.json"]
    observed = await run(cluster, (configmap, made))
    assert json.loads(observed.pods[0].message)["stage"] == "sampling"


@pytest.mark.parametrize(("given", "expect"), [(None, "2"), ("1", "1")], ids=["as many as cores", "as the person says"])
async def test_threads(
    given: str | None, expect: str, cluster: LocalCluster, job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    script = "Path(os.environ['FEEDBACK_TERMINATION_LOG']).write_text(os.environ['OMP_NUM_THREADS'])"
    observed = await run(cluster, job(script, sampling={"resources": {"requests": {"cpu": "2"}}}))
    assert observed.pods[0].message == expect


async def test_no_more_pods_than_the_machine_has_cores(cluster: LocalCluster, job: Any, tmp_path: Path) -> None:
    script = """
me = work / f"live-{index}"
me.touch()
(work / f"saw-{index}").write_text(str(len(list(work.glob("live-*")))))
me.unlink()
"""
    await run(cluster, job(script, pods=6))
    assert max(int(file.read_text()) for file in tmp_path.glob("saw-*")) <= 2


@pytest.mark.parametrize(
    ("script", "state", "pods"),
    [
        pytest.param("sys.exit(0 if tried == 2 else 75)", "Complete", 3, id="temporary trouble is tried again"),
        pytest.param("sys.exit(75)", "Failed", 4, id="but not for ever"),
        pytest.param("sys.exit(2)", "Failed", 1, id="bad input is not tried again"),
        pytest.param("if tried == 0: os.kill(os.getpid(), 9)", "Complete", 2, id="a killed pod is replaced"),
    ],
)
async def test_retries(cluster: LocalCluster, job: Any, script: str, state: str, pods: int, tmp_path: Path) -> None:
    observed = await run(cluster, job(script))
    assert observed.state == state
    assert len((tmp_path / "pods-0").read_text()) == pods


async def test_a_deadline_ends_the_pods(cluster: LocalCluster, job: Any, tmp_path: Path) -> None:
    observed = await run(cluster, job("time.sleep(60)", deadlineSeconds=2))
    assert (observed.state, observed.reason) == ("Failed", "DeadlineExceeded")
    assert (tmp_path / "terminated-0").exists()


async def test_suspended_pods_are_terminated_and_resumed_ones_run(
    cluster: LocalCluster, job: Any, tmp_path: Path
) -> None:
    made = job("if tried == 0: time.sleep(60)")
    for manifest in made:
        await cluster.create(manifest)
    await until((tmp_path / "pods-0").exists)
    name = made[1]["metadata"]["name"]
    await cluster.suspend("default", name, True)
    assert (tmp_path / "terminated-0").exists()
    assert (await cluster.snapshot("default/it")).jobs[0].state == "Suspended"
    await cluster.suspend("default", name, False)
    assert (await ended(cluster)).state == "Complete"


async def test_a_request_beyond_the_machine_says_so(cluster: LocalCluster, job: Any) -> None:
    spec = {"sampling": {"resources": {"requests": {"cpu": "1"}, "limits": {"nvidia.com/gpu": "8"}}}}
    observed = await run(cluster, job("", **spec))
    assert observed.pods[0].reason == "Unschedulable"
    assert "requests 8 GPUs, but this machine has 0" in observed.pods[0].message


async def test_one_runner_a_folder(cluster: LocalCluster, tmp_path: Path) -> None:
    with pytest.raises(AlreadyRunning, match="another command works in"):
        async with LocalCluster.open(tmp_path / "state", {}, Capacity(1, 1, ())):
            pass


def has_ended(process: psutil.Process) -> bool:
    """Gone, or a zombie that its foster parent did not reap yet."""
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


async def test_what_a_killed_runner_left_is_ended_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_module, "GRACE_SECONDS", 0.5)
    state, up = tmp_path / "state", tmp_path / "up"
    child = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); open({str(up)!r}, 'w'); signal.pause()"
    runner = f"""
import asyncio, os, sys
from pathlib import Path
from feedback_operator.cluster.local.process import StageProcess
async def main():
    state = Path({str(state)!r})
    command = [sys.executable, "-c", {child!r}]
    process = await StageProcess.start(command, os.environ, state / "log", state / "processes")
    await process.wait()
asyncio.run(main())
"""
    process = subprocess.Popen([sys.executable, "-c", runner])
    await until(up.exists)
    children = psutil.Process(process.pid).children()
    try:
        process.kill()
        process.wait()
        (left,) = children
        assert left.is_running()
        async with LocalCluster.open(state, {}, Capacity(1, 1, ())):
            assert has_ended(left)
        assert list((state / "processes").iterdir()) == []
    finally:
        for one in children:  # it ignores SIGTERM, and a test that fails is to leave nothing either
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
