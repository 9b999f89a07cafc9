"""Quantized labelers: what the engine computes with each published kind of rounded weights, and what it refuses.

What a checkpoint should say is what transformers says in float32 with the values that its weights were rounded to. The
engine computes in bfloat16, so the two differ by that; rounding itself changes far more.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
import torch

from feedback_workloads.contract import (
    BadInput,
    EngineConfig,
    LaterModel,
    Model,
    Precision,
    SamplingConfig,
    Source,
)
from feedback_workloads.engine import Engine
from feedback_workloads.models.families import family_of
from feedback_workloads.models.family import Family
from feedback_workloads.shapes.build import write_rows
from feedback_workloads.shapes.world import rows
from feedback_workloads.stages.preflight import check_those_in_reach
from feedback_workloads.storage.artifacts import ArtifactStore
from tests.integration.models import picture, tiny_llava
from tests.models.builders import internvl, llava_next, qwen2_5_vl, qwen3_vl
from tests.models.quantizing import (
    arguments,
    awq,
    compressed,
    fp8,
    fp8_dynamic,
    gptq,
    nearest,
    quantize,
    w4a16,
    w8a8,
)
from tests.models.reference import load, of_answer

QUESTIONS: Final = [(f"Is there a {name}?", picture(i, 120, 80)) for i, name in enumerate(("dog", "red block", "man"))]
GROUP: Final = 32
FAMILIES: Final[dict[str, Callable[[Path], Path]]] = {
    "llava": tiny_llava,
    "qwen2_5_vl": qwen2_5_vl,
    "llava_next": llava_next,
    "qwen3_vl": qwen3_vl,
    "internvl": internvl,
}
SCHEMES: Final = {
    "AWQ": awq(GROUP),
    "GPTQ": gptq(GROUP),
    "W4A16": w4a16(GROUP),
    "W8A8": w8a8(),
    "FP8": fp8_dynamic(),
}
EIGHT_BITS: Final = ("W8A8", "FP8")
"""They round activations as well, by about as much as weights."""
ARITHMETIC: Final = 0.02
"""Nats a token, on average, between bfloat16 and float32; a layout read otherwise is off by whole nats."""
SHORT: Final = (("llava", "AWQ"), ("llava", "W8A8"))
"""What is part of `make test`; one rounds to 4 bits, the other activations as well."""


def cases() -> list[Any]:
    every = [(family, scheme) for family in FAMILIES for scheme in SCHEMES]
    return [pytest.param(*one, marks=() if one in SHORT else pytest.mark.long, id=" ".join(one)) for one in every]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Tiny models by the name of their family, made once."""
    root = tmp_path_factory.mktemp("models")

    def folder(name: str) -> Path:
        made = root / name
        return made if made.exists() else FAMILIES[name](made)

    return folder


def answers(family: Family) -> list[list[int]]:
    texts = ("a red block at the top", "nothing that has a name", "yes, and two more below")
    return [family.answer_ids(text) for text in texts]


def by_transformers(folder: Path) -> torch.Tensor:
    family, network = family_of(folder), load(folder)
    given = zip(QUESTIONS, answers(family), strict=True)
    found = [of_answer(network, family, question, data, ids) for (question, data), ids in given]
    return torch.tensor([logp for answer in found for logp in answer])


def by_vllm(folder: Path) -> torch.Tensor:
    family = family_of(folder)
    with Engine.load(family, EngineConfig(max_model_len=512, max_num_seqs=4), "bfloat16") as engine:
        given = enumerate(zip(QUESTIONS, answers(family), strict=True))
        requests = [(i, family.prompt(*asked), ids) for i, (asked, ids) in given]
        found: dict[int, Sequence[float]] = dict(engine.score(requests))
    return torch.tensor([logp for i in range(len(QUESTIONS)) for logp in found[i]])


