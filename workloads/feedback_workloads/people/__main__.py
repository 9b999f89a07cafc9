"""`python -m feedback_workloads.people`: `annotate` serves the page, `sheet` carries answers, `agreement` measures."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from feedback_workloads.contract import BadInput
from feedback_workloads.method.statistics import Rate
from feedback_workloads.people import sheets
from feedback_workloads.people.agreement import Agreement, Found, Said, agreement
from feedback_workloads.people.answers import Answers
from feedback_workloads.people.tasks import CHOICES, Tasks, Wanted, make
from feedback_workloads.process.commands import ended, run
from feedback_workloads.storage.artifacts import ArtifactStore


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is asked; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m feedback_workloads.people", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    page = commands.add_parser("annotate")
    page.add_argument("result", type=Path)
    page.add_argument("--what", choices=tuple(CHOICES), default="claims")
    page.add_argument("--number", type=int, default=200)
    page.add_argument("--seed", type=int, default=0)
    page.add_argument("--to", type=Path)
    page.add_argument("--host", default="127.0.0.1")
    page.add_argument("--port", type=int, default=8080)
    sheet = commands.add_parser("sheet")
    sheet.add_argument("folder", type=Path)
    either = sheet.add_mutually_exclusive_group(required=True)
    either.add_argument("--out", type=Path)
    either.add_argument("--from", type=Path, dest="given")
    measured = commands.add_parser("agreement")
    measured.add_argument("given", type=Path, nargs="+")
    measured.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    work = {"annotate": _annotate, "sheet": _sheet, "agreement": _agreement}[given.command]
    packages = ("krippendorff", "statsmodels", "fastapi", "uvicorn")
    return ended(given.command, partial(work, given), extra="people", packages=packages)


def _annotate(given: argparse.Namespace) -> None:
    import uvicorn

    from feedback_workloads.people.page import app

    folder = given.to or given.result / "annotations" / given.what
    tasks = make(given.result, Wanted(given.what, given.number, given.seed), folder, ArtifactStore.from_environment())
    sys.stdout.write(f"{len(tasks.tasks)} {tasks.kind} in {folder}: open http://{given.host}:{given.port}/\n")
    sys.stdout.flush()
    uvicorn.run(app(tasks), host=given.host, port=given.port, log_level="warning")


def _sheet(given: argparse.Namespace) -> None:
    tasks = Tasks.read(given.folder)
    if given.out:
        sheets.write(tasks, given.out)
        sys.stdout.write(f"{given.out}: {len(tasks.tasks)} {tasks.kind}\n")
    else:
        sys.stdout.write(f"{sheets.read(tasks, given.given)} answers of {given.given} were new\n")


def _agreement(given: argparse.Namespace) -> None:
    said, labeler, choices = _of_sheets(given.given) if given.given[0].is_file() else _of_folder(*given.given)
    found = agreement(said, labeler, choices)
    sys.stdout.write(shown(found, said))
    if given.out:
        given.out.write_text(json.dumps(asdict(found), indent=1) + "\n", encoding="utf-8")


def _of_folder(folder: Path, *others: Path) -> tuple[Said, Mapping[str, str], Sequence[str]]:
    """What people said about the tasks of a folder, what the labeler says, and what may be said."""
    if others:
        raise BadInput(f"{others[0]}: the tasks of one folder are measured at once; name {folder} alone")
    tasks = Tasks.read(folder)
    said = {
        name: {task: one.answer for task, one in answers.items() if one.answer}
        for name, answers in Answers(folder).all().items()
    }
    if not said:
        raise BadInput(f"{folder}: nobody has said anything yet; judge some with `feedback annotate`")
    return said, {task.id: task.labeler for task in tasks.tasks}, CHOICES[tasks.kind]


def _of_sheets(files: Sequence[Path]) -> tuple[Said, Mapping[str, str], Sequence[str]]:
    """Which answers people found to hallucinate, by their sheets of MHumanEval, each of which is named after one."""
    from feedback_workloads.benchmarks.mhumaneval import read_label
    from feedback_workloads.benchmarks.tables import read_table

    if len(files) < 2:
        raise BadInput(f"{files[0]}: one sheet agrees with itself; name those of two people or more")
    said = {
        file.stem: {str(row.values["row"]): "yes" if read_label(row).hallucinated else "no" for row in read_table(file)}
        for file in files
    }
    return said, {}, CHOICES["claims"]


def shown(found: Found, said: Said) -> str:
    """The figures as a table in Markdown, and what is not in it in sentences."""
    rows = [*found.two, *([found.together] if found.together else []), *found.with_labeler]
    lines = ["| who | tasks | same answer | kappa |", "| --- | --- | --- | --- |", *map(_row, rows)]
    sentences = [
        f"{name} answered {len(answers)}, {found.ties.get(name, 0)} of them a tie." for name, answers in said.items()
    ]
    if found.alpha.value is not None:
        sentences.append(f"Krippendorff's alpha of all people: {_rate(found.alpha, '.3f')}.")
    return "\n".join([*lines, "", *sentences, ""])


def _row(one: Agreement) -> str:
    return f"| {one.who} | {one.tasks} | {_rate(one.share, '.1%')} | {_rate(one.kappa, '.3f')} |"


def _rate(rate: Rate, form: str) -> str:
    if rate.value is None or rate.low is None or rate.high is None:
        return "–"
    return f"{rate.value:{form}} ({rate.low:{form}} to {rate.high:{form}})"


if __name__ == "__main__":
    run(main)
