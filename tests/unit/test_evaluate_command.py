"""`feedback evaluate`: a file of answers in, the official result file and metrics.json out."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from feedback_operator.cli.main import app
from feedback_workloads.benchmarks.__main__ import main

ANSWERS = '{"image_id": 1, "caption": "a zyzzyva, a cat"}\n'


@pytest.fixture
def given(tmp_path: Path) -> list[str]:
    """Arguments of a small CHAIR, whose results go to the folder `out`."""
    (tmp_path / "answers.jsonl").write_text(ANSWERS)
    (tmp_path / "truth.tsv").write_text("1\tcat,dog\n")
    files = ["--answers", str(tmp_path / "answers.jsonl"), "--truth", str(tmp_path / "truth.tsv")]
    return ["--benchmark", "chair", *files, "--out", str(tmp_path / "new/out")]


def test_what_is_written(given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*given, "--option", "words=noun"]) == 0
    metrics = {"CHAIRs": 0.0, "CHAIRi": 0.0, "Recall": 0.5, "Len": 0.05}
    assert json.loads((tmp_path / "new/out/metrics.json").read_text()) == {
        "benchmark": "chair",
        "options": {"words": "noun", "length": "tokens"},
        "answers": {"name": "answers.jsonl", "sha256": hashlib.sha256(ANSWERS.encode()).hexdigest(), "number": 1},
        "truth": {"name": "truth.tsv", "sha256": hashlib.sha256(b"1\tcat,dog\n").hexdigest()},
        "metrics": metrics,
    }
    result = json.loads((tmp_path / "new/out/chair.json").read_text())
    assert (len(result["sentences"]), result["overall_metrics"]) == (1, metrics)
    assert capsys.readouterr().out == "CHAIRs  0.0000\nCHAIRi  0.0000\nRecall  0.5000\nLen     0.0500\n"


def test_a_folder_of_truth_is_known_by_what_is_read_in_it(given: list[str], tmp_path: Path) -> None:
    """So two evaluations by folders of one name and other files are told apart; what is not read says nothing."""
    truth = tmp_path / "annotations"
    truth.mkdir()
    shown = {"images": [{"id": 1}], "categories": [{"id": 3, "name": "cat"}], "annotations": []}
    (truth / "instances_val2014.json").write_text(json.dumps(shown))
    captions = truth / "captions_val2014.json"
    captions.write_text(json.dumps({"annotations": [{"image_id": 1, "caption": "A cat."}]}))
    told = []
    for text in ("A cat.", "A dog."):
        captions.write_text(json.dumps({"annotations": [{"image_id": 1, "caption": text}]}))
        (truth / "notes.txt").write_text(text)
        assert main([*given, "--truth", str(truth), "--option", "words=noun"]) == 0
        told.append(json.loads((tmp_path / "new/out/metrics.json").read_text())["truth"])
    names = ["captions_val2014.json", "instances_val2014.json"]
    assert [(one["name"], list(one["files"])) for one in told] == 2 * [("annotations", names)]
    one, other = (of["files"] for of in told)
    assert one[names[1]] == other[names[1]] == hashlib.sha256(json.dumps(shown).encode()).hexdigest()
    assert one[names[0]] != other[names[0]]


def test_counts_are_whole_and_notes_are_told(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "truth.tsv").write_text("1\t\n")
    assert main([*given, "--benchmark", "object-halbench", "--option", "extractor=words"]) == 0
    told = capsys.readouterr()
    assert "sentence_num         1\n" in told.out
    assert "obj_rec              0 of 0\n" in told.out
    assert told.err.startswith("evaluate: these answers are about 1 pictures, where the benchmark has 300\n")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        pytest.param(["--option", "words"], "--option words: there is no value; write it as KEY=VALUE", id="no value"),
        pytest.param(["--option", "words=verb"], "is 'verb'; give one of pos, singularize, noun", id="value"),
        pytest.param(["--answers", "none.json"], "none.json cannot be read: No such file or directory", id="no file"),
    ],
)
def test_what_is_wrong_is_told(
    given: list[str], more: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*given, *more]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_without_truth_it_says_what_is_needed(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    at = given.index("--truth")
    assert main(given[:at] + given[at + 2 :]) == 2
    assert "the benchmark chair needs --truth: a folder with COCO's instances_*.json" in capsys.readouterr().err


def test_a_package_that_is_not_installed(
    given: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "textblob.en.inflect", None)
    assert main([*given, "--option=words=singularize"]) == 2
    assert (
        "the package textblob is not installed; run `pip install 'feedback-operator[benchmarks]'`"
        in capsys.readouterr().err
    )


def test_the_command(given: list[str], tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["evaluate", *given, "--option", "words=noun"]).exit_code == 0
    assert json.loads((tmp_path / "new/out/metrics.json").read_text())["metrics"]["Recall"] == 0.5
    assert CliRunner().invoke(app, ["evaluate", *given, "--benchmark", "none"]).exit_code == 2
