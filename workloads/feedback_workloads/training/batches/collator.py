"""Batches of pairs, straight from token ids."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

import torch
from trl.trainer.dpo_trainer import DataCollatorForPreference

from feedback_workloads.models.family import Family, Features
from feedback_workloads.training.batches.cropped import crop
from feedback_workloads.training.references import CROPPED

CACHE_BYTES = 256 << 20
"""Preprocessed pictures kept in memory: all of a set of small ones, a fraction of a set of large ones."""


@dataclass
class PictureCollator(DataCollatorForPreference):
    """Adds the pictures to TRL's batch of token ids: the family's features of a pair's pictures, not a completion's.

    Rows are those of `dataset.PREPARED`. `input_ids`, `attention_mask` and `completion_mask` have shape (2 pairs,
    tokens), chosen sides first, padded on the right; `ref_*_logps` have shape (pairs,).

    With `crop_seed`, a piece of each picture follows behind all pictures: see cropped.py. It is drawn by the seed, the
    pair's id and, behind the first one, the picture's number.
    """

    family: Family = field(kw_only=True)
    crop_seed: int | None = field(default=None, kw_only=True)
    _cache: dict[tuple[bytes, str | None], Features] = field(default_factory=dict, init=False, repr=False)
    _cached_bytes: int = field(default=0, init=False, repr=False)

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        features = [self._features(picture) for row in examples for picture in row["pictures"]]
        if self.crop_seed is not None:
            features += [self._features(*piece) for row in examples for piece in self._pieces(row)]
        batch = {**super().torch_call(examples), **self.family.collate(features)}
        if CROPPED in examples[0]:
            batch[CROPPED] = torch.tensor([row[CROPPED] for row in examples])
        return batch

    def _pieces(self, row: dict[str, Any]) -> Iterator[tuple[bytes, str]]:
        """The pictures of a row, and by what a piece of each is drawn."""
        for number, picture in enumerate(row["pictures"]):
            yield picture, " ".join(map(str, [self.crop_seed, row["id"], *([number] if number else [])]))

    def _features(self, picture: bytes, piece: str | None = None) -> Features:
        """Those of a picture, or of the piece of it that is drawn by `piece`."""
        if (found := self._cache.get((picture, piece))) is not None:
            return found
        image = self.family.picture(picture)
        features = self.family.features(image if piece is None else crop(image, Random(piece)))
        size = len(picture) + sum(value.nbytes for value in features.values())
        if self._cached_bytes + size <= CACHE_BYTES:
            self._cache[picture, piece] = features
            self._cached_bytes += size
        return features
