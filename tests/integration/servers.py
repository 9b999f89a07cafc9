"""Best-of-N servers as processes, and the checkpoints that they serve."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
from openai import OpenAI

from tests.integration.models import tiny_llava

READY: Final = "serving "
PATIENCE_SECONDS: Final = 1500
"""How long anything may take on a machine that has more to do: what a test waits for is a state, not a time."""


@dataclass(frozen=True)
class Models:
    """A policy and what it is compared with: as full checkpoints, and as an adapter on the base."""

    policy: Path
    reference: Path
    base: Path
    adapter: Path


def make_models(folder: Path) -> Models:
    """Save a random policy, a perturbed copy as its reference, and an adapter whose weights are not zero."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    from feedback_workloads.models.families import name_weights

    policy = tiny_llava(folder / "policy", seed=1)
    torch.manual_seed(2)
    model = LlavaForConditionalGeneration.from_pretrained(policy)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "language_model" in name:
                parameter.add_(0.02 * torch.randn_like(parameter))
    model.save_pretrained(folder / "reference")
    AutoProcessor.from_pretrained(policy).save_pretrained(folder / "reference")
    name_weights(folder / "reference")
    linears = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    adapted = get_peft_model(
        LlavaForConditionalGeneration.from_pretrained(policy),
        LoraConfig(r=8, lora_alpha=16, target_modules=rf".*language_model.*\.({'|'.join(linears)})"),
    )
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    adapted.save_pretrained(folder / "adapter")
    return Models(policy, folder / "reference", policy, folder / "adapter")


class Server:
    """`python -m feedback_workloads.serving`, or another `module` that starts it, on a free port, ready to answer."""

    def __init__(self, log: Path, *flags: str, module: Sequence[str] = ("feedback_workloads.serving",)) -> None:
        self.log = log
        self._log = log.open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-m", *module, "--port", "0", "--model-name", "tiny", *flags],
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CXX": "no-compiler"},  # images have none
        )
        assert self.process.stdout is not None
        try:
            line = next((line for line in self.process.stdout if line.startswith(READY)), None)
        except BaseException:
            self.process.terminate()
            raise
        assert line is not None, f"the server did not start:\n{log.read_text()[-4000:]}"
        self.base_url = line.rpartition(" at ")[2].strip()
        self.url = self.base_url.removesuffix("/v1")
        self.client = OpenAI(base_url=self.base_url, api_key="none", max_retries=0, timeout=PATIENCE_SECONDS)
        self._watcher = httpx.Client(base_url=self.url, timeout=PATIENCE_SECONDS)
        # one for all looks: to make a new one takes longer than some of what it looks for

    def metric(self, name: str, **labels: str) -> float:
        """The value of one metric as /metrics shows it; 0 where it is not there yet."""
        series = name + ("{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}" if labels else "")
        lines = self._watcher.get("/metrics").text.splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{series} ")), 0.0)

    def health(self) -> int:
        """The status that a readiness probe gets."""
        return self._watcher.get("/health").status_code

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Return once the server is seen to be in some state. Fails where it ends, or is not seen to be in it."""
        latest = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert self.process.poll() is None, "the server ended"
            assert time.monotonic() < latest, f"not seen within {PATIENCE_SECONDS} s"

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """End the process, if it has not ended."""
        if self.process.poll() is None:
            self.terminate()
        self.process.wait(PATIENCE_SECONDS)
        self.client.close()
        self._watcher.close()
        self._log.close()
