"""Steps, batches and checkpoints are the same for any number of processes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback_workloads.contract import Artifact, BadInput, Source, TrainingConfig
from feedback_workloads.training.deepspeed import zero_config
from feedback_workloads.training.schedule import MicroBatches, Schedule, accumulation_steps


def schedule(rows: int = 20, *, epochs: int = 2, batch: int = 8, checkpoints: int = 4, seed: int = 0) -> Schedule:
    return Schedule(rows=rows, epochs=epochs, global_batch=batch, checkpoints=checkpoints, seed=seed)


def config(**changes: int) -> TrainingConfig:
    pairs = (Artifact(uri="pairs", sha256="0" * 64),)
    return TrainingConfig(output="out", pairs=pairs, model=Source(uri="model"), **changes)


@pytest.mark.parametrize(
    ("given", "steps", "checkpoints"),
    [
        pytest.param(schedule(16), 4, (1, 2, 3, 4), id="as many checkpoints as steps"),
        pytest.param(schedule(64, checkpoints=4), 16, (4, 8, 12, 16), id="evenly spaced"),
        pytest.param(schedule(40, checkpoints=4), 10, (3, 5, 8, 10), id="rounded up, the last step among them"),
        pytest.param(schedule(8, checkpoints=16), 2, (1, 2), id="never two at one step"),
        pytest.param(schedule(3, epochs=1, checkpoints=1), 1, (1,), id="fewer rows than a batch"),
    ],
)
def test_steps(given: Schedule, steps: int, checkpoints: tuple[int, ...]) -> None:
    assert given.steps == steps
    assert given.checkpoint_steps == checkpoints


@given(rows=st.integers(1, 70), seed=st.integers(0, 3), epoch=st.integers(0, 3))
def test_every_row_comes_in_every_epoch(rows: int, seed: int, epoch: int) -> None:
    order = schedule(rows, seed=seed).order(epoch)
    assert set(order) == set(range(rows))
    assert len(order) == schedule(rows).steps_per_epoch * 8


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = [schedule(seed=seed).order(epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    assert schedule().order(1) == schedule().order(1)


@pytest.mark.parametrize("world", [1, 2, 4, 8])
@pytest.mark.parametrize("per_device", [1, 2, 4])
def test_processes_share_each_global_batch(world: int, per_device: int) -> None:
    if 8 % (world * per_device):
        return
    whole, order = schedule(), schedule().order(1)
    batches = [MicroBatches(whole, per_device, rank, world) for rank in range(world)]
    for one in batches:
        one.set_epoch(1)
    accumulated = 8 // world // per_device
    shares = [list(one) for one in batches]
    assert all(len(share) == len(one) for share, one in zip(shares, batches, strict=True))
    for step in range(whole.steps_per_epoch):
        micro = [share[step * accumulated : (step + 1) * accumulated] for share in shares]
        assert sorted(row for ranks in micro for batch in ranks for row in batch) == sorted(order[step * 8 :][:8])
        assert all(len(batch) == per_device for ranks in micro for batch in ranks)


@pytest.mark.parametrize(
    ("given", "world", "expect"),
    [
        (config(global_batch_size=8), 1, 8),
        (config(global_batch_size=8, per_device_batch_size=2), 2, 2),
        (config(global_batch_size=8, per_device_batch_size=8), 1, 1),
    ],
)
def test_accumulation(given: TrainingConfig, world: int, expect: int) -> None:
    assert accumulation_steps(given, world) == expect


def test_a_global_batch_that_does_not_divide_names_the_fields() -> None:
    given = config(global_batch_size=8, per_device_batch_size=1, processes_per_node=3)
    with pytest.raises(BadInput, match=r"globalBatchSize 8 .* perDeviceBatchSize 1 .* processesPerNode 3 = 3"):
        accumulation_steps(given, 3)


@pytest.mark.parametrize("stage", [2, 3])
def test_zero_config(stage: int) -> None:
    found = zero_config(stage, bfloat16=False, per_device_batch=2, accumulation=4, world=2, max_grad_norm=1.0)  # type: ignore[arg-type]
    assert found["train_batch_size"] == 16
    assert found["zero_optimization"]["stage"] == stage
    assert "optimizer" not in found  # DeepSpeed's own would have to be compiled
    assert found["zero_optimization"].get("stage3_gather_16bit_weights_on_model_save", stage == 2)
