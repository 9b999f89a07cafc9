"""Time of an iteration that is spent outside stages and engine loads, from the last `make demo`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from benchmarks.table import Ratio

SUMMARY: Final = Path("build/demo/summary.json")


def run() -> list[Ratio]:
    """The share of the demo's wall time in which no stage process ran."""
    summary = json.loads(SUMMARY.read_text())
    stages = sum(stage["seconds"] for stage in summary["stages"])
    outside = summary["wall_seconds"] - stages
    return [
        Ratio(
            "seconds outside stages / iteration",
            outside,
            summary["wall_seconds"],
            outside / summary["wall_seconds"],
            "<= 0.05",
        )
    ]
