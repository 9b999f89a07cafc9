"""DPO as the training stage does it, against stock TRL with online references.

Ours has the references from the sampler, and one row for both answers of a pair. Both train the same model on the same
tokens and pictures, in batches of the same number of pairs, each in a process of its own, and have to find the same
log-probabilities. Speed is that of the fastest step, since others may use the machine meanwhile; memory is the most
that was taken, less what was taken before the model was loaded.
"""

from __future__ import annotations

import contextlib
import resource
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks.table import Ratio
from feedback_workloads.contract import Frozen, Source, TrainingConfig
from tests.integration.models import picture, tiny_llava

if TYPE_CHECKING:
    from trl import DPOTrainer

QUESTION = "What is in the picture?"
WORDS = ("a", "red", "block", "and", "blue", "one", "green", "of", "it", "in", "no", "corner")
ROUNDS = 2
OUT_OF_MEMORY = 9
"""Exit code of a training that did not fit."""
TOLERANCE = 1e-2
"""Relative, of log-probabilities that both sides found, in bfloat16 as well."""


class Case(Frozen):
    """What both sides train: on `steps` batches, of pictures of `side` pixels and answers of `letters` letters.

    The tokenizers of these models take a letter for a token.
    """

    config: TrainingConfig
    steps: int
    side: int
    letters: int

    @property
    def pairs(self) -> int:
        return self.steps * self.config.global_batch_size


class Measured(Frozen):
    """Of one training: seconds of its fastest step, bytes at its peak, tokens of all batches, mean log-probability."""

    seconds: float
    peak_bytes: int
    tokens: int
    logps: float


def run() -> list[Ratio]:
    """Pairs a second and peak memory of ours over those of stock TRL."""
    with tempfile.TemporaryDirectory() as scratch:
        model = tiny_llava(Path(scratch) / "model", side=112, hidden=896, layers=12)
        settings = {"precision": "float32", "gradient_checkpointing": False, "zero_stage": 0}
        training = config(model, global_batch_size=4, per_device_batch_size=4, **settings)
        case = Case(config=training, steps=4, side=112, letters=45)
        rounds = [(measure("ours", case), measure("stock", case)) for _ in range(ROUNDS)]
    for ours, stock in rounds:
        assert_same_work(ours, stock)
    ours, stock = (
        Measured(
            seconds=min(one.seconds for one in side), peak_bytes=min(one.peak_bytes for one in side),
            tokens=side[0].tokens, logps=side[0].logps,
        )
        for side in zip(*rounds, strict=True)
    )  # fmt: skip
    return ratios("DPO", case, ours, stock, speed=">= 1.7", memory="<= 0.85")


def config(model: Path, **settings: Any) -> TrainingConfig:
    """A training that changes next to nothing, so that both sides find the same log-probabilities in every step."""
    return TrainingConfig(
        output="", pairs=(), model=Source(uri=str(model)), epochs=1, learning_rate=1e-12, checkpoints_per_epoch=1,
        **settings,
    )  # fmt: skip


def ratios(name: str, case: Case, ours: Measured, stock: Measured, *, speed: str, memory: str) -> list[Ratio]:
    """Pairs a second, and peak memory in GiB."""
    pairs = case.config.global_batch_size
    seconds, peaks = (ours.seconds, stock.seconds), (ours.peak_bytes, stock.peak_bytes)
    return [
        Ratio(f"{name}, pairs/s over stock TRL", *(pairs / one for one in seconds), seconds[1] / seconds[0], speed),
        Ratio(f"{name}, peak GiB over stock TRL", *(one / 2**30 for one in peaks), peaks[0] / peaks[1], memory),
    ]


def assert_same_work(ours: Measured, stock: Measured) -> None:
    assert ours.tokens == stock.tokens, f"tokens differ: {ours.tokens} and {stock.tokens}"
    assert abs(ours.logps / stock.logps - 1) < TOLERANCE, f"log-probabilities differ: {ours.logps} and {stock.logps}"


def measure(side: str, case: Case) -> Measured:
    """Train in a process of its own; `side` is a key of SIDES. Raises CalledProcessError where that failed."""
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "case.json").write_text(case.model_dump_json())
        subprocess.run([sys.executable, "-m", "benchmarks.dpo", side, scratch], check=True)
        return Measured.model_validate_json((Path(scratch) / "measured.json").read_text())


# ── the two sides ────────────────────────────────────────────────────────────────────────────────────────────────────


def answers(case: Case, number: int) -> list[str]:
    """The chosen and the rejected answer of a pair, which differ from the first letter on."""
    random = Random(number)
    words = [" ".join(random.choices(WORDS, k=case.letters)) for _ in range(2)]
    return [f"{first}{text}"[: case.letters - 1] + "." for first, text in zip("AT", words, strict=True)]


