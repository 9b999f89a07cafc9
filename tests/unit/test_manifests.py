"""`feedback validate`: every error with its file, line and path."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from feedback_operator.cli.ending import ExitStatus
from feedback_operator.cli.main import app
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
        pytest.param({"labeling": {}}, "spec.labeling", "model must be given for type Model", id="missing"),
        pytest.param(
            {"training": {"perDeviceBatchSize": 3}}, "spec.training", "must be a multiple of", id="cross-field"
        ),
        pytest.param({"evaluation": {"benchmarks": []}}, "spec.evaluation.benchmarks", "at least 1", id="empty list"),
        pytest.param(
            {"splitting": {"type": "LLM", "llm": {}}},
            "spec.splitting.llm",
            "give exactly one of model and api",
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
    file = written(tmp_path, manifest(sampling={"candidates": 1}, seed=-1, pairing={"perInstruction": 0}))
    assert {problem.path for problem in load(file).problems} == {
        "spec.sampling.candidates",
        "spec.seed",
        "spec.pairing.perInstruction",
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


def test_the_last_of_two_values_does_not_win_in_silence(tmp_path: Path) -> None:
    file = written(tmp_path, manifest(sampling={"candidates": 10}))
    file.write_text(file.read_text().replace("    candidates: 10\n", "    candidates: 10\n    candidates: 4\n"))
    (problem,) = load(file).problems
    lines = file.read_text().splitlines()
    assert problem.path == "spec.sampling.candidates"
    assert lines[problem.line - 1] == "    candidates: 4"
    assert problem.message == f"is there twice, first in line {lines.index('    candidates: 10') + 1}; keep one of them"


SEED = "  seed: 7\n"


@pytest.mark.parametrize(
    ("given", "path", "message"),
    [
        pytest.param("  seed: 7\n  'seed': 7\n", "spec.seed", "is there twice", id="the same key in quotes"),
        pytest.param("  seed: 7\n  suspend: false\n  seed: 7\n  seed: 7\n", "spec.seed", "is there twice", id="thrice"),
        pytest.param(
            "  pairing: {truth: shapes, truth: shapes}\n", "spec.pairing.truth", "is there twice", id="in one line"
        ),
        pytest.param("  pairing:\n    <<: {}\n    <<: {}\n", "spec.pairing.<<", "is there twice", id="merged twice"),
        pytest.param("  seed: !vault 7\n", "spec.seed", "has the tag !vault, which no field has", id="unknown tag"),
        pytest.param("  pairing: !vault {}\n", "spec.pairing", "has the tag !vault", id="unknown tag of a mapping"),
        pytest.param("  !vault seed: 7\n", "spec", "has the tag !vault", id="unknown tag of a key"),
        pytest.param("  seed: !!binary aGk=\n", "spec.seed", "has the tag !!binary", id="a tag that JSON has not"),
        pytest.param("  seed: !!python/name:os.system\n", "spec.seed", "has the tag !!python/name", id="code"),
        pytest.param("  seed: !!str {a: b}\n", "spec.seed", "has the tag !!str", id="a tag of another kind of node"),
        pytest.param("  seed: !!int seven\n", "spec.seed", "'seven' is no int", id="no integer"),
        pytest.param("  seed: !!bool perhaps\n", "spec.seed", "'perhaps' is no bool", id="no boolean"),
        pytest.param("  seed: 0b_\n", "spec.seed", "'0b_' is no int", id="no binary integer"),
        pytest.param(f"  seed: {'9' * 5000}\n", "spec.seed", "is no int", id="an integer without end"),
        pytest.param("  ? {a: b}\n  : 7\n", "spec", "has a mapping for a key", id="a mapping as key"),
        pytest.param("  ? [a]\n  : 7\n", "spec", "has a sequence for a key", id="a list as key"),
        pytest.param("  {{ seed }}: 7\n", "spec", "has a mapping for a key", id="a template that was not rendered"),
        pytest.param("  pairing: {<<: 3}\n", "", "expected a mapping or list of mappings for merging", id="no merge"),
        pytest.param("  seed: <<\n", "spec.seed", "has the tag !!merge", id="a merge that is no key"),
        pytest.param("  seed: *gone\n", "", "found undefined alias", id="an alias of nothing"),
        pytest.param("  pairing: &pairing {more: *pairing}\n", "spec.pairing.more", "is not a field", id="in itself"),
        pytest.param(f"  pairing: {'[' * 1000}\n", "", "is nested too deeply", id="nested without end"),
        pytest.param('  seed: "\0"\n', "", "is not YAML", id="no character of YAML"),
        pytest.param("  training: {beta: 2026-13-45T00:00:00Z}\n", "spec.training.beta", "pattern", id="no date"),
        pytest.param("  training: {beta: 2026-11-27}\n", "spec.training.beta", "(got '2026-11-27')", id="a date"),
        pytest.param("  training: {beta: =}\n", "spec.training.beta", "(got '=')", id="an equals sign"),
    ],
)
def test_what_yaml_allows_and_a_manifest_cannot_hold_ends_in_no_traceback(
    given: str, path: str, message: str, tmp_path: Path
) -> None:
    file = written(tmp_path, manifest(seed=7))
    file.write_text(file.read_text().replace(SEED, given))
    problems = load(file).problems
    assert {problem.path for problem in problems} == {path}
    assert all(message in problem.message and "\n" not in problem.message for problem in problems)
    ended = CliRunner().invoke(app, ["validate", str(file)])
    assert (ended.exit_code, type(ended.exception)) == (ExitStatus.INVALID, SystemExit)
    assert ended.stderr == "".join(f"{problem}\n" for problem in problems)


@pytest.mark.parametrize(
    ("given", "annotations"),
    [
        pytest.param("{date: 2026-11-27, sign: =}", {"date": "2026-11-27", "sign": "="}, id="what looks like no text"),
        pytest.param("{<<: &all {a: x, b: y}, b: z}", {"a": "x", "b": "z"}, id="a key in place of a merged one"),
        pytest.param("&all {a: &x x, b: *x}", {"a": "x", "b": "x"}, id="aliases"),
    ],
)
def test_what_kubernetes_takes_is_taken(given: str, annotations: dict[str, str], tmp_path: Path) -> None:
    file = written(tmp_path, manifest())
    file.write_text(file.read_text().replace("  name: it\n", f"  name: it\n  annotations: {given}\n"))
    loaded = load(file)
    assert loaded.problems == ()
    assert loaded.iterations[0].metadata.annotations == annotations


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
