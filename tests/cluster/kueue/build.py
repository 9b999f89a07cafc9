"""Kueue's manager, and the manifests that it is installed with: built once from its Go module.

`python -m tests.cluster.kueue.build` puts both into build/kueue: some minutes on two cores the first time.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.cluster.binaries import BUILD_ENVIRONMENT, Missing, go

HERE: Final = Path(__file__).parent
BUILT: Final = HERE.parents[2] / "build/kueue"
MANAGER: Final = BUILT / "kueue"
MANIFESTS: Final = BUILT / "manifests.yaml"
"""What a user installs: definitions, rights, webhooks and the manager's configuration."""
STAMP: Final = BUILT / ".built-from"
MODULE: Final = "sigs.k8s.io/kueue"
KUBECTL: Final = Path(sys.executable).parent / "kubectl"


def built() -> Path:
    """Where the manager and the manifests are. Raises Missing where they are not, or are of another version."""
    if not _is_built():
        raise Missing(f"Kueue is not built in {BUILT}, or is out of date; run `make kueue`")
    return BUILT


def build() -> None:
    """Build both from the modules that go.sum locks. Raises Missing where Go cannot be had."""
    if _is_built():
        print(f"Kueue: {BUILT}")
        return
    BUILT.mkdir(parents=True, exist_ok=True)
    print(f"Kueue: building its manager into {BUILT}; the first time takes some minutes", flush=True)
    environment = {**os.environ, **BUILD_ENVIRONMENT}
    command = [go(), "build", "-mod=readonly", "-trimpath", "-ldflags", "-s -w", "-o", f"{BUILT}/", "tool"]
    subprocess.run(command, cwd=HERE, env=environment, check=True)
    module = subprocess.run(
        [go(), "mod", "download", "-json", MODULE], cwd=HERE, env=environment, check=True, capture_output=True
    )
    folder = json.loads(module.stdout)["Dir"]
    with MANIFESTS.open("wb") as output:
        subprocess.run([KUBECTL, "kustomize", f"{folder}/config/default"], stdout=output, check=True)
    STAMP.write_text(_locked())


def _is_built() -> bool:
    return MANAGER.exists() and MANIFESTS.exists() and STAMP.exists() and STAMP.read_text() == _locked()


def _locked() -> str:
    return hashlib.sha256((HERE / "go.mod").read_bytes() + (HERE / "go.sum").read_bytes()).hexdigest()


if __name__ == "__main__":
    try:
        build()
    except Missing as missing:
        sys.exit(f"Kueue: {missing}")
