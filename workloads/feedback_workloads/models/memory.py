"""How much of a card's memory a model takes at the least, and whether it is there: known without its weights.

What is counted is what cannot be done without: weights, keys and values of one sequence, gradients and the optimizer's
state. Activations and what libraries keep for themselves come on top, so what is refused would not have run, and what
is not may still be too much. All amounts are bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from feedback_workloads.contract import BadInput, EngineConfig, TrainedOn
from feedback_workloads.models.family import Family
from feedback_workloads.models.overrides import quantized
from feedback_workloads.models.standard import FULL_ATTENTION, Text

GIBIBYTE: Final = 2**30
HALF: Final = 2
"""Bytes of a number in bfloat16, in which models are loaded on cards."""
FULL: Final = 4
"""Bytes of a number in float32."""
NF4: Final = (4 + 8 / 64 + 32 / (64 * 256)) / 8
"""Bytes of a number that QLoRA rounds to 4 bits: 64 share a scale of 8 bits, and 256 such scales one of 32."""
ADAM: Final = 2 * FULL
"""What AdamW keeps of each number that is trained."""
MOST_CARDS: Final = 16
"""Of one engine, as many as are proposed."""


@dataclass(frozen=True)
class Size:
    """A model in numbers: all of its weights, those that training in full moves, and those of a token.

    `kept` are the keys and values of one token in all layers, 0 of a decoder that may drop some; `longest` is the
    number of tokens that it can read; `adapted` are the weights of the layers that adapters are put on.
    """

    weights: int
    trained: int
    kept: int
    longest: int
    adapted: int = 0


def size_of(family: Family) -> Size | None:
    """The size of a model, from its files but the weights; None of a quantized one, and of one with code of its own.

    `trained` is 0 of a model that cannot be.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    if quantized(family.config) or family.model.quantization or family.model.trust_remote_code:
        return None
    kind = AutoModelForCausalLM if isinstance(family, Text) else AutoModelForImageTextToText
    try:
        config = AutoConfig.from_pretrained(family.folder)
        with torch.device("meta"):
            model = kind.from_config(config)
    except (ValueError, KeyError, ImportError):  # transformers does not know the type, or not here; vLLM may
        return None
    weights, trained, adapted = sum(one.numel() for one in model.parameters()), 0, 0
    if "train" in family.capabilities:
        family.freeze(model)
        trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
    if "lora" in family.capabilities:
        adapted = sum(model.get_submodule(name).weight.numel() for name in family.lora_targets(model))
    text = config.get_text_config()
    # The lesser of both is what vLLM reads where no other length is asked for.
    longest = int(min(getattr(text, "max_position_embeddings", 0), family.tokenizer.model_max_length))
    return Size(weights, trained, _kept(text), longest, adapted)


def _kept(text: Any) -> int:
    """Keys and values of one token, by the configuration of a decoder; 0 of one that may drop some."""
    if text.model_type not in FULL_ATTENTION or getattr(text, "sliding_window", None):
        return 0
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return int(2 * text.num_hidden_layers * text.num_key_value_heads * width)


def served(size: Size, engine: EngineConfig) -> tuple[int, int]:
    """What each card of an engine holds: its share of the weights, and of the longest sequence that it is to read."""
    tokens = engine.max_model_len or size.longest
    cards = engine.tensor_parallel_size
    return HALF * size.weights // cards, HALF * size.kept * tokens // cards


def trained(size: Size, on: TrainedOn, *, lora: bool) -> int:
    """What each card holds while the model is trained in bfloat16.

    ZeRO-2 has all weights on every card and the rest divided, ZeRO-3 divides the weights as well; without it they are
    float32, and there is one copy of everything. An adapter's own state is small beside its base, whose layers below it
    may be rounded.
    """
    if lora and on.quantization:
        return HALF * (size.weights - size.adapted) + int(NF4 * size.adapted)
    if lora:
        return HALF * size.weights // (on.processes if on.zero_stage == 3 else 1)
    if not on.zero_stage:
        return FULL * size.weights + (FULL + ADAM) * size.trained
    divided = (HALF + FULL + ADAM) * size.trained // on.processes  # gradients, float32 weights, the optimizer's state
    return HALF * size.weights // (on.processes if on.zero_stage == 3 else 1) + divided


def check_served(model: str, section: str, size: Size, engine: EngineConfig, card: int) -> None:
    """Raise BadInput where an engine of these settings cannot hold the model on cards of `card` bytes.

    `model` is its name for people, `section` the part of the manifest whose pods it is for.
    """
    room = int(engine.gpu_memory_utilization * card)
    weights, sequence = served(size, engine)
    if weights + sequence <= room:
        return
    counts = (2**power for power in range(MOST_CARDS.bit_length()))
    more = (engine.model_copy(update={"tensor_parallel_size": count}) for count in counts)
    enough = next((one.tensor_parallel_size for one in more if sum(served(size, one)) <= room), None)
    ways = []
    if weights < room:
        tokens = (room - weights) * engine.tensor_parallel_size // (HALF * size.kept)
        ways.append(f"lower {section}.maxModelLen to {tokens} or less")
    if enough:
        ways.append(f"give its pods {enough} GPUs by {section}.resources")
    ways.append("name a smaller model" if section == "spec.sampling" else "name a smaller or a quantized model")
    raise BadInput(
        f"{model} takes at least {_gib(weights + sequence)} of a card ({_gib(weights)} of weights, {_gib(sequence)} "
        f"for a sequence of {engine.max_model_len or size.longest} tokens), and vLLM has {_gib(room)} of its "
        f"{_gib(card)}; " + ", or ".join(ways)
    )


def check_trained(model: str, size: Size, on: TrainedOn, card: int, *, lora: bool) -> None:
    """Raise BadInput where the model cannot be trained on cards of `card` bytes."""
    needed = trained(size, on, lora=lora)
    if needed <= card:
        return
    ways = []
    divided, rounded = on.model_copy(update={"zero_stage": 3}), on.model_copy(update={"quantization": "nf4"})
    if not on.quantization and trained(size, divided, lora=lora) <= card:
        ways.append("set spec.training.zeroStage to 3")
    if not lora and trained(size, on, lora=True) <= card:
        ways.append("train a LoRA by spec.training.lora")
    elif not on.quantization and on.zero_stage != 3 and size.adapted and trained(size, rounded, lora=True) <= card:
        ways.append("round the model below a LoRA by spec.training.lora.quantization NF4")
    ways.append("give training more GPUs, or larger ones")
    raise BadInput(
        f"{model} takes at least {_gib(needed)} of a card to be trained on {on.processes} with ZeRO-{on.zero_stage}, "
        f"and there are {_gib(card)}; " + ", or ".join(ways)
    )


def _gib(amount: int) -> str:
    return f"{amount / GIBIBYTE:.1f} GiB"
