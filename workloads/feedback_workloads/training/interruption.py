"""SIGTERM while training takes steps: it ends after its step, with its state stored, instead of in the middle of it.

What is said between the processes of one machine is said by files in the training's own folder, which all of them see.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from feedback_workloads.process.ending import Terminated


class Interruption:
    """Whether the training in the folder `work` takes steps by now, and whether it is asked to end."""

    def __init__(self, work: Path) -> None:
        self._stepping = work / "stepping"
        self._asked = work / "interrupted"

    def begin(self) -> None:
        """From here on there is something to lose."""
        self._stepping.touch()

    @property
    def begun(self) -> bool:
        return self._stepping.exists()

    def ask(self) -> None:
        self._asked.touch()

    @property
    def asked(self) -> bool:
        return self._asked.exists()


@contextmanager
def ending_after_a_step(interruption: Interruption) -> Iterator[None]:
    """Meanwhile SIGTERM asks training to end once its step is done; at the end of the block, Terminated is raised then.

    Before the first step, and when it comes for the second time, it is raised at once.
    """

    def terminate(_number: int, _frame: FrameType | None) -> None:
        if interruption.asked or not interruption.begun:
            raise Terminated
        interruption.ask()

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
    if interruption.asked:
        raise Terminated
