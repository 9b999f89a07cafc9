"""What follows from a row's id alone: its shard, and the seeds of its candidates."""

from __future__ import annotations

import hashlib
from typing import Final

SEED_BITS: Final = 63
"""vLLM hands a request's seed to torch as a signed 64-bit integer."""


def shard_of(id: str, shards: int) -> int:
    """Return the shard (0 .. shards-1) that instruction `id` belongs to, wherever it stands in the data."""
    return _hash("shard", id) % shards


def row_seed(seed: int, id: str, candidate: int) -> int:
    """Return the sampling seed (0 .. 2^63-1) of one candidate of one instruction."""
    return _hash("seed", str(seed), str(candidate), id) >> (64 - SEED_BITS)


def _hash(*words: str) -> int:
    """Return 64 bits of SHA-256 over the words, which are kept apart by NUL."""
    return int.from_bytes(hashlib.sha256("\0".join(words).encode()).digest()[:8], "big")
