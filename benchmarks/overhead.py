"""Time of an iteration that is spent outside its stages, of which loading the engines is part.

The whole of `feedback run examples/shapes.yaml` is timed, from start to exit, with nothing of it done before: it gets a
folder for artifacts of its own. It needs the shapes world (`feedback shapes`).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final
from uuid import uuid4

import yaml

from benchmarks.table import Ratio

EXAMPLE: Final = Path("examples/shapes.yaml")
STAGES: Final = 6


def run() -> list[Ratio]:
    """The share of the wall time in which no stage was at work."""
    with tempfile.TemporaryDirectory() as scratch:
        began = time.perf_counter()
        stages = _iteration(Path(scratch))
        wall = time.perf_counter() - began
    outside = wall - sum(stages)
    return [Ratio("iteration, seconds outside stages over all", outside, wall, outside / wall, "<= 0.05")]


def _iteration(folder: Path) -> list[float]:
    """Run the example from its first stage to its last; the seconds of each."""
    manifest = yaml.safe_load(EXAMPLE.read_text())
    manifest["spec"]["artifacts"]["uri"] = f"s3://feedback/bench/{uuid4().hex}"
    file = folder / "iteration.yaml"
    file.write_text(yaml.safe_dump(manifest))
    command = [sys.executable, "-m", "feedback_operator.cli", "run", str(file), "--out", str(folder)]
    subprocess.run(command, check=True)
    summary = json.loads((folder / "summary.json").read_text())
    seconds = [stage["seconds"] for stage in summary["stages"] if stage["ran"]]
    assert len(seconds) == STAGES, "every stage has to run"
    return seconds


if __name__ == "__main__":
    for ratio in run():
        print(f"{ratio.name}: {ratio.ours:.1f} of {ratio.peer:.1f} s, {ratio.ratio:.3f} ({ratio.goal})")
