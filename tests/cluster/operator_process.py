"""The operator as a process of its own: started, killed, frozen and thawed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.cluster.control_plane import Program

END_SECONDS: Final = 30.0


class OperatorProcess:
    """`python -m feedback_operator` on one namespace; as a context manager it ends by SIGTERM.

    Behind a proxy of this process use `async with`: what the operator says while it ends must get through.
    """

    def __init__(
        self,
        kubeconfig: Path,
        namespace: str,
        log: Path,
        flags: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.log = log
        self._program = Program(
            [sys.executable, "-m", "feedback_operator", "--namespace", namespace, *flags],
            log,
            environment={**os.environ, "KUBECONFIG": str(kubeconfig), **(environment or {})},
        )

    @property
    def process(self) -> subprocess.Popen[bytes]:
        return self._program.process

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._end)

    def _end(self) -> None:
        self.thaw()
        self._program.end()

    def kill(self) -> None:
        """SIGKILL: nothing is flushed, nothing is said."""
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)
