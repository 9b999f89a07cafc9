"""How a process of ours ends when it is told to, or when what started it is gone."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

from feedback_workloads.contract import ExitCode

PARENT_VARIABLE: Final = "FEEDBACK_PARENT"
"""Set by a runner on this machine: the process whose end must end the stage, too."""


class Terminated(SystemExit):
    """SIGTERM arrived; unwinding lets a stage flush what is complete."""

    def __init__(self) -> None:
        super().__init__(int(ExitCode.TERMINATED))


def end_with_parent() -> None:
    """Where a runner on this machine started this process: have the kernel send SIGTERM when the runner ends.

    However it ends (Linux: prctl(2), PR_SET_PDEATHSIG). Raises Terminated where it has ended already.
    """
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is None or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    if os.getppid() != int(parent):  # it ended before the kernel was asked
        raise Terminated
