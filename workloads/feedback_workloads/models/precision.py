"""In which arithmetic models run: bfloat16 on GPUs, float32 on processors, of which many only emulate bfloat16."""

from __future__ import annotations

import logging
import time
from typing import Final, Literal

from feedback_workloads.contract import Precision

LOG: Final = logging.getLogger(__name__)

INSTRUCTIONS: Final = ("avx512_bf16", "amx_bf16", "avx10_2", "bf16")
"""Names that torch gives to a processor's instructions for products of bfloat16: three of x86-64, one of Arm."""
PROBE_SIDE: Final = 256
PROBE_ROUNDS: Final = 5


def resolved(precision: Precision, *, on_gpu: bool) -> Literal["float32", "bfloat16"]:
    """The arithmetic that `precision` means on this device.

    Where it is to be bfloat16 on a processor that has to emulate it, a warning says how much longer that takes, as
    measured now.
    """
    if precision == "auto":
        return "bfloat16" if on_gpu else "float32"
    if precision == "bfloat16" and not on_gpu and not has_bfloat16():
        LOG.warning(
            "precision bfloat16: this processor emulates it, and its products take %.0f times as long as in float32; "
            "leave spec.precision at Auto to compute in float32",
            slowdown(),
        )
    return precision


def has_bfloat16() -> bool:
    """Whether the processor itself multiplies in bfloat16."""
    import torch

    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in INSTRUCTIONS)


def slowdown() -> float:
    """Time of a product of two matrices in bfloat16 over its time in float32, on one core; the best of some rounds."""
    import torch

    def seconds(dtype: torch.dtype) -> float:
        matrix = torch.ones(PROBE_SIDE, PROBE_SIDE, dtype=dtype)
        matrix @ matrix  # the first one chooses its kernel
        times = []
        for _ in range(PROBE_ROUNDS):
            began = time.perf_counter()
            matrix @ matrix
            times.append(time.perf_counter() - began)
        return min(times)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on a busy machine several threads wait for each other longer than they compute
    try:
        return seconds(torch.bfloat16) / seconds(torch.float32)
    finally:
        torch.set_num_threads(threads)
