"""The rejected picture of mDPO's conditional term, and its rows in a batch.

The chosen answer is seen under its picture and under a piece of it: from 1 to 20% of its area, enlarged to the size of
the picture, as in mDPO's code (https://github.com/luka-group/mDPO); so it has as many tokens. Of several pictures, all
are pieces. The piece is drawn once a pair, not in each step: its reference log-probabilities are then computed once as
well.

A batch of pairs becomes one of twice as many: each pair, and then its chosen answer twice, under the piece. What is the
same on both sides is computed once where a pair is one row (see shared_prompt.py), so this is one row more.
"""

from __future__ import annotations

from random import Random
from typing import Final

import torch
from PIL import Image

SHARES: Final = (0.01, 0.2)
"""Least and greatest share of a picture's area in a piece of it."""


def crop(picture: Image.Image, chance: Random) -> Image.Image:
    """A piece of the picture, of its own proportions, enlarged to its size."""
    side = chance.uniform(*SHARES) ** 0.5
    width, height = picture.width * side, picture.height * side
    left, top = chance.uniform(0, picture.width - width), chance.uniform(0, picture.height - height)
    return picture.resize(picture.size, Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))


def with_cropped(rows: torch.Tensor) -> torch.Tensor:
    """Rows of pairs, (2 pairs, ...) with chosen sides first, and behind them as many of chosen sides alone."""
    chosen, rejected = rows.chunk(2)
    return torch.cat([chosen, chosen, rejected, chosen])


def divided(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows of the pairs, (2 pairs, ...), and of the chosen sides under a piece of the picture, (pairs, ...)."""
    chosen, cropped, rejected, _ = rows.chunk(4)
    return torch.cat([chosen, rejected]), cropped
