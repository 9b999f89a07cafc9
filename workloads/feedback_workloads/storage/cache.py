"""A folder of downloads, each under the digest of what it is, that processes share."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cache:
    """Keeps folders by digest. A folder has its name only once it is complete."""

    folder: Path

    def get(self, digest: str, fetch: Callable[[Path], None]) -> Path:
        """Return the folder `digest`, which `fetch` fills where it is not there yet.

        One process fetches while others wait. Nothing is left of a fetch that fails; what a killed process left is
        replaced.
        """
        folder, partial = self.folder / digest, self.folder / f"{digest}.partial"
        if folder.is_dir():
            return folder
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(self.folder / f"{digest}.lock"):
            if folder.is_dir():
                return folder
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            try:
                fetch(partial)
                partial.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        return folder


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Hold an exclusive lock between processes; the kernel lets go of it when its holder dies."""
    with file.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
