"""`feedback data`: what the command line hands on, and what it tells."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from feedback_operator.cli.main import app
from feedback_workloads.data.__main__ import main
from tests.unit.test_data_sources import jpeg, place

ROWS = [{"image": "a.jpg", "prompt": "What?"}, {"image": "b.jpg", "prompt": "Who?"}]


@pytest.fixture
def given(tmp_path: Path) -> list[str]:
    """Arguments that convert a table of two rows, of which one has no picture."""
    (tmp_path / "in").mkdir()
    place(tmp_path / "in", {"t.jsonl": "\n".join(map(json.dumps, ROWS)), "a.jpg": jpeg(1)})
    return ["convert", "table", f"--from={tmp_path}/in", f"--to={tmp_path}/out", "--option=question=prompt"]


def test_convert_tells_what_was_left_out(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(given) == 0
    assert (
        capsys.readouterr().out
        == "rows                      1\nrejected                  1\nrejected_missing-picture  1\n"
    )


def test_what_is_wrong_is_told(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*given, "--option=answer"]) == 2
    assert "data convert: --option answer: there is no value; write it as KEY=VALUE" in capsys.readouterr().err


def test_a_package_that_is_not_installed(
    given: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in [name for name in sys.modules if name.startswith("feedback_workloads.data.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "ijson", None)
    assert main(given) == 2
    assert "the package ijson is not installed; run `pip install 'feedback-operator[data]'`" in capsys.readouterr().err


def test_the_command(given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["data", *given, "--name=mine"]).exit_code == 0
    assert pq.read_table(tmp_path / "out/part-00000.parquet")["id"].to_pylist() == ["mine-1"]
    assert CliRunner().invoke(app, ["data", *given]).exit_code == 2, "the folder has files already"
