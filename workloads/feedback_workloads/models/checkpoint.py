"""Weights in safetensors files, renamed without being loaded."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

INDEX_NAME = "model.safetensors.index.json"


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
        text = json.dumps(wanted, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # the format aligns the data
        partial = file.with_suffix(".partial")
        with partial.open("wb") as target:
            target.write(struct.pack("<Q", len(text)))
            target.write(text)
            shutil.copyfileobj(source, target, 1 << 22)
    partial.replace(file)
