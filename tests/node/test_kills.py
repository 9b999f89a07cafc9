"""Whatever ends in the middle of a stage, the iteration ends with the rows of one that was left in peace."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

import pytest

from feedback_workloads.artifacts import ArtifactStore
from tests.cluster.api import DEPLOYMENTS, Object
from tests.cluster.node.outside import processes
from tests.cluster.node.places import Places, own_kubeconfig
from tests.cluster.world import READY, stage_is, stage_of
from tests.e2e.outcomes import ROWS, kept, tables
from tests.node.asking import ask, client_of
from tests.node.conftest import SYSTEM
from tests.node.team import BUCKET, ENDPOINT, Team, on_cluster

NAME = "disturbed"
OUTAGE_SECONDS = 60
pytestmark = pytest.mark.timeout(3600)


def of_stage(stage: str) -> dict[str, str]:
    return {"feedback.rlaif.dev/iteration": NAME, "feedback.rlaif.dev/stage": stage}


def kill_stage(team: Team, stage: str) -> None:
    pod = team.running_pod(**of_stage(stage))
    team.kubectl("delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force")


def kill_operator(team: Team, stage: str) -> None:
    selector = "--selector=app.kubernetes.io/name=feedback-operator"
    team.kubectl("delete", "pods", selector, "--namespace", SYSTEM, "--grace-period=0", "--force")


def kill_kubelet(team: Team, stage: str) -> None:
    """Its init system starts it again; on a cluster of one's own there is none to kill from here."""
    if own_kubeconfig() is None:
        for process in processes(Places(), "kubelet"):
            os.kill(process, signal.SIGKILL)


def cut_s3(team: Team, stage: str) -> None:
    """For a minute nobody is behind the address."""
    selector = '{"spec": {"selector": {"app.kubernetes.io/name": "%s"}}}'
    team.kubectl("patch", "service", "s3", "--patch", selector % "nobody")
    threading.Event().wait(OUTAGE_SECONDS)
    team.kubectl("patch", "service", "s3", "--patch", selector % "s3")


DISTURBANCES: tuple[tuple[str, tuple[Callable[[Team, str], None], ...]], ...] = (
    ("samples", (kill_operator, kill_stage)),
    ("claims", (kill_stage,)),
    ("verdicts", (kill_kubelet, kill_stage)),
    ("pairs", (kill_stage,)),
    ("policy", (kill_stage, cut_s3)),
    ("scores", (cut_s3, kill_stage)),
)


def test_disturbed_in_every_stage_it_ends_the_same(
    team: Team, manifest: Object, store: ArtifactStore, first: Object
) -> None:
    root = f"s3://{BUCKET}/disturbed"
    team.apply(on_cluster(manifest, NAME, artifacts={"uri": root}, serving=None))
    for stage, disturb in DISTURBANCES:
        team.running_pod(**of_stage(stage))
        before = kept(store, root)
        for act in disturb:
            act(team, stage)
            print(f"{stage}: {act.__name__}, {len(before)} finished parts kept")
        after = team.until(NAME, stage_is(stage, "Done"))
        assert before.items() <= kept(store, root).items(), f"{stage}: a finished part was lost or written again"
        print(f"{stage}: done after {stage_of(after, stage)['attempt'] + 1} Jobs")
    finished = team.until(NAME, READY)
    for stage in ROWS:
        assert tables(finished, stage, store) == tables(first, stage, store), f"the rows of {stage} differ"


def test_a_server_that_is_killed_comes_back(team: Team, first: Object) -> None:
    [pod] = team.pods(**{"feedback.rlaif.dev/endpoint": ENDPOINT})
    name = pod["metadata"]["name"]
    team.kubectl("delete", "pod", name, "--grace-period=0", "--force")
    team.wait(DEPLOYMENTS, ENDPOINT, lambda item: not item["status"].get("readyReplicas"))
    team.wait(DEPLOYMENTS, ENDPOINT, lambda item: item["status"].get("readyReplicas") == 1)
    with client_of(team.address(ENDPOINT)) as client:
        assert ask(client, ENDPOINT, max_tokens=16).choices[0].message.content
