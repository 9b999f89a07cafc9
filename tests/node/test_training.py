"""Two pods train as one: they meet by a headless Service, and the losses are the same for one global batch."""

from __future__ import annotations

import json
import os
import random
import time

import pytest

from feedback_workloads.storage.artifacts import ArtifactStore
from feedback_workloads.storage.objects import join
from tests.cluster.api import Object
from tests.cluster.world import stage_is, stage_of
from tests.e2e.outcomes import artifacts_of, forget, kept
from tests.node.team import BUCKET, ITERATION_SECONDS, Team, on_cluster

EPOCHS = 8
SEED = int(os.environ.get("FEEDBACK_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
"""Decides the moments; set FEEDBACK_TEST_SEED to repeat those that a failure printed."""
pytestmark = [pytest.mark.timeout(3600), pytest.mark.long]


def train(team: Team, manifest: Object, name: str, nodes: int) -> None:
    training = {"epochs": EPOCHS, "nodes": nodes, "perDeviceBatchSize": 8}
    team.apply(on_cluster(manifest, name, training=training, serving=None))


def log_of(store: ArtifactStore, iteration: Object) -> list[dict[str, float]]:
    """What the trainer measured, a step a row; its artifact is removed, so that the next run trains again."""
    [policy] = artifacts_of(iteration, "training")[:1]
    text = store.objects(policy.uri).read(join(policy.uri, "training.jsonl")).decode()
    forget(store, policy.uri.rpartition("/")[0])
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def alone(team: Team, manifest: Object, first: Object, store: ArtifactStore) -> list[dict[str, float]]:
    """What one pod measures."""
    train(team, manifest, "alone", nodes=1)
    done = team.until("alone", stage_is("training", "Done"))
    team.kubectl("delete", "feedbackiteration", "alone")
    return log_of(store, done)


def kill_one(team: Team, name: str, store: ArtifactStore) -> None:
    """Kill one of the two pods once a random one of the checkpoints is stored."""
    rng = random.Random(SEED)
    checkpoints = rng.randrange(1, EPOCHS)
    stage = stage_of(team.until(name, stage_is("training", "Running")), "training")
    folder = f"s3://{BUCKET}/iterations/training/{stage['hash']}"
    deadline = time.monotonic() + ITERATION_SECONDS
    while len([file for file in kept(store, folder) if "/checkpoint-" in file]) < checkpoints:
        assert time.monotonic() < deadline, f"{folder} never had {checkpoints} checkpoints"
        time.sleep(0.05)
    victim = rng.choice(team.pods(**{"batch.kubernetes.io/job-name": stage["job"]}))["metadata"]["name"]
    team.kubectl("delete", "pod", victim, "--grace-period=0", "--force")
    print(f"FEEDBACK_TEST_SEED={SEED}: {victim} killed after {checkpoints} checkpoints")


@pytest.mark.parametrize("killed", [False, True], ids=["in peace", "one of them killed"])
def test_two_pods_train_as_one(
    killed: bool, team: Team, manifest: Object, store: ArtifactStore, alone: list[dict[str, float]]
) -> None:
    name = "killed" if killed else "together"
    train(team, manifest, name, nodes=2)
    if killed:
        kill_one(team, name, store)
    done = team.until(name, stage_is("training", "Done"))
    team.kubectl("delete", "feedbackiteration", name)
    losses = [row["loss"] for row in log_of(store, done)]
    assert losses == pytest.approx([row["loss"] for row in alone], rel=1e-4)
