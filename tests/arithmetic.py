"""Watches in which arithmetic torch computes."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class NoBfloat16(TorchDispatchMode):
    """Within this context every operation that takes or gives a bfloat16 fails: many processors only emulate it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = func(*args, **(kwargs or {}))
        for value in tree_leaves((args, kwargs, given)):
            if isinstance(value, torch.Tensor):
                assert value.dtype is not torch.bfloat16, f"{func} computes in bfloat16"
        return given
