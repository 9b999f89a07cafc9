"""How training processes hand finished folders to the process that stores them: by renaming on the local disk.

A folder in the outbox is complete. Training goes on while it is being stored, up to a few folders ahead.
"""

from __future__ import annotations

import time
from pathlib import Path

from feedback_workloads.contract import Temporary

CHECKPOINT, STATE, REFERENCES = "checkpoint", "state", "references"
LIMIT = 2
"""Steps that may wait: more would only fill the disk, since training is then faster than the store."""
POLL_SECONDS = 0.05
FAILED = "failed"


class Outbox:
    """The outbox below the folder `work`, which all processes of one node share. One entry a step, `000120`."""

    def __init__(self, work: Path) -> None:
        self._ready = work / "outbox"
        self._partial = work / "partial"
        self._failed = work / FAILED

    def create(self) -> None:
        self._ready.mkdir()
        self._partial.mkdir()

    def folder(self, step: int, kind: str) -> Path:
        """The folder to write something of `step` into; `kind` is `checkpoint`, `state` or `references`."""
        folder = self._partial / f"{step:06d}" / kind
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def hand_over(self, step: int) -> None:
        """Declare all folders of `step` complete; waits while too much is waiting already.

        Raises Temporary where the storing process has given up.
        """
        while len(self.waiting()) >= LIMIT:
            if self._failed.exists():
                raise Temporary(
                    "the checkpoints cannot be stored, so training stopped; see the failure before this one"
                )
            time.sleep(POLL_SECONDS)
        name = f"{step:06d}"
        (self._partial / name).rename(self._ready / name)

    def waiting(self) -> list[Path]:
        """Complete entries that are not stored yet, in the order of their steps."""
        return sorted(self._ready.iterdir())

    def give_up(self) -> None:
        """Tell the training processes that nothing will be stored any more."""
        self._failed.touch()
