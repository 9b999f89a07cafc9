"""DPO steps with references that are already known, against stock TRL with a second model as the reference.

Both train the same model of 100 million parameters on the same tokens and pictures, in batches of the same pairs, each
in a process of its own. Speed is that of the fastest step, since others may use the machine meanwhile; memory is the
most that was resident, less what was there before the model was loaded.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from benchmarks.table import Ratio
from tests.integration.models import picture, tiny_llava

PAIRS = 4
"""Pairs a step."""
STEPS = 4
ROUNDS = 2
SIDE = 112
MODEL = {"side": SIDE, "hidden": 896, "layers": 12}
QUESTION = "What is in the picture?"


@dataclass(frozen=True)
class Measured:
    """Of one training: seconds of its fastest step, bytes at its peak, tokens a step."""

    seconds: float
    peak_bytes: int
    tokens: int


def run() -> list[Ratio]:
    """Pairs a second and peak memory of ours over those of stock TRL."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        tiny_llava(folder / "model", **MODEL)
        rounds = [(_measure("ours", folder), _measure("stock", folder)) for _ in range(ROUNDS)]
    assert len({one.tokens for pair in rounds for one in pair}) == 1, "both have to train on the same tokens"
    ours, stock = (min(one.seconds for one in side) for side in zip(*rounds, strict=True))
    ours_peak, stock_peak = (min(one.peak_bytes for one in side) for side in zip(*rounds, strict=True))
    return [
        Ratio(
            "DPO, pairs/s over stock TRL with online references", PAIRS / ours, PAIRS / stock, stock / ours, ">= 1.25"
        ),
        Ratio(
            "DPO, peak GiB over stock TRL with online references",
            ours_peak / 2**30,
            stock_peak / 2**30,
            ours_peak / stock_peak,
            "<= 0.95",
        ),
    ]


def _measure(name: str, folder: Path) -> Measured:
    result = folder / f"{name}.json"
    subprocess.run([sys.executable, "-m", "benchmarks.dpo", name, str(folder), str(result)], check=True)
    return Measured(**json.loads(result.read_text()))


def _answers(number: int) -> tuple[str, str]:
    return f"A red block in corner {number} of the picture.", f"There are {number} blue blocks and a green one."


def _settings(folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder / "out"),
        "per_device_train_batch_size": PAIRS,
        "max_steps": STEPS,
        "learning_rate": 1e-6,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "max_length": None,
        "remove_unused_columns": False,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_steps": 1,
    }


def _stock(folder: Path) -> Any:
    """TRL as its documentation uses it for pictures: the reference model is made by the trainer."""
    from datasets import Dataset
    from transformers import AutoProcessor
    from trl import DPOConfig, DPOTrainer

    from feedback_workloads.preprocess import load_picture

    rows = []
    for number in range(PAIRS * STEPS):
        chosen, rejected = _answers(number)
        rows.append(
            {
                "images": [load_picture(picture(number, SIDE, SIDE))],
                "prompt": [{"role": "user", "content": QUESTION}],
                "chosen": [{"role": "assistant", "content": chosen}],
                "rejected": [{"role": "assistant", "content": rejected}],
            }
        )
    model = _load(folder)
    return DPOTrainer(
        model=model,
        args=DPOConfig(**_settings(folder)),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoProcessor.from_pretrained(folder / "model"),
    )


def _ours(folder: Path) -> Any:
    """What the policy stage trains with, the references being the sampler's."""
    from datasets import Dataset
    from trl import DPOConfig

    from feedback_workloads.preprocess import Preprocessor
    from feedback_workloads.training.collator import PictureCollator
    from feedback_workloads.training.outbox import Outbox
    from feedback_workloads.training.schedule import MicroBatches, Schedule
    from feedback_workloads.training.trainer import PairTrainer, share_pictures

    preprocessor = Preprocessor.from_directory(folder / "model")
    tokenizer = preprocessor.processor.tokenizer
    rows = []
    for number in range(PAIRS * STEPS):
        encoded = picture(number, SIDE, SIDE)
        # The chat template puts blanks around an answer, which stock TRL trains on.
        chosen, rejected = (tokenizer(f" {answer}</s> ")["input_ids"] for answer in _answers(number))
        rows.append(
            {
                "picture": encoded,
                "prompt_ids": preprocessor.expand(preprocessor.prompt_ids(QUESTION), preprocessor.picture(encoded)),
                "chosen_ids": chosen,
                "rejected_ids": rejected,
                "ref_chosen_logps": -100.0,
                "ref_rejected_logps": -100.0,
            }
        )
    model = _load(folder)
    share_pictures(model)
    schedule = Schedule(rows=len(rows), epochs=1, global_batch=PAIRS, checkpoints=1, seed=0)
    return PairTrainer(
        model=model,
        args=DPOConfig(**_settings(folder), precompute_ref_log_probs=True),
        train_dataset=Dataset.from_list(rows),
        processing_class=preprocessor.processor,
        data_collator=PictureCollator(pad_token_id=tokenizer.pad_token_id, preprocessor=preprocessor),
        batches=MicroBatches(schedule, PAIRS, 0, 1),
        outbox=Outbox(folder),
        base=folder / "model",
        base_uri="model",
    )


def _load(folder: Path) -> Any:
    """The policy as both train it, its vision tower frozen."""
    import torch
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(folder / "model", dtype=torch.float32)
    model.get_encoder(modality="image").requires_grad_(False)
    return model


def _train(make: Any, folder: Path) -> Measured:
    from transformers import PrinterCallback, TrainerCallback
    from trl import DPOTrainer  # noqa: F401  its modules are no part of the peak

    baseline = psutil.Process().memory_info().rss
    trainer = make(folder)
    moments: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            moments.append(time.perf_counter())

    trainer.add_callback(Clock())
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    spans = [after - before for before, after in pairwise(moments)]  # with the making of the batches
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - baseline
    return Measured(min(spans), peak, int(trainer._total_train_tokens))


if __name__ == "__main__":
    _, name, scratch, result = sys.argv
    found = _train({"ours": _ours, "stock": _stock}[name], Path(scratch))
    Path(result).write_text(json.dumps(found.__dict__))
