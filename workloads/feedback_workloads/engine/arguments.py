"""How an engine is set up: vLLM's arguments for this hardware and for a LoRA adapter."""

from __future__ import annotations

import copy
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from feedback_workloads import contract
from feedback_workloads.contract import BadInput, Precision
from feedback_workloads.models.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from feedback_workloads.models.family import Family
from feedback_workloads.models.overrides import quantization_of, quantized
from feedback_workloads.models.precision import resolved

LORA_RANKS: Final = (8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM reserves room for; an adapter takes the next one."""

LANGUAGE_MODELS: Final = (".language_model.", ".text_model.")
"""What names of a language model's layers have in them, as transformers names it in models that see."""

CPU_BLOCK_TOKENS: Final = 32
"""Prefixes are shared in whole blocks; this is the smallest one that vLLM takes on a CPU."""

GIBIBYTE: Final = 2**30

ROUNDED_AGAIN: Final = "fp8"
"""Quantized weights of which vLLM gives those that it joins a common scale (`requantize_with_max_scale`)."""


def engine_arguments(
    family: Family, settings: contract.EngineConfig, precision: Precision = "auto", seed: int = 0
) -> dict[str, Any]:
    """Arguments of vLLM's `EngineArgs` that every engine of ours has, and those of the model's family."""
    from vllm.platforms import current_platform

    on_cpu = current_platform.is_cpu()
    arguments: dict[str, Any] = {
        "dtype": resolved(precision, on_gpu=not on_cpu),
        "seed": seed,
        "generation_config": "vllm",  # its end-of-sequence tokens count, its sampling defaults do not
        "enable_prefix_caching": True,
        "tensor_parallel_size": settings.tensor_parallel_size,
        "gpu_memory_utilization": settings.gpu_memory_utilization,
        "max_num_seqs": settings.max_num_seqs,
        "max_model_len": settings.max_model_len,
        "max_logprobs": 64,
        "disable_log_stats": False,
        "use_tqdm_on_load": False,
        **family.engine_arguments(),
    }
    if on_cpu:
        arguments |= {
            # Nothing is compiled, and with a given cache size nothing is profiled: ready in seconds, not in half a
            # minute.
            "enforce_eager": True,
            "kv_cache_memory_bytes": settings.cpu_kv_cache_gib * GIBIBYTE,
            "skip_mm_profiling": True,
            "block_size": CPU_BLOCK_TOKENS,
            # A prompt that is spread over two steps makes vLLM rewind the request's random generator, which torch
            # cannot do on a CPU: the engine dies of "CPU Generator does not use offset".
            "enable_chunked_prefill": False,
        }
    return arguments


def check_quantized(family: Family, precision: Precision) -> None:
    """Raise BadInput where vLLM cannot compute with the family's weights as they are quantized, on this device.

    It is known without them; what a layer's shape does not fit is known as it is loaded.
    """
    from vllm.model_executor.layers.quantization import get_quantization_config
    from vllm.platforms import current_platform

    name, asked, method = family.model.uri, family.model.quantization, quantized(family.config)
    if asked and current_platform.is_cpu():
        raise BadInput(
            f"quantization {asked.upper()} of {name} takes a GPU: vLLM cannot round weights on a processor; leave it "
            "out, or give the pods a GPU"
        )
    if method is None:
        return
    if method == ROUNDED_AGAIN and current_platform.is_cpu():
        raise BadInput(
            f"{name} is quantized ({method}), which takes a GPU: vLLM would round its weights once more, and cannot on "
            "a processor; give the pods a GPU, or name weights that were quantized as compressed-tensors"
        )
    try:
        rounding = get_quantization_config(method).from_config(copy.deepcopy(quantization_of(family.config)))
    except (ValueError, KeyError, NotImplementedError) as error:
        line = " ".join(str(error).split())
        raise BadInput(f"vLLM cannot read {name} as it is quantized ({method}): {line}; name another model") from error
    computed = resolved(precision, on_gpu=not current_platform.is_cpu())
    able = [str(dtype).removeprefix("torch.") for dtype in rounding.get_supported_act_dtypes()]
    if computed not in able:
        raise BadInput(
            f"{name} is quantized ({method}), and vLLM computes with such weights in {' and '.join(able)}, not in "
            f"{computed}; set spec.precision to BFloat16"
        )
    here, least = current_platform.get_device_capability(), rounding.get_min_capability()
    if here and here.to_int() < least:
        raise BadInput(
            f"{name} is quantized ({method}), which takes a GPU of capability {least / 10:g}, and this one has "
            f"{here.to_int() / 10:g}; give the pods another one"
        )


def card_memory() -> int | None:
    """Bytes of a card that an engine of this process would have; None where it would run on a processor.

    vLLM asks the driver: the card is not begun to be used, after which it could not fork.
    """
    from vllm.platforms import current_platform

    return None if current_platform.is_cpu() else int(current_platform.get_device_total_memory())


def compile_nothing_on_a_cpu() -> None:
    """Have torch run vLLM's sampler as it is written; call it before an engine is made.

    `enforce_eager` leaves that one to be compiled at the first request, which takes seconds and a C++ compiler, and
    images have none.
    """
    import torch._dynamo.config
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        torch._dynamo.config.disable = True
        os.environ["TORCHDYNAMO_DISABLE"] = "1"  # for engines in processes of their own


@dataclass(frozen=True)
class Adapter:
    """What the engine must know of a LoRA adapter before it loads the base.

    `rank` is its largest one, `modules` are the names of the linears that it changes (`q_proj`, ...).
    """

    rank: int
    modules: tuple[str, ...]

    @classmethod
    def read(cls, folder: Path) -> Adapter:
        """Read a PEFT adapter. Raises BadInput where it changes more than linears of the language model's layers."""
        from safetensors import safe_open

        config = json.loads((folder / ADAPTER_CONFIG).read_text())
        if config.get("modules_to_save") or config.get("bias", "none") != "none" or config.get("use_dora"):
            raise BadInput(
                f"{folder} is not a plain LoRA adapter; merge it into its base and name the whole checkpoint"
            )
        with safe_open(folder / ADAPTER_WEIGHTS, "numpy") as weights:
            # base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight
            changed = sorted({name.partition(".lora_")[0] for name in weights.keys()})  # noqa: SIM118
        for name in changed:
            if not any(part in name for part in LANGUAGE_MODELS) or name.endswith(".lm_head"):
                raise BadInput(
                    f"{folder} changes {name}, outside the language model's layers, which the engine cannot switch "
                    "on and off; merge the adapter into its base and name the whole checkpoint"
                )
        rank = max(config["r"], *config.get("rank_pattern", {}).values(), 1)
        if rank > LORA_RANKS[-1]:
            raise BadInput(f"{folder} has rank {rank}, more than {LORA_RANKS[-1]}; merge the adapter into its base")
        return cls(rank, tuple(sorted({name.rpartition(".")[2] for name in changed})))

    def engine_arguments(self) -> dict[str, Any]:
        """Arguments that reserve room for the adapter."""
        return {
            "enable_lora": True,
            # With one place, and requests with and without the adapter in one batch, vLLM gives those without it wrong
            # log-probabilities, silently; a spare place avoids it.
            "max_loras": 2,
            "max_lora_rank": next(rank for rank in LORA_RANKS if rank >= self.rank),
            # Left to itself vLLM would wrap lm_head too, and die of a request for log-probabilities of the prompt.
            "lora_target_modules": list(self.modules),
        }
