"""Processes that train one model of the shapes world: each does a part of every batch, and all end the same."""

from __future__ import annotations

from collections.abc import Iterable
from threading import Barrier, Thread

import torch
from torch import Tensor, nn

from feedback_workloads.shapes.part import ALL, Meeting, Part


def test_one_process_does_all_of_a_batch() -> None:
    assert ALL.of((1, 2, 3)) == (1, 2, 3)


def test_parts_of_a_batch_add_up_to_its_gradients() -> None:
    """Each part sees its own items, and all end with the gradients of the whole, bit by bit the same."""
    batch = [torch.randn(4, generator=torch.Generator().manual_seed(number)) for number in range(7)]

    def gradients(part: Part, found: dict[int, Tensor]) -> None:
        model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1))
        frozen = nn.Linear(2, 2)  # a model may have weights without gradients
        both = nn.ModuleList([model, frozen])
        with torch.no_grad():
            for weight in both.parameters():
                weight.fill_(0.5)
        loss(model, part.of(batch)).backward()
        part.add_up(both)
        found[part.rank] = torch.cat([weight.grad.flatten() for weight in model.parameters()])  # type: ignore[union-attr]

    def loss(model: nn.Module, items: Iterable[Tensor]) -> Tensor:
        return torch.stack([model(item).square().sum() for item in items]).sum()

    alone: dict[int, Tensor] = {}
    gradients(ALL, alone)
    together: dict[int, Tensor] = {}
    meeting = Meeting(torch.zeros(2, 100), Barrier(2))  # type: ignore[arg-type]
    threads = [Thread(target=gradients, args=(Part(rank, 2, meeting), together)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert torch.equal(together[0], together[1])
    torch.testing.assert_close(together[0], alone[0])


def test_parts_are_all_of_a_batch() -> None:
    items = list(range(32))
    parts = [Part(rank, 3, None).of(items) for rank in range(3)]
    assert sorted(item for part in parts for item in part) == items
