"""A person at a terminal: `feedback`, as it is typed."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

SECONDS: Final = 120


@dataclass(frozen=True)
class Said:
    """How a command ended, and what it printed and complained about."""

    code: int | None
    printed: str
    complained: str


class Terminal:
    """Runs commands with a kubeconfig, in a folder of its own."""

    def __init__(self, kubeconfig: Path, folder: Path) -> None:
        self.kubeconfig = kubeconfig
        self.folder = folder

    async def type(self, *words: str) -> Said:
        """`feedback WORDS`, to its end."""
        async with self.started(*words) as process:
            printed, complained = await asyncio.wait_for(process.communicate(), SECONDS)
        return Said(process.returncode, printed.decode(), complained.decode())

    @asynccontextmanager
    async def started(self, *words: str) -> AsyncIterator[asyncio.subprocess.Process]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "feedback_operator.cli",
            *words,
            cwd=self.folder,
            env={**os.environ, "KUBECONFIG": str(self.kubeconfig), "PYTHONUNBUFFERED": "1"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    def write(self, *made: dict[str, Any], name: str = "it.yaml") -> str:
        """A file with these manifests; JSON is YAML."""
        (self.folder / name).write_text("\n---\n".join(map(json.dumps, made)))
        return name
