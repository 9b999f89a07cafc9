"""Runs on several shapes worlds, each of one seed, which is also that of the run on it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import yaml

WORLD: Final = "s3://feedback/shapes/"
"""Where the examples' world is."""
ENDED: Final = frozenset({0, 1, 3})
"""Exit codes of `feedback run` after which what is there is this run's: well, a stage failed, the gate failed."""

Manifest = dict[str, Any]


def world_of(seed: int) -> str:
    """Where the world of a seed is."""
    return f"s3://feedback/shapes-seed-{seed}/"


def build(seed: int, *options: str) -> bool:
    """Build the world of a seed, or what is missing of it; whether that went well."""
    command = ["shapes", "--seed", str(seed), "--to", world_of(seed).rstrip("/"), *options]
    return subprocess.run([sys.executable, "-m", "feedback_operator.cli", *command], check=False).returncode == 0


def manifest(file: Path) -> Manifest:
    """One manifest of the examples."""
    loaded: Manifest = yaml.safe_load(file.read_text())
    return loaded


def changed(whole: Manifest, name: str, patch: Mapping[str, Any]) -> Manifest:
    """The manifest under another name, with a merge patch of its spec (RFC 7386)."""
    copy = deepcopy(whole)
    copy["metadata"]["name"] = name
    _merge(copy["spec"], patch)
    return copy


def on_seed(whole: Manifest, seed: int) -> Manifest:
    """The manifest on the world of a seed."""
    moved: Manifest = yaml.safe_load(yaml.safe_dump(whole).replace(WORLD, world_of(seed)))
    moved["spec"]["seed"] = seed
    return moved


def run(manifests: Iterable[Manifest], folder: Path) -> None:
    """Run manifests as one run with its report in `folder`, where no summary of an earlier run is left.

    Raises RuntimeError where the run did not come to an end of its own.
    """
    for old in (*folder.glob("manifests/*.yaml"), *folder.glob("**/summary.json")):
        old.unlink()
    written = folder / "manifests"
    written.mkdir(parents=True, exist_ok=True)
    for one in manifests:
        (written / f"{one['metadata']['name']}.yaml").write_text(yaml.safe_dump(one, sort_keys=False))
    command = [sys.executable, "-m", "feedback_operator.cli", "run", str(written), "--out", str(folder)]
    code = subprocess.run(command, check=False).returncode
    if code not in ENDED:
        raise RuntimeError(f"feedback run {written} ended with {code}; what it says is above")


def summary(folder: Path) -> dict[str, Any] | None:
    """summary.json of a run; None where it did not get as far as its scores."""
    file = folder / "summary.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return found if found.get("aligned") else None


def _merge(into: dict[str, Any], patch: Mapping[str, Any]) -> None:
    for key, value in patch.items():
        if value is None:
            into.pop(key, None)
        elif isinstance(value, Mapping):
            _merge(into.setdefault(key, {}), value)
        else:
            into[key] = value
