"""The commands that act on a cluster: each reads its arguments, asks the cluster, and prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from feedback_operator.api import FeedbackIteration
from feedback_operator.cli import manifests, stage_logs
from feedback_operator.cli.describe import description, listing, now
from feedback_operator.cli.ending import ExitStatus, endings, exit_status
from feedback_operator.cli.examining import POD_SECONDS, Form, Wish, as_json, as_text, examined
from feedback_operator.cli.remote import Remote
from feedback_operator.cli.run import RunFacts
from feedback_operator.cli.run import report as write_report
from feedback_operator.cli.submit import conclude, home, wait
from feedback_operator.cli.submit import submit as submit_all
from feedback_operator.stages import STAGES

app = typer.Typer()
output = Console(soft_wrap=True, markup=False, highlight=False)
errors = Console(stderr=True, soft_wrap=True, markup=False, highlight=False)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of an iteration.")]
Names = Annotated[list[str], typer.Argument(metavar="NAME...", help="Names of iterations.")]
Namespace = Annotated[
    str | None, typer.Option("-n", "--namespace", help="Namespace; the context's own if not given.", show_default=False)
]
Context = Annotated[
    str | None, typer.Option(help="Context of the kubeconfig; the current one if not given.", show_default=False)
]


@app.command()
def submit(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A manifest, or a folder of manifests.")],
    follow: Annotated[bool, typer.Option("--wait", help="Show progress until nothing more happens by itself.")] = False,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Check manifests as `feedback validate` does, and apply them to a cluster.

    Exit codes: 0 applied, with --wait: every chain gained something, as of `feedback run`; 1 a stage failed or the
    cluster cannot be used; 2 a manifest is wrong; 3 the gate of a chain's first iteration failed; 130 interrupted, the
    iterations go on.
    """
    loaded = manifests.load(file, elsewhere=True)
    for problem in loaded.problems:
        errors.print(str(problem))
    if loaded.problems:
        raise typer.Exit(ExitStatus.INVALID)
    remote = Remote.connect(context, namespace)
    submit_all(remote, loaded.iterations, output, given=namespace)
    if not follow:
        return
    try:
        ended = wait(remote, loaded.iterations, Console(highlight=False), given=namespace)
    except KeyboardInterrupt:
        output.print("no longer waiting; the iterations go on: feedback list")
        raise typer.Exit(ExitStatus.INTERRUPTED) from None
    conclude(ended, output, _flags(namespace, context))
    raise typer.Exit(exit_status(ended))


@app.command("list")
def list_(
    everywhere: Annotated[bool, typer.Option("-A", "--all-namespaces", help="Iterations of all namespaces.")] = False,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Iterations: where each is, whether it helped, whether it is serving."""
    remote = Remote.connect(context, namespace)
    found = remote.iterations(everywhere=everywhere)
    if found:
        output.print(listing(found, now(), everywhere=everywhere))
    else:
        errors.print("no iterations" + ("" if everywhere else f" in namespace {remote.namespace}"))


@app.command()
def status(name: Name, namespace: Namespace = None, context: Context = None) -> None:
    """One iteration: its stages, progress, conditions, why it does not go on, and what to type."""
    iteration = Remote.connect(context, namespace).iteration(name)
    output.print(description(iteration, now(), _flags(namespace, context)))


@app.command()
def logs(
    stage: Annotated[str, typer.Argument(metavar="STAGE", help=", ".join(STAGES))],
    iteration: Annotated[str, typer.Option("-i", "--iteration", metavar="NAME", help="Name of an iteration.")],
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the stage ends.")] = False,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """What the pods of a stage write, all shards, each line with its shard before it."""
    read = stage_logs.follow if follow else stage_logs.read
    try:
        for line in read(Remote.connect(context, namespace), iteration, stage):
            typer.echo(line)
    except KeyboardInterrupt:
        raise typer.Exit(ExitStatus.INTERRUPTED) from None


@app.command()
def suspend(names: Names, namespace: Namespace = None, context: Context = None) -> None:
    """Stop the Jobs of iterations; what is complete is kept."""
    remote = Remote.connect(context, namespace)
    for name in names:
        remote.suspend(name, suspended=True)
        output.print(f"{name} is to stop; to go on: feedback resume {name}{_flags(namespace, context)}")


@app.command()
def resume(names: Names, namespace: Namespace = None, context: Context = None) -> None:
    """Let suspended iterations go on, and failed stages try again."""
    remote = Remote.connect(context, namespace)
    for name in names:
        remote.suspend(name, suspended=False)
        output.print(f"{name} goes on")


@app.command()
def report(
    name: Name,
    out: Annotated[
        Path | None, typer.Option(help="Folder for summary.json and report.html; NAME if not given.")
    ] = None,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Make the report of an iteration from its artifacts, read with your own credentials (AWS_* or ~/.aws)."""
    iteration = Remote.connect(context, namespace).iteration(name)
    folder = out or Path(name)
    [ending] = endings([iteration])
    code = write_report(iteration, folder, {}, RunFacts.of(iteration, ending))
    if code:
        raise typer.Exit(code)
    output.print(f"{name}: report in {folder / 'report.html'}")


@app.command()
def delete(names: Names, namespace: Namespace = None, context: Context = None) -> None:
    """Delete iterations with their Jobs and pods; artifacts stay, so the same spec finds its results again."""
    remote = Remote.connect(context, namespace)
    for name in names:
        remote.delete(name)
        output.print(f"{name} deleted; its artifacts stay")


@app.command()
def doctor(  # noqa: PLR0917 each is an option
    file: Annotated[
        Path | None,
        typer.Option("-f", "--file", metavar="FILE", help="A manifest, or a folder of them, whose needs to look at."),
    ] = None,
    pods: Annotated[
        bool, typer.Option("--pods/--no-pods", help="Start pods that try S3, the hub and images as the stages would.")
    ] = True,
    timeout: Annotated[int, typer.Option(min=1, help="Seconds that these pods are waited for.")] = POD_SECONDS,
    form: Annotated[Form, typer.Option("-o", "--output", help="text, or json.")] = Form.TEXT,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Check a cluster for what iterations need, and say what to do: one line a check.

    Nothing is changed; pods that try things out are taken away again. What you may not look at is told as such.

    Exit codes: 0 nothing failed; 1 something did, or the cluster cannot be used; 2 a manifest is wrong; 130
    interrupted, and the pods are taken away.
    """
    iterations: tuple[FeedbackIteration | None, ...] = (None,)
    if file is not None:
        loaded = manifests.load(file, elsewhere=True)
        for problem in loaded.problems:
            errors.print(str(problem))
        if loaded.problems:
            raise typer.Exit(ExitStatus.INVALID)
        iterations = loaded.iterations
    remote = Remote.connect(context, namespace)
    wish = Wish(pods, timeout, errors.print)
    try:
        found = {
            one.metadata.name if one else "": examined(home(remote, one, namespace) if one else remote, one, wish)
            for one in iterations
        }
    except KeyboardInterrupt:
        raise typer.Exit(ExitStatus.INTERRUPTED) from None
    if form is Form.JSON:
        typer.echo(as_json(found))
    else:
        output.print(as_text(found))
    if any(finding.outcome == "failed" for findings in found.values() for finding in findings):
        raise typer.Exit(ExitStatus.FAILED)


def _flags(namespace: str | None, context: str | None) -> str:
    """The options that a command to be typed next needs, too."""
    return (f" -n {namespace}" if namespace else "") + (f" --context {context}" if context else "")
