"""`feedback annotate`, `sheet` and `agreement`: what people say of claims and pairs; docs/people.md."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from feedback_operator.cli.finished import finished
from feedback_operator.cli.local import workload
from feedback_operator.cli.run import s3_environment

app = typer.Typer()

DEFAULT_STATE = Path(".feedback")
Folder = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="What `feedback annotate` made: DIR/annotations/claims.")
]


@app.command()
def annotate(
    result: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a finished run (feedback run --out DIR).")],
    *,
    what: Annotated[Literal["claims", "pairs"], typer.Option(help="What is judged.")] = "claims",
    number: Annotated[int, typer.Option(min=1, help="How many, drawn by the seed.")] = 200,
    seed: Annotated[int, typer.Option(help="Decides which are drawn, and their order.")] = 0,
    to: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="For tasks and answers; by default DIR/annotations/WHAT.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at; who reaches it can answer in any name.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at.")] = 8080,
    state: Annotated[
        Path, typer.Option(envvar="FEEDBACK_STATE", help="Folder of the embedded S3 server.")
    ] = DEFAULT_STATE,
) -> None:
    """Serve a page on which people judge claims or pairs of a run, blind; what is there already is gone on with.

    Exit codes: 2 the run has nothing to be judged, or the folder is of something else; 75 a server was out of reach.
    """
    places = [f"--to={to}"] if to else []
    arguments = [str(result), f"--what={what}", f"--number={number}", f"--seed={seed}", *places]
    with s3_environment(state, [finished(result).spec.artifacts.uri]) as environment:
        given = ["annotate", *arguments, f"--host={host}", f"--port={port}"]
        raise typer.Exit(workload("feedback_workloads.people", given, state, environment))


@app.command()
def sheet(
    folder: Folder,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write tasks and answers: .csv, .jsonl, .json (Label Studio).")
    ] = None,
    given: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="Take the answers of such a file.")
    ] = None,
) -> None:
    """Carry tasks to a spreadsheet or to Label Studio, and answers back.

    Exit codes: 0 done; 2 a file is wrong, and nothing of it was taken.
    """
    if (out is None) == (given is None):
        raise typer.BadParameter("give either --out or --from")
    option = f"--out={out}" if out else f"--from={given}"
    raise typer.Exit(workload("feedback_workloads.people", ["sheet", str(folder), option], DEFAULT_STATE, {}))


@app.command()
def agreement(
    given: Annotated[
        list[Path],
        typer.Argument(metavar="FOLDER", help="Of `feedback annotate`; or sheets of MHumanEval, one a person."),
    ],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="The same as JSON.")] = None,
) -> None:
    """How far people agree with each other and with the labeler: share, kappa, Krippendorff's alpha, with intervals.

    Exit codes: 0 measured; 2 nobody has said anything, or a file is damaged.
    """
    arguments = ["agreement", *map(str, given), *([f"--out={out}"] if out else [])]
    raise typer.Exit(workload("feedback_workloads.people", arguments, DEFAULT_STATE, {}))
