"""What layouts of first publications have in common: how their weights and tokenizers are read, checked and written."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from feedback_workloads.contract import BadInput
from feedback_workloads.models.checkpoint import INDEX_NAME, write_weights

if TYPE_CHECKING:
    import torch
    from transformers import LlamaTokenizer

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of weights by their names."""

Shard = Mapping[str, "torch.Tensor"]
"""What a file of weights holds, by name: mapped, not read."""

COMPUTED: Final = (".inv_freq", ".position_ids")
"""Ends of names that earlier versions saved although they follow from config.json."""

TOKENIZERS: Final = ("tokenizer.model", "tokenizer.json")


def mapped_files(folder: Path, uri: str) -> list[Shard]:
    """What each file of weights in `folder` holds. Raises BadInput where an index names a file that is not there."""
    import pickle

    import torch
    from safetensors import SafetensorError, safe_open

    def mapped(file: Path) -> Shard:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as weights:
                return {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118
        found: Shard = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
        return found

    for index in sorted(folder.glob("*.index.json")):
        for name in sorted(set(json.loads(index.read_text())["weight_map"].values())):
            if not (folder / name).exists():
                raise BadInput(f"{folder} of {uri} has no file {name}, which its {index.name} names; download it whole")
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise BadInput(f"{folder} of {uri} has no weights, *.safetensors or pytorch_model*.bin; download it whole")
    try:
        return [mapped(file) for file in files]
    except (SafetensorError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        line = " ".join(str(error).split())[:300]
        raise BadInput(f"the weights of {uri} in {folder} cannot be read ({line}); download them anew") from error


def renamed_files(files: Sequence[Shard], renamed: Callable[[str], str | None]) -> list[Shard]:
    """The same by their new names, without those that have none."""
    shards = [{new: weight for name, weight in file.items() if (new := renamed(name))} for file in files]
    return [shard for shard in shards if shard]


def shapes_of(shards: Sequence[Shard]) -> dict[str, tuple[int, ...]]:
    """The shapes of all weights."""
    return {name: tuple(weight.shape) for shard in shards for name, weight in shard.items()}


def type_of(shards: Sequence[Shard]) -> torch.dtype | None:
    """The type of the first weight, which is that of all."""
    return next((weight.dtype for shard in shards for weight in shard.values()), None)


def check_whole(found: Shapes, expect: Shapes, uri: str) -> None:
    """Raise BadInput unless the weights are those of the model, by name and shape.

    transformers would start what is missing from random numbers.
    """
    wrong = sorted(name for name in found.keys() | expect.keys() if found.get(name) != expect.get(name))
    if wrong:
        name = wrong[0]
        raise BadInput(
            f"{len(wrong)} of the weights of {uri} are not those that its config.json describes, the first of them "
            f"{name}, of shape {found.get(name)} and not {expect.get(name)}; download it whole"
        )


def write_shards(
    shards: Sequence[Shard], target: Path, changed: Callable[[Shard], Shard] = lambda shard: shard
) -> None:
    """Write each shard as a file, as `changed` makes it when its turn comes, and their index where they are several."""
    if len(shards) == 1:
        write_weights(target / "model.safetensors", changed(shards[0]))
        return
    names: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_weights(target / file, changed(shard))
        names |= dict.fromkeys(shard, file)
    size = sum((target / file).stat().st_size for file in set(names.values()))
    index = {"metadata": {"total_size": size}, "weight_map": names}
    (target / INDEX_NAME).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def llama_tokenizer(folder: Path, uri: str) -> LlamaTokenizer:
    """Llama's kind of tokenizer, as the code of these layouts uses it.

    `legacy` puts a space before what follows a special token, as that code does, whose tokenizers did so (LLaVA's
    encodes the text on either side of a picture by itself): trained so, a model sees a space and a line's end between a
    picture and its question.
    """
    from transformers import LlamaTokenizer

    if not any((folder / name).exists() for name in TOKENIZERS):  # transformers would make one of three tokens
        raise BadInput(f"{folder} of {uri} has no {' or '.join(TOKENIZERS)}; download it whole")
    try:
        found: LlamaTokenizer = LlamaTokenizer.from_pretrained(
            folder, legacy=True, add_bos_token=True, add_eos_token=False
        )
    except (OSError, ValueError, ImportError) as error:
        raise BadInput(f"the tokenizer of {uri} cannot be read ({error}); give its tokenizer.model") from error
    return found
