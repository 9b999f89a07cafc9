"""Run every benchmark, print the table, and keep it in build/bench.json.

`python -m benchmarks [NAME ...]` runs some of them. Each has a process of its own, so that none sees another's memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks.table import Ratio

NAMES: Final = ("world", "avx2", "transfer", "sampling", "labeling", "dpo", "best_of_n", "overhead")
OUTPUT: Final = Path("build/bench.json")

PROGRAM: Final = """
import importlib, json, sys
from dataclasses import asdict
ratios = importlib.import_module(f"benchmarks.{sys.argv[1]}").run()
open(sys.argv[2], "w").write(json.dumps([asdict(ratio) for ratio in ratios]))
"""


def main() -> int:
    """Run the benchmarks named on the command line, or all; 1 where a goal was missed or a benchmark failed."""
    names = sys.argv[1:] or NAMES
    ratios: list[Ratio] = []
    failed: list[str] = []
    for name in names:
        print(f"{name} ...", flush=True)
        found = measure(name)
        ratios += found
        failed += [] if found else [name]
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(json.dumps([asdict(ratio) for ratio in ratios], indent=1) + "\n")
    Console(width=110).print(table(ratios))
    for name in failed:
        print(f"{name}: failed; its output is above", file=sys.stderr)
    return 1 if failed or not all(ratio.met() for ratio in ratios) else 0


def measure(name: str) -> list[Ratio]:
    """Run one benchmark in its own process; an empty list where it failed."""
    result = Path("build") / f"bench-{name}.json"
    result.parent.mkdir(exist_ok=True)
    result.unlink(missing_ok=True)
    subprocess.run([sys.executable, "-c", PROGRAM, name, str(result)], check=False)
    return [Ratio(**data) for data in json.loads(result.read_text())] if result.exists() else []


def table(ratios: list[Ratio]) -> Table:
    shown = Table("benchmark", "ours", "peer", "ratio", "goal", "", box=None, header_style="bold")
    for ratio in ratios:
        shown.add_row(
            ratio.name,
            f"{ratio.ours:.4g}",
            f"{ratio.peer:.4g}",
            f"{ratio.ratio:.3f}",
            ratio.goal,
            "met" if ratio.met() else "missed",
        )
    return shown


if __name__ == "__main__":
    raise SystemExit(main())
