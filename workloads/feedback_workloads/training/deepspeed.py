"""DeepSpeed's configuration for ZeRO. Pure: a dict from numbers."""

from __future__ import annotations

from typing import Any, Literal

BUCKET_ELEMENTS = 50_000_000
"""Gradients (and, at stage 3, parameters) that travel at once; 100 MB in bfloat16."""


def zero_config(
    stage: Literal[2, 3], *, bfloat16: bool, per_device_batch: int, accumulation: int, world: int, max_grad_norm: float
) -> dict[str, Any]:
    """DeepSpeed's JSON configuration for ZeRO `stage`, as its documentation names the keys.

    The optimizer is torch's AdamW, handed in: DeepSpeed's own would be compiled at start, and so needs a compiler in
    the image. In bfloat16 DeepSpeed keeps float32 master weights.
    """
    zero: dict[str, Any] = {
        "stage": stage,
        "contiguous_gradients": True,
        "overlap_comm": bfloat16,  # streams exist on GPUs alone; there bfloat16 is the rule
        "reduce_bucket_size": BUCKET_ELEMENTS,
    }
    if stage == 2:
        zero["allgather_bucket_size"] = BUCKET_ELEMENTS
    else:
        zero |= {
            "stage3_prefetch_bucket_size": BUCKET_ELEMENTS,
            "stage3_param_persistence_threshold": 100_000,  # elements; smaller parameters are not worth a gather
            "stage3_gather_16bit_weights_on_model_save": True,  # whole weights on rank 0, in whatever precision
        }
    return {
        "train_micro_batch_size_per_gpu": per_device_batch,
        "gradient_accumulation_steps": accumulation,
        "train_batch_size": per_device_batch * accumulation * world,
        "gradient_clipping": max_grad_norm,
        "bf16": {"enabled": bfloat16},
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1_000_000_000,
    }
