"""What is told of a data set, on a terminal and on a page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from feedback_workloads.contract import BadInput
from feedback_workloads.data.inspect import inspect, quantiles
from feedback_workloads.storage.artifacts import ArtifactStore
from tests.unit.test_data_export import converted
from tests.unit.test_data_mix import data_set, encoded, scene
from tests.unit.test_data_sources import jpeg, place


def told(tmp_path: Path, uri: str) -> tuple[dict[str, str], str]:
    """The numbers and the page."""
    numbers = inspect(ArtifactStore(tmp_path / "cache"), uri, str(tmp_path / "page"))
    return numbers, (tmp_path / "page/data.html").read_text()


def test_instructions_as_people_have_them(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "image": "1.jpg", "question": "What <b>is</b> it?", "split": "report", "truth": "a dog"},
        {"id": "b", "image": "1.jpg", "question": "Who?", "split": "report"},
        {"id": "c", "image": "2.png", "question": "Who?", "split": "selection"},
        {"id": "d", "image": "gone.png", "question": "Who?"},
    ]
    lines = "\n".join(map(json.dumps, rows))
    place(tmp_path / "in", {"t.jsonl": lines, "1.jpg": jpeg(1), "2.png": encoded(scene(1))})
    numbers, page = told(tmp_path, str(tmp_path / "in"))
    assert numbers == {
        "rows": "3",
        "different pictures": "2",
        "different questions": "2",
        "pictures, JPEG": "2",
        "pictures, PNG": "1",
        "longest side, pixels": "5% 8, median 8, 95% 8",
        "words of question": "5% 1, median 1, 95% 1",
        "words of truth": "5% 2, median 2, 95% 2",
        "split report": "2",
        "split selection": "1",
        "left out, missing-picture": "1",
    }
    assert "What &lt;b&gt;is&lt;/b&gt; it?" in page
    assert page.count('<img src="data:image/') == 3


def test_what_we_made_says_of_what(tmp_path: Path) -> None:
    pictures = {"1.png": encoded(scene(1)), "2.png": b"no picture"}
    numbers, _ = told(tmp_path, data_set(tmp_path, "mine", pictures))
    assert (numbers["from mine"], numbers["left out when it was made, undecodable-picture"]) == ("1", "1")


def test_pairs(tmp_path: Path) -> None:
    numbers, page = told(tmp_path, converted(tmp_path))
    assert (numbers["rows"], numbers["words of chosen"]) == ("2", "5% 2, median 2, 95% 2")
    assert "<dt>rejected</dt>" in page


def test_many_rows_and_few_examples(tmp_path: Path) -> None:
    rows = [{"id": str(n), "image": "1.jpg", "question": f"What {n}?"} for n in range(60)]
    place(tmp_path / "in", {"t.jsonl": "\n".join(map(json.dumps, rows)), "1.jpg": jpeg(1)})
    numbers, page = told(tmp_path, str(tmp_path / "in"))
    assert (numbers["rows"], page.count("<article")) == ("60", 24)
    assert told(tmp_path, str(tmp_path / "in"))[1] == page


def test_what_is_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(BadInput, match="to read instructions from"):
        told(tmp_path, str(tmp_path / "in"))


@pytest.mark.parametrize(
    ("counted", "expected"),
    [
        pytest.param({7: 1}, "5% 7, median 7, 95% 7", id="one"),
        pytest.param(dict.fromkeys(range(101), 1), "5% 5, median 50, 95% 95", id="many"),
        pytest.param({1: 98, 900: 2}, "5% 1, median 1, 95% 1", id="a long tail"),
    ],
)
def test_quantiles(counted: dict[int, int], expected: str) -> None:
    assert quantiles(counted) == expected
