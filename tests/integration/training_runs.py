"""Policy stages on tiny models, run as they are in a pod: one process a stage, artifacts in a local folder."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from feedback_workloads.contract import Artifact, ExitCode, Manifest, Source, StageResult, TrainingConfig, shard_uri
from feedback_workloads.models.families import family_of
from feedback_workloads.models.family import Family
from feedback_workloads.rows.schemas import PAIRS
from feedback_workloads.stages.entry import TERMINATION_LOG_VARIABLE, main
from feedback_workloads.storage.artifacts import CACHE_VARIABLE, ArtifactStore
from tests.integration.models import picture, tiny_llava
from tests.models.reference import load, of_answer

PATIENCE_SECONDS = 1500


@dataclass(frozen=True)
class Study:
    """A tiny model and pairs for it; runs are stored below `root`."""

    root: Path
    model: Path
    pairs: Artifact

    @property
    def compiled(self) -> Path:
        """Folder of what PyTorch compiles at run time."""
        return self.root / "compiled"

    def config(self, name: str, **changes: Any) -> TrainingConfig:
        settings: dict[str, Any] = {
            "learning_rate": 1e-3,
            "epochs": 3,
            "global_batch_size": 4,
            "checkpoints_per_epoch": 1,
            "per_device_batch_size": 1,
            "zero_stage": 0,
            "gradient_checkpointing": False,
            "precision": "float32",
            "parity_rows": 2,
            "model": Source(uri=str(self.model)),
            **changes,
        }
        return TrainingConfig(output=str(self.root / name), pairs=(self.pairs,), **settings)

    def start(self, name: str, environment: Mapping[str, str] | None = None, **changes: Any) -> Process:
        """Start a stage in a process of its own."""
        run = Run(self, name, self.config(name, **changes))
        with (self.root / f"{name}.log").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "feedback_workloads", "training", "--config", str(run.write_config())],
                env={**os.environ, **run.environment, "OMP_NUM_THREADS": "1", **(environment or {})},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return Process(self, name, run.config, process)

    def run(self, name: str, **changes: Any) -> Run:
        """Run a stage to its end, which must be a good one; in this process, which has imported everything already."""
        assert self.attempt(name, **changes) == ExitCode.DONE
        return Run(self, name, self.config(name, **changes))

    def attempt(self, name: str, **changes: Any) -> int:
        """As `run`, however it ends; its exit code."""
        run = Run(self, name, self.config(name, **changes))
        with patch.dict(os.environ, {**run.environment, "OMP_NUM_THREADS": "1"}):
            return main(["training", "--config", str(run.write_config())])


@dataclass(frozen=True)
class Run:
    """One training, and what it left."""

    study: Study
    name: str
    config: TrainingConfig

    def write_config(self) -> Path:
        file = self.study.root / f"{self.name}.json"
        file.write_text(self.config.model_dump_json())
        return file

    @property
    def environment(self) -> dict[str, str]:
        return {
            CACHE_VARIABLE: str(self.study.root / "cache"),
            TERMINATION_LOG_VARIABLE: str(self.study.root / f"{self.name}.result"),
            "TORCH_EXTENSIONS_DIR": str(self.study.compiled),
        }

    @property
    def folder(self) -> Path:
        return Path(shard_uri(self.config, 0))

    @property
    def result(self) -> StageResult:
        return StageResult.model_validate_json((self.study.root / f"{self.name}.result").read_text())

    @property
    def manifest(self) -> Manifest:
        return Manifest.model_validate_json((self.folder / "manifest.json").read_text())

    @property
    def log(self) -> list[dict[str, float]]:
        return [json.loads(line) for line in (self.folder / "training.jsonl").read_text().splitlines()]

    def weights(self, step: int) -> dict[str, torch.Tensor]:
        (file,) = (self.folder / f"checkpoint-{step:06d}").glob("*.safetensors")
        return load_file(file)


@dataclass(frozen=True)
class Process(Run):
    """A run in a process of its own."""

    process: subprocess.Popen[bytes]

    def wait(self) -> int:
        try:
            return self.process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{self.name} still runs after {PATIENCE_SECONDS} s; it wrote:\n{self.output}")

    def wait_until(self, happened: Callable[[Run], bool]) -> None:
        """Return as soon as something happened, which must be before the process ends."""
        while not happened(self):
            assert self.process.poll() is None, self.output
            time.sleep(0.005)

    @property
    def output(self) -> str:
        return (self.study.root / f"{self.name}.log").read_text()


def study(root: Path, rows: int = 16, *, shift: float = 0.0, build: Callable[[Path], Path] = tiny_llava) -> Study:
    """Make a model and `rows` pairs of random answers with their log-probabilities, which are `shift` too high."""
    model = build(root / "model")
    loaded, family = load(model), family_of(model)
    rng = random.Random(0)
    pairs = [pair(loaded, family, rng, i, shift) for i in range(rows)]
    uri, store = str(root / "pairs"), ArtifactStore(root / "cache")
    with store.append(uri, PAIRS) as parts:
        parts.write(pairs)
        manifest = Manifest(
            stage="pairing", config={}, config_hash="0" * 64, files=parts.files(), counts=parts.counts()
        )
    return Study(root, model, store.publish(uri, manifest))


def pair(model: PreTrainedModel, family: Family, rng: random.Random, number: int, shift: float) -> dict[str, Any]:
    """One row of PAIRS: picture and question of their own, answers of random length."""
    row: dict[str, Any] = {
        "id": f"row-{number}",
        "image": {"bytes": picture(number, 64 + 8 * (number % 3), 64), "path": None},
        "question": f"What is in picture {number}?",
    }
    for side, score in (("chosen", 0), ("rejected", -1)):
        ids = [rng.randrange(10, 200) for _ in range(rng.randrange(4, 20))] + [min(family.eos_ids)]
        logps = of_answer(model, family, row["question"], row["image"]["bytes"], ids)
        row |= {
            side: family.answer(ids),
            f"{side}_token_ids": ids,
            f"{side}_logps": [value + shift for value in logps],
            f"{side}_candidate": -score,
            f"{side}_score": score,
            f"{side}_claims": ["a claim"],
            f"{side}_accepted": [score == 0],
        }
    return row
