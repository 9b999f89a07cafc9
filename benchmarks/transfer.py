"""Artifact transfer against boto3's own transfer manager, over one SeaweedFS server on the loopback address.

Ours also computes and checks every file's SHA-256; the peer does not. Both use the connection settings of the store's
client, and both are timed in turns, best of several.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from boto3.s3.transfer import TransferConfig, create_transfer_manager

from benchmarks.table import Ratio
from feedback_operator.cluster.local.embedded_s3 import BUCKET, EmbeddedS3
from feedback_workloads.contract import Artifact, Manifest
from feedback_workloads.storage.artifacts import SMALL_AT_ONCE, ArtifactStore
from feedback_workloads.storage.s3 import connect

LARGE_BYTES = 512 << 20
SMALL_FILES = 1000
SMALL_BYTES = 32 << 10
LARGE_ROUNDS = 5
SMALL_ROUNDS = 6


def run() -> list[Ratio]:
    """Measure one large file and many small ones, up and down."""
    with tempfile.TemporaryDirectory() as scratch, _server(Path(scratch) / "s3"):
        return [*_large(Path(scratch)), *_small(Path(scratch))]


def _large(scratch: Path) -> list[Ratio]:
    folder = scratch / "large"
    _make_files(folder, 1, LARGE_BYTES)
    cache, target = scratch / "cache", scratch / "peer"
    file, store, client = next(folder.iterdir()), ArtifactStore(cache), connect()
    megabytes = LARGE_BYTES / 1e6
    up = _compare(
        lambda: store.upload(file, f"s3://{BUCKET}/ours", file.name),
        lambda: client.upload_file(str(file), BUCKET, f"peer/{file.name}"),
        LARGE_ROUNDS,
    )
    artifact = _artifact(store, folder, f"s3://{BUCKET}/large")
    down = _compare(
        lambda: store.download(artifact),
        lambda: client.download_file(BUCKET, f"peer/{file.name}", str(target / file.name)),
        LARGE_ROUNDS,
        prepare=lambda: _empty(cache, target),
    )
    size = f"{LARGE_BYTES >> 20} MiB"
    return [
        _ratio(f"upload of one file of {size}, MB/s", megabytes, up, ">= 0.8"),
        _ratio(f"download of one file of {size}, MB/s", megabytes, down, ">= 0.8"),
    ]


def _small(scratch: Path) -> list[Ratio]:
    folder = scratch / "small"
    _make_files(folder, SMALL_FILES, SMALL_BYTES)
    cache, target = scratch / "cache", scratch / "peer"
    files, store, client = sorted(folder.iterdir()), ArtifactStore(cache), connect()
    config = TransferConfig(max_concurrency=SMALL_AT_ONCE)

    def upload_all() -> None:
        with create_transfer_manager(client, config) as manager:
            for future in [manager.upload(str(file), BUCKET, f"peer/{file.name}") for file in files]:
                future.result()

    def download_all() -> None:
        with create_transfer_manager(client, config) as manager:
            for future in [manager.download(BUCKET, f"peer/{file.name}", str(target / file.name)) for file in files]:
                future.result()

    up = _compare(lambda: store.upload_folder(folder, f"s3://{BUCKET}/ours"), upload_all, SMALL_ROUNDS)
    artifact = _artifact(store, folder, f"s3://{BUCKET}/small")
    down = _compare(lambda: store.download(artifact), download_all, SMALL_ROUNDS, prepare=lambda: _empty(cache, target))
    number = f"{SMALL_FILES} files of {SMALL_BYTES >> 10} KiB"
    return [
        _ratio(f"upload of {number}, files/s", SMALL_FILES, up, ">= 1.0"),
        _ratio(f"download of {number}, files/s", SMALL_FILES, down, ">= 1.0"),
    ]


def _compare(
    ours: Callable[[], object],
    peer: Callable[[], object],
    rounds: int,
    prepare: Callable[[], object] = lambda: None,
) -> tuple[float, float]:
    """Return the seconds of the fastest round of each, after one round that warms up both.

    `prepare` is called before each, and not timed.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds + 1):
        for action, seconds in zip((ours, peer), times, strict=True):
            prepare()
            began = time.perf_counter()
            action()
            seconds.append(time.perf_counter() - began)
    return min(times[0][1:]), min(times[1][1:])


def _ratio(name: str, amount: float, seconds: tuple[float, float], goal: str) -> Ratio:
    ours, peer = (amount / value for value in seconds)
    return Ratio(name, ours, peer, ours / peer, goal)


def _empty(*folders: Path) -> None:
    """So that downloads find nothing there already, on either side."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()


def _artifact(store: ArtifactStore, folder: Path, uri: str) -> Artifact:
    files = store.upload_folder(folder, uri)
    return store.publish(uri, Manifest(stage="bench", config={}, config_hash="", files=files, counts={}))


def _make_files(folder: Path, number: int, size: int) -> None:
    folder.mkdir()
    generator = random.Random(0)
    for index in range(number):
        with (folder / f"{index:05d}.bin").open("wb") as stream:
            for start in range(0, size, 1 << 20):
                stream.write(generator.randbytes(min(size - start, 1 << 20)))


@contextmanager
def _server(data: Path) -> Iterator[None]:
    with EmbeddedS3(data) as server:
        before = dict(os.environ)
        os.environ.update(server.environment)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


if __name__ == "__main__":
    for ratio in run():
        print(f"{ratio.name}: ours {ratio.ours:.1f}, peer {ratio.peer:.1f}, ratio {ratio.ratio:.2f} ({ratio.goal})")
