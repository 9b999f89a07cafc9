"""Quantized checkpoints, written here in the layouts that are published, from a model of any family.

What is rounded are the linears of the language model's layers, to the nearest value; `benchmarks/quantized.py` does it
better. Where layouts were looked up: vLLM 0.32's `quantization/auto_awq.py`, `auto_gptq.py`, `fp8.py` and
`compressed_tensors/schemes/`, and compressed-tensors 0.17, which read them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

WEIGHTS: Final = "model.safetensors"
OF_TOWERS: Final = ("vision", "visual")
"""What names of layers have in them that are not the language model's."""
ROUNDED: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
NIBBLES: Final = 8
"""Numbers of four bits in one of 32."""
AWQ_ORDER: Final = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight neighbours lies in which four bits, from the lowest, in AutoAWQ's layout."""
GREATEST: Final = 448.0
"""Of the numbers of 8 bits that `torch.float8_e4m3fn` has."""


@dataclass(frozen=True)
class Grid:
    """The values that a weight (outputs, inputs) is rounded to: `value = (code - zero) * scale`.

    `scale` and `zero` are (outputs, groups), of the groups that the inputs fall into, one after the other.
    """

    scale: Tensor
    zero: Tensor
    lowest: int
    highest: int

    def codes(self, weight: Tensor) -> Tensor:
        """The nearest codes of a whole weight, in its shape."""
        parts = self._grouped(weight)
        codes = (parts / self.scale.unsqueeze(-1)).round() + self.zero.unsqueeze(-1)
        return codes.clamp(self.lowest, self.highest).to(torch.int32).reshape(weight.shape)

    def values(self, codes: Tensor) -> Tensor:
        """What the codes of a whole weight stand for."""
        parts = self._grouped(codes.float())
        return ((parts - self.zero.unsqueeze(-1)) * self.scale.unsqueeze(-1)).reshape(codes.shape)

    def _grouped(self, weight: Tensor) -> Tensor:
        """(outputs, groups, inputs of a group)."""
        return weight.unflatten(1, (self.scale.shape[1], -1))


class Float8(Grid):
    """The same with codes that are `torch.float8_e4m3fn`."""

    def codes(self, weight: Tensor) -> Tensor:
        """The nearest codes of a whole weight, in its shape."""
        return (self._grouped(weight) / self.scale.unsqueeze(-1)).reshape(weight.shape).to(torch.float8_e4m3fn)


GridOf = Callable[[Tensor], Grid]
"""The values to which a weight of float32 is to be rounded."""


def around_zero(bits: int, group: int | None) -> GridOf:
    """Up to the greatest magnitude of a group on either side of 0; without `group`, of all inputs of an output."""

    def grid(weight: Tensor) -> Grid:
        highest = 2 ** (bits - 1) - 1
        greatest = weight.unflatten(1, (-1, group or weight.shape[1])).abs().amax(-1)
        scale = greatest.clamp(min=1e-8) / highest
        return Grid(scale, torch.zeros_like(scale), -highest - 1, highest)

    return grid


def between_extremes(bits: int, group: int) -> GridOf:
    """From the least to the greatest weight of a group, with 0."""

    def grid(weight: Tensor) -> Grid:
        parts = weight.unflatten(1, (-1, group))
        low, high = parts.amin(-1).clamp(max=0), parts.amax(-1).clamp(min=0)
        scale = (high - low).clamp(min=1e-8) / (2**bits - 1)
        return Grid(scale, (-low / scale).round(), 0, 2**bits - 1)

    return grid


def floats(*, whole: bool) -> GridOf:
    """Numbers of 8 bits with a scale for each output, or one for the `whole` weight."""

    def grid(weight: Tensor) -> Grid:
        greatest = weight.abs().amax(None if whole else 1).expand(weight.shape[0]).unsqueeze(1)
        scale = greatest.clamp(min=1e-8) / GREATEST
        return Float8(scale, torch.zeros_like(scale), 0, 0)

    return grid


@dataclass(frozen=True)
class Scheme:
    """A published kind of quantized checkpoint.

    `config` is its `quantization_config`; `packed` gives the tensors of a layer by what follows the layer's name.
    """

    config: Mapping[str, Any]
    grid: GridOf
    packed: Callable[[Tensor, Grid], dict[str, Tensor]]


def nibbles(codes: Tensor, order: tuple[int, ...] = tuple(range(NIBBLES))) -> Tensor:
    """Codes of four bits, (rows, columns), eight columns in one int32: code `order[i]` in the i-th lowest four bits."""
    parts = codes.to(torch.int64).unflatten(1, (-1, NIBBLES))[:, :, list(order)]
    shifted = (parts << torch.arange(0, 32, 4)).sum(-1)
    return torch.where(shifted >= 2**31, shifted - 2**32, shifted).to(torch.int32)


def awq(group: int) -> Scheme:
    """AutoAWQ's layout `gemm`: four bits, between the least and the greatest weight of a group."""

    def packed(codes: Tensor, grid: Grid) -> dict[str, Tensor]:
        return {
            "qweight": nibbles(codes.T, AWQ_ORDER),
            "qzeros": nibbles(grid.zero.T, AWQ_ORDER),
            "scales": grid.scale.T.half(),
        }

    config = {"quant_method": "awq", "version": "gemm", "bits": 4, "group_size": group, "zero_point": True}
    return Scheme(config, between_extremes(4, group), packed)


