"""`python -m feedback_workloads.report`: summary.json and report.html of a finished iteration, and its table."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from feedback_workloads.contract import BadInput, ExitCode
from feedback_workloads.report.evidence import gather
from feedback_workloads.report.iteration import Iteration
from feedback_workloads.report.page import render
from feedback_workloads.report.summary import on_baseline, served, summarise, table
from feedback_workloads.storage.artifacts import ArtifactStore


def main(arguments: Sequence[str] | None = None) -> int:
    """Write both files into the folder; what is missing is named in them and on the terminal."""
    parser = argparse.ArgumentParser(prog="python -m feedback_workloads.report", description=__doc__)
    parser.add_argument("--iteration", type=Path, required=True, help="the iteration with its status, JSON")
    parser.add_argument("--out", type=Path, required=True, help="folder for summary.json and report.html")
    options = parser.parse_args(arguments)
    try:
        iteration = Iteration.read(options.iteration)
    except BadInput as error:
        sys.stderr.write(f"report: {error}\n")
        return ExitCode.BAD_INPUT
    evidence = gather(iteration, ArtifactStore.from_environment())
    options.out.mkdir(parents=True, exist_ok=True)
    summary = json.dumps(summarise(evidence), indent=1, ensure_ascii=False, allow_nan=False)
    (options.out / "summary.json").write_text(summary + "\n", encoding="utf-8")
    (options.out / "report.html").write_text(render(evidence), encoding="utf-8")
    if evidence.scores:
        said = [table(evidence.scores), on_baseline(evidence.scores), served(evidence.scores)]
        sys.stdout.writelines(f"{one}\n" for one in said if one)
    for sentence in evidence.missing:
        sys.stderr.write(f"report: {sentence}\n")
    return ExitCode.DONE


if __name__ == "__main__":
    raise SystemExit(main())
