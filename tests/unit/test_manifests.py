"""`feedback validate`: every error with its file, line and path."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from feedback_operator.cli.manifests import load
from tests.unit.worlds import manifest


def written(folder: Path, *documents: object, name: str = "it.yaml") -> Path:
    file = folder / name
    file.write_text(yaml.safe_dump_all(documents, sort_keys=False))
    return file


@pytest.mark.parametrize(
    ("spec", "path", "message"),
    [
        pytest.param({"sampling": {"temperature": "hot"}}, "spec.sampling.temperature", "pattern", id="not a number"),
        pytest.param({"sampling": {"temperature": "3"}}, "spec.sampling.temperature", "between 0 and 2", id="range"),
        pytest.param({"sampling": {"temprature": "1"}}, "spec.sampling.temprature", "is not a field", id="typo"),
        pytest.param({"model": {}}, "spec.model", "exactly one of uri and from", id="no model"),
        pytest.param({"labeler": {}}, "spec.labeler.model", "is required", id="missing"),
        pytest.param(
            {"training": {"perDeviceBatchSize": 3}}, "spec.training", "must be a multiple of", id="cross-field"
        ),
        pytest.param({"evaluation": {"benchmarks": []}}, "spec.evaluation.benchmarks", "at least 1", id="empty list"),
        pytest.param(
            {"labeler": {"model": {"uri": "s3://b/l"}, "splitter": {"type": "LLM", "llm": {}}}},
            "spec.labeler.splitter.llm.model",
            "is required",
            id="union",
        ),
    ],
)
def test_an_error_names_its_path(spec: dict[str, object], path: str, message: str, tmp_path: Path) -> None:
    file = written(tmp_path, manifest(**spec))
    (problem,) = load(file).problems
    assert problem.path == path
    assert message in problem.message
    assert problem.line > 5


def test_the_line_is_the_one_of_the_field(tmp_path: Path) -> None:
    file = written(tmp_path, manifest(sampling={"candidates": 1}))
    (problem,) = load(file).problems
    assert "candidates: 1" in file.read_text().splitlines()[problem.line - 1]


def test_every_error_is_named(tmp_path: Path) -> None:
    file = written(tmp_path, manifest(sampling={"candidates": 1}, seed=-1, pairs={"perInstruction": 0}))
    assert {problem.path for problem in load(file).problems} == {
        "spec.sampling.candidates",
        "spec.seed",
        "spec.pairs.perInstruction",
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"kind: [", "is not YAML", id="syntax"),
        pytest.param(b"kind: Deployment\napiVersion: apps/v1\n", "'Deployment' is not a FeedbackIteration", id="kind"),
        pytest.param(b"\xff\xfe", "is not UTF-8", id="encoding"),
        pytest.param(b"", "holds no document", id="empty"),
        pytest.param(b"just text", "is not a FeedbackIteration", id="scalar"),
    ],
)
def test_a_file_that_is_no_manifest(content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "it.yaml"
    file.write_bytes(content)
    (problem,) = load(file).problems
    assert message in str(problem)


def test_a_missing_file(tmp_path: Path) -> None:
    (problem,) = load(tmp_path / "none.yaml").problems
    assert "No such file" in str(problem)


def named(name: str, parent: str | None = None) -> dict[str, object]:
    data = manifest(**({"model": {"from": {"iteration": parent}}} if parent else {}))
    return {**data, "metadata": {"name": name}}


def test_a_folder_is_put_in_the_order_of_its_chain(tmp_path: Path) -> None:
    written(tmp_path, named("c", "b"), name="1.yaml")
    written(tmp_path, named("a"), named("b", "a"), name="2.yaml")
    assert [iteration.metadata.name for iteration in load(tmp_path).iterations] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        pytest.param([named("a"), named("a")], "'a' is used twice", id="twice"),
        pytest.param([named("a", "z")], "'z' is not among these manifests", id="unknown"),
        pytest.param([named("a", "b"), named("b", "a")], "leads back", id="cycle"),
    ],
)
def test_a_broken_chain_is_refused(documents: list[object], message: str, tmp_path: Path) -> None:
    loaded = load(written(tmp_path, *documents))
    assert loaded.iterations == ()
    assert message in str(loaded.problems[0])