def gptq(group: int) -> Scheme:
    """AutoGPTQ's layout: four bits around 0, which is code 8; of that, one less is stored."""

    def packed(codes: Tensor, grid: Grid) -> dict[str, Tensor]:
        return {
            "qweight": nibbles(codes + 8).T,
            "qzeros": nibbles(torch.full_like(grid.scale.T, 7)),
            "scales": grid.scale.T.half(),
            "g_idx": torch.arange(codes.shape[1], dtype=torch.int32) // group,
        }

    config = {"quant_method": "gptq", "bits": 4, "group_size": group, "sym": True, "desc_act": False}
    return Scheme(config, around_zero(4, group), packed)


def compressed(weights: Mapping[str, Any], activations: Mapping[str, Any] | None, form: str) -> dict[str, Any]:
    """`quantization_config` of compressed-tensors with one kind of layer."""
    group = {"targets": ["Linear"], "weights": weights, "input_activations": activations, "output_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head", "re:.*vision.*", "re:.*visual.*", "re:.*projector.*"],
    }


def arguments(type: str, bits: int, strategy: str, *, dynamic: bool, group: int | None = None) -> dict[str, Any]:
    """How compressed-tensors says how numbers are rounded."""
    said = {"type": type, "num_bits": bits, "symmetric": True, "strategy": strategy, "dynamic": dynamic}
    return said if group is None else {**said, "group_size": group}


def w4a16(group: int) -> Scheme:
    """compressed-tensors' `pack-quantized`: four bits around 0; activations as they are."""

    def packed(codes: Tensor, grid: Grid) -> dict[str, Tensor]:
        return {
            "weight_packed": nibbles(codes + 8),
            "weight_scale": grid.scale.half(),
            "weight_shape": torch.tensor(codes.shape),
        }

    config = compressed(arguments("int", 4, "group", dynamic=False, group=group), None, "pack-quantized")
    return Scheme(config, around_zero(4, group), packed)


def w8a8() -> Scheme:
    """compressed-tensors' `int-quantized`: eight bits an output; activations are rounded token by token."""
    weights, given = (arguments("int", 8, kind, dynamic=kind == "token") for kind in ("channel", "token"))
    return Scheme(
        compressed(weights, given, "int-quantized"),
        around_zero(8, None),
        lambda codes, grid: {"weight": codes.to(torch.int8), "weight_scale": grid.scale},
    )


def fp8_dynamic() -> Scheme:
    """compressed-tensors' `float-quantized`: float8 with a scale for each output; activations token by token."""
    weights, given = (arguments("float", 8, kind, dynamic=kind == "token") for kind in ("channel", "token"))
    return Scheme(
        compressed(weights, given, "float-quantized"),
        floats(whole=False),
        lambda codes, grid: {"weight": codes, "weight_scale": grid.scale},
    )


def fp8() -> Scheme:
    """Float8 with one scale a weight, as `quant_method` fp8 has it; activations as they come."""
    return Scheme(
        {"quant_method": "fp8", "activation_scheme": "dynamic"},
        floats(whole=True),
        lambda codes, grid: {"weight": codes, "weight_scale": grid.scale[0, 0]},
    )


# ── checkpoints ──────────────────────────────────────────────────────────────────────────────────────────────────────

Rounded = Mapping[str, tuple[Tensor, Grid]]
"""Codes by the name of the layer."""


def quantize(folder: Path, to: Path, scheme: Scheme, rounded: Rounded | None = None) -> Path:
    """Write a copy of the model in `folder` with rounded weights, the nearest ones or `rounded`. Returns `to`."""

    def packed(layer: str, weight: Tensor) -> dict[str, Tensor]:
        grid = scheme.grid(weight)
        codes, grid = (rounded or {}).get(layer) or (grid.codes(weight), grid)
        return {f"{layer}.{part}": value.contiguous() for part, value in scheme.packed(codes, grid).items()}

    _rewrite(folder, to, packed)
    config = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps({**config, "quantization_config": scheme.config}))
    return to


def nearest(folder: Path, to: Path, scheme: Scheme) -> Path:
    """Write a copy of the model in full precision, whose weights are what `quantize` rounds them to. Returns `to`."""

    def values(layer: str, weight: Tensor) -> dict[str, Tensor]:
        grid = scheme.grid(weight)
        return {f"{layer}.weight": grid.values(grid.codes(weight))}

    _rewrite(folder, to, values)
    return to


def _rewrite(folder: Path, to: Path, layer: Callable[[str, Tensor], dict[str, Tensor]]) -> None:
    """Copy a model, with other tensors in the place of each weight that is rounded."""
    shutil.copytree(folder, to)
    weights = load_file(to / WEIGHTS)
    for name in rounded_names(weights):
        weights |= layer(name.removesuffix(".weight"), weights.pop(name).float())
    (to / WEIGHTS).unlink()
    save_file(weights, to / WEIGHTS, metadata={"format": "pt"})


def rounded_names(names: Iterable[str]) -> list[str]:
    """Those of the weights that are rounded."""
    inner = (name for name in names if not any(part in name for part in OF_TOWERS))
    return sorted(name for name in inner if name.removesuffix(".weight").rpartition(".")[2] in ROUNDED)
