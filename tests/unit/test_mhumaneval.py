"""MHumanEval: a sheet for people out, and what they found in."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from feedback_workloads.benchmarks.__main__ import main
from feedback_workloads.benchmarks.mhumaneval import COLUMNS, MHumanEval
from feedback_workloads.benchmarks.official import Scores
from feedback_workloads.contract import BadInput

ANSWERS = ("- Two dogs\n- a red car on the left", "A cat sleeps.", "A woman, three cups")


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    """Two questions of Object HalBench and one of MMHal-Bench, as the authors' file has them."""
    rows = [
        {"image_id": 42, "question": "What is there?", "image": "aGVsbG8="},
        {"image_id": 43, "question": "Describe it.", "image": "aGVsbG8="},
        {"image_url": "https://photos.example/1_o.jpg", "question": "How many?", "image": "aGVsbG8="},
    ]
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return file


@pytest.fixture
def sheet(tmp_path: Path, truth: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    """The rows of the sheet that the command wrote."""
    file = tmp_path / "answers.jsonl"
    file.write_text("".join(f"{json.dumps({'answer': text})}\n" for text in ANSWERS))
    assert main(["--benchmark=mhumaneval", f"--answers={file}", f"--truth={truth}", f"--out={tmp_path / 'out'}"]) == 0
    assert "sheet.csv is to be filled in by people; give it as --answers then" in capsys.readouterr().err
    assert json.loads((tmp_path / "out/metrics.json").read_text())["metrics"] == {}
    with (tmp_path / "out/sheet.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def score(folder: Path, rows: list[dict[str, str]], found: Mapping[int, Mapping[str, str]], truth: Path) -> Scores:
    """The numbers of the sheet after people have written into its rows; nothing else is hallucinated."""
    with (folder / "filled.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, delimiter=";")
        writer.writeheader()
        writer.writerows({**row, "hallucinated": "no", **found.get(n, {})} for n, row in enumerate(rows))
    return MHumanEval().score(folder / "filled.csv", truth, {})


def test_what_people_are_given(sheet: list[dict[str, str]]) -> None:
    assert list(sheet[0]) == list(COLUMNS)
    assert [(row["row"], row["picture"], row["question"], row["hallucinated"]) for row in sheet] == [
        ("1", "42", "What is there?", ""),
        ("2", "43", "Describe it.", ""),
        ("3", "https://photos.example/1_o.jpg", "How many?", ""),
    ]
    # An answer that begins as a formula does is a text to spreadsheets.
    assert [row["answer"] for row in sheet] == [f"'{ANSWERS[0]}", *ANSWERS[1:]]


def test_numbers(sheet: list[dict[str, str]], truth: Path, tmp_path: Path) -> None:
    """One answer in three has a wrong object, two a wrong number, two any; blanks and case are nothing."""
    found = {
        0: {"hallucinated": "Yes", "object": "a red  car", "number": "'- two dogs| red car "},
        2: {"hallucinated": "yes", "number": "three cups"},
    }
    scores = score(tmp_path, sheet, found, truth)
    assert scores.metrics == {
        "Hallucination rate": 2 / 3,
        "object.Hallucination rate": 1 / 3,
        "position.Hallucination rate": 0,
        "number.Hallucination rate": 2 / 3,
        "other.Hallucination rate": 0,
    }
    assert (scores.file, scores.notes) == ("mhumaneval.json", ("these are 3 answers, where there are 146",))
    none = {"object": [], "position": [], "number": [], "other": []}
    assert scores.result == [
        {"hallucinated": True, **none, "object": ["a red  car"], "number": ["'- two dogs", "red car"]},
        {"hallucinated": False, **none},
        {"hallucinated": True, **none, "number": ["three cups"]},
    ]


@pytest.mark.parametrize(
    ("found", "message"),
    [
        pytest.param({"hallucinated": ""}, "row 3: 'hallucinated' is ''; say yes or no of each", id="empty"),
        pytest.param({"hallucinated": "maybe"}, "'hallucinated' is 'maybe'", id="neither"),
        pytest.param({"hallucinated": "yes"}, "is yes, but no part of the answer is marked; copy it", id="no part"),
        pytest.param({"object": "cat"}, "is no, but parts of the answer are marked; say yes, or", id="a part"),
        pytest.param(
            {"hallucinated": "yes", "position": "left"},
            "'left', under 'position', is not in the answer; copy it from there",
            id="not in the answer",
        ),
        pytest.param({"question": "How many?"}, "this is of 'How many.', where .* asks 'Describe it.'", id="moved"),
    ],
)
def test_sheets_that_contradict_themselves(
    found: dict[str, str], message: str, sheet: list[dict[str, str]], truth: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=message):
        score(tmp_path, sheet, {1: found}, truth)


def test_each_question_has_a_row(sheet: list[dict[str, str]], truth: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"has 2 rows for the 3 questions of .*; give one to each"):
        score(tmp_path, sheet[:2], {}, truth)
