"""The example manifests: each is valid, and an ablation is the whole method but for the one thing that it ablates."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from feedback_operator.cli.manifests import load

WHOLE: Final = Path("examples/shapes.yaml")
ABLATIONS: Final = sorted(Path("examples/ablations").glob("*.yaml"))
ABLATED: Final[dict[str, tuple[str, str, object]]] = {
    "confounded": ("sampling", "temperatures", ["0.2", "0.5", "0.8", "1.1", "1.4"]),
    "holistic": ("splitting", "type", "WholeAnswer"),
    "no-length-balance": ("pairing", "lengthBalance", "Disabled"),
}
"""Section, field and value of each ablation."""


@pytest.mark.parametrize("file", [WHOLE, *ABLATIONS], ids=lambda file: file.stem)
def test_examples_are_valid(file: Path) -> None:
    loaded = load(file)
    assert loaded.problems == ()
    assert loaded.iterations


@pytest.mark.parametrize("file", ABLATIONS, ids=lambda file: file.stem)
def test_an_ablation_differs_from_the_whole_method_in_one_field(file: Path) -> None:
    section, field, value = ABLATED[file.stem]
    expected = spec(WHOLE)
    expected[section][field] = value
    # An ablation is measured, never promoted: it has neither a gate nor an endpoint.
    del expected["evaluation"]["gate"], expected["serving"]
    assert spec(file) == expected


def spec(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(file.read_text())["spec"]
    return found
