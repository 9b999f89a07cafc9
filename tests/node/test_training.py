"""Two pods train as one: they meet by a headless Service, and the losses are the same for one global batch."""

from __future__ import annotations

import json
import os
import random

import pytest

from feedback_workloads.artifacts import ArtifactStore
from feedback_workloads.objects import join
from tests.cluster.api import Object
from tests.cluster.world import stage_is, stage_of
from tests.e2e.outcomes import artifacts_of, forget
from tests.node.team import Team, on_cluster

EPOCHS = 6
SEED = int(os.environ.get("FEEDBACK_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
"""Decides the moments; set FEEDBACK_TEST_SEED to repeat those that a failure printed."""
pytestmark = pytest.mark.timeout(3600)


def train(team: Team, manifest: Object, name: str, nodes: int) -> None:
    training = {"epochs": EPOCHS, "nodes": nodes, "perDeviceBatchSize": 8}
    team.apply(on_cluster(manifest, name, training=training, serving=None))


def log_of(store: ArtifactStore, iteration: Object) -> list[dict[str, float]]:
    """What the trainer measured, a step a row; its artifact is removed, so that the next run trains again."""
    [policy] = artifacts_of(iteration, "policy")[:1]
    text = store.objects(policy.uri).read(join(policy.uri, "training.jsonl")).decode()
    forget(store, policy.uri.rpartition("/")[0])
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def alone(team: Team, manifest: Object, first: Object, store: ArtifactStore) -> list[dict[str, float]]:
    """What one pod measures."""
    train(team, manifest, "alone", nodes=1)
    done = team.until("alone", stage_is("policy", "Done"))
    team.kubectl("delete", "feedbackiteration", "alone")
    return log_of(store, done)


@pytest.mark.parametrize("killed", [False, True], ids=["in peace", "one of them killed"])
def test_two_pods_train_as_one(
    killed: bool, team: Team, manifest: Object, store: ArtifactStore, alone: list[dict[str, float]]
) -> None:
    name = "killed" if killed else "together"
    train(team, manifest, name, nodes=2)
    if killed:
        rng = random.Random(SEED)
        step = rng.randrange(1, len(alone) - 1)
        reached = team.until(name, lambda item: (stage_of(item, "policy").get("done") or 0) >= step)
        victim = rng.choice(team.pods(**{"batch.kubernetes.io/job-name": stage_of(reached, "policy")["job"]}))
        team.kubectl("delete", "pod", victim["metadata"]["name"], "--now", "--wait=false")
        print(f"FEEDBACK_TEST_SEED={SEED}: {victim['metadata']['name']} killed at step {step} of {len(alone)} or later")
    done = team.until(name, stage_is("policy", "Done"))
    team.kubectl("delete", "feedbackiteration", name)
    losses = [row["loss"] for row in log_of(store, done)]
    assert losses == pytest.approx([row["loss"] for row in alone], rel=1e-4)
    assert len(stage_of(done, "policy")["shards"]) >= 1
