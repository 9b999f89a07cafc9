"""The training loss: stock TRL's where TRL has it, and a hand computation of plain forward passes where not.

Each is tried with both layouts of a pair: one row for both answers, and two where the decoder heeds no mask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest
import torch
from datasets import Dataset
from torch.nn.functional import logsigmoid
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import DPOConfig, DPOTrainer
from trl.trainer import dpo_trainer

from feedback_workloads.contract import Loss, LossTerm, LossType
from feedback_workloads.models.families import family_of
from feedback_workloads.models.family import Family
from feedback_workloads.models.pictures import load_picture
from feedback_workloads.training.batches.collator import PictureCollator
from feedback_workloads.training.batches.cropped import crop
from feedback_workloads.training.batches.shared_prompt import take_pairs
from feedback_workloads.training.losses import trl_settings
from feedback_workloads.training.publishing.outbox import Outbox
from feedback_workloads.training.references import References, totals
from feedback_workloads.training.schedule import MicroBatches, Schedule
from feedback_workloads.training.trainer import PairTrainer
from tests.integration.models import picture, tiny_llava
from tests.models.builders import DECODERS
from tests.models.reference import load, logps

SEED: Final = 3
LAYOUTS: Final[Mapping[str, Callable[[Path], Path]]] = {
    "one row": tiny_llava,
    "two rows": DECODERS["llava, LFM2"].build,
}


@pytest.fixture(scope="module", params=[*LAYOUTS])
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A policy, and another model as its reference, so that no term is at its start."""
    folder = tmp_path_factory.mktemp("models")
    policy, reference = LAYOUTS[request.param](folder / "policy"), LAYOUTS[request.param](folder / "reference")
    moved = AutoModelForImageTextToText.from_pretrained(reference, dtype=torch.float32)
    generator = torch.Generator().manual_seed(1)
    for parameter in moved.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)
    moved.save_pretrained(reference)
    shares = "share-prompts" in family_of(policy).capabilities
    assert shares == (request.param == "one row")
    return policy, reference


def settings(folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder / "out"), "report_to": [], "bf16": False, "use_cpu": True, "max_length": None,
        "gradient_checkpointing": False, "remove_unused_columns": False, "beta": 0.5,
    }  # fmt: skip


def trainer_of(model: Path, rows: Dataset, loss: Loss, folder: Path) -> PairTrainer:
    """Our trainer of a model, as a training process makes it."""
    loaded, family = AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32), family_of(model)
    family.freeze(loaded)
    take_pairs(loaded, family, max_length=2048)
    return PairTrainer(
        model=loaded,
        args=DPOConfig(**settings(folder), **trl_settings(loss), precompute_ref_log_probs=True),
        train_dataset=rows,
        processing_class=family.processor,
        data_collator=PictureCollator(
            pad_token_id=family.pad_id, family=family, crop_seed=SEED if loss.has("Conditional") else None
        ),
        batches=MicroBatches(Schedule(rows=4, epochs=1, global_batch=4, checkpoints=1, seed=0), 4, 0, 1),
        outbox=Outbox(folder),
        family=family,
        base_uri="policy",
        loss=loss,
    )


def ours(models: tuple[Path, Path], rows: Dataset, loss: Loss, folder: Path) -> tuple[PairTrainer, torch.Tensor]:
    """Our trainer and its loss of all rows, whose references come from the reference pass over the other model."""
    policy, reference = models
    with trainer_of(reference, rows, loss, folder).scoring(pairs_at_once=3) as score:
        sums = [totals(scores, loss.ld_alpha) for scores in score(list(rows))]
    trainer = trainer_of(policy, References.of(None, sums).apply(rows), loss, folder)
    assert trainer.ref_model is None
    batch = trainer.data_collator([dict(row) for row in trainer.train_dataset])
    return trainer, trainer.compute_loss(trainer.model, trainer._prepare_inputs(batch))


