"""What is trained on when: steps, batches, checkpoints. Pure, and the same for any number of processes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

from feedback_workloads.contract import BadInput, TrainingConfig


@dataclass(frozen=True)
class Schedule:
    """The steps of one training run over `rows` pairs.

    Every optimizer step sees `global_batch` pairs. Where an epoch does not divide into whole batches, its last one is
    filled up from the head of the same epoch's order, so that each pair comes at least once an epoch.
    """

    rows: int
    epochs: int
    global_batch: int
    checkpoints: int
    seed: int

    @classmethod
    def of(cls, config: TrainingConfig, rows: int) -> Schedule:
        return cls(
            rows=rows,
            epochs=config.epochs,
            global_batch=config.global_batch_size,
            checkpoints=config.checkpoints_per_epoch * config.epochs,
            seed=config.seed,
        )

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.rows / self.global_batch)

    @property
    def steps(self) -> int:
        return self.steps_per_epoch * self.epochs

    @property
    def checkpoint_steps(self) -> tuple[int, ...]:
        """The optimizer steps after which a checkpoint is kept: evenly spaced, the last step always among them."""
        wanted = min(self.checkpoints, self.steps)
        return tuple(math.ceil(self.steps * (i + 1) / wanted) for i in range(wanted))

    def order(self, epoch: int) -> list[int]:
        """The rows of one epoch in the order they are trained on: a shuffle by hash, the same in every version."""

        def rank(row: int) -> bytes:
            return hashlib.sha256(f"{self.seed}/{epoch}/{row}".encode()).digest()

        order = sorted(range(self.rows), key=rank)
        return [order[i % self.rows] for i in range(self.steps_per_epoch * self.global_batch)]


def accumulation_steps(config: TrainingConfig, world: int) -> int:
    """Micro-batches that each of `world` processes adds up for one optimizer step.

    Raises BadInput where the global batch is no multiple of what all processes take at once.
    """
    at_once = config.per_device_batch_size * world
    if config.global_batch_size % at_once:
        raise BadInput(
            f"spec.training.globalBatchSize {config.global_batch_size} is no multiple of perDeviceBatchSize "
            f"{config.per_device_batch_size} x nodes {config.nodes} x processesPerNode {config.processes_per_node} "
            f"= {at_once}; change one of them"
        )
    return config.global_batch_size // at_once


class MicroBatches:
    """The batches of row numbers that one process trains on in one epoch: its slice of each global batch, in order.

    Serves as the `batch_sampler` of a torch DataLoader.
    """

    def __init__(self, schedule: Schedule, per_device: int, rank: int, world: int) -> None:
        self.schedule = schedule
        self.per_device = per_device
        self.rank = rank
        self.share = schedule.global_batch // world
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.schedule.steps_per_epoch * (self.share // self.per_device)

    def __iter__(self) -> Iterator[list[int]]:
        order = self.schedule.order(self.epoch)
        for batch in range(0, len(order), self.schedule.global_batch):
            start = batch + self.rank * self.share
            for first in range(start, start + self.share, self.per_device):
                yield order[first : first + self.per_device]
