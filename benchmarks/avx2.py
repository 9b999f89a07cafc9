"""What takes longer on a processor with AVX2 alone, as far as one with AVX-512 can show it.

Each row is computed in a process that has all of this processor, and in one that is kept to AVX2: torch, oneDNN and
vLLM each choose their kernels by what they are told here. It does not show a lower clock, smaller caches, or older
cores, nor what MKL chooses by itself; on a processor with AVX2 alone all ratios are 1.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.table import Ratio

KEPT_TO_AVX2: Final = {"ATEN_CPU_CAPABILITY": "avx2", "DNNL_MAX_CPU_ISA": "AVX2", "FEEDBACK_BENCH_AVX2": "1"}
NEWER: Final = ("avx512", "amx", "avx10")
"""How torch's names of instructions begin that come after AVX2; vLLM asks torch for them."""


def run() -> list[Ratio]:
    """Seconds of a core with AVX2 alone over those with everything, a row each."""
    ratios = []
    for name in ROWS:
        kept, native = seconds(name, KEPT_TO_AVX2), seconds(name, {})
        ratios.append(Ratio(f"{name}, AVX2 alone over all of this processor", kept, native, kept / native, "<= 1.3"))
    return ratios


def seconds(name: str, environment: Mapping[str, str]) -> float:
    """What a row took in a process of its own."""
    given = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-m", "benchmarks.avx2", name]
    return float(subprocess.run(command, env=given, check=True, capture_output=True, text=True).stdout.split()[-1])


def keep_to_avx2() -> None:
    """Have torch say that this processor has nothing newer than AVX2."""
    import torch

    found = dict(torch.cpu.get_capabilities())
    older = {name: value and not name.startswith(NEWER) for name, value in found.items()}
    torch.cpu.get_capabilities = lambda: older


# ── the rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def world_step() -> float:
    """A step of the shapes world's training."""
    from feedback_workloads.shapes.courses import COMPARING
    from feedback_workloads.shapes.learning import learn
    from feedback_workloads.shapes.models import new_model

    times = [time.process_time()]
    learn(new_model(0), replace(COMPARING, steps=25), 0, lambda: times.append(time.process_time()))
    return median(after - before for before, after in pairwise(times[5:]))


def sampling() -> float:
    """Answers of a small model in vLLM."""
    from feedback_workloads.contract import Decoding, EngineConfig
    from feedback_workloads.engine import Draw, Engine
    from feedback_workloads.models.families import family_of
    from tests.integration.models import picture, tiny_llava

    with tempfile.TemporaryDirectory() as folder:
        model = tiny_llava(Path(folder) / "model", hidden=128, layers=4, side=112)
        family = family_of(model)
        prompts = [family.prompt("What is in the picture?", picture(i, 320, 240)) for i in range(32)]
        with Engine.load(family, EngineConfig(max_model_len=512, max_num_seqs=64)) as engine:

            def answer(seed: int) -> float:
                began = time.process_time()
                requests = ((i, prompt, Draw(seed + i, 0.7)) for i, prompt in enumerate(prompts))
                assert len(list(engine.sample(requests, Decoding(max_new_tokens=64)))) == len(prompts)
                return time.process_time() - began

            return median([answer(1000 * number) for number in range(4)][1:])


def dpo_step() -> float:
    """A step of training on a model of some 8M parameters."""
    from benchmarks.dpo import Case, config, train
    from tests.integration.models import tiny_llava

    with tempfile.TemporaryDirectory() as folder:
        model = tiny_llava(Path(folder) / "model", side=112, hidden=256, layers=8)
        settings = {"precision": "auto", "gradient_checkpointing": False, "zero_stage": 0}
        training = config(model, global_batch_size=4, per_device_batch_size=4, **settings)
        return train("ours", Case(config=training, steps=8, side=112, letters=45), Path(folder)).seconds


ROWS: Final[Mapping[str, Callable[[], float]]] = {
    "world step": world_step,
    "sampling": sampling,
    "DPO step": dpo_step,
}

if __name__ == "__main__":
    if "FEEDBACK_BENCH_AVX2" in os.environ:
        keep_to_avx2()
    print(ROWS[sys.argv[1]]())
