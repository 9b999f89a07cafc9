"""Processes that learn as one: each computes with one thread, and they meet once a step.

Threads within a step meet a thousand times in it, and where another program has one of the cores they wait for it each
time: a step then takes a hundred times as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from typing import Final, TypeVar

import torch
from torch import Tensor, nn

Item = TypeVar("Item")


@dataclass(frozen=True)
class Meeting:
    """Where the processes meet: a row of shared memory for each, (processes, parameters)."""

    rows: Tensor
    barrier: Barrier


@dataclass(frozen=True)
class Part:
    """What one process of `count` does of each batch: every `count`-th item, from number `rank` on."""

    rank: int
    count: int
    meeting: Meeting | None

    def of(self, batch: Sequence[Item]) -> Sequence[Item]:
        """This process's items."""
        return batch[self.rank :: self.count]

    def add_up(self, model: nn.Module) -> None:
        """Make the gradients those of all processes together. All of them have to call it."""
        if self.meeting is None:
            return
        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        lengths = [gradient.numel() for gradient in gradients]
        rows = self.meeting.rows[:, : sum(lengths)]
        torch.cat([gradient.flatten() for gradient in gradients], out=rows[self.rank])
        self.meeting.barrier.wait()
        summed = rows.sum(0)
        self.meeting.barrier.wait()  # nobody writes before all have read
        for gradient, values in zip(gradients, summed.split(lengths), strict=True):
            gradient.copy_(values.view_as(gradient))


ALL: Final = Part(rank=0, count=1, meeting=None)
"""For a process that learns alone."""
