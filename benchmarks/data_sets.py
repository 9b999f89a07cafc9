"""Memory and time of `feedback data` over a million rows: `python -m benchmarks.data_sets`.

The rows are conversations in LLaVA's JSON, one list, about pictures in a tar; `convert` makes a data set of them, `mix`
draws four iterations of 4,000 rows of it. Both run as processes of their own, whose greatest resident memory is that
which the kernel tells.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image
from rich.console import Console

from benchmarks.__main__ import table
from benchmarks.table import Ratio

OUTPUT: Final = Path("build/bench-data-sets.json")
ROWS: Final = 1_000_000
PICTURES: Final = 24_000
"""Different ones, of which four iterations need 16,000."""
GOAL_MB: Final = 1_000


def main() -> int:
    """Print the ratios to the goal and keep them; 1 where it was missed."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    with tempfile.TemporaryDirectory(prefix="feedback-bench-") as scratch:
        folder = Path(scratch)
        write(folder / "in", rows)
        made, mixed = f"--to={folder}/made", f"--to={folder}/mixed"
        ratios = [
            *measured("convert", rows, ["convert", "llava", f"--from={folder}/in", made]),
            *measured("mix", rows, ["mix", f"--from={folder}/made", mixed, "--rows=4000", "--iterations=4"]),
        ]
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(json.dumps([asdict(ratio) for ratio in ratios], indent=1) + "\n")
    Console(width=110).print(table(ratios))
    return 0 if all(ratio.met() for ratio in ratios) else 1


def write(folder: Path, rows: int) -> None:
    """A list of conversations and the tar of their pictures."""
    folder.mkdir()
    with tarfile.open(folder / "pictures.tar", "w") as archive:
        for number in range(PICTURES):
            data = picture(number)
            member = tarfile.TarInfo(name(number))
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    with (folder / "rows.json").open("w") as stream:
        for number in range(rows):
            said = [{"from": "human", "value": f"<image>\nWhat is {number}?"}, {"from": "gpt", "value": "A dog. " * 20}]
            row = {"id": str(number), "image": name(number % PICTURES), "conversations": said}
            stream.write(("," if number else "[") + json.dumps(row))
        stream.write("]")


def name(number: int) -> str:
    return f"pictures/{number:06}.jpg"


def picture(number: int) -> bytes:
    """A small JPEG of soft blots of colour, as different from others as photographs are."""
    blots = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(blots).resize((48, 48), Image.Resampling.BICUBIC).save(data, "JPEG", quality=60)
    return data.getvalue()


def measured(title: str, rows: int, arguments: Sequence[str]) -> list[Ratio]:
    """Run a command of `feedback data`: its memory against the goal; its time goes to the error stream."""
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "feedback_workloads.data", *arguments])
    _, status, used = os.wait4(process.pid, 0)
    if code := os.waitstatus_to_exitcode(status):
        raise SystemExit(f"feedback data {title} ended with {code}")
    print(f"{title}: {time.monotonic() - began:.0f} s, {used.ru_utime + used.ru_stime:.0f} of a core", file=sys.stderr)
    peak = used.ru_maxrss * 1024 / 1e6
    return [Ratio(f"{title}, {rows:,} rows: memory in MB", peak, GOAL_MB, peak / GOAL_MB, "<= 1")]


if __name__ == "__main__":
    raise SystemExit(main())
