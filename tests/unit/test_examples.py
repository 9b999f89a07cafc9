"""The example manifests: each is valid, an ablation is the whole method but for the one thing that it ablates, and a
run is the same iteration four times, each on what the one before it has promoted."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from feedback_operator.cli.manifests import load

WHOLE: Final = Path("examples/shapes.yaml")
RUN: Final = sorted(Path("examples/run").glob("*.yaml"))
ABLATIONS: Final = sorted(Path("examples/ablations").glob("*.yaml"))
ABLATED: Final[dict[str, tuple[str, str, object]]] = {
    "confounded": ("sampling", "temperatures", ["0.2", "0.5", "0.8", "1.1", "1.4"]),
    "holistic": ("splitting", "type", "WholeAnswer"),
    "no-length-balance": ("pairing", "lengthBalance", "Disabled"),
}
"""Section, field and value of each ablation."""
GAINS: Final = [
    {"metric": "responseHallucination", "relativeTo": "Baseline", "max": "0.9"},
    {"metric": "recall", "relativeTo": "Baseline", "min": "0.97"},
]
"""The gate of each iteration of a run: one that gains nothing ends the chain."""


@pytest.mark.parametrize("file", [WHOLE, Path("examples/run"), *ABLATIONS], ids=lambda file: file.stem)
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


@pytest.mark.parametrize("file", RUN, ids=lambda file: file.stem)
def test_a_run_repeats_the_whole_method_on_what_came_before(file: Path) -> None:
    number = int(file.stem.removeprefix("shapes-"))
    expected = spec(WHOLE)
    if number > 1:
        expected["model"] = {"from": {"iteration": f"shapes-{number - 1}"}}
        expected["instructions"]["uri"] += f"-{number}"
    evaluation = expected["evaluation"]
    evaluation |= {"bestOf": 1, "gate": GAINS}
    for left_out in ("decoding", "rewardOnBaseline"):
        evaluation.pop(left_out, None)
    del expected["serving"]
    assert spec(file) == expected


def test_a_run_has_four_iterations_in_one_chain() -> None:
    assert [one.metadata.name for one in load(Path("examples/run")).iterations] == [file.stem for file in RUN]
    assert len(RUN) == 4


def spec(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(file.read_text())["spec"]
    return found
