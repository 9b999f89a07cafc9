"""The example manifests: each is valid, and a run is the same iteration four times, each on what the one before it has
promoted. The ablations are made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from benchmarks import worlds
from benchmarks.ablations import ABLATIONS, ablation
from feedback_operator.cli.manifests import load
from feedback_workloads.contract import ExitCode

WHOLE: Final = Path("examples/shapes.yaml")
WORLD: Final = Path("examples/quickstart/world.yaml")
OTHERS: Final = (
    "examples/run",
    "examples/pairs.yaml",
    "examples/evaluation.yaml",
    "examples/labels",
    "examples/first-run/llava.yaml",
)
RUN: Final = sorted(Path("examples/run").glob("*.yaml"))
GAINS: Final = [
    {"metric": "responseHallucination", "relativeTo": "Baseline", "use": "Interval", "max": "1"},
    {"metric": "recall", "relativeTo": "Baseline", "min": "0.98"},
    {"metric": "expectedRecall", "relativeTo": "Baseline", "min": "0.95"},
]
"""The gate of each iteration of a run: one that gains nothing ends the chain."""


@pytest.mark.parametrize("file", [WHOLE, *map(Path, OTHERS)], ids=lambda file: file.stem)
def test_examples_are_valid(file: Path) -> None:
    loaded = load(file)
    assert loaded.problems == ()
    assert loaded.iterations


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_is_valid_and_stays_on_the_world_of_its_seed(name: str, tmp_path: Path) -> None:
    changed = worlds.on_seed(ablation(name), 7)
    file = tmp_path / f"{name}.yaml"
    file.write_text(yaml.safe_dump(changed))
    assert load(file).problems == ()
    assert worlds.WORLD not in file.read_text()
    assert changed["spec"]["seed"] == 7
    assert {"serving", "gate"}.isdisjoint({*changed["spec"], *changed["spec"]["evaluation"]})


def test_a_patch_changes_what_it_names_and_nothing_else() -> None:
    whole = worlds.manifest(WHOLE)
    patched = worlds.changed(whole, "other", {"sampling": {"candidates": 3}, "serving": None})
    expected = spec(WHOLE)
    expected["sampling"]["candidates"] = 3
    del expected["serving"]
    assert (patched["metadata"]["name"], patched["spec"]) == ("other", expected)
    assert whole == worlds.manifest(WHOLE)


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


def test_a_world_that_cannot_be_built_is_not_tried_again() -> None:
    [job] = [one for one in yaml.safe_load_all(WORLD.read_text()) if one["kind"] == "Job"]
    pod = job["spec"]["template"]["spec"]
    [rule] = job["spec"]["podFailurePolicy"]["rules"]
    assert pod["restartPolicy"] == "Never"  # podFailurePolicy asks for it
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"]["values"] == [ExitCode.BAD_INPUT]
    assert rule["onExitCodes"]["containerName"] == pod["containers"][0]["name"]


def spec(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(file.read_text())["spec"]
    return found
