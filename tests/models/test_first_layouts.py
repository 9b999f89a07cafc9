"""Models in the layout of their first publication, named in a manifest as they are: the stages take them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Final
from unittest.mock import patch

import pytest
import torch

from feedback_workloads.contract import (
    Artifact,
    Decoding,
    EngineConfig,
    ExitCode,
    Manifest,
    SamplingConfig,
    Source,
    StageConfig,
    StageResult,
    TrainingConfig,
    shard_uri,
)
from feedback_workloads.models.families import family_of
from feedback_workloads.models.llava import Llava
from feedback_workloads.models.omnilmm.family import OmniLMM
from feedback_workloads.models.standard import Standard
from feedback_workloads.rows.schemas import PAIRS, SAMPLES
from feedback_workloads.stages.entry import TERMINATION_LOG_VARIABLE, main
from feedback_workloads.storage.artifacts import CACHE_VARIABLE, ArtifactStore
from tests.integration.models import picture
from tests.integration.training_runs import pair
from tests.models import original_llava, original_omnilmm
from tests.models.reference import load, of_answer

QUESTION: Final = "Is there a red block? yes\nor no"
HASH: Final = "0123456789abcdef" * 4


def run(config: StageConfig, folder: Path) -> StageResult:
    """Run a stage as its pod does."""
    file, result = folder / f"{config.stage}.json", folder / f"{config.stage}.result"
    file.write_text(config.model_dump_json())
    environment = {CACHE_VARIABLE: str(folder / "cache"), TERMINATION_LOG_VARIABLE: str(result)}
    with patch.dict(os.environ, environment):
        code = main([config.stage, "--config", str(file)])
    assert code == ExitCode.DONE, result.read_text()
    return StageResult.model_validate_json(result.read_bytes())


def asked(folder: Path, number: int) -> Source:
    """Instructions about pictures of several shapes."""
    folder.mkdir()
    for i in range(number):
        (folder / f"{i}.png").write_bytes(picture(i, 64 + 8 * i, 64))
    rows = [{"id": str(i), "image": f"{i}.png", "question": QUESTION} for i in range(number)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Source(uri=str(folder))


def paired(root: Path, model: Path, store: ArtifactStore) -> Artifact:
    """Four pairs of answers that the model in the folder `model` may have given."""
    drawn, loaded, family = Random(0), load(model), family_of(model)
    with store.append(f"{root}/pairs", PAIRS) as parts:
        parts.write([pair(loaded, family, drawn, number, 0.0) for number in range(4)])
        manifest = Manifest(stage="pairing", config={}, config_hash=HASH, files=parts.files(), counts=parts.counts())
    return store.publish(f"{root}/pairs", manifest)


@pytest.mark.parametrize(
    ("write", "kind"),
    [
        pytest.param(lambda folder: original_llava.write(folder, "bin").folder, Llava, id="llava_llama"),
        pytest.param(lambda folder: original_omnilmm.write(folder).folder, OmniLMM, id="omnilmm"),
    ],
)
def test_sampled_from_and_trained(write: Callable[[Path], Path], kind: type[Standard], tmp_path: Path) -> None:
    """The manifest names the checkpoint as it is published: vLLM, transformers and the trainer compute one model."""
    root, model = tmp_path / "artifacts", Source(uri=str(write(tmp_path / "published")))
    store = ArtifactStore(tmp_path / "cache")
    sampling = SamplingConfig(
        output=f"{root}/sampling/{HASH}",
        model=model,
        instructions=asked(tmp_path / "instructions", 4),
        candidates=2,
        decoding=Decoding(temperature=0.7, max_new_tokens=8),
        precision="float32",
        engine=EngineConfig(max_model_len=512, max_num_seqs=8),
    )
    sampled = run(sampling, tmp_path)
    assert sampled.counts == {"rows": 8, "rejected": 0}
    (folder,) = (root / "models").glob("*/model")
    made = (folder / "manifest.json").stat().st_mtime_ns
    network, family = load(folder), family_of(folder)
    for row in store.rows([sampled.manifest], SAMPLES):
        seen = picture(int(row["id"]), 64 + 8 * int(row["id"]), 64)
        assert row["prompt_tokens"] == family.prompt(QUESTION, seen).length
        assert row["logprobs"] == pytest.approx(of_answer(network, family, QUESTION, seen, row["token_ids"]), abs=1e-3)
    training = TrainingConfig(
        output=f"{root}/training/{HASH}",
        model=model,
        pairs=(paired(root, folder, store),),
        learning_rate=1e-3,
        epochs=1,
        global_batch_size=2,
        checkpoints_per_epoch=1,
        per_device_batch_size=1,
        zero_stage=0,
        gradient_checkpointing=False,
        precision="float32",
        parity_rows=2,
    )
    trained = run(training, tmp_path)
    assert [*(root / "models").glob("*/model")] == [folder]
    assert (folder / "manifest.json").stat().st_mtime_ns == made, "the second stage reads what the first one made"
    assert trained.metrics["parity_max_difference"] < 1e-4
    (checkpoint,) = Path(shard_uri(training, 0)).glob("checkpoint-*")
    assert type(family_of(checkpoint)) is kind
    assert family_of(checkpoint).prompt_ids(QUESTION) == family.prompt_ids(QUESTION)
    before, after = network.state_dict(), load(checkpoint).state_dict()
    moved = {name for name, weight in after.items() if not torch.equal(weight, before[name])}
    assert moved
    assert not [name for name in moved if "vision_tower" in name]
