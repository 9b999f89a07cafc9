"""A cluster with the operator from its chart, and a namespace on it with an S3 server and a small world."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from feedback_workloads.storage.artifacts import CACHE_VARIABLE, ArtifactStore
from tests.chart.rendering import CHART, helm
from tests.cluster.api import Object
from tests.cluster.node.places import Places, own_kubeconfig
from tests.cluster.world import READY
from tests.integration.worlds import SmallWorld, small_world
from tests.node.team import BUCKET, ENDPOINT, ROOT, Team, on_cluster

RELEASE = "feedback-operator"
SYSTEM = "feedback-system"


@dataclass(frozen=True)
class Release:
    """The operator on a cluster, by its chart."""

    kubeconfig: Path

    def helm(self, *arguments: str | Path) -> None:
        ended = helm(*arguments, "--namespace", SYSTEM, "--kubeconfig", self.kubeconfig)
        assert ended.returncode == 0, ended.stdout + ended.stderr

    def upgrade(self) -> None:
        """Install, or have all pods replaced: their images may be others, with the same tags."""
        new_pods = f"podAnnotations.session={uuid.uuid4().hex}"
        values = ("--set", "workloads.generate.tag=0.1.0-cpu", "--set-string", new_pods)
        self.helm("upgrade", "--install", RELEASE, CHART, "--create-namespace", "--wait", "--timeout", "3m", *values)


@pytest.fixture(scope="session")
def cluster() -> Path:
    """A kubeconfig of an administrator."""
    found = own_kubeconfig() or Places().kubeconfig
    assert found.exists(), (
        "no cluster runs; start one with `make cluster-images`, or name your own (FEEDBACK_CLUSTER=own)"
    )
    return found


@pytest.fixture(scope="session")
def release(cluster: Path) -> Release:
    """The chart, installed as docs/quickstart.md does it, and tested by its own test."""
    made = Release(cluster)
    made.upgrade()
    made.helm("test", RELEASE)
    return made


@pytest.fixture(scope="session")
def team(cluster: Path, release: Release, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """A namespace of this session alone."""
    kubeconfig = shutil.copy(cluster, tmp_path_factory.mktemp("team") / "kubeconfig")
    made = Team(kubeconfig, f"team-{uuid.uuid4().hex[:6]}")
    made.kubectl("create", "namespace", made.namespace)
    made.kubectl("config", "set-context", "--current", f"--namespace={made.namespace}")
    made.kubectl("label", "namespace", made.namespace, "pod-security.kubernetes.io/enforce=restricted")
    made.kubectl("apply", "--filename", str(ROOT / "examples/quickstart/s3.yaml"))
    # Pods share two cores with other tests: threads that wait for each other would wait for those, a hundred times.
    made.kubectl("patch", "secret", "s3", "--patch", '{"stringData": {"OMP_NUM_THREADS": "1"}}')
    made.kubectl("rollout", "status", "deployment/s3", "--timeout=120s")
    yield made
    made.kubectl("delete", "namespace", made.namespace, "--wait=false")


@pytest.fixture(scope="session")
def store(team: Team, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ArtifactStore]:
    """The team's S3, as seen from here."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**team.s3_environment(), CACHE_VARIABLE: str(cache)}.items():
            patch.setenv(name, value)
        yield ArtifactStore.from_environment()


@pytest.fixture(scope="session")
def world(store: ArtifactStore, tmp_path_factory: pytest.TempPathFactory) -> SmallWorld:
    return small_world(store, f"s3://{BUCKET}/small", tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def manifest(world: SmallWorld) -> Object:
    """What every iteration here is a change of."""
    return on_cluster(world.manifest(f"s3://{BUCKET}/iterations"), "first", serving={"endpoint": ENDPOINT, "bestOf": 2})


@pytest.fixture(scope="session")
def first(team: Team, manifest: Object) -> Object:
    """An iteration that is done and serves."""
    team.apply(manifest)
    return team.until("first", READY)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that fails shows the pods and the events of its namespace."""
    report = yield
    team = getattr(item, "funcargs", {}).get("team")
    if report.failed and isinstance(team, Team):
        for words in (
            ("get", "feedbackiterations,pods", "--output=wide"),
            ("get", "events", "--sort-by=.lastTimestamp"),
        ):
            report.sections.append((" ".join(words), team.kubectl(*words)))
    return report
