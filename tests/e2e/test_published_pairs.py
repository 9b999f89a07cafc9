"""`feedback run` on pairs in RLAIF-V's form: from a published file to an evaluated policy, without any sampling."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from feedback_operator.cluster.local.embedded_s3 import BUCKET
from feedback_workloads.rows.schemas import IMAGE
from feedback_workloads.shapes.captions import careless_words, true_words
from feedback_workloads.shapes.world import Row, png, rows
from feedback_workloads.storage.artifacts import CACHE_VARIABLE, ArtifactStore
from tests.e2e.outcomes import artifacts_of
from tests.integration.worlds import small_world

PAIRS = 32
STAGES = ["pairing", "training", "evaluation"]
RUN_SECONDS = 1500


def published(scene: Row, number: int) -> dict[str, Any]:
    """A row of RLAIF-V's files, about a picture of the world: true words beside those of careless people."""
    chance = Random(number)
    return {
        "ds_name": "shapes",
        "image": {"bytes": png(scene.scene), "path": f"{number}.png"},
        "question": scene.question,
        "chosen": true_words(scene.scene, scene.question, chance),
        "rejected": careless_words(scene.scene, scene.question, chance),
        "origin_dataset": "shapes",
        "origin_split": "{}",
        "idx": str(number),
        "image_path": f"{number}.png",
    }


def parquet(made: list[dict[str, Any]]) -> bytes:
    texts = [pa.field(name, pa.string()) for name in made[0] if name != "image"]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(made, pa.schema([*texts, ("image", IMAGE)])), sink)
    return sink.getvalue()


def run(folder: Path, environment: Mapping[str, str], manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Run to the end; the finished iteration."""
    folder.mkdir()
    (folder / "iteration.yaml").write_text(yaml.safe_dump(dict(manifest)))
    command = [sys.executable, "-m", "feedback_operator.cli", "run", str(folder / "iteration.yaml")]
    command += ["--state", str(folder / "state"), "--out", str(folder / "out")]
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=RUN_SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found: dict[str, Any] = json.loads((folder / "out/iteration.json").read_text())
    return found


@pytest.mark.long
@pytest.mark.timeout(2400)
def test_from_a_published_file_to_a_policy(
    s3_environment: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {**s3_environment, CACHE_VARIABLE: str(tmp_path / "cache")}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    store = ArtifactStore.from_environment()
    root = f"s3://{BUCKET}/tests/published-pairs"
    world = small_world(store, f"{root}/world", tmp_path)
    made = [published(row, number) for number, row in enumerate(rows(0, "training", 2 * PAIRS))]
    pairs = [row for row in made if row["chosen"] != row["rejected"]][:PAIRS]
    same = next(row for row in made if row["chosen"] == row["rejected"])
    store.put(parquet([*pairs, same]), f"{root}/rlaif-v", "RLAIF-V-Dataset_000.parquet")
    manifest = world.manifest(
        f"{root}/artifacts",
        pairs={"source": {"uri": f"{root}/rlaif-v"}},
        sampling={"maxNewTokens": 64, "maxModelLen": 256},
    )
    for section in ("instructions", "labeling", "pairing"):
        del manifest["spec"][section]

    finished = run(tmp_path / "first", environment, manifest)
    assert [(stage["name"], stage["state"]) for stage in finished["status"]["stages"]] == [
        (name, "Done") for name in STAGES
    ]
    pairing, training = (store.manifest(artifacts_of(finished, name)[0]) for name in STAGES[:2])
    assert (pairing.counts["published"], pairing.counts["balanced"]) == (PAIRS + 1, PAIRS)
    assert training.counts["rows"] == PAIRS
    assert training.metrics["references_recomputed"] == 1
    assert training.metrics["train_reward_margin"] > 0
    page = (tmp_path / "first/out/report.html").read_text()
    assert f"pairs of <code>{root}/rlaif-v</code>" in page
    assert "pairs made elsewhere" in page
    assert "This report is incomplete" not in page

    again = run(tmp_path / "again", environment, manifest)
    assert all(shard["reused"] for stage in again["status"]["stages"] for shard in stage["shards"])
