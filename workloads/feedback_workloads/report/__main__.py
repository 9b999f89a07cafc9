"""`python -m feedback_workloads.report`: the figures and the page of a finished iteration, or of a run of several."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from feedback_workloads.contract import BadInput, ExitCode
from feedback_workloads.report.evidence import gather
from feedback_workloads.report.iteration import Iteration
from feedback_workloads.report.page import render
from feedback_workloads.report.run import read
from feedback_workloads.report.run_page import render_run
from feedback_workloads.report.run_summary import run_text, summarise_run
from feedback_workloads.report.summary import on_baseline, served, summarise, table
from feedback_workloads.storage.artifacts import ArtifactStore


def main(arguments: Sequence[str] | None = None) -> int:
    """Write both files into the folder; what is missing is named in them and on the terminal."""
    parser = argparse.ArgumentParser(prog="python -m feedback_workloads.report", description=__doc__)
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--iteration", type=Path, help="the iteration with its status, JSON")
    given.add_argument(
        "--iterations",
        type=Path,
        nargs="+",
        metavar="DIR",
        help="folders of the iterations of a run, each with its iteration.json and summary.json",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for summary.json, or run.json, and report.html")
    options = parser.parse_args(arguments)
    if options.iterations:
        return _of_run(options.iterations, options.out)
    try:
        iteration = Iteration.read(options.iteration)
    except BadInput as error:
        sys.stderr.write(f"report: {error}\n")
        return ExitCode.BAD_INPUT
    return _of_iteration(iteration, options.out)


def _of_iteration(iteration: Iteration, out: Path) -> int:
    evidence = gather(iteration, ArtifactStore.from_environment())
    _write(out, "summary.json", summarise(evidence), render(evidence))
    if evidence.alone:
        others = [f"{name}\n{table(other)}" for name, other in evidence.alone["others"].items()]
        sys.stdout.writelines(f"{one}\n" for one in (table(evidence.alone), *others))
    if evidence.scores:
        others = [f"{name}\n{table(other)}" for name, other in evidence.scores["others"].items()]
        said = [table(evidence.scores), *others, on_baseline(evidence.scores), served(evidence.scores)]
        sys.stdout.writelines(f"{one}\n" for one in said if one)
    return _name_missing(evidence.missing)


def _of_run(folders: Sequence[Path], out: Path) -> int:
    members = read(folders)
    _write(out, "run.json", summarise_run(members, out), render_run(members, out))
    sys.stdout.write(f"{run_text(members)}\n")
    return _name_missing(sentence for member in members for sentence in member.missing)


def _write(out: Path, name: str, figures: Mapping[str, Any], page: str) -> None:
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(figures, indent=1, ensure_ascii=False, allow_nan=False)
    (out / name).write_text(f"{text}\n", encoding="utf-8")
    (out / "report.html").write_text(page, encoding="utf-8")


def _name_missing(missing: Iterable[str]) -> int:
    for sentence in missing:
        sys.stderr.write(f"report: {sentence}\n")
    return ExitCode.DONE


if __name__ == "__main__":
    raise SystemExit(main())
