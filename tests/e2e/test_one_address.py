"""Trainings of one address: one ends, the others follow and use what it made, and nobody removes what another has made.

Real Jobs of two iterations on a real S3 server, as processes; what the Job controller, a person and Kueue do to Jobs is
done to these.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from feedback_operator.api import FeedbackIteration
from feedback_operator.cluster.local.capacity import Capacity
from feedback_operator.cluster.local.cluster import LocalCluster
from feedback_operator.cluster.local.embedded_s3 import BUCKET
from feedback_operator.plan.snapshot import Job
from feedback_operator.resources.configmap import build_configmap
from feedback_operator.resources.job import StageRun, build_job
from feedback_operator.stages import STAGES
from feedback_workloads.contract import StageResult, TrainingConfig
from feedback_workloads.storage.lease import LEASE_NAME
from tests.integration.training_runs import Study, study
from tests.unit.worlds import iteration, with_metadata

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PATIENCE_SECONDS = 600
LOOK_SECONDS = 0.3
"""Between two looks, each of which costs as much as a step of training."""
ROWS = 160
"""As many that one epoch, of 40 steps, is still at work when another process has started."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return study(tmp_path_factory.mktemp("study"), ROWS)


@dataclass(frozen=True)
class Place:
    """A stage folder on S3 that several Jobs share."""

    config: TrainingConfig
    client: S3Client

    def objects(self) -> dict[str, str]:
        """Name and tag of everything that is stored; the lease is nobody's for long."""
        prefix = self.config.output.removeprefix(f"s3://{BUCKET}/") + "/"
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        found = {one["Key"].removeprefix(prefix): one["ETag"] for page in pages for one in page.get("Contents", ())}
        return {name: tag for name, tag in found.items() if not name.endswith(LEASE_NAME)}

    def has(self, word: str) -> bool:
        return any(word in name and name.endswith("manifest.json") for name in self.objects())


