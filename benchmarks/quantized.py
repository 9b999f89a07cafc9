"""What rounding the weights of the demo's labeler does to its verdicts.

    python -m benchmarks.quantized [FOLDER]

Without FOLDER, which has the folders `policy` and `labeler` of a shapes world, both are first trained as `feedback
shapes` does, in build/quantized. The labeler is asked in vLLM about every sentence of the policy's answers to held-out
pictures: in float32, in bfloat16, and rounded in each published layout. Weights are rounded to the nearest value; by
GPTQ (https://arxiv.org/abs/2210.17323), which makes up for the error of each input in those that follow; and by AWQ
(https://arxiv.org/abs/2306.00978), which first scales large inputs up. Both see questions about other pictures.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Final

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from feedback_workloads.contract import BadInput, EngineConfig, Precision
from feedback_workloads.engine import Engine, Verdict
from feedback_workloads.models.families import family_of
from feedback_workloads.process.progress import Progress
from feedback_workloads.shapes.build import train
from feedback_workloads.shapes.courses import COURSES, SEEING, Curriculum
from feedback_workloads.shapes.examination import greedy_answers
from feedback_workloads.shapes.lessons import Lesson, question
from feedback_workloads.shapes.models import load, pixels, save
from feedback_workloads.shapes.truth import judge
from feedback_workloads.shapes.world import Scene, png, question_of, rows, scenes
from tests.models.quantizing import (
    WEIGHTS,
    Grid,
    Scheme,
    awq,
    fp8,
    fp8_dynamic,
    gptq,
    quantize,
    rounded_names,
    w4a16,
    w8a8,
)

SEED: Final = 0
SCENES: Final = 200
OUTPUT: Final = Path("build/bench-quantized.json")
WORLD: Final = Path("build/quantized")
CALIBRATION: Final = 128
"""Questions that GPTQ and AWQ are shown."""
DAMPING: Final = 0.01
"""GPTQ's: share of the mean of the Hessian's diagonal that is added to it."""
STRENGTHS: Final = 20
"""AWQ's: so many powers of an input's mean magnitude are tried, from 0 to 1."""
GROUPS: Final = (128, 32)
"""Weights that share a scale: as published models have them, and a quarter, since this one has but 128 inputs."""
ENGINE: Final = EngineConfig(max_model_len=256, max_num_seqs=256)


@dataclass(frozen=True)
class Question:
    """A sentence of an answer, asked about its picture, and whether it is true."""

    scene: Scene
    text: str
    true: bool


@dataclass(frozen=True)
class Measured:
    """Verdicts of one labeler: shares that are those in float32, of true claims accepted, of false ones rejected.

    `mass` is the mean of p(yes) + p(no), `size` that of the rounded layers over what it is in bfloat16. `refused` is
    what vLLM says of a labeler that it does not load.
    """

    name: str
    agreement: float = 0.0
    accepted: float = 0.0
    rejected: float = 0.0
    mass: float = 0.0
    size: float = 0.0
    refused: str = ""


def main(folder: Path | None) -> int:
    """Print the table and keep it."""
    world = folder or built(WORLD)
    questions = asked(load(world / "policy"))
    print(f"{len(questions)} questions, {sum(one.true for one in questions) / len(questions):.1%} true", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        found = []
        for one in measured(world / "labeler", Path(scratch), questions):
            print(one, flush=True)
            found.append(one)
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(json.dumps([asdict(one) for one in found], indent=1) + "\n")
    Console(width=110).print(table(found))
    for one in found:
        if one.refused:
            print(f"{one.name}: {one.refused}")
    return 0


def built(folder: Path) -> Path:
    """The policy and the labeler of the demo's world; they are trained once."""
    if not (folder / "labeler").exists():
        folder.mkdir(parents=True, exist_ok=True)
        train(
            Curriculum(SEED, SEEING, {name: COURSES[name] for name in ("policy", "labeler")}),
            folder,
            Progress("shapes"),
        )
    return folder


def asked(policy: LlavaForConditionalGeneration) -> list[Question]:
    """Every sentence of the policy's likeliest answers."""
    shown = [row.scene for row in rows(SEED, "selection", SCENES)]
    answers = zip(shown, greedy_answers(policy, shown), strict=True)
    sentences = ((scene, part.strip()) for scene, answer in answers for part in answer.split(".") if part.strip())
    return [
        Question(scene, question_of(f"{text}."), not judge(f"{text}.", scene.truth).hallucinated)
        for scene, text in sentences
    ]


