"""`feedback data`: public data sets made ours, mixed, shown, and our pairs made others'; docs/data.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from feedback_operator.cli.local import workload
from feedback_operator.cli.run import s3_environment

app = typer.Typer(no_args_is_help=True, help="Public data sets: convert, mix, inspect, export (docs/data.md).")

DEFAULT_STATE = Path(".feedback")
From = Annotated[
    list[str], typer.Option("--from", metavar="URI", help="Folder, file or archive: a path, s3://… or hf://…@revision.")
]
To = Annotated[str, typer.Option("--to", metavar="URI", help="New folder for the result: a path or s3://…")]


@app.command()
def convert(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="coco, rlaif-v, table, …: see docs/data.md.")],
    given: From,
    to: To,
    name: Annotated[str | None, typer.Option(help="What ids begin with, by default SOURCE.")] = None,
    option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="A choice of the source, as question=COLUMN.")
    ] = None,
) -> None:
    """Make rows of ours of a public data set as it is published.

    Exit codes: 0 made, and rows that cannot be used counted by reason; 2 a file or an option is wrong.
    """
    arguments = [*_repeated("--from", given), "--to", to, *(["--name", name] if name else [])]
    _run(["convert", source, *arguments, *_repeated("--option", option or [])], [*given, to])


@app.command()
def mix(
    given: Annotated[list[str], typer.Option("--from", metavar="URI", help="A data set that convert made.")],
    to: To,
    *,
    rows: Annotated[int, typer.Option(min=1, help="Rows an iteration.")] = 4000,
    iterations: Annotated[int, typer.Option(min=1, help="How many iterations; no row comes in two.")] = 4,
    seed: Annotated[int, typer.Option(help="Decides which rows are drawn.")] = 0,
    avoid: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=URI", help="A benchmark whose pictures are left out, and where they are."),
    ] = None,
) -> None:
    """Draw a balanced sample of data sets for each iteration, without duplicates and benchmarks' pictures.

    Exit codes: 0 drawn; 2 a file or an option is wrong, or there are too few rows.
    """
    numbers = [f"--rows={rows}", f"--iterations={iterations}", f"--seed={seed}"]
    arguments = [*_repeated("--from", given), f"--to={to}", *numbers, *_repeated("--avoid", avoid or [])]
    _run(["mix", *arguments], [*given, to, *(one.partition("=")[2] for one in avoid or [])])


@app.command()
def inspect(
    given: Annotated[str, typer.Argument(metavar="URI", help="Instructions or pairs: a path, s3://… or hf://….")],
    out: Annotated[
        str | None, typer.Option(metavar="URI", help="Folder for data.html, a page with some of the rows.")
    ] = None,
) -> None:
    """Tell what is in a data set of instructions or of pairs.

    Exit codes: 0 told; 2 it cannot be read.
    """
    _run(["inspect", given, *([f"--out={out}"] if out else [])], [given, *([out] if out else [])])


@app.command()
def export(
    given: Annotated[
        str, typer.Option("--from", metavar="URI", help="Pairs: the output of pairing, or what convert made.")
    ],
    to: To,
    form: Annotated[str, typer.Option("--format", metavar="NAME", help="rlaif-v, trl or llama-factory.")],
) -> None:
    """Write pairs in the format of another project.

    Exit codes: 0 written; 2 there are no pairs, or no such format.
    """
    _run(["export", f"--from={given}", f"--to={to}", f"--format={form}"], [given, to])


def _repeated(option: str, values: Sequence[str]) -> list[str]:
    return [f"{option}={value}" for value in values]


def _run(arguments: Sequence[str], uris: Sequence[str]) -> None:
    with s3_environment(DEFAULT_STATE, uris) as environment:
        raise typer.Exit(workload("feedback_workloads.data", arguments, DEFAULT_STATE, environment))
