"""`feedback run` of a folder: one chain to its end, with stages that only hand in what real ones would."""

from __future__ import annotations

import json
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


def test_a_chain_ends_where_a_gate_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[tuple[str, ...]] = []

    def report(*arguments: str, **_: Any) -> int:
        reports.append(arguments)
        return 0

    monkeypatch.setattr(local_cluster, "StageProcess", Stage)
    monkeypatch.setattr(run_module, "_report", report)
    monkeypatch.setattr(run_module, "TICK_SECONDS", 0.01)
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
    assert reports[-1] == ("--iterations", *folders, "--out", str(out))
    told = json.loads((out / "it-1/iteration.json").read_text())
    assert set(told["held"]) == set(STAGES)
    assert set(told["held"]["training"]) == {"cpuSeconds", "gpuSeconds"}
    assert json.loads((out / "it-4/iteration.json").read_text())["held"] == {}
