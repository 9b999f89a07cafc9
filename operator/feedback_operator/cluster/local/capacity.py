"""What this machine has, and a queue for it: processes start while their requests fit."""

from __future__ import annotations

import asyncio
import os
import platform
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Final

import psutil

from feedback_operator.api import amount
from feedback_workloads.contract import counted_gpus

_VECTORS: Final = {
    "amx_bf16": "AMX with bfloat16",
    "avx512_bf16": "AVX-512 with bfloat16",
    "avx512f": "AVX-512",
    "avx2": "AVX2",
    "bf16": "bfloat16",
    "asimd": "Neon",
}
"""What Linux calls a processor's vector instructions, the most capable first for each architecture, and in words."""


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """This machine's processor in words: its name, cores that may be used, and the vector instructions it has.

    Rounding and speed depend on it: figures of one kind do not hold on another.
    """
    facts: dict[str, str] = {}
    if cpuinfo.exists():
        lines = (line.partition(":") for line in cpuinfo.read_text().partition("\n\n")[0].splitlines())
        facts = {name.strip(): value.strip() for name, _, value in lines}
    flags = (facts.get("flags") or facts.get("Features") or "").split()
    cores = len(os.sched_getaffinity(0))
    words = [
        facts.get("model name") or platform.processor() or platform.machine(),
        f"{cores} core{'s' * (cores > 1)}",
        *[words for flag, words in _VECTORS.items() if flag in flags][:1],
    ]
    return ", ".join(words)


@dataclass(frozen=True)
class Request:
    """What one process needs: cores, bytes of memory, GPUs."""

    cpu: Decimal
    memory: Decimal
    gpus: int


@dataclass(frozen=True)
class Grant:
    """What a process was given: a number of threads, and the numbers of its GPUs."""

    threads: int
    gpus: tuple[int, ...]


@dataclass(frozen=True)
class Held:
    """What processes kept others from using: cores and GPUs that they were given, times the seconds they ran."""

    cpu_seconds: float = 0.0
    gpu_seconds: float = 0.0

    def __add__(self, other: Held) -> Held:
        return Held(self.cpu_seconds + other.cpu_seconds, self.gpu_seconds + other.gpu_seconds)


class Account:
    """What each stage of each iteration has held so far, by (key of the iteration, stage)."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], Held] = {}

    @contextmanager
    def holding(self, iteration: str, stage: str, request: Request) -> Iterator[None]:
        """Count what is requested as held by the stage, from now until the block ends, in whatever way."""
        began = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - began
            held = Held(float(request.cpu) * seconds, request.gpus * seconds)
            self._held[iteration, stage] = self._held.get((iteration, stage), Held()) + held

    def of(self, iteration: str) -> dict[str, Held]:
        """What each stage of an iteration held, over all its attempts; stages of which no process ran are not there."""
        return {stage: held for (key, stage), held in self._held.items() if key == iteration}


class Capacity:
    """The machine's cores, memory and GPUs, handed out to processes in the order in which they ask."""

    def __init__(self, cores: int, memory: int, gpus: tuple[int, ...]) -> None:
        self.cores, self.memory = Decimal(cores), Decimal(memory)
        self.gpus = gpus
        self._cores_left, self._memory_left, self._gpus_left = self.cores, self.memory, list(gpus)
        self._freed = asyncio.Condition()

    @classmethod
    def of_this_machine(cls) -> Capacity:
        gpus = tuple(sorted(int(path.name[6:]) for path in Path("/dev").glob("nvidia[0-9]*")))
        return cls(len(os.sched_getaffinity(0)), psutil.virtual_memory().total, gpus)

    def request(self, resources: Mapping[str, Mapping[str, str]]) -> Request:
        """What a container's `resources` ask for; a pod that asks for no cores counts as one that needs them all."""
        asked = {**resources.get("limits", {}), **resources.get("requests", {})}
        return Request(
            cpu=amount(asked.get("cpu", str(self.cores))),
            memory=amount(asked.get("memory", "0")),
            gpus=counted_gpus(asked),
        )

    def lacks(self, request: Request) -> str:
        """Why this machine could never run the request; empty if it can."""
        if request.cpu > self.cores:
            return f"requests {request.cpu} cores, but this machine has {self.cores}"
        if request.memory > self.memory:
            return f"requests {request.memory} bytes of memory, but this machine has {self.memory}"
        if request.gpus > len(self.gpus):
            return f"requests {request.gpus} GPUs, but this machine has {len(self.gpus)}"
        return ""

    @asynccontextmanager
    async def granted(self, request: Request) -> AsyncIterator[Grant]:
        """Wait until the request fits, and hold it."""
        async with self._freed:
            await self._freed.wait_for(lambda: self._fits(request))
            self._cores_left -= request.cpu
            self._memory_left -= request.memory
            gpus = tuple(self._gpus_left.pop(0) for _ in range(request.gpus))
        try:
            yield Grant(threads=max(1, int(request.cpu)), gpus=gpus)
        finally:
            async with self._freed:
                self._cores_left += request.cpu
                self._memory_left += request.memory
                self._gpus_left = sorted([*self._gpus_left, *gpus])
                self._freed.notify_all()

    def _fits(self, request: Request) -> bool:
        return (
            request.cpu <= self._cores_left
            and request.memory <= self._memory_left
            and request.gpus <= len(self._gpus_left)
        )
