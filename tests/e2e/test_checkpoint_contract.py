"""What training saves loads in transformers and in vLLM, with the same logits; one row of the table an architecture."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, PreTrainedModel

from feedback_workloads.contract import EngineConfig, Manifest, Source
from feedback_workloads.engine import Engine
from feedback_workloads.models.families import family_of
from feedback_workloads.models.family import Family
from tests.integration.models import picture, tiny_llava, tiny_llava_with_siglip
from tests.integration.training_runs import Study, forward, study

TOLERANCE = 1e-3  # nats a token; measured: 4e-6
QUESTIONS = ("what is it?", "Is there a red block?")
ANSWERS = ("a red block at the top", "nothing that has a name")

ARCHITECTURES: Mapping[str, Callable[[Path], Path]] = {"llava": tiny_llava, "siglip": tiny_llava_with_siglip}


@dataclass(frozen=True)
class Trained:
    """A model trained in full, and an adapter trained on top of that checkpoint as its model."""

    study: Study
    full: Path
    adapters: tuple[Path, Path]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    made = study(tmp_path_factory.mktemp(request.param), rows=8, build=ARCHITECTURES[request.param])
    full = made.run("full", epochs=1).folder / "checkpoint-000002"
    lora = {"rank": 4, "alpha": 8, "dropout": 0.0}
    # Its pairs were not sampled from that checkpoint, so the references are recomputed.
    far = {"parity_limit": 10.0, "model": Source(uri=str(full))}
    run = made.run("adapter", epochs=1, checkpoints_per_epoch=2, lora=lora, **far)
    return Trained(made, full, (run.folder / "checkpoint-000001", run.folder / "checkpoint-000002"))


@pytest.fixture(scope="module")
def engine(trained: Trained) -> Iterator[Engine]:
    settings = EngineConfig(max_model_len=512, max_num_seqs=16)
    with Engine.load(family_of(trained.full), settings, adapter=trained.adapters[1]) as loaded:
        yield loaded


def by_transformers(model: PreTrainedModel, folder: Path) -> list[list[float]]:
    family = family_of(folder)
    return [
        forward(model.eval(), family, picture(i, 90, 50 + 10 * i), question, answer_ids(family, answer))
        for i, (question, answer) in enumerate(zip(QUESTIONS, ANSWERS, strict=True))
    ]


def by_vllm(engine: Engine, folder: Path) -> list[Sequence[float]]:
    family = family_of(folder)
    requests = [
        (i, family.prompt(question, picture(i, 90, 50 + 10 * i)), answer_ids(family, answer))
        for i, (question, answer) in enumerate(zip(QUESTIONS, ANSWERS, strict=True))
    ]
    return [logps for _, logps in sorted(engine.score(requests))]


def answer_ids(family: Family, answer: str) -> list[int]:
    ids: list[int] = family.tokenizer(answer, add_special_tokens=False)["input_ids"]
    return [*ids, min(family.eos_ids)]


def load(folder: Path) -> PreTrainedModel:
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)


def assert_close(found: Sequence[Sequence[float]], expect: Sequence[Sequence[float]]) -> None:
    for ours, theirs in zip(found, expect, strict=True):
        assert list(ours) == pytest.approx(list(theirs), abs=TOLERANCE)


def furthest(found: Sequence[Sequence[float]], expect: Sequence[Sequence[float]]) -> float:
    return max(
        abs(a - b) for ours, theirs in zip(found, expect, strict=True) for a, b in zip(ours, theirs, strict=True)
    )


def test_full_checkpoint(trained: Trained, engine: Engine) -> None:
    """Loaded by vLLM from its own folder, tokenizer, processor and template included."""
    engine.use(trained.full)
    expect = by_transformers(load(trained.full), trained.full)
    assert_close(by_vllm(engine, trained.full), expect)
    base = by_transformers(load(trained.study.model), trained.study.model)
    assert furthest(base, expect) > 10 * TOLERANCE, "training has moved the model"


def test_adapters(trained: Trained, engine: Engine) -> None:
    """Every checkpoint has an adapter of its own, and the model below it answers as before when it is off."""
    plain = by_transformers(load(trained.full), trained.full)
    answers = []
    for adapter in trained.adapters:
        engine.use(adapter)
        answers.append(by_vllm(engine, trained.full))
        assert_close(answers[-1], by_transformers(PeftModel.from_pretrained(load(trained.full), adapter), trained.full))
    engine.use(trained.full)
    assert_close(by_vllm(engine, trained.full), plain)
    assert furthest(answers[1], plain) > 2 * TOLERANCE, "training has moved the policy"
    assert not torch.equal(*(first_b(adapter) for adapter in trained.adapters))


def first_b(adapter: Path) -> torch.Tensor:
    """The first B matrix of an adapter; it starts at zero."""
    weights = load_file(adapter / "adapter_model.safetensors")
    return weights[min(name for name in weights if "lora_B" in name)]


def test_folders_are_complete(trained: Trained) -> None:
    """A full checkpoint has every file of its base but the weights as they were; an adapter names its base."""
    base = {file.name: file.read_bytes() for file in trained.study.model.iterdir()}
    full = {file.name: file.read_bytes() for file in trained.full.iterdir()}
    assert full.keys() == base.keys() | {"manifest.json"}
    same = base.keys() - {"config.json", "model.safetensors"}
    assert {name: full[name] for name in same} == {name: base[name] for name in same}
    for adapter in trained.adapters:
        assert {file.name for file in adapter.iterdir()} == {
            "adapter_config.json", "adapter_model.safetensors", "manifest.json",
        }  # fmt: skip
        described = json.loads((adapter / "adapter_config.json").read_text())
        manifest = Manifest.model_validate_json((adapter / "manifest.json").read_bytes())
        assert described["base_model_name_or_path"] == manifest.config["model"]["uri"] == str(trained.full)
