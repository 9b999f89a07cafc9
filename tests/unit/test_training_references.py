"""When the sampler's log-probabilities are trusted as references."""

import math
from pathlib import Path

import pytest
from pydantic import ValidationError

from feedback_operator.api import TrainingSpec
from feedback_workloads.contract import BadInput, Source, TrainingConfig
from feedback_workloads.training.references import Parity, References, compare, share_of, spread


def row(chosen: list[float], rejected: list[float]) -> dict[str, list[float]]:
    return {"chosen_logps": chosen, "rejected_logps": rejected}


def test_compare_counts_tokens_and_margins() -> None:
    rows = [row([-1.0, -2.0], [-3.0]), row([-1.0], [-1.0, -1.0])]
    computed = [([-1.0, -2.5], [-3.0]), ([-1.0], [-1.25, -1.0])]
    found = compare(rows, computed, beta=0.5)
    assert found == Parity(
        rows=2, tokens=6, mean_difference=0.75 / 6, max_difference=0.5, margin_drift=(0.5 * 0.5 + 0.5 * 0.25) / 2
    )


@pytest.mark.parametrize(
    ("given", "holds"),
    [
        pytest.param(Parity(4, 100, 0.0, 0.0, 0.0), True, id="equal"),
        pytest.param(Parity(4, 100, 0.03, 0.4, 0.01), True, id="noise that cancels"),
        pytest.param(Parity(4, 100, 0.031, 0.04, 0.0), False, id="too far a token"),
        pytest.param(Parity(4, 100, 0.02, 0.02, 0.06), False, id="a bias that adds up over long answers"),
    ],
)
def test_parity_holds(given: Parity, holds: bool) -> None:
    assert given.holds(0.03) is holds


@pytest.mark.parametrize("mean", [0.0, 0.1, 0.2])
def test_rounding_errors_end_no_training(mean: float) -> None:
    Parity(4, 100, mean, 9.0, 9.0).check(0.2)


@pytest.mark.parametrize("mean", [0.21, 0.86, math.nan, math.inf])
def test_a_policy_that_the_sampler_computes_otherwise_is_never_trained(mean: float) -> None:
    with pytest.raises(BadInput, match=rf"are {mean:g} nats a token .* more than spec.training.parityLimit 0.2: "):
        Parity(4, 100, mean, 9.0, 0.0).check(0.2)


def test_a_policy_that_rounding_has_made_another_is_never_trained() -> None:
    with pytest.raises(BadInput, match=r"are 0.21 nats a token .*: rounded by spec.training.lora.quantization it is"):
        Parity(4, 100, 0.21, 9.0, 0.0).check(0.2, rounded=True)


@pytest.mark.parametrize("limit", ["0.03", "0.01"])
def test_a_limit_within_the_tolerance_is_refused_by_operator_and_stage(limit: str) -> None:
    with pytest.raises(ValidationError, match=r"must be greater than 0\.03"):
        TrainingSpec(parity_limit=limit)
    with pytest.raises(ValidationError, match=r"must exceed parity_tolerance 0\.03"):
        TrainingConfig(output="out", pairs=(), model=Source(uri="model"), parity_limit=float(limit))


@pytest.mark.parametrize(
    ("rows", "wanted", "expect"), [(10, 2, [0, 5]), (3, 16, [0, 1, 2]), (7, 3, [0, 2, 4]), (5, 0, [])]
)
def test_spread(rows: int, wanted: int, expect: list[int]) -> None:
    assert spread(rows, wanted) == expect


@pytest.mark.parametrize(("rows", "world"), [(8, 2), (7, 2), (1, 4), (9, 4)])
def test_shares_are_equally_long_and_cover_all_rows(rows: int, world: int) -> None:
    shares = [share_of(rank, world, rows) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1
    assert {row for share in shares for row in share} == set(range(rows))


@pytest.mark.parametrize("sums", [None, [(-12.5, -3.0), (-1.0, -80.25)]])
def test_saved_and_loaded(tmp_path: Path, sums: list[tuple[float, float]] | None) -> None:
    References.of(Parity(2, 9, 0.5, 1.0, 0.1), sums).save(tmp_path)
    found = References.load(tmp_path)
    assert found.sums == sums
    assert found.metrics["parity_mean_difference"] == 0.5
    assert found.metrics["references_recomputed"] == float(sums is not None)
