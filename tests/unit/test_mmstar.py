"""MMStar: what an answer begins with, and the tables that hold answers."""

from __future__ import annotations

import base64
import csv
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from openpyxl import Workbook

from feedback_workloads.benchmarks.mmstar import MMStar, is_right
from feedback_workloads.benchmarks.tables import csv_text, read_table
from feedback_workloads.contract import BadInput


@pytest.mark.parametrize(
    ("prediction", "right"),
    [
        ("B", True),
        ("b", True),
        ("B: The suitcase is beneath the cat.", True),
        ("(b)", True),
        ("Option B", True),
        ("The answer is B.", True),
        ("\n B", True),
        pytest.param("bananas", True, id="any word that begins with the letter"),
        pytest.param("The answer is\nB", True, id="a line break is a blank"),
        pytest.param("The correct answer is B", False, id="another beginning"),
        pytest.param("**B**", False, id="bold"),
        pytest.param("option: B", False, id="a colon"),
        pytest.param("(", False, id="the official script's index error counts as wrong"),
        pytest.param("option", False, id="nothing after option"),
        pytest.param("", False, id="nothing"),
        pytest.param("A, not B", False, id="another letter"),
    ],
)
def test_what_is_right(prediction: str, right: bool) -> None:
    """By `MMStar_eval` of the authors' eval/vlmeval/evaluate/mmstar.py."""
    assert is_right(prediction, "b") is right


def test_a_photo_answers_a() -> None:
    assert is_right("A photo of a dog", "a")


HEADER = ("index", "question", "answer", "category", "l2_category", "bench", "prediction")
ROWS = (
    (0, "Which? Options: A: x, B: y", "A", "math", "geometry", "MathVista", "A"),
    (7, "Which?", "B", "math", "geometry", "MathVista", "A photo"),
    (2, "Which?", "C", "math", "statistical reasoning", "MMMU", "(c) the third"),
    (3, "Which?", "D", "coarse perception", "image emotion", "MMBench", ""),
)
METRICS = {
    "final score": 2 / 4,
    "math": 2 / 3,
    "math(geometry)": 1 / 2,
    "math(statistical reasoning)": 1,
    "coarse perception": 0,
    "coarse perception(image emotion)": 0,
}


def test_numbers(tmp_path: Path) -> None:
    """The rates have the names of the authors' _score.json; each is of what was asked, as theirs are of all 1,500."""
    file = tmp_path / "model_MMStar.csv"
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([HEADER, *ROWS])
    found = MMStar().score(file, file, {})
    assert found.metrics == METRICS
    assert (found.file, found.result, found.answers) == ("model_MMStar_score.json", METRICS, 4)
    assert found.notes == ("these are 4 questions, where the benchmark has 1500",)


def test_answers_find_their_questions(tmp_path: Path) -> None:
    """By the index, whatever the order; the data set's parquet file is the truth."""
    columns = {name: [row[number] for row in ROWS] for number, name in enumerate(HEADER[:5])}
    pictures = [{"bytes": b"picture", "path": f"{row[0]}.jpg"} for row in ROWS]
    pq.write_table(pa.table({**columns, "image": pictures}), tmp_path / "mmstar.parquet")
    lines = [f'{{"index": {row[0]}, "prediction": "{row[-1]}"}}\n' for row in reversed(ROWS)]
    (tmp_path / "answers.jsonl").write_text("".join(lines))
    found = MMStar().score(tmp_path / "answers.jsonl", tmp_path / "mmstar.parquet", {})
    assert found.metrics == METRICS
    assert read_table(tmp_path / "mmstar.parquet")[0].values["image"] == base64.b64encode(b"picture").decode()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        pytest.param(["0,A", "1,B", "1,B"], "row 4: question 1 is answered before, too", id="twice"),
        pytest.param(["0,A", "5,B"], "row 3: there is no question 5 in .*; give the truth of these", id="no question"),
        pytest.param(["0,A"], "question 1 is not answered, and 0 others; answer each", id="missing"),
        pytest.param(["x,A"], "row 2: the field 'index' is \"x\"; give an integer", id="no index"),
    ],
)
def test_answers_that_do_not_fit(lines: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "truth.csv").write_text("index,answer,category,l2_category\n0,A,math,geometry\n1,B,math,geometry\n")
    (tmp_path / "answers.csv").write_text("\n".join(["index,prediction", *lines]))
    with pytest.raises(BadInput, match=message):
        MMStar().score(tmp_path / "answers.csv", tmp_path / "truth.csv", {})


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        pytest.param("0,AB,m,k", "row 2: the answer is 'AB'; give the letter of the right option", id="two letters"),
        pytest.param("0,,m,k", "row 2: the answer is ''; give the letter", id="none"),
        pytest.param("0,A,m,k\n0,B,m,k", "row 3: there is a question 0 before; remove one of them", id="twice"),
    ],
)
def test_a_truth_that_is_none(truth: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "truth.csv").write_text(f"index,answer,category,l2_category\n{truth}\n")
    with pytest.raises(BadInput, match=message):
        MMStar().score(tmp_path / "truth.csv", tmp_path / "truth.csv", {})


# ── tables ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def workbook(file: Path, *lines: list[object]) -> Path:
    """A workbook as openpyxl and pandas write it, with a second sheet that is not looked at."""
    book = Workbook()
    for line in lines:
        book.worksheets[0].append(line)
    book.create_sheet("other").append(["index"])
    book.save(file)
    return file


def test_workbooks(tmp_path: Path) -> None:
    """Texts and numbers, cells that are left out, and empty rows."""
    file = workbook(
        tmp_path / "book.xlsx",
        ["index", None, "prediction", "far"],
        [12, None, "The answer is B", 0.5],
        [None],
        ["x", -3, "a\nb & c"],
    )
    found = read_table(file)
    assert [row.values for row in found] == [
        {"index": 12, "prediction": "The answer is B", "far": 0.5},
        {"index": "x", "prediction": "a\nb & c", "far": ""},
    ]
    assert found[1].place == f"{file}, row 4"


@pytest.mark.parametrize("between", [",", ";", "\t"])
def test_separated_values(between: str, tmp_path: Path) -> None:
    text = '\ufeffa,b\n"1,\nx",\n\n2,y\n'.replace(",", between)
    (tmp_path / "table.csv").write_text(text)
    rows = read_table(tmp_path / "table.csv")
    assert [row.values for row in rows] == [{"a": f"1{between}\nx", "b": ""}, {"a": "2", "b": "y"}]


def test_what_would_be_a_formula_is_a_text(tmp_path: Path) -> None:
    text = csv_text([{"a": "=1+1", "b": "- a list\nof two, really"}, {"a": "@x", "b": 'a "b"'}], ("a", "b"))
    (tmp_path / "table.csv").write_text(text, newline="")
    assert [row.values for row in read_table(tmp_path / "table.csv")] == [
        {"a": "'=1+1", "b": "'- a list\nof two, really"},
        {"a": "'@x", "b": 'a "b"'},
    ]


@pytest.mark.parametrize("name", ["table.xlsx", "table.parquet", "empty.csv", "none.xlsx", "none.csv"])
def test_tables_that_cannot_be_read(name: str, tmp_path: Path) -> None:
    (tmp_path / "table.xlsx").write_bytes(b"PK nothing")
    (tmp_path / "table.parquet").write_bytes(b"PAR1")
    (tmp_path / "empty.csv").write_text("a,b\n")
    with pytest.raises(BadInput, match=name):
        read_table(tmp_path / name)