def gradients(model: torch.nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    loss.backward()
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


def assert_same(found: tuple[torch.nn.Module, torch.Tensor], expect: tuple[torch.nn.Module, torch.Tensor]) -> None:
    assert found[1].item() == pytest.approx(expect[1].item(), abs=1e-4, rel=1e-5)
    own, theirs = gradients(*found), gradients(*expect)
    assert own.keys() == theirs.keys()
    assert not any("vision_tower" in name for name in own)
    assert any("multi_modal_projector" in name for name in own)
    largest = max(value.abs().max().item() for value in theirs.values())
    assert largest > 1e-3, "the loss says something"
    for name, value in own.items():
        torch.testing.assert_close(value, theirs[name], atol=1e-4 * largest, rtol=1e-3)


# ── stock TRL ────────────────────────────────────────────────────────────────────────────────────────────────────────


def loss_of(weights: Mapping[LossType, float], **parameters: float) -> Loss:
    return Loss(terms=tuple(LossTerm(type=kind, weight=weight) for kind, weight in weights.items()), **parameters)


def conversation(number: int) -> dict[str, Any]:
    """Chosen answers are equally long, since TRL's `sft` is a mean over all their tokens; rejected ones are not."""
    answers = [f"a block number {number}", (f"{number} is no block at all", f"no {number}")[number % 2]]
    return {
        "images": [load_picture(picture(number, 56, 56))],
        "prompt": [{"role": "user", "content": f"What is in picture {number}?"}],
        "chosen": [{"role": "assistant", "content": answers[0]}],
        "rejected": [{"role": "assistant", "content": answers[1]}],
    }


def as_pairs(batch: dict[str, torch.Tensor], encoded: list[bytes]) -> Dataset:
    """The rows that stock TRL's batch was made of, in our form."""
    rows = []
    half = len(encoded)
    for i in range(half):
        sides = {}
        for side, row in (("chosen", i), ("rejected", i + half)):
            ids = batch["input_ids"][row][batch["attention_mask"][row].bool()]
            completion = batch["completion_mask"][row][batch["attention_mask"][row].bool()].bool()
            sides[f"{side}_ids"] = ids[completion].tolist()
            sides["prompt_ids"] = ids[~completion].tolist()
        rows.append({**sides, "pictures": [encoded[i]], "ref_chosen_logps": 0.0, "ref_rejected_logps": 0.0})
    return Dataset.from_list(rows)


def no_hash(_: torch.nn.Module) -> str:
    raise AssertionError("all weights are hashed before training, and nothing uses the hash")


@pytest.mark.parametrize(
    ("loss", "theirs"),
    [
        pytest.param(Loss(), {}, id="DPO"),
        pytest.param(loss_of({"SigmoidNorm": 1}), {"loss_type": ["sigmoid_norm"]}, id="sigmoid_norm"),
        pytest.param(loss_of({"IPO": 1}), {"loss_type": ["ipo"]}, id="ipo"),
        pytest.param(
            loss_of({"Robust": 1}, label_smoothing=0.2), {"loss_type": ["robust"], "label_smoothing": 0.2}, id="robust"
        ),
        pytest.param(loss_of({"APOZero": 1}), {"loss_type": ["apo_zero"]}, id="apo_zero"),
        pytest.param(loss_of({"APODown": 1}), {"loss_type": ["apo_down"]}, id="apo_down"),
        pytest.param(
            loss_of({"Sigmoid": 0.8, "BCOPair": 0.2, "SFT": 1}),
            {"loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0]},
            id="MPO",
        ),
        pytest.param(
            loss_of({"SFT": 0.5, "Sigmoid": 1}),
            {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]},
            id="RPO, its terms in any order",
        ),
        pytest.param(Loss(ld_alpha=0.3), {"ld_alpha": 0.3}, id="ld_alpha"),
    ],
)
def test_loss_and_gradients_are_those_of_stock_trl(
    loss: Loss, theirs: dict[str, Any], models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stock TRL with a second model as the reference, against cached sums."""
    monkeypatch.setattr(dpo_trainer, "hash_module", no_hash)
    policy, reference = models
    conversations = [conversation(i) for i in range(4)]
    stock = DPOTrainer(
        model=AutoModelForImageTextToText.from_pretrained(policy, dtype=torch.float32),
        ref_model=AutoModelForImageTextToText.from_pretrained(reference, dtype=torch.float32),
        args=DPOConfig(**settings(tmp_path), **theirs),
        train_dataset=Dataset.from_list(conversations),
        processing_class=AutoProcessor.from_pretrained(policy),
    )
    stock.model.model.vision_tower.requires_grad_(False)
    batch = stock.data_collator([dict(row) for row in conversations])
    expect = stock.compute_loss(stock.model, batch)

    rows = as_pairs(batch, [picture(i, 56, 56) for i in range(4)])
    trainer, found = ours(models, rows, loss, tmp_path)
    assert_same((trainer.model, found), (stock.model, expect))
    for name in ("rewards/margins", "rewards/accuracies", "logps/chosen"):
        assert trainer._metrics["train"][name] == pytest.approx(stock._metrics["train"][name], abs=1e-3), name


# ── by hand ──────────────────────────────────────────────────────────────────────────────────────────────────────────

QUESTIONS: Final = ("What is it?", "Is there a red block?")
PICTURES: Final = (picture(1, 56, 56), picture(2, 90, 60))
ANSWERS: Final = (([11, 12, 13, 14], [11, 12, 15]), ([16, 17], [18, 19, 20, 21]))


def pairs(family: Family) -> Dataset:
    """Two pairs with chosen answers of different lengths, as rows of `dataset.PREPARED`."""
    return Dataset.from_list(
        [
            {
                "id": f"pair-{number}",
                "pictures": [data],
                "prompt_ids": family.expand(family.prompt_ids(question), family.picture(data)),
                "chosen_ids": [*chosen, min(family.eos_ids)],
                "rejected_ids": [*rejected, min(family.eos_ids)],
                "ref_chosen_logps": 0.0,
                "ref_rejected_logps": 0.0,
            }
            for number, (question, data, (chosen, rejected)) in enumerate(
                zip(QUESTIONS, PICTURES, ANSWERS, strict=True)
            )
        ]
    )


def piece(family: Family, row: Mapping[str, Any]) -> bytes:
    """The picture that a pair's chosen answer is less likely to be about."""
    stream = BytesIO()
    crop(family.picture(row["pictures"][0]), Random(f"{SEED} {row['id']}")).save(stream, "PNG")
    return stream.getvalue()


def log_ratio(
    network: torch.nn.Module, other: torch.nn.Module, family: Family, question: str, data: bytes, answer: list[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of an answer, and that minus the reference's."""

    def of(model: Any) -> torch.Tensor:
        tokens = torch.tensor(answer)
        return logps(model, family, question, data, answer)[:-1].gather(-1, tokens[:, None]).sum()

    with torch.no_grad():
        before = of(other)
    now = of(network)
    return now, now - before


@pytest.mark.parametrize(
    ("loss", "by_hand"),
    [
        pytest.param(
            loss_of({"Sigmoid": 1, "SFT": 0.5}),
            lambda won, lost, cut, logp, tokens: -logsigmoid(0.5 * (won - lost)) - 0.5 * logp / tokens,
            id="RPO: a mean over each answer's tokens",
        ),
        pytest.param(
            loss_of({"Sigmoid": 1, "Conditional": 1, "Anchored": 1}),
            lambda won, lost, cut, logp, tokens: (
                -logsigmoid(0.5 * (won - lost)) - logsigmoid(0.5 * (won - cut)) - logsigmoid(0.5 * won)
            ),
            id="mDPO",
        ),
        pytest.param(
            loss_of({"Sigmoid": 0.1, "Anchored": 2}, anchor=0.7),
            lambda won, lost, cut, logp, tokens: (
                -0.1 * logsigmoid(0.5 * (won - lost)) - 2 * logsigmoid(0.5 * won - 0.7)
            ),
            id="an anchor above 0",
        ),
        pytest.param(
            loss_of({"APOZero": 1, "Conditional": 3, "SFT": 0.5}),
            lambda won, lost, cut, logp, tokens: (
                (1 - torch.sigmoid(0.5 * won) + torch.sigmoid(0.5 * lost))
                - 3 * logsigmoid(0.5 * (won - cut))
                - 0.5 * logp / tokens
            ),
            id="any mixture",
        ),
    ],
)
def test_loss_and_gradients_are_those_of_plain_forward_passes(
    loss: Loss, by_hand: Callable[..., torch.Tensor], models: tuple[Path, Path], tmp_path: Path
) -> None:
    """`by_hand` gives a pair's loss of three log-ratios: of its answers, and of the chosen one under the piece.

    The rest are the chosen answer's log-probability and its number of tokens.
    """
    family, network, reference = family_of(models[0]), load(models[0]), load(models[1])
    family.freeze(network)
    rows = pairs(family)
    losses = []
    for row, question in zip(rows, QUESTIONS, strict=True):
        logp, chosen = log_ratio(network, reference, family, question, row["pictures"][0], row["chosen_ids"])
        _, rejected = log_ratio(network, reference, family, question, row["pictures"][0], row["rejected_ids"])
        _, cut = log_ratio(network, reference, family, question, piece(family, row), row["chosen_ids"])
        assert (cut - chosen).abs() > 1e-3, "the piece is another picture"
        losses.append(by_hand(chosen, rejected, cut, logp, len(row["chosen_ids"])))
    expect = torch.stack(losses).mean()

    trainer, found = ours(models, rows, loss, tmp_path)
    assert_same((trainer.model, found), (network, expect))


def test_what_is_logged_is_of_the_pairs_alone(models: tuple[Path, Path], tmp_path: Path) -> None:
    """Rewards, accuracy and log-probabilities mean the same whatever comes beside DPO's loss."""
    rows = pairs(family_of(models[0]))
    plain, _ = ours(models, rows, Loss(), tmp_path)
    mixed, _ = ours(models, rows, loss_of({"Sigmoid": 1, "Conditional": 1, "Anchored": 1, "SFT": 1}), tmp_path)
    expect = plain._metrics["train"]
    assert mixed._metrics["train"].keys() == expect.keys()
    for name, values in mixed._metrics["train"].items():
        assert values == pytest.approx(expect[name], abs=1e-3), name
