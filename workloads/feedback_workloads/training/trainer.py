"""TRL's DPOTrainer for pairs of answers about a picture, with references that are already known."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import is_peft_model
from torch.utils.data import DataLoader
from transformers import TrainerCallback
from trl import DPOTrainer
from trl.models import prepare_deepspeed
from trl.trainer import dpo_trainer

from feedback_workloads.contract import BadInput
from feedback_workloads.models.saving import save_full
from feedback_workloads.training import losses, policy_model, references
from feedback_workloads.training.batches.cropped import divided, with_cropped
from feedback_workloads.training.publishing.outbox import CHECKPOINT, STATE, Outbox
from feedback_workloads.training.training_log import STATE_NAME

if TYPE_CHECKING:
    from datasets import Dataset

    from feedback_workloads.contract import Loss
    from feedback_workloads.models.family import Family
    from feedback_workloads.training.interruption import Interruption
    from feedback_workloads.training.references import Row, Score, Scores
    from feedback_workloads.training.schedule import MicroBatches

WEIGHTS_NAME = "weights.pt"


class PairTrainer(DPOTrainer):  # type: ignore[misc]
    """Trains on rows of `dataset.PREPARED`, whose reference log-probabilities are columns, not a second model.

    TRL computes such columns for text alone. Here they are in the data already, as are the token ids, so both of its
    preparations return the data as it is. TRL computes the terms of the loss that it has (see losses.py), and all that
    is logged beside the loss.

    `family` is that of the model that is trained from, and `base_uri` its name for others. `loss` says which terms come
    beside TRL's; where one is conditional, the batches have pieces of their pictures (see batches/cropped.py).
    """

    def __init__(
        self, *, batches: MicroBatches, outbox: Outbox, family: Family, base_uri: str, loss: Loss, **arguments: Any
    ) -> None:
        self._batches = batches
        self._outbox = outbox
        self._family = family
        self._base_uri = base_uri
        self._loss = loss
        with _no_hash_of_weights():
            super().__init__(**arguments)

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset

    # ── batches ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The batches of this process alone: they are sliced by `MicroBatches`, not by accelerate."""
        return _EpochLoader(
            self.train_dataset,
            batch_sampler=self._batches,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Move a batch to the device. Sums of log-probabilities stay float32, where DeepSpeed's bfloat16 would cast."""
        sums = {name: inputs[name].to(self.args.device) for name in references.COLUMNS if name in inputs}
        rest = {name: value for name, value in inputs.items() if name not in sums}
        return {**super()._prepare_inputs(rest), **sums}

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Nothing reads this count, which walks through all modules for each batch."""
        return 0

    # ── the loss ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> torch.Tensor:
        """TRL's terms of the loss, and ours of the same forward pass."""
        if not any(term.type in losses.ADDED for term in self._loss.terms):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        forward = Forward(model, cropped=self._loss.has("Conditional"))
        pairs = {name: value for name, value in inputs.items() if name != references.CROPPED}
        loss = super().compute_loss(forward, pairs, return_outputs, num_items_in_batch)
        chosen = losses.Chosen(
            logps=forward.log_probs.chunk(2)[0].sum(dim=1),
            ref_logps=inputs["ref_chosen_logps"],
            tokens=inputs["completion_mask"].chunk(2)[0].sum(dim=1),
            cropped_logps=forward.cropped.sum(dim=1) if forward.cropped is not None else None,
            ref_cropped_logps=inputs.get(references.CROPPED),
        )
        return loss + losses.added(self._loss, self.beta, chosen)

    # ── references ───────────────────────────────────────────────────────────────────────────────────────────────────

    @contextmanager
    def scoring(self, pairs_at_once: int) -> Iterator[Score]:
        """Give a function that scores rows with the model as it is before training (see `references.Score`).

        Under ZeRO-3 every process has to call it with the same number of rows.
        """
        zero3 = self.is_deepspeed_enabled and self.accelerator.state.deepspeed_plugin.zero_stage == 3
        model = prepare_deepspeed(self.model, self.accelerator) if zero3 else self.model.to(self.args.device)

        def score(rows: Sequence[Row]) -> list[Scores]:
            model.eval()
            scored: list[Scores] = []
            for first in range(0, len(rows), pairs_at_once):
                some = [rows[row] for row in range(first, min(first + pairs_at_once, len(rows)))]
                batch = self._prepare_inputs(self.data_collator(some))
                scored += self._scores(model, batch)
            return scored

        yield score
        if zero3:
            model.destroy()  # else its hooks stay on the modules, and confuse those of the training engine

    @torch.no_grad()
    def _scores(self, model: torch.nn.Module, batch: dict[str, Any]) -> list[Scores]:
        """Log-probabilities of the completions' tokens, a pair a row."""
        inputs = {name: value for name, value in batch.items() if name not in {*references.COLUMNS, "completion_mask"}}
        labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
        forward = Forward(model, cropped=self._loss.has("Conditional"))
        with self.accelerator.autocast():
            forward(**inputs, labels=labels, fused_lm_head=True, use_cache=False)
        chosen, rejected = batch["completion_mask"][:, 1:].bool().chunk(2)
        sides = [*zip(forward.log_probs.chunk(2), (chosen, rejected), strict=True)]
        if forward.cropped is not None:
            sides.append((forward.cropped, chosen))
        tokens = [[row[mask].tolist() for row, mask in zip(rows.float(), masks, strict=True)] for rows, masks in sides]
        return list(zip(*tokens, strict=True))

    # ── checkpoints ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Hand over the policy, if this is a step to keep it of, and, unless it was the last one, all that training
        needs to go on from here."""
        step = self.state.global_step
        if step in self._batches.schedule.checkpoint_steps:
            weights = self._whole_weights()
            if self.is_world_process_zero():
                self._save_policy(weights, self._outbox.folder(step, CHECKPOINT))
        state = self._outbox.folder(step, STATE)
        if step < self.state.max_steps:
            self._save_optimizer_and_scheduler(str(state))
            self._save_rng_state(str(state))
            if self.args.should_save and not self.is_deepspeed_enabled:  # DeepSpeed's own files have the weights
                torch.save(self._trained_weights(), state / WEIGHTS_NAME)
        if self.args.should_save:
            self.state.save_to_json(str(state / STATE_NAME))
        self.accelerator.wait_for_everyone()
        if self.is_local_process_zero():
            self._outbox.hand_over(step)

    def _whole_weights(self) -> dict[str, torch.Tensor]:
        """The policy's weights, gathered where they are spread; whole on the first process. All processes call it."""
        if not self.is_deepspeed_enabled:
            return self.model.state_dict()
        zero3 = self.accelerator.state.deepspeed_plugin.zero_stage == 3
        if zero3 and is_peft_model(self.model):
            return self.deepspeed._zero3_consolidated_16bit_state_dict(exclude_frozen_parameters=True)
        return self.accelerator.get_state_dict(self.deepspeed)

    def _save_policy(self, weights: dict[str, torch.Tensor], folder: Path) -> None:
        if is_peft_model(self.model):
            policy_model.save_adapter(self.model, weights, self._base_uri, folder)
            return
        dtype = torch.bfloat16 if self.args.bf16 else torch.float32
        weights = {name: value.to(dtype) if value.is_floating_point() else value for name, value in weights.items()}
        save_full(self.model, weights, self._family, folder)

    def _trained_weights(self) -> dict[str, torch.Tensor]:
        return {name: value.detach() for name, value in self.model.named_parameters() if value.requires_grad}

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        """Take over the weights that `_save_checkpoint` left. Without DeepSpeed alone; that loads its own files."""
        saved = torch.load(Path(resume_from_checkpoint) / WEIGHTS_NAME, map_location="cpu", weights_only=True)
        trained = self._trained_weights()
        if saved.keys() != trained.keys():
            raise ValueError(f"{resume_from_checkpoint} has the weights of another model")
        for name, value in trained.items():
            value.copy_(saved[name])


class Forward:
    """A model as TRL calls it, that remembers the log-probabilities of its tokens.

    With `cropped`, it computes the chosen answers under pieces of their pictures in the same pass, and returns what it
    would return without. `log_probs` has shape (2 pairs, tokens - 1), `cropped` (pairs, tokens - 1).
    """

    log_probs: torch.Tensor
    cropped: torch.Tensor | None = None

    def __init__(self, model: torch.nn.Module, *, cropped: bool) -> None:
        self._model = model
        self._with_cropped = cropped

    def __call__(self, **inputs: Any) -> Any:
        if not self._with_cropped:
            outputs = self._model(**inputs)
        else:
            more = {name: with_cropped(inputs[name]) for name in ("input_ids", "attention_mask", "labels")}
            whole = self._model(**{**inputs, **more})
            _, self.cropped = divided(whole.log_probs)
            outputs = type(whole)(
                **{name: divided(value)[0] if value.dim() > 1 else value for name, value in whole.items()}
            )
        self.log_probs = outputs.log_probs
        return outputs


@contextmanager
def _no_hash_of_weights() -> Iterator[None]:
    """TRL hashes all weights, to name a cache of references that is not used here: 40 seconds for 7B parameters."""
    original = dpo_trainer.hash_module
    dpo_trainer.hash_module = lambda _: ""
    try:
        yield
    finally:
        dpo_trainer.hash_module = original


class _EpochLoader(DataLoader[Any]):
    """Tells its batches which epoch it is; the trainer looks for this method."""

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)


class CheckpointAt(TrainerCallback):
    """Asks for a checkpoint after each of `steps`."""

    def __init__(self, steps: Sequence[int]) -> None:
        self._steps = frozenset(steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_save = state.global_step in self._steps


class EndWhenAsked(TrainerCallback):
    """Ends training after the step in which one of its processes, on whichever machine, was asked to; its state is
    saved first."""

    def __init__(self, interruption: Interruption) -> None:
        self._interruption = interruption

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._interruption.begin()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        asked = torch.tensor(float(self._interruption.asked), device=args.device)
        if torch.distributed.is_initialized():  # a signal reaches machines at different steps, or one alone
            torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX)
        if asked.item():
            self._interruption.ask()
            control.should_save = control.should_training_stop = True


class EndWhenDiverged(TrainerCallback):
    """Ends a training whose loss or gradient is no number any more: from there nothing comes back."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float], **_: Any) -> None:
        for name in ("loss", "grad_norm"):
            if not math.isfinite(logs.get(name, 0.0)):
                raise BadInput(
                    f"training diverged: {name} is {logs[name]} at step {state.global_step} of {state.max_steps}; "
                    f"lower spec.training.learningRate {args.learning_rate}, or raise warmupRatio"
                )
