"""Whatever ends in the middle of a stage, the iteration ends with the rows of one that was left in peace.

Each stage prints its pods in the order in which they began: how each ended, at which unit of work, and how much of its
work the next one did again.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import httpx
import pytest

from feedback_operator.cluster.progress import parse
from feedback_workloads.storage.artifacts import ArtifactStore
from tests.cluster.api import DEPLOYMENTS, Object
from tests.cluster.node.outside import processes, refused
from tests.cluster.node.places import Places, own_kubeconfig
from tests.cluster.world import READY, stage_is, stage_of
from tests.e2e.outcomes import ROWS, kept, tables
from tests.integration.stage_logs import ACCOUNT
from tests.node.asking import ask, client_of
from tests.node.conftest import SYSTEM
from tests.node.team import BUCKET, ENDPOINT, ITERATION_SECONDS, Team, on_cluster

NAME: Final = "disturbed"
S3_PORT: Final = 8333
OUTAGE_SECONDS: Final = 60.0
QUICK: Final = ("splitting", "pairing")
"""Stages that have ended before one can be caught at work here: they are killed as they start."""
UNITS: Final = {
    "sampling": "instructions",
    "splitting": "answers",
    "labeling": "answers",
    "pairing": "instructions",
    "training": "steps",
    "evaluation": "answers",
}
pytestmark = [pytest.mark.timeout(3600), pytest.mark.long]


# ── what a stage's pods have done ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Work:
    """One pod's part of a stage, in the stage's units."""

    pod: str
    ended: str
    end: int
    """Complete, as far as the pod knew, when it ended."""
    before: int = 0
    """Complete when the pod began."""


def of_stage(stage: str) -> dict[str, str]:
    return {"feedback.rlaif.dev/iteration": NAME, "feedback.rlaif.dev/stage": stage}


def at_work(team: Team, stage: str) -> Work:
    """A running pod of the stage once half is complete: as it would be if it were killed now."""
    pod = team.running_pod(**of_stage(stage))
    name = pod["metadata"]["name"]
    if stage in QUICK:
        return Work(name, "was killed", 0)
    [port] = [one["containerPort"] for one in pod["spec"]["containers"][0]["ports"]]
    deadline = time.monotonic() + ITERATION_SECONDS
    while time.monotonic() < deadline:
        try:
            units = parse(httpx.get(f"http://{pod['status']['podIP']}:{port}/metrics", timeout=1).text)
        except httpx.TransportError:
            assert team.get("pod", name)["status"]["phase"] == "Running", f"{name} ended before it could be disturbed"
            continue
        if units.total and units.done >= units.total / 2:
            return Work(name, "was killed", units.done)
    raise AssertionError(f"{name} never was half done")


def works_of(team: Team, stage: str) -> list[Work]:
    """The pods that ended by themselves, in the order in which they began, but for those that never got to work."""
    works = []
    for pod in sorted(team.pods(**of_stage(stage)), key=lambda pod: pod["metadata"]["creationTimestamp"]):
        name = pod["metadata"]["name"]
        code = pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"]
        if said := ACCOUNT.search(team.kubectl("logs", name)):
            here, before = map(int, said.groups())
            works.append(Work(name, f"ended with code {code}", before + here, before))
    return works


def report(stage: str, works: list[Work]) -> None:
    """Print how each pod ended, and how much of its work the next one did again."""
    for work, following in pairwise(works):
        again = max(0, work.end - following.before)
        print(f"{stage}: {work.pod} {work.ended} after {work.end} {UNITS[stage]}; {again} done again")
    last = works[-1]
    print(f"{stage}: {last.pod} {last.ended}, {last.end - last.before} of {last.end} {UNITS[stage]} done by it")


# ── what is done to them ─────────────────────────────────────────────────────────────────────────────────────────────


def kill_operator(team: Team) -> None:
    selector = "--selector=app.kubernetes.io/name=feedback-operator"
    team.kubectl("delete", "pods", selector, "--namespace", SYSTEM, "--grace-period=0", "--force")


def kill_kubelet(team: Team) -> None:
    """Its init system starts it again; on a cluster of one's own there is none to kill from here."""
    if own_kubeconfig() is None:
        for process in processes(Places(), "kubelet"):
            os.kill(process, signal.SIGKILL)


def cut_s3(team: Team) -> None:
    """For a minute S3 refuses everybody; on a cluster of one's own its connections cannot be cut from here."""
    if own_kubeconfig() is None:
        with refused(Places(), S3_PORT):
            threading.Event().wait(OUTAGE_SECONDS)


DISTURBANCES: Final[Mapping[str, Callable[[Team], None]]] = {"sampling": kill_operator, "labeling": kill_kubelet}
"""Besides: in each stage a pod is killed at work, and the next one loses S3 at work."""


def test_disturbed_in_every_stage_it_ends_the_same(
    team: Team, manifest: Object, store: ArtifactStore, first: Object
) -> None:
    root = f"s3://{BUCKET}/disturbed"
    team.apply(on_cluster(manifest, NAME, artifacts={"uri": root}, serving=None))
    for stage in UNITS:
        killed = at_work(team, stage)
        team.kubectl("delete", "pod", killed.pod, "--grace-period=0", "--force")
        before = kept(store, root)
        if disturb := DISTURBANCES.get(stage):
            disturb(team)
            print(f"{stage}: {disturb.__name__}")
        at_work(team, stage)
        cut_s3(team)
        after = team.until(NAME, stage_is(stage, "Done"))
        assert before.items() <= kept(store, root).items(), f"{stage}: a finished part was lost or written again"
        following = works_of(team, stage)
        assert following, f"{stage}: {killed.pod} had ended before it was killed"
        report(stage, [killed, *following])
        print(f"{stage}: done after {stage_of(after, stage).get('attempt', 0) + 1} Jobs")
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
