"""Batches of pairs, straight from token ids."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from trl.trainer.dpo_trainer import DataCollatorForPreference

if TYPE_CHECKING:
    from feedback_workloads.models.preprocessing import Preprocessor

CACHE_BYTES = 256 << 20
"""Preprocessed pictures kept in memory: all of a set of small ones, a fraction of a set of large ones."""


@dataclass
class PictureCollator(DataCollatorForPreference):
    """Adds the pictures to TRL's batch of token ids: `pixel_values` has one picture a pair, not one a completion.

    Rows are those of `dataset.PREPARED`. `input_ids`, `attention_mask` and `completion_mask` have shape (2 pairs,
    tokens), chosen sides first, padded on the right; `ref_*_logps` have shape (pairs,).
    """

    preprocessor: Preprocessor = field(kw_only=True)
    _cache: dict[bytes, torch.Tensor] = field(default_factory=dict, init=False, repr=False)
    _cached_bytes: int = field(default=0, init=False, repr=False)

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = super().torch_call(examples)
        batch["pixel_values"] = torch.cat([self._pixels(row["picture"]) for row in examples])
        return batch

    def _pixels(self, picture: bytes) -> torch.Tensor:
        """Pixel values of one picture, shape (1, channels, height, width)."""
        if (found := self._cache.get(picture)) is not None:
            return found
        pixels = self.preprocessor.pixel_values([self.preprocessor.picture(picture)])
        if self._cached_bytes + pixels.nbytes + len(picture) <= CACHE_BYTES:
            self._cache[picture] = pixels
            self._cached_bytes += pixels.nbytes + len(picture)
        return pixels