def measured(labeler: Path, scratch: Path, questions: Sequence[Question]) -> Iterator[Measured]:
    """The labeler as it is, and rounded in each way."""
    full = verdicts(labeler, questions, "float32")
    yield compared("float32", full, full, questions, size=2.0)
    yield compared("bfloat16", verdicts(labeler, questions, "bfloat16"), full, questions, size=1.0)
    for number, (name, make) in enumerate(ways(labeler, scratch).items()):
        folder = make(scratch / str(number))
        try:
            found = verdicts(folder, questions, "bfloat16")
        except BadInput as refused:
            yield Measured(name, refused=str(refused))
            continue
        yield compared(name, found, full, questions, size=layer_bytes(folder) / (layer_bytes(labeler) / 2))


def ways(labeler: Path, scratch: Path) -> dict[str, Callable[[Path], Path]]:
    """How the labeler is rounded, by name: each writes a checkpoint into a folder."""

    def plainly(scheme: Scheme) -> Callable[[Path], Path]:
        return lambda to: quantize(labeler, to, scheme)

    def by_gptq(scheme: Scheme, group: int) -> Callable[[Path], Path]:
        return lambda to: quantize(labeler, to, scheme, compensated(load(labeler), scheme, group))

    def by_awq(group: int) -> Callable[[Path], Path]:
        def make(to: Path) -> Path:
            model, balanced_folder = load(labeler), scratch / f"balanced-{group}"
            balance(model, awq(group))
            save(model, balanced_folder)
            return quantize(balanced_folder, to, awq(group))

        return make

    found = {
        "compressed-tensors W8A8": plainly(w8a8()),
        "compressed-tensors FP8, a scale an output": plainly(fp8_dynamic()),
        "fp8, a scale a weight": plainly(fp8()),
    }
    for group in GROUPS:
        found |= {
            f"compressed-tensors W4A16, groups of {group}": plainly(w4a16(group)),
            f"gptq, groups of {group}": by_gptq(gptq(group), group),
            f"awq, groups of {group}": by_awq(group),
        }
    return found


def verdicts(labeler: Path, questions: Sequence[Question], precision: Precision) -> list[Verdict]:
    """What the labeler says in vLLM. Raises BadInput where that refuses it."""
    family = family_of(labeler)
    with Engine.load(family, ENGINE, precision) as engine:
        requests = ((i, family.prompt(one.text, png(one.scene), "verdict")) for i, one in enumerate(questions))
        found = dict(engine.yes_no(requests))
    return [found[i] for i in range(len(questions))]


def compared(
    name: str, found: Sequence[Verdict], full: Sequence[Verdict], questions: Sequence[Question], size: float
) -> Measured:
    """Shares of verdicts that are those of `full`, and that are right."""

    def share(right: Iterable[bool]) -> float:
        given = list(right)
        return sum(given) / len(given)

    said = [(verdict.accepted, asked.true) for verdict, asked in zip(found, questions, strict=True)]
    return Measured(
        name,
        agreement=share(one.accepted == other.accepted for one, other in zip(found, full, strict=True)),
        accepted=share(accepted for accepted, true in said if true),
        rejected=share(not accepted for accepted, true in said if not true),
        mass=sum(verdict.mass for verdict in found) / len(found),
        size=size,
    )


def layer_bytes(folder: Path) -> int:
    """What the rounded layers take, with all that belongs to them."""
    from safetensors.torch import load_file

    weights = load_file(folder / WEIGHTS)
    layers = tuple(
        name.removesuffix(".weight") + "."
        for name in rounded_names(f"{one.rpartition('.')[0]}.weight" for one in weights)
    )
    return sum(weight.nbytes for name, weight in weights.items() if name.startswith(layers))


# ── GPTQ and AWQ ─────────────────────────────────────────────────────────────────────────────────────────────────────


def calibration() -> list[Lesson]:
    """Questions about pictures of the training split."""
    rng = Random("calibration")
    return [question(scene, rng) for scene in islice(scenes("calibration", "training"), CALIBRATION)]


def given(model: LlavaForConditionalGeneration, layers: Mapping[str, nn.Linear]) -> dict[str, Tensor]:
    """What the layers are given while the model reads the calibration questions: (tokens, inputs) each."""
    seen: dict[str, list[Tensor]] = {name: [] for name in layers}

    def noting(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, arguments: seen[name].append(arguments[0].flatten(0, -2))

    hooks = [layer.register_forward_pre_hook(noting(name)) for name, layer in layers.items()]
    with torch.inference_mode():
        for lesson in calibration():
            model(input_ids=torch.tensor([lesson.tokens]), pixel_values=pixels([lesson.scene]))
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(parts) for name, parts in seen.items()}


