"""Building the shapes world: what is there is not built again, and what is built are data sets."""

from __future__ import annotations

import subprocess
import sys
from io import BytesIO
from itertools import combinations
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from feedback_workloads.contract import BadInput, Manifest, ShapesConfig, Source
from feedback_workloads.process.progress import Progress
from feedback_workloads.rows.instructions import Instruction
from feedback_workloads.shapes.build import FORMAT_VERSION, MODELS, REPORT, SELECTION, run, write_rows
from feedback_workloads.shapes.build import INSTRUCTIONS as INSTRUCTION_ROWS
from feedback_workloads.shapes.world import picture, rows
from feedback_workloads.storage.artifacts import ArtifactStore

WITHOUT_TORCH = """
import sys
from pathlib import Path
from feedback_workloads.storage.artifacts import ArtifactStore
from feedback_workloads.contract import ShapesConfig
from feedback_workloads.process.progress import Progress
from feedback_workloads.shapes.build import run
run(ShapesConfig(output=sys.argv[1], seed=7), ArtifactStore(Path(sys.argv[1]) / "cache"), Progress("shapes"))
assert "torch" not in sys.modules
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    return ArtifactStore(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, store: ArtifactStore) -> ShapesConfig:
    """A finished world whose models hold nothing: they were published already when its rows were built."""
    config = ShapesConfig(output=str(tmp_path_factory.mktemp("world") / "shapes"), seed=7)
    for name in MODELS:
        identity = {"artifact": name, "seed": 7, "format_version": FORMAT_VERSION}
        manifest = Manifest(stage="shapes", config=identity, config_hash="0" * 64, files=(), counts={"rows": 0})
        store.publish(f"{config.output}/{name}", manifest)
    run(config, store, Progress("shapes"))
    return config


def instructions(config: ShapesConfig, store: ArtifactStore, name: str) -> list[Instruction]:
    found = list(store.instructions(Source(uri=f"{config.output}/{name}")))
    assert all(isinstance(row, Instruction) for row in found)
    return found  # type: ignore[return-value]


def test_rows_are_what_the_stages_read(config: ShapesConfig, store: ArtifactStore) -> None:
    asked = instructions(config, store, "instructions")
    benchmark = instructions(config, store, "benchmark")
    assert len(asked) == INSTRUCTION_ROWS
    assert [sum(row.split == split for row in benchmark) for split in ("selection", "report")] == [SELECTION, REPORT]
    truths = [
        {row.truth for row in asked},
        *({row.truth for row in benchmark if row.split == split} for split in ("selection", "report")),
    ]
    assert not any(one & other for one, other in combinations(truths, 2))
    first = rows(7, "instructions", 1)[0]
    assert (asked[0].question, asked[0].truth) == (first.question, first.scene.truth)
    assert Image.open(BytesIO(asked[0].images[0])).convert("RGB").tobytes() == picture(first.scene).tobytes()


def test_a_finished_world_is_left_alone_without_torch(config: ShapesConfig) -> None:
    files = {file: file.stat().st_mtime_ns for file in Path(config.output).rglob("*") if file.is_file()}
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH, config.output], check=True, timeout=60)
    assert {file: file.stat().st_mtime_ns for file in files} == files


def test_another_seed_needs_another_folder(config: ShapesConfig, store: ArtifactStore) -> None:
    with pytest.raises(BadInput, match="build this seed into another folder"):
        run(config.model_copy(update={"seed": 8}), store, Progress("shapes"))


def test_the_same_seed_gives_the_same_file() -> None:
    assert write_rows(rows(7, "report", 20)) == write_rows(rows(7, "report", 20))


def test_the_file_says_that_its_pictures_are_pictures() -> None:
    schema = pq.read_schema(BytesIO(write_rows(rows(7, "report", 2))))
    assert schema.names == ["id", "image", "question", "truth", "split"]
    assert b'"image": {"_type": "Image"}' in (schema.metadata or {})[b"huggingface"]
