"""What each part of `make test` took: `python -m tests.parts NAME COMMAND ...` times one, `table` tells of all.

Needs no package beyond the standard library until the table is made.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
TIMES: Final = ROOT / "build/parts.jsonl"
START_VARIABLE: Final = "FEEDBACK_TEST_START"
"""When `make test` began, in seconds since 1970: the table then has the whole as well."""


def run(name: str, command: Sequence[str]) -> int:
    """Run a part, and add its times to those of the others; its exit code."""
    began = time.monotonic()
    code = subprocess.run(command, check=False).returncode
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    part = {"part": name, "seconds": time.monotonic() - began, "cpu": used.ru_utime + used.ru_stime, "code": code}
    TIMES.parent.mkdir(exist_ok=True)
    with TIMES.open("a") as file:
        file.write(json.dumps(part) + "\n")
    print(_line(part), flush=True)
    return code


def table() -> str:
    """Minutes of each part, and of its processes' time on a core, the longest part first."""
    from feedback_operator.cluster.local.capacity import processor

    parts = [json.loads(line) for line in TIMES.read_text().splitlines()] if TIMES.exists() else []
    lines = [processor(), *map(_line, sorted(parts, key=lambda part: -part["seconds"]))]
    if start := os.environ.get(START_VARIABLE):
        cpu = sum(part["cpu"] for part in parts)
        lines.append(_line({"part": "all", "seconds": time.time() - float(start), "cpu": cpu, "code": 0}))
    return "\n".join(lines)


def _line(part: dict[str, float]) -> str:
    failed = f"  FAILED with code {part['code']}" if part["code"] else ""
    return f"{part['part']:<22} {part['seconds'] / 60:5.1f} min {part['cpu'] / 60:6.1f} min of a core{failed}"


if __name__ == "__main__":
    if sys.argv[1:] == ["table"]:
        print(table())
    elif len(sys.argv) < 3:
        sys.exit("give a part's name and its command, or: table")
    else:
        sys.exit(run(sys.argv[1], sys.argv[2:]))
