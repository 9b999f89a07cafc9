"""Ctrl-C on the command line: it ends what was started, says how to go on, and leaves with the shell's code for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from feedback_operator.cli.ending import ExitStatus
from feedback_operator.cli.run import OWN_S3_VARIABLES


@pytest.mark.parametrize(
    ("arguments", "begun"),
    [
        pytest.param(["shapes"], "building the world", id="shapes"),
        pytest.param(["run", "examples/shapes.yaml"], "sampling running", id="run"),
    ],
)
def test_ctrl_c(arguments: list[str], begun: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "feedback_operator.cli", *arguments, "--state", str(tmp_path / "state")]
    environment = {name: value for name, value in os.environ.items() if name not in OWN_S3_VARIABLES}
    with subprocess.Popen(
        command,
        env={**environment, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert any(begun in line for line in process.stdout)
        started = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        said = process.stdout.read()
    assert process.returncode == ExitStatus.INTERRUPTED
    assert said.startswith("interrupted; ")
    assert len(said.splitlines()) == 1
    assert not psutil.wait_procs(started, timeout=30)[1]
