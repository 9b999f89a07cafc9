"""Download of one large object: ranges side by side straight to their places in the file, hashed on the way.

boto3's transfer manager hands every piece through a queue to one thread that writes; this costs more than the SHA-256.
"""

from __future__ import annotations

import hashlib
import heapq
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from feedback_workloads.storage.errors import patiently, split
from feedback_workloads.storage.objects import Digest, naming

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

RANGE_BYTES = 16 << 20
RANGES_AT_ONCE = 8
PIECE_BYTES = 1 << 20
"""Read from the network, written and hashed at once: memory is about this times the number of ranges."""


def download_in_ranges(client: S3Client, uri: str, file: Path) -> Digest:
    """Write the object to `file` and return the digest of what is there. Errors are those of `Objects`."""
    bucket, key = split(uri)
    head = patiently(uri, lambda: client.head_object(Bucket=bucket, Key=key))
    size, tag = head["ContentLength"], head["ETag"]
    with naming(file), file.open("w+b", buffering=0) as stream, FollowingHash(stream.fileno()) as hash:

        def fetch(start: int) -> None:
            place = start
            wanted = f"bytes={start}-{min(start + RANGE_BYTES, size) - 1}"
            body = client.get_object(Bucket=bucket, Key=key, Range=wanted, IfMatch=tag)["Body"]
            while piece := body.read(PIECE_BYTES):
                _write(stream.fileno(), piece, place)
                hash.written(place, len(piece))
                place += len(piece)

        with ThreadPoolExecutor(RANGES_AT_ONCE) as pool:
            list(pool.map(lambda start: patiently(uri, lambda: fetch(start)), range(0, size, RANGE_BYTES)))
        return Digest(hash.finish(), size)


def _write(descriptor: int, data: bytes, place: int) -> None:
    """Write all of `data` at `place`; the system may write less at once, at the end of a disk for one."""
    left = memoryview(data)
    while left:
        written = os.pwrite(descriptor, left, place)
        left, place = left[written:], place + written


class FollowingHash:
    """The SHA-256 of a file that is being written in no order, computed in a thread that follows the writers.

    It hashes the longest part from the start that is written without a gap. A context, which ends the thread.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._hash = hashlib.sha256()
        self._hashed = 0
        self._changed = threading.Condition()
        self._beyond_gap: list[tuple[int, int]] = []  # heap of start, end
        self._written = 0
        self._complete = False
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> FollowingHash:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish()

    def written(self, place: int, size: int) -> None:
        """Say that `size` bytes are in the file at `place`. The same bytes may be written again."""
        with self._changed:
            heapq.heappush(self._beyond_gap, (place, place + size))
            while self._beyond_gap and self._beyond_gap[0][0] <= self._written:
                _, end = heapq.heappop(self._beyond_gap)
                self._written = max(self._written, end)
            self._changed.notify()

    def finish(self) -> str:
        """Return the digest (hex) once all that was written is hashed."""
        with self._changed:
            self._complete = True
            self._changed.notify()
        self._thread.join()
        return self._hash.hexdigest()

    def _follow(self) -> None:
        while end := self._next_end():
            while self._hashed < end:
                piece = os.pread(self._descriptor, min(PIECE_BYTES, end - self._hashed), self._hashed)
                self._hash.update(piece)
                self._hashed += len(piece)

    def _next_end(self) -> int | None:
        """Wait for more to hash; None at the end of all."""
        with self._changed:
            self._changed.wait_for(lambda: self._written > self._hashed or self._complete)
            return self._written if self._written > self._hashed else None
