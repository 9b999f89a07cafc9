"""Weights in safetensors files, renamed without being loaded, and written without being copied."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import torch

INDEX_NAME = "model.safetensors.index.json"

TYPES: Final = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""Names of torch's types in a safetensors file."""


def rename_weights(directory: Path, renamed: Callable[[str], str]) -> None:
    """Rename all weights of the model in `directory`, in place.

    Files that need nothing stay as they are, so renaming twice is harmless where names that were given are kept.
    Tensors are copied as bytes: none is loaded, and any size works.
    """
    for file in sorted(directory.glob("*.safetensors")):
        _rename_tensors(file, renamed)
    index = directory / INDEX_NAME
    if index.exists():
        content = json.loads(index.read_text())
        content["weight_map"] = {renamed(name): shard for name, shard in content["weight_map"].items()}
        index.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def _rename_tensors(file: Path, renamed: Callable[[str], str]) -> None:
    """Rewrite the header of a safetensors file: 8 bytes of length, JSON, then the data it points at."""
    with file.open("rb") as source:
        (length,) = struct.unpack("<Q", source.read(8))
        header: dict[str, Any] = json.loads(source.read(length))
        wanted = {renamed(name): entry for name, entry in header.items()}
        if wanted == header:
            return
        partial = file.with_suffix(".partial")
        with partial.open("wb") as target:
            target.write(_encoded(wanted))
            shutil.copyfileobj(source, target, 1 << 22)
    partial.replace(file)


def write_weights(file: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Write a safetensors file, one tensor after the other: what lies in mapped files is never in memory as a whole."""
    import torch

    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, weight in weights.items():
        begin, end = end, end + weight.nbytes
        kind = TYPES[str(weight.dtype).removeprefix("torch.")]
        header[name] = {"dtype": kind, "shape": list(weight.shape), "data_offsets": [begin, end]}
    with file.open("wb") as target:
        target.write(_encoded(header))
        for weight in weights.values():
            target.write(memoryview(weight.contiguous().flatten().view(torch.uint8).numpy()))


def _encoded(header: Mapping[str, Any]) -> bytes:
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the data
    return struct.pack("<Q", len(text)) + text
