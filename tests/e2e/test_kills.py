"""kill -9 of the stage and of the runner, at a random moment in each stage: the next run goes on and ends the same.

Two runs of one manifest on one S3 server, into two folders: one is left in peace, the other killed on its way.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from feedback_operator.cluster.local.embedded_s3 import BUCKET
from feedback_operator.stages import GRAPH
from feedback_workloads.storage.artifacts import CACHE_VARIABLE, ArtifactStore
from tests.e2e.outcomes import ROWS, artifacts_of, forget, kept, tables
from tests.integration.worlds import small_world
from tests.long import first_of

STAGES = [stage.name for stage in GRAPH]
SEED = int(os.environ.get("FEEDBACK_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
"""Decides the moments; set FEEDBACK_TEST_SEED to repeat those that a failure printed."""
RUN_SECONDS = 1500


@dataclass(frozen=True)
class Run:
    """One manifest, run by `feedback run` in its own process, as often as it takes."""

    folder: Path
    environment: Mapping[str, str]
    manifest: Mapping[str, Any]

    @property
    def artifacts(self) -> str:
        return str(self.manifest["spec"]["artifacts"]["uri"])

    def start(self) -> subprocess.Popen[bytes]:
        self.folder.mkdir(exist_ok=True)
        file = self.folder / "iteration.yaml"
        file.write_text(yaml.safe_dump(dict(self.manifest)))
        command = [sys.executable, "-m", "feedback_operator.cli", "run", str(file)]
        command += ["--state", str(self.folder / "state"), "--out", str(self.folder / "out")]
        with (self.folder / "runner.log").open("ab") as log:
            return subprocess.Popen(command, env={**os.environ, **self.environment}, stdout=log, stderr=log)

    def finish(self) -> dict[str, Any]:
        """Run to the end; the finished iteration."""
        assert self.start().wait(RUN_SECONDS) == 0, (self.folder / "runner.log").read_text()[-3000:]
        found: dict[str, Any] = json.loads((self.folder / "out" / "iteration.json").read_text())
        return found


def stage_process(runner: psutil.Process, stage: str) -> psutil.Process | None:
    """The process of a stage, if the runner has one now."""
    try:
        for child in runner.children():
            if child.cmdline()[1:4] == ["-m", "feedback_workloads", stage]:
                return child
    except psutil.Error:
        return None
    return None


def ends_within(process: psutil.Process, seconds: float) -> bool:
    try:
        process.wait(seconds)
    except psutil.TimeoutExpired:
        return False
    return True


def kill_in(run: Run, stage: str, victim: str, moment: float) -> bool:
    """Start the runner and kill the victim `moment` seconds into the stage. False if the stage ended before."""
    process = run.start()
    runner = psutil.Process(process.pid)
    clock = threading.Event()
    until = time.monotonic() + RUN_SECONDS
    try:
        while (found := stage_process(runner, stage)) is None:
            assert process.poll() is None, f"{stage} never ran: {(run.folder / 'runner.log').read_text()[-2000:]}"
            assert time.monotonic() < until
            clock.wait(0.02)
        if ends_within(found, moment):
            return False
        os.kill((found if victim == "stage" else runner).pid, signal.SIGKILL)
        return True
    finally:
        process.terminate()  # the runner would start the stage again by itself: the next run is to go on instead
        process.wait(60)


def duration(finished: Mapping[str, Any], stage: str) -> float:
    from feedback_operator.api import StageStatus
    from feedback_operator.cli.display import seconds

    return seconds(
        StageStatus.model_validate(next(one for one in finished["status"]["stages"] if one["name"] == stage))
    )


@pytest.mark.timeout(2400)
@pytest.mark.parametrize("kills", first_of([2, 2 * len(STAGES)]), ids="{} kills".format)
def test_killed_anywhere_it_ends_the_same(
    kills: int, s3_environment: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {**s3_environment, CACHE_VARIABLE: str(tmp_path / "cache")}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    store = ArtifactStore.from_environment()
    root = f"s3://{BUCKET}/tests/kills-{kills}"
    world = small_world(store, f"{root}/world", tmp_path)
    calm = Run(tmp_path / "calm", environment, world.manifest(f"{root}/calm"))
    killed = Run(tmp_path / "killed", environment, world.manifest(f"{root}/killed"))
    expected = calm.finish()

    rng = random.Random(SEED)
    print(f"FEEDBACK_TEST_SEED={SEED}")
    chosen = rng.sample([(stage, victim) for stage in STAGES for victim in ("stage", "runner")], kills)
    for stage, victim in sorted(chosen, key=lambda kill: STAGES.index(kill[0])):
        moment = rng.uniform(0, 0.9 * duration(expected, stage))
        while not kill_in(killed, stage, victim, moment):
            forget(store, f"{killed.artifacts}/{stage}")
            moment /= 2
        print(f"{stage}: {victim} killed after {moment:.1f} s")
        before = kept(store, killed.artifacts)
    finished = killed.finish()
    after = kept(store, killed.artifacts)

    assert before.items() <= after.items(), "a finished part or checkpoint was lost or written again"
    for stage in ROWS:
        ours, theirs = tables(finished, stage, store), tables(expected, stage, store)
        assert ours == theirs, f"the rows of {stage} differ"
    curves = [store.manifest(artifacts_of(run, "training")[0]).metrics for run in (finished, expected)]
    # Parity is itself rounding, of some 1e-7 nats, and depends on what the sampler had in one batch.
    assert curves[0] == pytest.approx(curves[1], rel=1e-5, abs=1e-6)
