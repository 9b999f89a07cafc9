"""A step of the shapes world's training: Muon in float32 against torch's own, and two processes against one.

torch's Muon casts to bfloat16, which a processor without such instructions emulates. How long that takes can be seen on
any processor of x86-64 (the rest of what such a processor lacks cannot; docs/performance.md):

    DNNL_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 python -m benchmarks world
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from random import Random
from statistics import median
from typing import Final

import torch

from benchmarks.table import Ratio
from feedback_workloads.process.progress import Progress
from feedback_workloads.shapes import learning
from feedback_workloads.shapes.build import train
from feedback_workloads.shapes.courses import COMPARING, SEEING, Course, Curriculum
from feedback_workloads.shapes.models import new_model
from feedback_workloads.shapes.muon import Muon
from feedback_workloads.shapes.world import scenes

SEED: Final = 0
STEPS: Final = 100
TOGETHER_STEPS: Final = 60
HELD_OUT: Final = "held out"
Kind = Callable[..., torch.optim.Optimizer]


@dataclass(frozen=True)
class Learned:
    """Median seconds of one core that a step took, and the loss after the last one on lessons not learned from."""

    seconds: float
    loss: float


def run() -> list[Ratio]:
    torch.set_num_threads(1)
    ours, theirs = learn(Muon), learn(torch.optim.Muon)
    alone, together = wall_alone(), wall_together()
    return [
        Ratio("world, steps/s over torch's Muon", 1 / ours.seconds, 1 / theirs.seconds, theirs.seconds / ours.seconds,
              ">= 0.85"),
        Ratio(f"world, loss after {STEPS} steps over torch's Muon", ours.loss, theirs.loss, ours.loss / theirs.loss,
              "<= 1.03"),
        Ratio("world, steps/s of two processes over one", 1 / together, 1 / alone, alone / together, ">= 1.3"),
    ]  # fmt: skip


def learn(muon: Kind) -> Learned:
    """The first steps, which both models have in common, with one optimizer or the other."""
    times: list[float] = []
    before = time.process_time()

    def step_done() -> None:
        nonlocal before
        now = time.process_time()
        times.append(now - before)
        before = now

    original, learning.Muon = learning.Muon, muon  # type: ignore[misc]
    try:
        model = new_model(SEED)
        learning.learn(model, replace(SEEING, steps=STEPS), SEED, step_done)
    finally:
        learning.Muon = original  # type: ignore[misc]
    rng = Random(HELD_OUT)
    lessons = [SEEING.teacher(scene, rng) for scene in islice(scenes(HELD_OUT, "training"), 256)]
    with torch.no_grad():
        return Learned(median(times), learning.loss(model, lessons).item())


def wall_alone() -> float:
    """Seconds a step of one process."""
    model = new_model(SEED)
    began = time.perf_counter()
    learning.learn(model, replace(COMPARING, steps=TOGETHER_STEPS), SEED, lambda: None)
    return (time.perf_counter() - began) / TOGETHER_STEPS


class _Watch(Progress):
    """Notes when the first and the last step were done."""

    def __init__(self) -> None:
        super().__init__("shapes")
        self.moments: list[float] = []

    def advance(self, units: int = 1) -> None:
        self.moments.append(time.perf_counter())
        super().advance(units)


def wall_together() -> float:
    """Seconds a step of two processes that learn as one, their start left out."""
    first: Course = replace(COMPARING, steps=TOGETHER_STEPS)
    watch = _Watch()
    with tempfile.TemporaryDirectory() as folder:
        train(Curriculum(SEED, first, {}), Path(folder), watch)
    return (watch.moments[-1] - watch.moments[0]) / (len(watch.moments) - 1)
