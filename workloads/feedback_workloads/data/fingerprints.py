"""What tells that two pictures are one: the same bytes, or pixels that look alike after scaling and encoding anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image

from feedback_workloads.models.pictures import load_picture, picture_key

NEAR_BITS: Final = 6
"""Of the 64 bits of two perceptual hashes, as many may differ where the pictures are one."""
NEAR_COLOURS: Final = 12.0
"""Mean difference of colours, of 256, over a grid of 4 x 4 up to which they may be one.

The hash is of brightness alone, and nearly the same for all pictures without structure: a red one and a blue one.
"""
GRID: Final = 4


@dataclass(frozen=True)
class Fingerprint:
    """SHA-256 of the encoded picture; its perceptual hash (DCT, 64 bits); mean colours of a grid (48 bytes)."""

    exact: str
    bits: int
    colours: bytes

    @classmethod
    def of(cls, data: bytes) -> Fingerprint:
        """That of an encoded picture. Raises BadRow where it cannot be decoded."""
        import imagehash

        picture = load_picture(data)
        bits = np.packbits(imagehash.phash(picture).hash.ravel()).tobytes()
        grid = picture.resize((GRID, GRID), Image.Resampling.BOX)
        return cls(picture_key(data), int.from_bytes(bits, "big"), grid.tobytes())


class Fingerprints:
    """Fingerprints of many pictures, each with the name of what it belongs to. Looks at all of them for each question,
    which takes 20 microseconds of ten thousand."""

    def __init__(self) -> None:
        self._exact: dict[str, str] = {}
        self._names: list[str] = []
        self._bits = np.empty(1024, np.uint64)
        self._colours = np.empty((1024, GRID * GRID * 3), np.int16)

    def __len__(self) -> int:
        return len(self._names)

    def add(self, fingerprint: Fingerprint, name: str) -> None:
        """Take in a picture that belongs to `name`."""
        count = len(self._names)
        if count == len(self._bits):
            self._bits = np.concatenate([self._bits, np.empty_like(self._bits)])
            self._colours = np.concatenate([self._colours, np.empty_like(self._colours)])
        self._bits[count] = fingerprint.bits
        self._colours[count] = np.frombuffer(fingerprint.colours, np.uint8)
        self._names.append(name)
        self._exact.setdefault(fingerprint.exact, name)

    def same(self, fingerprint: Fingerprint) -> str | None:
        """What the picture with the same bytes belongs to."""
        return self._exact.get(fingerprint.exact)

    def near(self, fingerprint: Fingerprint) -> str | None:
        """What the first picture belongs to that looks the same."""
        count = len(self._names)
        differing = np.bitwise_count(self._bits[:count] ^ np.uint64(fingerprint.bits))
        close = np.flatnonzero(differing <= NEAR_BITS)
        colours = np.frombuffer(fingerprint.colours, np.uint8).astype(np.int16)
        apart = np.abs(self._colours[close] - colours).mean(axis=1)
        found = close[apart <= NEAR_COLOURS]
        return self._names[found[0]] if len(found) else None
