"""Which losses can be asked for, what they leave of addresses, and what needs no model. Their values: tests/e2e."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any, get_args

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from trl import DPOConfig

from feedback_operator.api import LossSpec
from feedback_operator.stages import STAGES, Inputs
from feedback_workloads.contract import AddedLoss, Artifact, Loss, LossTerm, PreferenceLoss, Source, TrainingConfig
from feedback_workloads.training.batches.cropped import crop, divided, with_cropped
from feedback_workloads.training.losses import ADDED, TRL_NAMES, trl_settings
from feedback_workloads.training.references import References, total, totals
from tests.unit.worlds import iteration

# ── what can be asked for ────────────────────────────────────────────────────────────────────────────────────────────


def spec(*kinds: str, **parameters: str) -> dict[str, Any]:
    return {"terms": [{"type": kind} for kind in kinds], **parameters}


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(spec("Sigmoid"), id="DPO"),
        pytest.param(spec("Sigmoid", "BCOPair", "SFT"), id="MPO"),
        pytest.param(spec("Sigmoid", "SFT"), id="RPO"),
        pytest.param(spec("Sigmoid", "Conditional", "Anchored", anchor="0.5"), id="mDPO"),
        pytest.param(spec("SigmoidNorm", "SFT"), id="per token, SFT beside it"),
        pytest.param(spec("IPO"), id="IPO"),
        pytest.param(spec("Robust", "SFT", labelSmoothing="0.499", ldAlpha="0"), id="robust, without verbose tokens"),
        pytest.param(spec("APODown", ldAlpha="1"), id="APO"),
    ],
)
def test_accepted(given: dict[str, Any]) -> None:
    assert len(LossSpec.model_validate(given).terms) == len(given["terms"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param(spec(), "at least 1 item", id="no term"),
        pytest.param(spec("SFT", "Conditional"), "terms must have one that compares", id="nothing is compared"),
        pytest.param(spec("Sigmoid", "Sigmoid"), "type 'Sigmoid' comes twice", id="a term twice"),
        pytest.param(spec("sigmoid"), "'Sigmoid', 'SigmoidNorm', 'IPO'", id="TRL's name"),
        pytest.param(spec("IPO", "Sigmoid"), "IPO read beta per token", id="two meanings of beta"),
        pytest.param(spec("SigmoidNorm", "Anchored"), "none but SFT", id="the anchor reads beta per answer"),
        pytest.param(spec("Robust"), "labelSmoothing must be given with a term Robust", id="robust against what"),
        pytest.param(spec("Sigmoid", labelSmoothing="0.1"), "and with no other", id="smoothing of nothing"),
        pytest.param(spec("Robust", labelSmoothing="0.5"), "less than 0.5", id="half of all pairs are swapped"),
        pytest.param(spec("Sigmoid", anchor="0.1"), "for no term but Anchored", id="an anchor of nothing"),
        pytest.param(spec("IPO", ldAlpha="0.5"), "ldAlpha must not be given", id="lengths accounted for twice"),
        pytest.param(
            spec("Sigmoid", "Conditional", ldAlpha="0.5"), "Conditional or Anchored: ", id="mDPO's are of whole answers"
        ),
        pytest.param({"terms": [{"type": "IPO", "weight": "0"}]}, "greater than 0", id="a term without weight"),
    ],
)
def test_what_makes_no_sense_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as refused:
        LossSpec.model_validate(given)
    assert message in str(refused.value)


# ── what follows from it ─────────────────────────────────────────────────────────────────────────────────────────────

BEFORE_THERE_WAS_A_CHOICE = "a2840b71a2db29d17128607506f06cf572a5a6ab8f8b5e829845776057df6a1f"
"""The address of the training below, as releases without spec.training.loss computed it."""


def config_of(**training: Any) -> TrainingConfig:
    artifacts = {name: (Artifact(uri="s3://b/a", sha256="0" * 64),) for name in STAGES}
    given = Inputs(iteration(training=training).spec, Source(uri="s3://b/policy"), artifacts)
    config = STAGES["training"].config(given)
    assert isinstance(config, TrainingConfig)
    return config


@pytest.mark.parametrize("training", [{}, {"loss": spec("Sigmoid")}], ids=["absent", "given as it is by default"])
def test_dpo_has_the_address_that_it_has_always_had(training: dict[str, Any]) -> None:
    assert config_of(**training).content_hash() == BEFORE_THERE_WAS_A_CHOICE


def test_any_other_loss_has_its_own_address() -> None:
    losses = [
        spec("IPO"),
        spec("APOZero"),
        spec("Sigmoid", "SFT"),
        {"terms": [{"type": "Sigmoid", "weight": "0.5"}]},
        spec("Sigmoid", ldAlpha="0.5"),
        spec("Sigmoid", ldAlpha="0.25"),
    ]
    addresses = {config_of(loss=loss).content_hash() for loss in losses}
    assert len(addresses | {BEFORE_THERE_WAS_A_CHOICE}) == len(losses) + 1


def test_the_spec_arrives_whole() -> None:
    given = {
        "terms": [{"type": "Robust", "weight": "0.8"}, {"type": "Anchored", "weight": "2"}, {"type": "SFT"}],
        "labelSmoothing": "0.1",
        "anchor": "0.25",
    }
    terms = (LossTerm(type="Robust", weight=0.8), LossTerm(type="Anchored", weight=2.0), LossTerm(type="SFT"))
    assert config_of(loss=given).loss == Loss(terms=terms, label_smoothing=0.1, anchor=0.25)
    assert config_of(loss=spec("Sigmoid", ldAlpha="0")).loss == Loss(ld_alpha=0.0)


def test_every_type_is_trls_or_ours() -> None:
    assert TRL_NAMES.keys() == set(get_args(PreferenceLoss))
    assert ADDED.keys() == set(get_args(AddedLoss))
    known = str(DPOConfig.__dataclass_fields__["loss_type"].metadata["help"])
    assert all(f"`'{name}'`" in known for name in TRL_NAMES.values())


def test_without_a_choice_trl_is_given_its_own_defaults() -> None:
    fields = DPOConfig.__dataclass_fields__
    settings = trl_settings(Loss())
    assert settings.pop("loss_type") == fields["loss_type"].default_factory()
    assert settings.pop("loss_weights") == [1.0]
    assert settings == {name: fields[name].default for name in settings}


# ── references ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("ld_alpha", "expect"),
    [(None, (-7.0, -3.0)), (1.0, (-7.0, -3.0)), (0.5, (-5.0, -3.0)), (0.0, (-3.0, -3.0))],
)
def test_tokens_beyond_the_shorter_answer_count_in_part(ld_alpha: float | None, expect: tuple[float, float]) -> None:
    assert totals(([-1.0, -2.0, -4.0], [-1.0, -2.0]), ld_alpha) == expect
    assert total([-1.0, -2.0], 2, ld_alpha) == -3.0


def test_references_under_pieces_of_pictures_are_a_column_more(tmp_path: Path) -> None:
    sums = [(-1.5, -2.5, -3.5), (-4.0, -5.0, -6.0)]
    References.of(None, sums).save(tmp_path)
    found = References.load(tmp_path)
    assert found.sums == sums
    rows = found.apply(Dataset.from_list([{"id": "a", "ref_chosen_logps": 0.0, "ref_rejected_logps": 0.0}] * 2))
    columns = ("ref_chosen_logps", "ref_rejected_logps", "ref_cropped_logps")
    assert [tuple(row[name] for name in columns) for row in rows] == sums


# ── pieces of pictures ───────────────────────────────────────────────────────────────────────────────────────────────


@given(st.integers(1, 200), st.integers(1, 200), st.integers())
def test_a_piece_is_a_small_part_at_the_size_of_the_whole(width: int, height: int, seed: int) -> None:
    """Pixels tell where they come from: red is the column, green the row, each from 0 to 255."""
    ramp = Image.linear_gradient("L").resize((height, width))
    columns, rows = ramp.rotate(90, expand=True), Image.linear_gradient("L").resize((width, height))
    picture = Image.merge("RGB", (columns, rows, rows))
    assert picture.size == (width, height)
    piece = crop(picture, Random(seed))
    assert piece.size == picture.size
    assert piece.tobytes() == crop(picture, Random(seed)).tobytes(), "the same draw is the same piece"
    for low, high in piece.getextrema()[:2]:
        # The square root of 20% of a side's 256 shades, and what blends in at its edges.
        assert high - low <= 0.45 * 256 + 2 * 256 / min(width, height)


def test_pieces_differ() -> None:
    picture = Image.linear_gradient("L").convert("RGB")
    assert len({crop(picture, Random(f"0 pair-{number}")).tobytes() for number in range(20)}) == 20


@given(st.integers(1, 4))
def test_rows_of_pieces_come_behind_their_pairs(pairs: int) -> None:
    rows = torch.arange(2 * pairs)[:, None]
    more = with_cropped(rows)
    of_pairs, cropped = divided(more)
    assert torch.equal(of_pairs, rows)
    assert torch.equal(cropped, rows[:pairs])
    first, second = more.chunk(2)
    assert torch.equal(first[pairs:], second[pairs:]), "one answer on both sides, which are one row"
