"""`python -m feedback_workloads.data`: what `feedback data` and `feedback score` do."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from feedback_workloads.contract import BadInput
from feedback_workloads.process.commands import ended, pairs, run
from feedback_workloads.storage.artifacts import ArtifactStore

PACKAGES: Final = ("ijson", "imagehash")
"""What the extra `data` brings, which stages do without."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do one of the commands and print what came of it; the exit code."""
    given = _parser().parse_args(arguments)
    return ended(f"data {given.command}", partial(given.run, given), extra="data", packages=PACKAGES)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m feedback_workloads.data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    convert = commands.add_parser("convert", help="a public data set to rows of ours")
    convert.add_argument("source")
    convert.add_argument("--from", dest="given", action="append", required=True, metavar="URI")
    convert.add_argument("--to", required=True, metavar="URI")
    convert.add_argument("--name", help="what ids begin with")
    convert.add_argument("--option", action="append", default=[], metavar="KEY=VALUE")
    convert.set_defaults(run=_convert)
    mix = commands.add_parser("mix", help="a balanced sample of converted data sets for each iteration")
    mix.add_argument("--from", dest="given", action="append", required=True, metavar="URI")
    mix.add_argument("--to", required=True, metavar="URI")
    mix.add_argument("--rows", type=int, default=4000, help="rows an iteration")
    mix.add_argument("--iterations", type=int, default=4)
    mix.add_argument("--seed", type=int, default=0)
    mix.add_argument("--avoid", action="append", default=[], metavar="NAME=URI")
    mix.set_defaults(run=_mix)
    inspect = commands.add_parser("inspect", help="what is in a data set")
    inspect.add_argument("given", metavar="URI")
    inspect.add_argument("--out", metavar="URI", help="folder for a page with pictures")
    inspect.set_defaults(run=_inspect)
    export = commands.add_parser("export", help="our pairs in the format of another project")
    export.add_argument("--from", dest="given", required=True, metavar="URI")
    export.add_argument("--to", required=True, metavar="URI")
    export.add_argument("--format", required=True, metavar="NAME")
    export.set_defaults(run=_export)
    score = commands.add_parser("score", help="rewards of the answers in a table, asked of a server")
    score.add_argument("given", type=Path, metavar="FILE")
    score.add_argument("--out", type=Path, required=True, metavar="FILE")
    score.add_argument("--api", required=True, metavar="URL")
    score.add_argument("--model", required=True, metavar="NAME")
    score.add_argument("--concurrency", type=int, default=8, metavar="N")
    score.set_defaults(run=_score)
    return parser


def _score(given: argparse.Namespace) -> None:
    from feedback_workloads.data.score import score

    if given.concurrency < 1:
        raise BadInput(f"--concurrency is {given.concurrency}; give 1 or more")
    counts = score(given.given, given.out, api=given.api, model=given.model, concurrency=given.concurrency)
    sys.stdout.write(table(counts))


def _mix(given: argparse.Namespace) -> None:
    from feedback_workloads.data.mix import Wanted, mix

    for name in ("rows", "iterations"):
        if getattr(given, name) < 1:
            raise BadInput(f"--{name} is {getattr(given, name)}; give 1 or more")
    wanted = Wanted(given.rows, given.iterations, given.seed)
    avoid = pairs(given.avoid, "--avoid", "NAME=URI")
    counts = mix(ArtifactStore.from_environment(), given.given, given.to, wanted, avoid)
    sys.stdout.write(table(counts))


def _inspect(given: argparse.Namespace) -> None:
    from feedback_workloads.data.inspect import inspect

    sys.stdout.write(table(inspect(ArtifactStore.from_environment(), given.given, given.out)))


def _export(given: argparse.Namespace) -> None:
    from feedback_workloads.data.export import export

    exported = export(ArtifactStore.from_environment(), given.given, given.to, given.format)
    sys.stdout.write(table({"pairs": exported}))


def _convert(given: argparse.Namespace) -> None:
    from feedback_workloads.data.convert import convert

    store = ArtifactStore.from_environment()
    counts = convert(
        store, given.source, given=given.given, to=given.to, options=pairs(given.option), called=given.name
    )
    sys.stdout.write(table({"rows": counts.pop("rows"), **counts}))


def table(numbers: Mapping[str, object]) -> str:
    """Lines of a name and a value."""
    width = max(map(len, numbers))
    return "".join(f"{name:<{width}}  {value}\n" for name, value in numbers.items())


if __name__ == "__main__":
    run(main)
