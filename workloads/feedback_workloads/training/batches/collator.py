"""Batches of pairs, straight from token ids."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from trl.trainer.dpo_trainer import DataCollatorForPreference

from feedback_workloads.models.family import Family, Features

CACHE_BYTES = 256 << 20
"""Preprocessed pictures kept in memory: all of a set of small ones, a fraction of a set of large ones."""


@dataclass
class PictureCollator(DataCollatorForPreference):
    """Adds the pictures to TRL's batch of token ids: the family's features of one picture a pair, not a completion.

    Rows are those of `dataset.PREPARED`. `input_ids`, `attention_mask` and `completion_mask` have shape (2 pairs,
    tokens), chosen sides first, padded on the right; `ref_*_logps` have shape (pairs,).
    """

    family: Family = field(kw_only=True)
    _cache: dict[bytes, Features] = field(default_factory=dict, init=False, repr=False)
    _cached_bytes: int = field(default=0, init=False, repr=False)

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return {
            **super().torch_call(examples),
            **self.family.collate([self._features(row["picture"]) for row in examples]),
        }

    def _features(self, picture: bytes) -> Features:
        if (found := self._cache.get(picture)) is not None:
            return found
        features = self.family.features(self.family.picture(picture))
        size = len(picture) + sum(value.nbytes for value in features.values())
        if self._cached_bytes + size <= CACHE_BYTES:
            self._cache[picture] = features
            self._cached_bytes += size
        return features
