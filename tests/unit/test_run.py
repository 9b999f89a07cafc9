"""`feedback run` of a folder: one chain to its end, with stages that only hand in what real ones would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from feedback_operator.api import FeedbackIteration
from feedback_operator.cli import run as run_module
from feedback_operator.cli.ending import ExitStatus
from feedback_operator.cluster.local import cluster as local_cluster
from feedback_operator.stages import STAGES
from tests.unit.worlds import manifest, result

AFTER = {"it-1": 0.3, "it-2": 0.22, "it-3": 0.21}
"""Hallucination of each aligned policy; that of the policy before is 0.4."""
GATE = [{"metric": "responseHallucination", "relativeTo": "Baseline", "max": "0.9"}]


class Stage:
    """A process of a stage that ends at once, and well."""

    @classmethod
    async def start(cls, command: list[str], environment: dict[str, str], log: Path, records: Path) -> Stage:
        job = log.stem
        stage = next(name for name in STAGES if f"-{name}-" in job)
        name = job.partition(f"-{stage}-")[0]
        before = {"it-1": 0.4, "it-2": AFTER["it-1"], "it-3": AFTER["it-2"]}[name]
        scores = {
            "selection.baseline.response_hallucination": before,
            "selection.aligned.response_hallucination": AFTER[name],
        }
        metrics = scores if stage == "evaluation" else {}
        Path(environment["FEEDBACK_TERMINATION_LOG"]).write_text(result(stage, metrics=metrics).model_dump_json())
        return cls()

    async def wait(self) -> int:
        return 0


def iterations() -> list[FeedbackIteration]:
    """A chain of four; local folders, so that no S3 server is started."""
    made = []
    for number in (1, 2, 3, 4):
        model = {"from": {"iteration": f"it-{number - 1}"}} if number > 1 else {"uri": "/policy"}
        evaluation = {**manifest()["spec"]["evaluation"], "gate": GATE}
        given = manifest(model=model, artifacts={"uri": "/artifacts"}, evaluation=evaluation)
        made.append(FeedbackIteration.model_validate({**given, "metadata": {"name": f"it-{number}"}}))
    return made


@dataclass
class Reports:
    """Stands in for the program that makes reports: of the iterations `broken` it makes none."""

    broken: tuple[str, ...] = ()
    made: list[list[str]] = field(default_factory=list)

    def __call__(self, command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        assert command[1:3] == ["-m", "feedback_workloads.report"]
        self.made.append(command[3:])
        folder = Path(command[-1])
        assert command[-2] == "--out"
        assert not [name for name in ("summary.json", "run.json", "report.html") if (folder / name).exists()]
        return subprocess.CompletedProcess(command, 1 if folder.name in self.broken else 0)


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> Reports:
    made = Reports()
    monkeypatch.setattr(local_cluster, "StageProcess", Stage)
    monkeypatch.setattr(subprocess, "run", made)
    monkeypatch.setattr(run_module, "TICK_SECONDS", 0.01)
    return made


def test_an_old_report_is_not_taken_for_one_that_could_not_be_made(tmp_path: Path, reports: Reports) -> None:
    reports.broken = ("it-2", "out")
    text, out = StringIO(), tmp_path / "out"
    for folder, name in ((out / "it-2", "summary.json"), (out / "it-2", "report.html"), (out, "run.json")):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("of an earlier run")
    run_module.run(iterations(), tmp_path / "state", out, Console(file=text, width=200))
    said = text.getvalue().splitlines()
    assert f"it-1: report in {out / 'it-1/report.html'}" in said
    assert "it-2: no report could be made (exit code 1)" in said
    assert "all 4 iterations: no report could be made (exit code 1)" in said
    assert {file.name for file in (out / "it-2").iterdir()} == {"iteration.json"}


@pytest.mark.parametrize(
    ("stages", "expect"),
    [
        pytest.param([("", "")], None, id="none began"),
        pytest.param([("10:00:00", "")], None, id="none has ended"),
        pytest.param([("10:00:00", "10:01:40"), ("10:05:00", "10:07:00"), ("", "")], 420.0, id="of its own stages"),
    ],
)
def test_wall_seconds(stages: list[tuple[str, str]], expect: float | None) -> None:
    def moment(text: str) -> str:
        return text and f"2026-11-24T{text}Z"

    made = [
        {"name": f"stage-{i}", "state": "Done", "startTime": moment(start), "completionTime": moment(end)}
        for i, (start, end) in enumerate(stages)
    ]
    assert (
        run_module.wall_seconds(FeedbackIteration.model_validate({**manifest(), "status": {"stages": made}})) == expect
    )


def test_a_chain_ends_where_a_gate_fails(tmp_path: Path, reports: Reports) -> None:
    text, out = StringIO(), tmp_path / "out"
    code = run_module.run(iterations(), tmp_path / "state", out, Console(file=text, width=200))
    said = [line for line in text.getvalue().splitlines() if line.startswith(("it-", "all"))]
    assert code == ExitStatus.PROMOTED
    meets = "promoted: the aligned policy meets every rule of spec.evaluation.gate on the selection split"
    above = "responseHallucination relative to the baseline is 0.9545 on the selection split, above 0.9"
    assert said == [
        f"it-1: {meets}",
        f"it-1: report in {out / 'it-1/report.html'}",
        f"it-2: {meets}",
        f"it-2: report in {out / 'it-2/report.html'}",
        f"it-3: gate failed: {above}; the run keeps it-2",
        f"it-3: report in {out / 'it-3/report.html'}",
        "it-4: not begun: its parent it-3 did not pass its gate",
        f"it-4: report in {out / 'it-4/report.html'}",
        f"all 4 iterations: report in {out / 'report.html'}",
    ]
    folders = [str(out / f"it-{number}") for number in (1, 2, 3, 4)]
    assert reports.made[-1] == ["--iterations", *folders, "--out", str(out)]
    told = json.loads((out / "it-1/iteration.json").read_text())
    assert set(told["held"]) == set(STAGES)
    assert set(told["held"]["training"]) == {"cpuSeconds", "gpuSeconds"}
    assert told["ending"]["how"] == "promoted"
    failed = json.loads((out / "it-3/iteration.json").read_text())
    assert [rule["broken"] for rule in failed["gate"]] == [above]
    assert {rule["broken"] for rule in told["gate"]} == {""}
    last = json.loads((out / "it-4/iteration.json").read_text())
    assert (last["held"], last.get("wallSeconds"), last.get("gate")) == ({}, None, None)
    assert last["ending"] == {"how": "not begun", "why": "its parent it-3 did not pass its gate", "kept": "it-2"}


def test_an_interrupted_chain_leaves_the_reports_of_what_had_ended(
    tmp_path: Path, reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second iteration is interrupted in its first stage."""
    start = Stage.start

    async def interrupted(command: list[str], environment: dict[str, str], log: Path, records: Path) -> Stage:
        if log.stem.startswith("it-2"):
            os.kill(os.getpid(), signal.SIGINT)
        return await start(command, environment, log, records)

    monkeypatch.setattr(Stage, "start", interrupted)
    text, out = StringIO(), tmp_path / "out"
    code = run_module.run(iterations(), tmp_path / "state", out, Console(file=text, width=200))
    assert code == ExitStatus.INTERRUPTED
    assert reports.made == [
        ["--iteration", str(out / "it-1/iteration.json"), "--out", str(out / "it-1")],
        ["--iterations", str(out / "it-1"), "--out", str(out)],
    ]
    assert text.getvalue().splitlines()[-2:] == [
        f"1 of 4 iterations: report in {out / 'report.html'}",
        "interrupted; what is complete is kept, run again to go on",
    ]
