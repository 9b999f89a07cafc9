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

Manifest = dict[str, Any]


def world_of(seed: int) -> str:
    """Where the world of a seed is."""
    return f"s3://feedback/shapes-seed-{seed}/"


def build(seed: int, *options: str) -> None:
    """Build the world of a seed, or what is missing of it. Raises CalledProcessError where that fails."""
    feedback("shapes", "--seed", str(seed), "--to", world_of(seed).rstrip("/"), *options)


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


def run(manifests: Iterable[Manifest], folder: Path) -> int:
    """Run manifests as one run with its report in `folder`; the exit code of `feedback run`."""
    written = folder / "manifests"
    written.mkdir(parents=True, exist_ok=True)
    for old in written.glob("*.yaml"):
        old.unlink()
    for one in manifests:
        (written / f"{one['metadata']['name']}.yaml").write_text(yaml.safe_dump(one, sort_keys=False))
    command = [sys.executable, "-m", "feedback_operator.cli", "run", str(written), "--out", str(folder)]
    return subprocess.run(command, check=False).returncode


def summary(folder: Path) -> dict[str, Any] | None:
    """summary.json of a run; None where it did not get as far as its scores."""
    file = folder / "summary.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return found if found.get("aligned") else None


def feedback(*arguments: str) -> None:
    """Run the command line. Raises CalledProcessError where it fails."""
    subprocess.run([sys.executable, "-m", "feedback_operator.cli", *arguments], check=True)


def _merge(into: dict[str, Any], patch: Mapping[str, Any]) -> None:
    for key, value in patch.items():
        if value is None:
            into.pop(key, None)
        elif isinstance(value, Mapping):
            _merge(into.setdefault(key, {}), value)
        else:
            into[key] = value
