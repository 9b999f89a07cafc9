"""`python -m feedback_workloads.benchmarks`: judge answers, or a model's, as a public benchmark's authors do."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, get_args

from feedback_workloads.benchmarks import OfficialName, official
from feedback_workloads.benchmarks.comparing import METRICS, SHARES, to_json
from feedback_workloads.benchmarks.judging import API, API_VARIABLE, JUDGED, Judge, address
from feedback_workloads.benchmarks.official import Judged, Official, Scores, chosen, shown
from feedback_workloads.contract import APIModel, BadInput, Model
from feedback_workloads.process.commands import ended, pairs, run

PACKAGES: Final = ("nltk", "openpyxl", "punkt", "textblob")
"""What the extra `benchmarks` brings, which stages do without."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the official result file, metrics.json and shares.json into a folder, and print the numbers."""
    parser = argparse.ArgumentParser(prog="python -m feedback_workloads.benchmarks", description=__doc__)
    parser.add_argument("--benchmark", required=True, choices=get_args(OfficialName))
    given_answers = parser.add_mutually_exclusive_group(required=True)
    given_answers.add_argument("--answers", type=Path, help="file of answers in the official form")
    given_answers.add_argument("--model", help="model that is asked: s3://, hf://, a folder, or its name at --api")
    parser.add_argument("--api", metavar="URL", help="OpenAI-compatible API, behind which --model is")
    parser.add_argument("--revision", help="revision of an hf:// model")
    parser.add_argument("--questions", type=Path, help="the benchmark's file of questions, for --model")
    parser.add_argument("--pictures", type=Path, help="folder of the benchmark's pictures, for --model")
    parser.add_argument("--max-new-tokens", type=int, default=512, help="longest answer of --model in tokens")
    parser.add_argument("--truth", type=Path, help="file or folder that the answers are judged by")
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="a choice of the benchmark")
    parser.add_argument("--judge", metavar="MODEL", help="model that judges answers, by its name at --judge-api")
    parser.add_argument("--judge-api", metavar="URL", help=f"OpenAI-compatible API; ${API_VARIABLE}, else {API}")
    parser.add_argument("--judge-prompts", type=Path, help="the authors' scripts, in which stands what a judge is told")
    parser.add_argument("--out", required=True, type=Path, help="folder for the result file and metrics.json")
    given = parser.parse_args(arguments)
    return ended("evaluate", partial(_evaluate, given), extra="benchmarks", packages=PACKAGES)


def _evaluate(given: argparse.Namespace) -> None:
    name, truth, out = given.benchmark, given.truth, given.out
    benchmark = official(name)
    options = chosen(benchmark.options, pairs(given.option))
    if truth is None or not truth.exists():
        missing = "" if truth is None else f" ({truth} is not there)"
        raise BadInput(f"the benchmark {name} needs --truth: {benchmark.truth}{missing}")
    judge = _judge(given, benchmark)
    if given.api is not None and (given.model is None or given.revision is not None):
        raise BadInput(f"--api {given.api} is where --model is asked by its name; leave out --api, or --revision")
    answers = given.answers or _asked(given, benchmark, out)
    judged = _judged(judge, answers, truth, options, out) if judge else answers
    scores = benchmark.score(judged, truth, options)
    out.mkdir(parents=True, exist_ok=True)
    _write(out / scores.file, scores.result)
    _write(out / SHARES, to_json(scores.shares))
    _write(
        out / METRICS,
        {
            "benchmark": name,
            "options": options,
            "answers": {**_identity(answers), "number": scores.answers},
            "truth": _identity(truth, benchmark.truth_files),
            **({"judge": judge.identity()} if judge else {}),
            "metrics": scores.metrics,
        },
    )
    sys.stdout.write(table(scores))
    sys.stderr.writelines(f"evaluate: {note}\n" for note in scores.notes)


@dataclass(frozen=True)
class Judging:
    """Who judges the answers of a benchmark, and where stands what that model is told."""

    benchmark: Judged
    judge: Judge
    prompts: Path

    def identity(self) -> dict[str, Any]:
        """What numbers depend on beside the answers."""
        return {"model": self.judge.model, "said_to_be": self.judge.models(), "prompts": _identity(self.prompts)}


def _judge(given: argparse.Namespace, benchmark: Official) -> Judging | None:
    """Who is to judge; None where nobody was named, so that what a judge said has to stand in the answers."""
    if given.judge is None:
        return None
    if not isinstance(benchmark, Judged):
        raise BadInput(f"no model judges the benchmark {given.benchmark}; leave --judge out")
    prompts = given.judge_prompts
    if prompts is None or not prompts.exists():
        missing = "" if prompts is None else f" ({prompts} is not there)"
        raise BadInput(f"the judge of {given.benchmark} needs --judge-prompts: {benchmark.prompts}{missing}")
    return Judging(benchmark, Judge.named(given.judge, given.judge_api, given.out), prompts)


def _judged(judging: Judging, answers: Path, truth: Path, options: Mapping[str, str], out: Path) -> Path:
    """The file of answers with what the judge says about each."""
    rows = judging.benchmark.judged(answers, truth, options, judging.prompts, judging.judge)
    _write(out / JUDGED, rows)
    return out / JUDGED


def _asked(given: argparse.Namespace, benchmark: Official, out: Path) -> Path:
    """The file of what the model said."""
    from feedback_workloads.benchmarks.asking import Asked, ask
    from feedback_workloads.storage.artifacts import ArtifactStore

    model: Model | APIModel
    if given.api is None:
        model = Model(uri=given.model.rstrip("/"), revision=given.revision)
    else:
        model = APIModel(url=address("--api", given.api), model=given.model)
    asked = Asked(model, given.questions, given.pictures, given.max_new_tokens)
    return ask(asked, benchmark, out, ArtifactStore.from_environment())


def table(scores: Scores) -> str:
    """The numbers as lines of a name and a value; rates are fractions."""
    width = max(map(len, scores.metrics), default=0)
    return "".join(f"{name:<{width}}  {shown(value)}\n" for name, value in scores.metrics.items())


def _identity(path: Path, patterns: Sequence[str] = ("*.py",)) -> dict[str, Any]:
    """What was read: the name, and the digest of a file, or of each file of a folder whose name is like a pattern."""
    if path.is_dir():
        read = {file for pattern in patterns for file in path.glob(pattern)}
        return {"name": path.name, "files": {file.name: _digest(file) for file in sorted(read)}}
    return {"name": path.name, "sha256": _digest(path)}


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write(file: Path, content: object) -> None:
    """Write JSON, or a text as it stands."""
    text = content if isinstance(content, str) else f"{json.dumps(content, indent=2)}\n"
    file.write_text(text, encoding="utf-8", newline="")


if __name__ == "__main__":
    run(main)
