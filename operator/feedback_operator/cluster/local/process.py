"""One process group of a stage on this machine: started, ended, and never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import psutil

MARK: Final = "FEEDBACK_PROCESS"
"""Environment variable that identifies the processes of one start, so that only ours are ever ended."""

GRACE_SECONDS: Final = 30.0
"""Time between SIGTERM and SIGKILL, as a pod's default terminationGracePeriodSeconds."""


class AlreadyRunning(Exception):
    """Another process has the same state folder. The message is one sentence with the remedy."""


class StageProcess:
    """A running stage, leader of its own session, so that whatever it starts can be ended with it."""

    def __init__(self, process: asyncio.subprocess.Process, mark: str, record: Path) -> None:
        self._process = process
        self._mark = mark
        self._record = record

    @classmethod
    async def start(
        cls, command: Sequence[str], environment: Mapping[str, str], log: Path, records: Path
    ) -> StageProcess:
        """Start `command` with its output appended to `log`; a file in `records` outlives a killed runner."""
        mark = uuid.uuid4().hex
        log.parent.mkdir(parents=True, exist_ok=True)
        records.mkdir(parents=True, exist_ok=True)
        record = records / mark
        record.touch()
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *command,
                env={**environment, MARK: mark, "FEEDBACK_PARENT": str(os.getpid())},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        return cls(process, mark, record)

    async def wait(self) -> int:
        """Wait for the end of the stage and of everything it started; its exit code (negative: the signal)."""
        code = await self._process.wait()
        await asyncio.to_thread(end_marked, self._mark, grace=1.0)
        self._record.unlink(missing_ok=True)
        return code

    def terminate(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


@contextlib.contextmanager
def alone(state: Path) -> Iterator[None]:
    """Have the folder `state` for this process alone, and end what a killed one left running in it.

    Whoever starts processes with records in `state / "processes"` has it: they would be taken for left over otherwise.
    Raises AlreadyRunning.
    """
    state.mkdir(parents=True, exist_ok=True)
    with (state / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AlreadyRunning(
                f"another command works in {state}; wait for it, or name another folder by --state"
            ) from error
        _end_leftovers(state / "processes")
        yield


def _end_leftovers(records: Path) -> None:
    if not records.is_dir():
        return
    for record in records.iterdir():
        end_marked(record.name, grace=GRACE_SECONDS)
        record.unlink(missing_ok=True)


def end_marked(mark: str, grace: float) -> None:
    """End every process that carries `mark`: SIGTERM, and SIGKILL for those still there after `grace` seconds."""
    marked = [process for process in psutil.process_iter() if _carries(process, mark)]
    for process in marked:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(marked, timeout=grace)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=grace)


def _carries(process: psutil.Process, mark: str) -> bool:
    try:
        return bool(process.environ().get(MARK) == mark)
    except (psutil.Error, OSError):
        return False
