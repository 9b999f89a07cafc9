"""docs/first-run.md: every command of ours exists, every manifest fits the machines that it asks for, sums are sums.

The clouds' own commands cannot be tried; the page says so.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
import yaml

from feedback_operator.api import FeedbackIteration, Metadata
from feedback_operator.cli.main import app
from feedback_operator.cli.manifests import load
from feedback_operator.doctor.facts import Facts, Object
from feedback_operator.doctor.needs import needs_of, pod_manifest
from feedback_operator.doctor.nodes import OLDEST_DRIVER, check_fit
from tests.unit.worlds import IMAGES

FOLDER: Final = Path("examples/first-run")
PAGE: Final = Path("docs/first-run.md").read_text()
BLOCKS: Final = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
LINES: Final = [line for block in BLOCKS for line in block.replace("\\\n", "").splitlines()]
OF_OTHERS: Final = {"aws", "eksctl", "gcloud", "kubectl", "docker", "curl", "make", "sed", "export", "for", "python"}
TAINT: Final = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}


def manifest(changed: str = "") -> FeedbackIteration:
    """The page's iteration; `changed` is a script of sed, as the page has it."""
    file = FOLDER / "llava.yaml"
    if not changed:
        [found] = load(file).iterations
        return found
    text = subprocess.run(["sed", changed, file], check=True, capture_output=True, text=True).stdout
    return FeedbackIteration.model_validate(yaml.safe_load(text))


def node() -> Object:
    """What is left of a p5.48xlarge or an a3-highgpu-8g for pods, the smaller of each; nodes of GPUs are tainted."""
    room = {"cpu": "190", "memory": "1700Gi", "ephemeral-storage": "900Gi", "pods": "100", "nvidia.com/gpu": "8"}
    return {
        "metadata": {"name": "gpus", "labels": {}},
        "spec": {"taints": [TAINT]},
        "status": {"allocatable": room, "conditions": [{"type": "Ready", "status": "True"}]},
    }


def small_node() -> Object:
    """What is left of an m7i.xlarge or an e2-standard-4."""
    room = {"cpu": "3900m", "memory": "13Gi", "pods": "50", "ephemeral-storage": "50Gi"}
    metadata = {"name": "system", "labels": {}}
    return {"metadata": metadata, "spec": {}, "status": {**node()["status"], "allocatable": room}}


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("feedback ")])
def test_each_command_of_ours_is_one(line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    command: Any = typer.main.get_command(app)
    context = click.Context(command)
    while isinstance(command, click.Group):
        name = words.pop(0)
        assert name in command.commands, line
        command = command.commands[name]
    file = [word if Path(word).exists() or not word.endswith(".yaml") else str(FOLDER / word) for word in words]
    command.make_context(command.name, file, parent=context)


def test_no_other_program_is_asked_for_than_those_that_are_named() -> None:
    programs = {line.split()[0] for line in LINES if line and not line.startswith((" ", "#"))}
    assert programs <= OF_OTHERS | {"feedback"}
    table = PAGE[: PAGE.index("## 1.")]
    assert all(f"`{name}`" in table for name in ("kubectl", "docker", "aws", "eksctl", "gcloud"))


@pytest.mark.parametrize("on_gke", [False, True])
def test_every_pod_fits_such_a_node_all_at_once(on_gke: bool) -> None:
    [edit] = [line.split("'")[1] for line in LINES if line.startswith("sed -i")]
    asked = manifest(edit) if on_gke else manifest()
    facts = Facts("team-a", nodes=(node(), small_node()), pods=())
    for need in needs_of(asked, IMAGES):
        found = check_fit(facts, need, pod_manifest(Metadata(name="llava"), need))
        assert found.outcome == "ok", found
        assert (need.section.pod.service_account_name is None) == on_gke
        assert [one.name for one in need.section.pod.env_from] == (["s3"] if on_gke else [])
    assert {need.name for need in needs_of(asked, IMAGES)} >= {"sampling", "labeling", "training", "serving"}


def test_the_bucket_is_put_everywhere() -> None:
    spec = manifest("s/example-feedback/mine/").spec
    assert spec.instructions is not None
    named = [spec.instructions.uri, spec.artifacts.uri, *(one.uri for one in spec.evaluation.benchmarks)]
    assert all(uri.startswith("s3://mine/") for uri in named)
    for uri in (named[0], named[2]):
        assert uri.replace("s3://mine/", "s3://$BUCKET/").removesuffix("/iteration-1") in PAGE


def test_the_clusters_taint_is_tolerated_and_its_pool_is_the_one_that_is_taken_down() -> None:
    cluster = yaml.safe_load((FOLDER / "cluster.yaml").read_text())
    [pool] = [one for one in cluster["managedNodeGroups"] if "taints" in one]
    assert pool["taints"] == [TAINT]
    assert pool["minSize"] == 0
    assert f"--cluster {cluster['metadata']['name']} --name {pool['name']} --nodes 0" in PAGE


def test_the_hours_are_what_the_table_says_that_they_are_made_of() -> None:
    spec = manifest().spec
    instructions, gpus, rate = 4_000, 8, 2_500
    answers = instructions * spec.sampling.candidates
    questions, checkpoints = 600, spec.training.epochs * spec.training.checkpoints_per_epoch
    operations = 2 * 34e9 * (10 * answers * 60 + instructions * 2_340)
    pairs = instructions * spec.pairing.per_instruction * spec.training.epochs
    told = (checkpoints + 1) * questions + 2 * spec.evaluation.best_of * questions
    seconds = {
        "sampling": answers * 120 / (gpus * rate),
        "splitting": answers * 250 / (gpus * rate),
        "labeling": operations / (gpus * 803e12 * 0.3),
        "training": pairs / (gpus * 3.19 * 0.8),
        "evaluation": told * 120 / rate,
    }
    table = dict(re.findall(r"^\| (\w+)[^|]*\|.*\| (\d+) \|$", PAGE, re.MULTILINE))
    for stage, taken in seconds.items():
        assert int(table[stage]) == round(taken / 60), stage
    assert sum(map(int, table.values())) == int(re.findall(r"\| \*\*all\*\* .*\*\*(\d+)\*\*", PAGE)[0])
    for figure in ("3.19", "803 TFLOP/s"):
        assert figure in Path("docs/performance.md").read_text()
    price = 39.33
    assert f"two hours are\n{2 * price:.0f} USD, and thirteen and a half {13.5 * price:.0f}" in PAGE


def test_the_driver_that_the_page_asks_for_is_the_doctors() -> None:
    assert f"branch {OLDEST_DRIVER} or newer" in PAGE


def test_a_benchmark_of_two_data_sets(tmp_path: Path) -> None:
    for name in ("iteration-1", "iteration-2"):
        (tmp_path / name).mkdir()
        rows = {"id": [f"{name}-a", f"{name}-b"], "split": pa.array([None, None], pa.string())}
        pq.write_table(pa.table(rows), tmp_path / name / "part-0.parquet")
    folders = [str(tmp_path / name) for name in ("iteration-1", "iteration-2", "both")]
    subprocess.run([sys.executable, FOLDER / "benchmark.py", *folders], check=True)
    rows = pq.read_table(tmp_path / "both").to_pylist()
    assert {row["id"]: row["split"] for row in rows} == {
        "iteration-1-a": "selection",
        "iteration-1-b": "selection",
        "iteration-2-a": "report",
        "iteration-2-b": "report",
    }
