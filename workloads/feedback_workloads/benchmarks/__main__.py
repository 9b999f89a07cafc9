"""`python -m feedback_workloads.benchmarks`: judge answers, or a model's, as a public benchmark's authors do."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, get_args

from feedback_workloads.benchmarks import OfficialName, official
from feedback_workloads.benchmarks.official import Official, Scores, chosen
from feedback_workloads.contract import BadInput, Model
from feedback_workloads.process.commands import ended, pairs, run

PACKAGES: Final = ("nltk", "punkt", "textblob")
"""What the extra `benchmarks` brings, which stages do without."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the official result file and metrics.json into a folder, and print the numbers."""
    parser = argparse.ArgumentParser(prog="python -m feedback_workloads.benchmarks", description=__doc__)
    parser.add_argument("--benchmark", required=True, choices=get_args(OfficialName))
    given_answers = parser.add_mutually_exclusive_group(required=True)
    given_answers.add_argument("--answers", type=Path, help="file of answers in the official form")
    given_answers.add_argument("--model", help="model that is asked: s3://, hf:// or a folder")
    parser.add_argument("--revision", help="revision of an hf:// model")
    parser.add_argument("--questions", type=Path, help="the benchmark's file of questions, for --model")
    parser.add_argument("--pictures", type=Path, help="folder of the benchmark's pictures, for --model")
    parser.add_argument("--max-new-tokens", type=int, default=512, help="longest answer of --model in tokens")
    parser.add_argument("--truth", type=Path, help="file or folder that the answers are judged by")
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="a choice of the benchmark")
    parser.add_argument("--out", required=True, type=Path, help="folder for the result file and metrics.json")
    given = parser.parse_args(arguments)
    return ended("evaluate", partial(_evaluate, given), extra="benchmarks", packages=PACKAGES)


def _evaluate(given: argparse.Namespace) -> None:
    name, truth, out = given.benchmark, given.truth, given.out
    judge = official(name)
    chosen_options = chosen(judge.options, pairs(given.option))
    if truth is None or not truth.exists():
        missing = "" if truth is None else f" ({truth} is not there)"
        raise BadInput(f"the benchmark {name} needs --truth: {judge.truth}{missing}")
    answers = given.answers or _asked(given, judge, out)
    scores = judge.score(answers, truth, chosen_options)
    out.mkdir(parents=True, exist_ok=True)
    _write(out / scores.file, scores.result)
    _write(
        out / "metrics.json",
        {
            "benchmark": name,
            "options": chosen_options,
            "answers": {**_identity(answers), "number": scores.answers},
            "truth": _identity(truth),
            "metrics": scores.metrics,
        },
    )
    sys.stdout.write(table(scores))
    sys.stderr.writelines(f"evaluate: {note}\n" for note in scores.notes)


def _asked(given: argparse.Namespace, benchmark: Official, out: Path) -> Path:
    """The file of what the model said."""
    from feedback_workloads.benchmarks.asking import Asked, ask
    from feedback_workloads.storage.artifacts import ArtifactStore

    model = Model(uri=given.model.rstrip("/"), revision=given.revision)
    asked = Asked(model, given.questions, given.pictures, given.max_new_tokens)
    return ask(asked, benchmark, out, ArtifactStore.from_environment())


def table(scores: Scores) -> str:
    """The numbers as lines of a name and a value; rates are fractions."""
    width = max(map(len, scores.metrics))
    return "".join(f"{name:<{width}}  {_shown(value)}\n" for name, value in scores.metrics.items())


def _shown(value: float | None) -> str:
    match value:
        case None:
            return "0 of 0"
        case int():
            return str(value)
        case _:
            return f"{value:.4f}"


def _identity(path: Path) -> dict[str, str]:
    """What was read: the name, and the digest of a file."""
    if path.is_dir():
        return {"name": path.name}
    return {"name": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def _write(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(f"{json.dumps(content, indent=2)}\n", encoding="utf-8")


if __name__ == "__main__":
    run(main)
