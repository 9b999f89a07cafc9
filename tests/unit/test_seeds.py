"""Tables over seeds: what they are made of, and that no seed is lost from them."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from benchmarks import ablations, seeds, worlds
from feedback_workloads.report.summary import summarise

from .evidences import evidence


@pytest.fixture(scope="module")
def summary() -> seeds.Summary:
    """What `feedback run` writes, with the baseline's answers ranked as well."""
    return summarise(evidence())


def printed(table: Table) -> str:
    text = StringIO()
    Console(file=text, width=200).print(table)
    return text.getvalue()


def test_every_line_of_the_table_is_in_a_summary(summary: seeds.Summary) -> None:
    found = seeds.over_seeds({3: summary, 4: None})
    assert found["failed"] == [4]
    assert [row["name"] for row in found["seeds"]] == list(seeds.ROWS)
    aligned = found["seeds"][1]["response_hallucination"]
    assert aligned["by_seed"] == {3: summary["aligned"]["response_hallucination"]["value"]}
    text = printed(seeds.table(found))
    assert "failed: seeds [4]" in text
    assert all(name in text for name in seeds.ROWS)


@pytest.mark.parametrize(
    ("values", "least", "mean", "greatest"),
    [({1: 0.2, 2: 0.4}, 0.2, 0.3, 0.4), ({1: None, 2: 0.4}, 0.4, 0.4, 0.4), ({1: None}, None, None, None)],
)
def test_spread(values: dict[int, float | None], least: float, mean: float, greatest: float) -> None:
    found = seeds.spread(values)
    assert (found["least"], found["mean"], found["greatest"]) == (least, pytest.approx(mean), greatest)
    assert found["by_seed"] == values


@pytest.mark.parametrize(
    ("promoted", "which"),
    [([True, True, False], 1), ([True, False], 0), ([False], None)],
    ids=["stopped at the third", "stopped at the second", "gained nothing"],
)
def test_a_chain_keeps_what_was_promoted_last_or_what_it_began_with(
    summary: seeds.Summary, promoted: list[bool], which: int | None
) -> None:
    iterations = [({**summary, "aligned": {"recall": number}}, was) for number, was in enumerate(promoted)]
    found = ablations.kept(iterations)
    assert found
    assert found["aligned"] == (summary["baseline"] if which is None else {"recall": which})
    assert found["pairs"]["count"] == len(promoted) * summary["pairs"]["count"]
    assert ablations.kept([]) is None


def test_seeds_that_failed_are_not_counted(summary: seeds.Summary) -> None:
    found: ablations.Found = {name: {3: summary, 4: None} for name in (*ablations.ABLATIONS, "chain")}
    lines = printed(ablations.table(found)).splitlines()
    assert all(line.split()[1] == "1" for line in lines[1:])


def test_a_summary_of_an_earlier_run_is_not_taken_for_this_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "summary.json").write_text('{"aligned": {}}')
    monkeypatch.setattr(worlds.sys, "executable", "false")
    worlds.run([], tmp_path)
    assert worlds.summary(tmp_path) is None


def test_a_run_that_ends_otherwise_ends_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "interrupted"
    program.write_text("#!/bin/sh\nexit 130\n")
    program.chmod(0o755)
    monkeypatch.setattr(worlds.sys, "executable", str(program))
    with pytest.raises(RuntimeError, match="ended with 130"):
        worlds.run([], tmp_path)