def make_stock(case: Case, work: Path) -> DPOTrainer:
    """TRL as its documentation uses it for pictures: the trainer makes the reference, a model or an absent adapter."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from trl import DPOConfig, DPOTrainer

    from feedback_workloads.models.families import family_of
    from feedback_workloads.models.pictures import load_picture
    from feedback_workloads.training import policy_model
    from feedback_workloads.training.deepspeed import zero_config

    config, cuda = case.config, torch.cuda.is_available()
    rows = []
    for number in range(case.pairs):
        chosen, rejected = answers(case, number)
        rows.append(
            {
                "images": [load_picture(picture(number, case.side, case.side))],
                "prompt": [{"role": "user", "content": QUESTION}],
                "chosen": [{"role": "assistant", "content": chosen}],
                "rejected": [{"role": "assistant", "content": rejected}],
            }
        )
    bfloat16 = config.precision == "bfloat16"
    accumulation = config.global_batch_size // config.per_device_batch_size
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    model = AutoModelForImageTextToText.from_pretrained(config.model.uri, dtype=dtype)
    family = family_of(Path(config.model.uri))
    family.freeze(model)
    batch = {"per_device_batch": config.per_device_batch_size, "accumulation": accumulation}
    zero = None
    if config.zero_stage:
        zero = zero_config(config.zero_stage, bfloat16=bfloat16, world=1, max_grad_norm=1.0, **batch)
    return DPOTrainer(
        model=model,
        args=DPOConfig(
            output_dir=str(work / "out"),
            per_device_train_batch_size=config.per_device_batch_size,
            gradient_accumulation_steps=accumulation,
            num_train_epochs=1,
            learning_rate=config.learning_rate,
            use_cpu=not cuda,
            bf16=bfloat16,
            deepspeed=zero,
            gradient_checkpointing=config.gradient_checkpointing,
            max_length=None,
            remove_unused_columns=False,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            logging_steps=1,
            dataloader_num_workers=2 if cuda else 0,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoProcessor.from_pretrained(config.model.uri),
        peft_config=policy_model.lora_config(family, model, config.lora) if config.lora else None,
    )


def make_ours(case: Case, work: Path) -> DPOTrainer:
    """What the training stage uses, the references being the sampler's."""
    import pyarrow as pa

    from feedback_workloads.models.families import family_of
    from feedback_workloads.training.batches.dataset import PREPARED
    from feedback_workloads.training.trainer import CheckpointAt
    from feedback_workloads.training.worker import PAIRS_FILE, TrainingRun, make_trainer

    family = family_of(Path(case.config.model.uri))
    tokenizer = family.tokenizer
    rows = []
    for number in range(case.pairs):
        encoded = picture(number, case.side, case.side)
        # The chat template puts blanks around an answer, which stock TRL trains on.
        chosen, rejected = (tokenizer(f" {answer}</s> ")["input_ids"] for answer in answers(case, number))
        rows.append(
            {
                "id": str(number),
                "pictures": [encoded],
                "prompt_ids": family.expand(family.prompt_ids(QUESTION), family.picture(encoded)),
                "chosen_ids": chosen,
                "rejected_ids": rejected,
                "ref_chosen_logps": -100.0,
                "ref_rejected_logps": -100.0,
            }
        )
    with pa.OSFile(str(work / PAIRS_FILE), "wb") as sink, pa.ipc.new_stream(sink, PREPARED) as writer:
        writer.write_table(pa.Table.from_pylist(rows, PREPARED))
    trainer = make_trainer(TrainingRun(config=case.config, model=family.folder, work=work, rows=len(rows)))
    trainer.remove_callback(CheckpointAt)
    return trainer


SIDES = {"ours": make_ours, "stock": make_stock}


# ── one process ──────────────────────────────────────────────────────────────────────────────────────────────────────


def train(side: str, case: Case, work: Path) -> Measured:
    """Train in this process."""
    from feedback_workloads.training.worker import alone, choose_accelerator

    choose_accelerator()
    import torch
    from transformers import PrinterCallback, TrainerCallback
    from trl import DPOTrainer  # noqa: F401  its modules are no part of the peak

    baseline = psutil.Process().memory_info().rss
    with alone(work / "meeting") if case.config.zero_stage else contextlib.nullcontext():
        trainer = SIDES[side](case, work)
        moments: list[float] = []

        class Clock(TrainerCallback):
            def on_step_end(self, *_: Any, **__: Any) -> None:
                moments.append(time.perf_counter())

        trainer.add_callback(Clock())
        trainer.remove_callback(PrinterCallback)
        try:
            trainer.train()
        except torch.OutOfMemoryError as error:
            print(error, file=sys.stderr)
            sys.exit(OUT_OF_MEMORY)
    lines = [line for line in trainer.state.log_history if "loss" in line]
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - baseline
    return Measured(
        seconds=min(after - before for before, after in pairwise(moments)),  # with the making of the batches
        peak_bytes=peak,
        tokens=int(trainer._total_train_tokens),
        logps=sum(line["logps/chosen"] + line["logps/rejected"] for line in lines) / len(lines),
    )


if __name__ == "__main__":
    _, name, scratch = sys.argv
    folder = Path(scratch)
    measured = train(name, Case.model_validate_json((folder / "case.json").read_bytes()), folder)
    (folder / "measured.json").write_text(measured.model_dump_json())