@pytest.fixture
def place(
    tiny: Study, s3_environment: Mapping[str, str], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Place:
    from feedback_workloads.storage.s3 import connect

    for name, value in s3_environment.items():
        monkeypatch.setenv(name, value)
    name = "".join(c if c.isalnum() else "-" for c in request.node.name)
    config = tiny.config("training", epochs=4).model_copy(update={"output": f"s3://{BUCKET}/one-address/{name}"})
    return Place(config, connect())


@dataclass(frozen=True)
class Training:
    """The training Job of one iteration, on a cluster of its own or on one that it shares."""

    cluster: LocalCluster
    iteration: FeedbackIteration
    place: Place

    @property
    def run(self) -> StageRun:
        spec, stage = self.iteration.spec, STAGES["training"]
        return StageRun(
            owner=self.iteration.metadata,
            stage=stage,
            section=spec.section(stage.name),
            config=self.place.config,
            address=self.place.config.content_hash(),
            attempt=0,
            retries=0,
            reached=0,
            pods=1,
            keys={},
            image="",
            deadline_seconds=None,
            ttl_seconds_after_finished=None,
        )

    async def create(self) -> None:
        self.cluster.add(self.iteration)
        await self.cluster.create(build_configmap(self.run))
        await self.cluster.create(build_job(self.run))

    async def suspend(self, suspended: bool) -> None:
        await self.cluster.suspend(self.iteration.metadata.namespace, self.run.name, suspended)

    async def job(self) -> Job:
        jobs = (await self.cluster.snapshot(self.iteration.metadata.key)).jobs
        return next(job for job in jobs if job.name == self.run.name)

    async def result(self) -> StageResult:
        """What it hands in, once it has ended well."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (job := await self.job()).state != "Complete":
                assert job.state != "Failed", (job.pods, self.log)
                await asyncio.sleep(LOOK_SECONDS)
        result = job.pods[0].result()
        assert result is not None
        return result

    async def waits_for(self, other: Training) -> None:
        """Return once it says that it waits for the other one."""
        expect = f"waiting for iteration {other.iteration.metadata.key}, which does the same work"
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (job := await self.job()).units.phase != expect:
                assert job.state == "Active", self.log
                await asyncio.sleep(LOOK_SECONDS)

    async def until(self, word: str) -> None:
        """Return once something of this name is stored, which must be before it ends."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not await asyncio.to_thread(self.place.has, word):
                assert (await self.job()).state == "Active", self.log
                await asyncio.sleep(LOOK_SECONDS)

    @property
    def log(self) -> str:
        return self.cluster.log_of(self.run.name, 0).read_text()


@asynccontextmanager
async def cluster(folder: Path, environment: Mapping[str, str]) -> AsyncIterator[LocalCluster]:
    async with LocalCluster.open(folder, {**environment, "OMP_NUM_THREADS": "1"}, Capacity(4, 10**12, ())) as opened:
        yield opened


def of(name: str, namespace: str = "default") -> FeedbackIteration:
    one_core = {"resources": {"requests": {"cpu": "1"}}}
    return with_metadata(iteration(training=one_core), name=name, namespace=namespace, uid=f"uid-{namespace}-{name}")


def assert_nothing_is_gone(before: Mapping[str, str], after: Mapping[str, str]) -> None:
    assert before.items() <= after.items(), {name for name in before if before[name] != after.get(name)}


async def test_resumed_while_another_trains_it_waits_and_reuses(
    place: Place, s3_environment: Mapping[str, str], tmp_path: Path
) -> None:
    """Suspend a in training, apply b of the same spec, resume a."""
    async with cluster(tmp_path / "state", s3_environment) as here:
        a, b = Training(here, of("a"), place), Training(here, of("b"), place)
        await a.create()
        await a.until("state/")
        await a.suspend(True)
        left = place.objects()
        await b.create()
        await b.until("checkpoint-000080")
        await a.suspend(False)
        await a.waits_for(b)
        trained, reused = await b.result(), await a.result()
    assert (trained.reused, reused.reused) == (False, True)
    assert trained.manifest == reused.manifest
    assert_nothing_is_gone(left, place.objects())
    begins = re.search(r" (\d+) before", b.log)
    assert begins, b.log
    assert int(begins[1]) >= 40, "b goes on from what a has left, which is the step that it was ended in"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(of("a"), of("b"), id="a queue on Hold lets both go at once"),
        pytest.param(of("a", "team-1"), of("a", "team-2"), id="two namespaces", marks=pytest.mark.long),
    ],
)
async def test_of_two_that_start_at_once_one_trains_and_the_other_reuses(
    one: FeedbackIteration, other: FeedbackIteration, place: Place, s3_environment: Mapping[str, str], tmp_path: Path
) -> None:
    async with cluster(tmp_path / "1", s3_environment) as here, cluster(tmp_path / "2", s3_environment) as there:
        both = Training(here, one, place), Training(there, other, place)
        await asyncio.gather(*(training.create() for training in both))
        await asyncio.wait([asyncio.ensure_future(training.until("checkpoint-000040")) for training in both])
        seen = place.objects()
        results = await asyncio.gather(*(training.result() for training in both))
    assert sorted(result.reused for result in results) == [False, True]
    assert results[0].manifest == results[1].manifest
    kept = {name: tag for name, tag in seen.items() if "state/" not in name}  # the one that trains replaces its own
    assert_nothing_is_gone(kept, place.objects())


async def test_when_the_one_that_trains_is_killed_the_other_goes_on_from_its_state(
    place: Place, s3_environment: Mapping[str, str], tmp_path: Path
) -> None:
    async with cluster(tmp_path / "1", s3_environment) as here, cluster(tmp_path / "2", s3_environment) as there:
        a, b = Training(here, of("a", "team-1"), place), Training(there, of("a", "team-2"), place)
        await a.create()
        await a.until("state/")
        await b.create()
        await b.waits_for(a)
        (process,) = here._jobs[a.run.name].processes.values()
        stopped = psutil.Process(process._process.pid)
        stopped.suspend()  # a node that is not heard of: nothing of it ends, and nothing of it follows
        left = place.objects()
        trained = await b.result()
        assert_nothing_is_gone(left, place.objects())
        made = place.objects()
        os.kill(stopped.pid, signal.SIGCONT)
        reused = await a.result()
    assert (trained.reused, reused.reused) == (False, True)
    assert_nothing_is_gone(made, place.objects())
    assert " 0 before" not in b.log, "b goes on from what a has left"
