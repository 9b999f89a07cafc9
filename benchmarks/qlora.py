"""What training an adapter over 4 bits does to the demo's policy, and what becomes of it over the model as it is.

    python -m benchmarks.qlora [FOLDER]

FOLDER is as in benchmarks/quantized.py. The policy samples eight answers about each picture in vLLM; the truest
and the falsest of them are a pair. An adapter is trained on these by the stage, over the weights as they are (LoRA) and
over 4 bits (QLoRA). What counts is what the answers to held-out pictures say that is not so.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from benchmarks.quantized import SEED, WORLD, built
from feedback_workloads.contract import Artifact, Decoding, EngineConfig, LoRA, Manifest
from feedback_workloads.engine import Draw, Engine
from feedback_workloads.models.families import family_of
from feedback_workloads.rows.identity import row_seed
from feedback_workloads.rows.schemas import PAIRS
from feedback_workloads.shapes.examination import greedy_answers
from feedback_workloads.shapes.models import load
from feedback_workloads.shapes.truth import judge
from feedback_workloads.shapes.world import Row, png, rows
from feedback_workloads.storage.artifacts import ArtifactStore
from feedback_workloads.training import policy_model
from tests.integration.training_runs import Run, Study
from tests.models.reference import of_answer

ASKED: Final = 300
CANDIDATES: Final = 8
HELD_OUT: Final = 300
SCORED: Final = 40
"""Pairs whose log-ratios are compared."""
OUTPUT: Final = Path("build/bench-qlora.json")
TRAINING: Final = {
    "beta": 1.0, "learning_rate": 3e-4, "epochs": 2, "global_batch_size": 16, "per_device_batch_size": 16,
    "parity_rows": 16, "parity_limit": 10.0, "max_length": 256,
}  # fmt: skip
"""As in examples/shapes.yaml, but for the rate, which an adapter needs ten times as high."""


@dataclass(frozen=True)
class Measured:
    """False things a hundred answers to held-out pictures say, and true ones."""

    name: str
    false: float
    true: float


def main(folder: Path | None) -> int:
    """Print what was measured, and keep it."""
    policy = (folder or built(WORLD)) / "policy"
    with tempfile.TemporaryDirectory() as scratch:
        study = Study(Path(scratch), policy, pairs(policy, Path(scratch)))
        ways = {"LoRA": LoRA(), "QLoRA": LoRA(quantization="nf4")}
        runs = {name: study.run(name, lora=lora, reference="sampled", **TRAINING) for name, lora in ways.items()}
        parity = {name: run.manifest.metrics["parity_mean_difference"] for name, run in runs.items()}
        plain, rounded = load(policy), policy_model.load(family_of(policy), torch.float32, torch.device("cpu"))
        found = [
            measured("the policy", plain),
            measured("the policy, rounded", rounded),
            measured("LoRA", with_adapter(plain, runs["LoRA"])),
            measured("QLoRA, over 4 bits", with_adapter(rounded, runs["QLoRA"])),
            measured("QLoRA, over the model as it is", with_adapter(plain, runs["QLoRA"])),
        ]
        ratios = apart(policy, plain, rounded, runs["QLoRA"], study.pairs)
    print(f"nats a token between sampler and trainer: {parity['LoRA']:.4f} as it is, {parity['QLoRA']:.4f} over 4 bits")
    print(f"nats a token of log-ratio: {ratios[0]:.4f} over 4 bits, {ratios[1]:.4f} from that over the model as it is")
    for one in found:
        print(f"{one.name}: {one.false:.1f} false and {one.true:.1f} true things in a hundred answers")
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(
        json.dumps({"parity": parity, "log-ratio": ratios, "answers": [*map(asdict, found)]}, indent=1) + "\n"
    )
    return 0


def pairs(policy: Path, folder: Path) -> Artifact:
    """Of each picture's answers the one with the fewest false things beside the one with the most."""
    asked, family = rows(SEED, "instructions", ASKED), family_of(policy)
    prompts = {row.id: family.prompt(row.question, png(row.scene)) for row in asked}
    with Engine.load(family, EngineConfig(max_model_len=256)) as engine:
        requests = (
            ((row.id, i), prompts[row.id], Draw(row_seed(SEED, row.id, i), 0.7))
            for row in asked
            for i in range(CANDIDATES)
        )
        said = dict(engine.sample(requests, Decoding(max_new_tokens=96)))
    uri, store = str(folder / "pairs"), ArtifactStore(folder / "cache")
    with store.append(uri, PAIRS) as parts:
        made = (pair(row, [said[row.id, i] for i in range(CANDIDATES)], family) for row in asked)
        parts.write([one for one in made if one])
        manifest = Manifest(
            stage="pairing", config={}, config_hash="0" * 64, files=parts.files(), counts=parts.counts()
        )
    return store.publish(uri, manifest)


def pair(row: Row, said: Sequence[Any], family: Any) -> dict[str, Any] | None:
    """A row of PAIRS; None where no answer is truer than another, or one was cut off."""
    texts = [family.answer(one.token_ids) for one in said]
    wrong = [len(judge(text, row.scene.truth).hallucinated) for text in texts]
    best, worst = wrong.index(min(wrong)), wrong.index(max(wrong))
    if wrong[best] == wrong[worst] or "length" in (said[best].finish_reason, said[worst].finish_reason):
        return None
    made: dict[str, Any] = {"id": row.id, "image": {"bytes": png(row.scene), "path": None}, "question": row.question}
    for side, i in (("chosen", best), ("rejected", worst)):
        made |= {
            side: texts[i],
            f"{side}_token_ids": said[i].token_ids,
            f"{side}_logps": said[i].logprobs,
            f"{side}_candidate": i,
            f"{side}_score": -wrong[i],
            f"{side}_claims": ["a claim"],
            f"{side}_accepted": [wrong[i] == 0],
        }
    return made


def with_adapter(model: PreTrainedModel, run: Run) -> PreTrainedModel:
    """A copy of the model with the last adapter of a run on it."""
    adapter = sorted(run.folder.glob("checkpoint-*"))[-1]
    return PeftModel.from_pretrained(deepcopy(model), adapter).eval()


def measured(name: str, model: PreTrainedModel) -> Measured:
    shown = [row.scene for row in rows(SEED, "selection", HELD_OUT)]
    read = [judge(text, scene.truth) for text, scene in zip(greedy_answers(model, shown), shown, strict=True)]
    false, true = sum(len(one.hallucinated) for one in read), sum(one.covered for one in read)
    return Measured(name, 100 * false / HELD_OUT, 100 * true / HELD_OUT)


def apart(
    policy: Path, plain: PreTrainedModel, rounded: PreTrainedModel, run: Run, made: Artifact
) -> tuple[float, float]:
    """The mean magnitude of an adapter's log-ratio over the rounded model, and how far off it is over the other."""
    family, store = family_of(policy), ArtifactStore(run.study.root / "cache")
    some = list(islice(store.rows((made,), PAIRS, ["image", "question", "chosen_token_ids"]), SCORED))
    ratios = []
    for model in (rounded, plain):
        adapted = with_adapter(model, run)
        found = []
        for row in some:
            given = (family, row["question"], row["image"]["bytes"], row["chosen_token_ids"])
            with_it, without = of_answer(adapted, *given), of_answer(model, *given)
            found += [a - b for a, b in zip(with_it, without, strict=True)]
        ratios.append(torch.tensor(found))
    return ratios[0].abs().mean().item(), (ratios[0] - ratios[1]).abs().mean().item()


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else None))
