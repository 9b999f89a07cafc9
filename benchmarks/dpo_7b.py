"""DPO of LLaVA-1.5-7B's shapes on one CUDA device of 80 GB or more, against stock TRL; the weights are random.

    python -m benchmarks dpo_7b

Full training takes 22 bytes a parameter, and stock TRL's reference another 2. So ours is tried with all 32 layers, and
both are compared with as many as fit. Utilisation (MFU) is what the matrix products of the decoder's layers
take that a side has to do, those of recomputation left out, over what the device does in one large bfloat16 product.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.dpo import OUT_OF_MEMORY, QUESTION, SIDES, Case, Measured, assert_same_work, config, measure, ratios
from benchmarks.table import Ratio
from feedback_workloads.contract import LoRA
from feedback_workloads.models.llava import new_processor
from tests.integration.models import PATCH, byte_tokenizer, picture

LAYERS = 32
LAYER_PARAMETERS = 4 * 4096**2 + 3 * 4096 * 11008
BYTES = 24
"""A parameter, in full training: weights, gradients twice and a reference of bfloat16; weights, gradients and two
moments of float32."""
BESIDES = 16 << 30
"""Bytes for the rest: embeddings, vision tower, activations."""
SIDE = 336
LETTERS = 120
STEPS = 6
PAIRS = 8


def run() -> list[Ratio]:
    """LoRA of the whole model, and full training of as many layers as fit."""
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("dpo_7b needs a CUDA device; there is none")
    memory, rate = torch.cuda.get_device_properties(0).total_memory, product_rate()
    print(f"{torch.cuda.get_device_name()}, {memory / 2**30:.0f} GiB, {rate / 1e12:.0f} TFLOP/s", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        model = save_llava(Path(scratch) / "whole")
        lora = {"lora": LoRA(rank=64, alpha=16)}
        found = compare("DPO 7B, LoRA", [case(model, pairs, zero_stage=0, **lora) for pairs in (PAIRS, 1)], rate)
        whole = case(model, PAIRS)
        show("ours, all layers in full", whole, attempt("ours", whole), rate)
        layers = min(LAYERS, int((memory - BESIDES) / (BYTES * LAYER_PARAMETERS)))
        fewer = with_layers(model, layers)
        return found + compare(f"DPO 7B, {layers} layers in full", [case(fewer, pairs) for pairs in (PAIRS, 1)], rate)


def case(model: Path, pairs: int, **settings: Any) -> Case:
    """Batches of eight pairs, as in the RLAIF-V reference, so many `pairs` at once, with recomputed activations."""
    training = config(model, global_batch_size=PAIRS, per_device_batch_size=pairs, precision="bfloat16", **settings)
    return Case(config=training, steps=STEPS, side=SIDE, letters=LETTERS)


def compare(name: str, cases: Sequence[Case], rate: float) -> list[Ratio]:
    """The fastest of ours over the fastest of stock TRL; nothing where a side did not fit."""
    best: list[Measured] = []
    for side in SIDES:
        measured = [attempt(side, one) for one in cases]
        for one, found in zip(cases, measured, strict=True):
            at_once = f"{one.config.per_device_batch_size} pairs at once"
            show(f"{name}: {side}, {at_once}", one, found, rate, reference=side == "stock")
        best += sorted(filter(None, measured), key=lambda one: one.seconds)[:1]
    if len(best) < len(SIDES):
        return []
    assert_same_work(*best)
    return ratios(name, cases[0], *best, speed=">= 1.8", memory="<= 1")


def attempt(side: str, case: Case) -> Measured | None:
    """Measure, or None where the device's memory did not suffice; whatever else goes wrong is raised."""
    try:
        return measure(side, case)
    except subprocess.CalledProcessError as error:
        if error.returncode != OUT_OF_MEMORY:
            raise
        return None


def show(name: str, case: Case, measured: Measured | None, rate: float, *, reference: bool = False) -> None:
    if measured is None:
        print(f"{name}: does not fit", flush=True)
        return
    used = operations(case, measured.tokens, reference=reference) / measured.seconds / rate
    print(
        f"{name}: {PAIRS / measured.seconds:.2f} pairs/s, MFU {used:.0%}, peak {measured.peak_bytes / 2**30:.1f} GiB",
        flush=True,
    )


def operations(case: Case, tokens: int, *, reference: bool) -> float:
    """Floating-point operations of one step, of which `tokens` are in two rows a pair, and over all steps.

    A forward pass takes two a parameter and token, gradients of the activations and of the weights as many each; LoRA
    has next to no gradients of weights. Ours has the prompt once; stock TRL has two rows and the reference's pass.
    """
    each = tokens / case.steps
    if not reference:
        each -= PAIRS * prompt_tokens(Path(case.config.model.uri))
    passes = (2 if case.config.lora else 3) + reference
    return 2 * LAYER_PARAMETERS * layers_of(case) * each * passes


def prompt_tokens(model: Path) -> int:
    from feedback_workloads.models.families import family_of

    family = family_of(model)
    return len(family.expand(family.prompt_ids(QUESTION), family.picture(picture(0, SIDE, SIDE))))


def layers_of(case: Case) -> int:
    return int(
        json.loads((Path(case.config.model.uri) / "config.json").read_text())["text_config"]["num_hidden_layers"]
    )


def product_rate() -> float:
    """Floating-point operations a second in products of two 8192 x 8192 matrices of bfloat16."""
    import torch

    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(20):
        a @ b
    torch.cuda.synchronize()
    return 20 * 2 * 8192**3 / (time.perf_counter() - start)


def save_llava(folder: Path) -> Path:
    """LLaVA-1.5-7B with random weights; its tokenizer takes a letter for a token. Leaves the device's memory free."""
    import torch
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    tokenizer = byte_tokenizer()
    settings = LlavaConfig(image_token_index=tokenizer.convert_tokens_to_ids("<image>"))
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = LlavaForConditionalGeneration(settings)
    torch.set_default_dtype(torch.float32)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    del model
    torch.cuda.empty_cache()
    new_processor(tokenizer, SIDE, PATCH).save_pretrained(folder)
    return folder


def with_layers(model: Path, layers: int) -> Path:
    """The same model without its last layers, whose weights are in the files and are not read."""
    folder = model.with_name(f"{layers}-layers")
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "config.json").unlink()
    content = json.loads((model / "config.json").read_text())
    content["text_config"]["num_hidden_layers"] = layers
    (folder / "config.json").write_text(json.dumps(content))
    return folder
