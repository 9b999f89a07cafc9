"""Helm and kubeconform: in the folder that HELM_ASSETS names, or built once from Go modules.

`python -m tests.chart.tools` builds what is missing into build/chart/bin: two to four minutes the first time.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.cluster.binaries import BUILD_ENVIRONMENT, Missing, go

HERE: Final = Path(__file__).parent
BUILT: Final = HERE.parents[1] / "build/chart/bin"
ASSETS_VARIABLE: Final = "HELM_ASSETS"
PROGRAMS: Final = ("helm", "kubeconform")
STAMP: Final = BUILT / ".built-from"


def program(name: str) -> Path:
    """Path of one of PROGRAMS. Raises Missing where it is not there."""
    given = os.environ.get(ASSETS_VARIABLE)
    found = (Path(given) if given else BUILT) / name
    if not found.exists() or not (given or _is_built()):
        raise Missing(
            f"{found} is not there or out of date; run `make chart-tools`, or put it where {ASSETS_VARIABLE} says"
        )
    return found


def build() -> None:
    """Build both from the modules that go.sum locks. Raises Missing where Go cannot be had."""
    if os.environ.get(ASSETS_VARIABLE) or _is_built():
        print(f"chart tools: {program('helm').parent}")
        return
    BUILT.mkdir(parents=True, exist_ok=True)
    print(f"chart tools: building Helm and kubeconform into {BUILT}; the first time takes some minutes", flush=True)
    subprocess.run(
        [go(), "build", "-mod=readonly", "-trimpath", "-ldflags", "-s -w", "-o", f"{BUILT}/", "tool"],
        cwd=HERE,
        env={**os.environ, **BUILD_ENVIRONMENT},
        check=True,
    )
    STAMP.write_text(_locked())


def _is_built() -> bool:
    return STAMP.exists() and STAMP.read_text() == _locked() and all((BUILT / name).exists() for name in PROGRAMS)


def _locked() -> str:
    return hashlib.sha256((HERE / "go.mod").read_bytes() + (HERE / "go.sum").read_bytes()).hexdigest()


if __name__ == "__main__":
    try:
        build()
    except Missing as missing:
        sys.exit(f"chart tools: {missing}")