def blocks(model: LlavaForConditionalGeneration) -> Iterator[dict[str, nn.Linear]]:
    """The linears of each layer of the language model, by their names in a checkpoint."""
    for number, block in enumerate(model.model.language_model.layers):
        yield {
            f"language_model.model.layers.{number}.{name}": layer
            for name, layer in block.named_modules()
            if isinstance(layer, nn.Linear)
        }


def compensated(model: LlavaForConditionalGeneration, scheme: Scheme, group: int) -> dict[str, tuple[Tensor, Grid]]:
    """Round by GPTQ, layer by layer: each is given what those before it, rounded, make of the questions."""
    found: dict[str, tuple[Tensor, Grid]] = {}
    for layers in blocks(model):
        for name, inputs in given(model, layers).items():
            layer = layers[name]
            codes, grid = found[name] = gptq_rounded(layer.weight.detach(), inputs, scheme, group)
            layer.weight.data = grid.values(codes)
    return found


def gptq_rounded(weight: Tensor, inputs: Tensor, scheme: Scheme, group: int) -> tuple[Tensor, Grid]:
    """Round input by input, and change those that follow so that what the layer says changes the least."""
    hessian = (inputs.T @ inputs).double() / len(inputs)
    hessian += DAMPING * hessian.diagonal().mean() * torch.eye(len(hessian))
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True).float()
    left, codes, grids = weight.clone(), [], []
    for start in range(0, weight.shape[1], group):
        grid = scheme.grid(left[:, start : start + group])
        grids.append(grid)
        for i in range(start, start + group):
            code = grid.codes(left[:, i : i + 1])
            error = (left[:, i : i + 1] - grid.values(code)) / inverse[i, i]
            left[:, i + 1 :] -= error @ inverse[i : i + 1, i + 1 :]
            codes.append(code)
    first = grids[0]
    scale, zero = (torch.cat([getattr(grid, name) for grid in grids], dim=1) for name in ("scale", "zero"))
    return torch.cat(codes, dim=1), Grid(scale, zero, first.lowest, first.highest)


def balance(model: LlavaForConditionalGeneration, scheme: Scheme) -> None:
    """Scale inputs of layers up and what makes them down, as AWQ does: the model says the same, and rounds better."""
    for block in model.model.language_model.layers:
        attention, mlp = block.self_attn, block.mlp
        pairs: list[tuple[nn.Module, list[nn.Linear]]] = [
            (block.input_layernorm, [attention.q_proj, attention.k_proj, attention.v_proj]),
            (attention.v_proj, [attention.o_proj]),
            (block.post_attention_layernorm, [mlp.gate_proj, mlp.up_proj]),
            (mlp.up_proj, [mlp.down_proj]),
        ]
        for before, layers in pairs:
            inputs = given(model, {"": layers[0]})[""]
            scales = awq_scales([layer.weight.detach() for layer in layers], inputs, scheme)
            for layer in layers:
                layer.weight.data *= scales
            before.weight.data /= scales if before.weight.ndim == 1 else scales.unsqueeze(1)


def awq_scales(weights: Sequence[Tensor], inputs: Tensor, scheme: Scheme) -> Tensor:
    """The power of the inputs' mean magnitudes with which rounded weights say most nearly the same."""
    magnitudes = inputs.abs().mean(0).clamp(min=1e-5)
    hessian = inputs.T @ inputs

    def error(scales: Tensor) -> float:
        grids = [(weight, scheme.grid(weight * scales)) for weight in weights]
        off = [grid.values(grid.codes(weight * scales)) / scales - weight for weight, grid in grids]
        return sum(((one @ hessian) * one).sum().item() for one in off)

    tried = (magnitudes ** (i / STRENGTHS) for i in range(STRENGTHS))
    return min((scales / (scales.max() * scales.min()).sqrt() for scales in tried), key=error)


def table(found: Sequence[Measured]) -> Table:
    names = ("labeler", "as in float32", "true accepted", "false rejected", "yes + no", "size")
    shown = Table(*names, box=None, header_style="bold")
    for one in found:
        shares = (f"{share:.1%}" for share in (one.agreement, one.accepted, one.rejected))
        shown.add_row(one.name, *(("refused",) if one.refused else (*shares, f"{one.mass:.4f}", f"{one.size:.2f}")))
    return shown


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else None))
