"""What a finished iteration has left on S3, to compare it with another one's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from feedback_workloads.contract import Artifact
from feedback_workloads.rows.schemas import CLAIMS, PAIRS, SAMPLES, SCORES, VERDICTS
from feedback_workloads.storage.artifacts import ArtifactStore
from feedback_workloads.storage.objects import join

ROWS: Mapping[str, tuple[pa.Schema, list[str]]] = {
    "sampling": (SAMPLES, ["id", "candidate", "answer", "finish_reason", "seed"]),
    "splitting": (CLAIMS, ["id", "candidate", "claims", "questions"]),
    "labeling": (VERDICTS, ["id", "candidate", "accepted"]),
    "pairing": (PAIRS, ["id", "chosen", "rejected", "chosen_score", "rejected_score"]),
    "evaluation": (SCORES, ["checkpoint", "split", "id", "candidate", "answer"]),
}


def tables(finished: Mapping[str, Any], stage: str, store: ArtifactStore) -> list[dict[str, Any]]:
    """The stage's rows, sorted."""
    schema, columns = ROWS[stage]
    rows = store.read_table(artifacts_of(finished, stage), schema, columns).to_pylist()
    return sorted(rows, key=lambda row: json.dumps(row, sort_keys=True))


def artifacts_of(finished: Mapping[str, Any], stage: str) -> list[Artifact]:
    status = next(one for one in finished["status"]["stages"] if one["name"] == stage)
    return [Artifact(uri=shard["uri"], sha256=shard["sha256"]) for shard in status["shards"]]


def forget(store: ArtifactStore, uri: str) -> None:
    """Remove all objects below `uri`: a stage that ended before it could be killed is to run again."""
    objects = store.objects(uri)
    for one in list(objects.list(uri)):
        objects.delete(join(uri, one.name))


def kept(store: ArtifactStore, uri: str) -> dict[str, str]:
    """What must outlive any kill: finished parts and checkpoints, by name, with their content's tag.

    Of the states from which training goes on only the newest is kept, so they are not among them.
    """
    listed = [one for one in store.objects(uri).list(uri) if "/state/" not in one.name]
    return {one.name: one.tag for one in listed if "/part-" in one.name or one.name.endswith("/manifest.json")}