@pytest.mark.parametrize(("family", "scheme"), cases())
def test_the_engine_computes_the_rounded_model(
    family: str, scheme: str, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    folder, rounding = folders(family), SCHEMES[scheme]
    found = by_vllm(quantize(folder, tmp_path / "quantized", rounding))
    expect = by_transformers(nearest(folder, tmp_path / "nearest", rounding))
    error, change = (found - expect).abs().mean(), (by_transformers(folder) - expect).abs().mean()
    print(f"{family} {scheme}: {error:.4f} nats a token of arithmetic, {change:.4f} of rounding")
    if scheme in EIGHT_BITS:
        assert error < ARITHMETIC + 2 * change
    else:
        assert error < ARITHMETIC
        assert error < change / 4, "the rounded model, and not that which was rounded"


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────────

W8A16: Final = compressed(arguments("int", 8, "group", dynamic=False, group=GROUP), None, "pack-quantized")


def saying(folder: Path, to: Path, quantization_config: Mapping[str, Any]) -> Path:
    """A copy whose config.json says that its weights are quantized."""
    shutil.copytree(folder, to)
    config = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps({**config, "quantization_config": quantization_config}))
    return to


@pytest.mark.parametrize(
    ("config", "precision", "words"),
    [
        pytest.param(
            awq(GROUP).config, "auto",
            r"is quantized \(awq\), and vLLM computes .* in float16 and bfloat16, not in float32; set spec",
            id="in float32, which is what a processor has by default",
        ),
        pytest.param(
            fp8().config, "bfloat16", r"is quantized \(fp8\), which takes a GPU: .*; give the pods a GPU, or name",
            id="weights that vLLM would round once more",
        ),
        pytest.param(
            {"quant_method": "bitsandbytes", "load_in_4bit": True}, "bfloat16",
            r"vLLM cannot read .* \(bitsandbytes\): Invalid quantization method: bitsandbytes; name another model",
            id="a method that vLLM does not know",
        ),
        pytest.param(
            {**awq(GROUP).config, "bits": 8}, "bfloat16", r"vLLM cannot read .* \(awq\): Unsupported num_bits = 8.*;",
            id="more bits than the method has there",
        ),
    ],
)  # fmt: skip
def test_what_vllm_cannot_compute_is_refused_before_it_is_loaded(
    config: Mapping[str, Any], precision: Precision, words: str, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    """By the labeler's own stage, and by the first one, whose pods have the same devices."""
    folder = saying(folders("llava"), tmp_path / "labeler", config)
    family = family_of(folder)
    with pytest.raises(BadInput, match=words):
        Engine.load(family, EngineConfig(), precision)
    instructions = tmp_path / "instructions"
    instructions.mkdir()
    (instructions / "data.parquet").write_bytes(write_rows(rows(0, "instructions", 2)))
    source = Source(uri=str(instructions))
    later = LaterModel(field="spec.labeling.model", capability="label", source=Model(uri=str(folder)))
    for engine in (EngineConfig(), None):
        first = SamplingConfig(
            output="out",
            model=source,
            instructions=source,
            precision=precision,
            later_models=(later.model_copy(update={"engine": engine}),),
        )
        store = ArtifactStore(tmp_path / "cache")
        if engine is None:  # on other devices, of which nothing is known here
            check_those_in_reach(first, store, 0, None, pictures=1)
            continue
        with pytest.raises(BadInput, match=words):
            check_those_in_reach(first, store, 0, None, pictures=1)


def test_weights_without_a_kernel_are_refused_as_they_are_loaded(
    folders: Callable[[str], Path], tmp_path: Path
) -> None:
    """vLLM looks for one when it knows a layer's shape."""
    folder = saying(folders("llava"), tmp_path / "labeler", W8A16)
    with pytest.raises(BadInput, match=r"vLLM cannot load the model in .*: Failed to find a kernel .* uint8b128"):
        Engine.load(family_of(folder), EngineConfig(max_model_len=512), "bfloat16")
