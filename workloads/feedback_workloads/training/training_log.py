"""The training log: one JSON line an optimizer step, of values that do not depend on time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

STATE_NAME = "trainer_state.json"

COLUMNS = {
    "step": "step",
    "epoch": "epoch",
    "loss": "loss",
    "rewards/margins": "reward_margin",
    "rewards/accuracies": "accuracy",
    "rewards/chosen": "chosen_reward",
    "rewards/rejected": "rejected_reward",
    "logps/chosen": "chosen_logps",
    "logps/rejected": "rejected_logps",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
}
"""TRL's names and ours. Rewards are beta times log-ratios; `*_logps` are sums over a completion, in nats; all are means
over the global batch."""


def log_lines(history: list[dict[str, Any]]) -> list[str]:
    """The lines of a trainer's `log_history`; entries that are not of a step are left out."""
    return [json.dumps({ours: entry[trl] for trl, ours in COLUMNS.items()}) for entry in history if "loss" in entry]


class LogFile(TrainerCallback):
    """Writes the log to `file` while training goes on; a resumed training starts with the lines of the earlier one."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self._file.write_text("".join(line + "\n" for line in log_lines(state.log_history)))

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            with self._file.open("a") as stream:
                stream.writelines(line + "\n" for line in log_lines(state.log_history[-1:]))


def write_log_of_state(state: Path, file: Path) -> None:
    """Write the log that the training state in the folder `state` holds; nothing else of it is read."""
    history = json.loads((state / STATE_NAME).read_text())["log_history"]
    file.write_text("".join(line + "\n" for line in log_lines(history)))
