"""The threads beside training: one stores what it hands over, one reports how far it is."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from types import TracebackType

from feedback_workloads.process.progress import Progress
from feedback_workloads.training.publishing.outbox import CHECKPOINT, REFERENCES, STATE, Outbox
from feedback_workloads.training.publishing.training_storage import TrainingStorage

POLL_SECONDS = 0.1


class Publisher:
    """Stores the outbox's entries in the order of their steps, as a context around training.

    At the end of the block, however it ends, what is complete is stored first. A failure to store ends training at its
    next checkpoint, and is raised at the end of the block.
    """

    def __init__(self, storage: TrainingStorage, outbox: Outbox, references_key: str) -> None:
        self._storage = storage
        self._outbox = outbox
        self._key = references_key
        self._ended = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    def __enter__(self) -> Publisher:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            while not self._ended.wait(POLL_SECONDS):
                self._store_waiting()
            self._store_waiting()
        except BaseException as error:
            self._failure = error
            self._outbox.give_up()

    def _store_waiting(self) -> None:
        for entry in self._outbox.waiting():
            step = int(entry.name)
            # A state is only worth something beside its checkpoint, so that comes first.
            if (entry / REFERENCES).exists():
                self._storage.publish_references(self._key, entry / REFERENCES)
            if (entry / CHECKPOINT).exists():
                self._storage.publish_checkpoint(step, entry / CHECKPOINT)
            if (entry / STATE).exists():
                self._storage.publish_state(step, entry / STATE)
            shutil.rmtree(entry)


class Follower:
    """Reads the training log as it grows and reports it as progress, as a context around training."""

    def __init__(self, log: Path, progress: Progress, pairs_a_step: int, done: int) -> None:
        self._log = log
        self._progress = progress
        self._pairs = pairs_a_step
        self._seen = done
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="training-log", daemon=True)

    def __enter__(self) -> Follower:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        offset = 0
        while not self._ended.wait(POLL_SECONDS):
            offset = self._report(offset)
        self._report(offset)

    def _report(self, offset: int) -> int:
        """Report the whole lines from byte `offset` on; return where the next one starts."""
        if not self._log.exists():
            return offset
        with self._log.open("rb") as stream:
            stream.seek(offset)
            lines = stream.read()
        lines = lines[: lines.rfind(b"\n") + 1]
        for line in lines.splitlines():
            entry = json.loads(line)
            if entry["step"] > self._seen:  # the first lines of a resumed training are an earlier one's
                self._seen = entry["step"]
                self._progress.advance()
                self._progress.count("pairs", self._pairs)
                for name in ("loss", "reward_margin", "learning_rate"):
                    self._progress.level(name, entry[name])
        return offset + len(lines)
