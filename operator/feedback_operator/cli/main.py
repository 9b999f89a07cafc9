"""`feedback`: iterations on this machine and on a cluster, the shapes world, a server, benchmarks, data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from feedback_operator.api import FeedbackIteration, PromotedModel, ServingSpec
from feedback_operator.cli import data, manifests, on_cluster, people
from feedback_operator.cli.cluster_errors import ClusterError, ManifestRejected
from feedback_operator.cli.ending import ExitStatus
from feedback_operator.cli.finished import errors, finished
from feedback_operator.cli.local import shapes as build_shapes
from feedback_operator.cli.local import workload
from feedback_operator.cli.models import check_models
from feedback_operator.cli.run import run as run_iterations
from feedback_operator.cli.run import s3_environment
from feedback_operator.cluster.local.embedded_s3 import EmbeddedS3Error
from feedback_operator.cluster.local.process import AlreadyRunning
from feedback_operator.plan.conditions import scored_model
from feedback_operator.resources.deployment import model_arguments
from feedback_workloads.contract import ShapesConfig

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

Target = Annotated[Path, typer.Argument(metavar="FILE", help="A manifest, or a folder of manifests.")]
State = Annotated[
    Path, typer.Option(help="Folder for logs, caches and the embedded S3 server.", envvar="FEEDBACK_STATE")
]
DEFAULT_STATE = Path(".feedback")


@app.command()
def run(
    file: Target,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for summary.json and report.html; of several iterations, for run.json, too."),
    ] = None,
    state: State = DEFAULT_STATE,
) -> None:
    """Run iterations on this machine; what is already done is not done again.

    Iterations that follow each other (spec.model.from) are a chain, which ends where a gate fails.

    Exit codes: 0 every chain gained something: each iteration was promoted, or came after one that was when a gate
    failed, or was to be evaluated alone; 1 a stage failed; 2 a manifest is wrong; 3 the gate of a chain's first
    iteration failed; 130 interrupted.
    """
    iterations = _load(file)
    folder = out or state / "reports" / file.stem
    raise typer.Exit(run_iterations(iterations, state, folder, Console(highlight=False)))


@app.command("check", hidden=True)
@app.command()
def validate(
    file: Target,
    models: Annotated[
        bool, typer.Option("--models", help="Also look at the models, all but their weights, and the instructions.")
    ] = False,
    state: State = DEFAULT_STATE,
) -> None:
    """Check manifests, and name every error with its file, line and path.

    With --models, also that the policy can be trained on prompts like these, and that labeler and splitter can do their
    parts, as the first stage does before it samples. Exit codes: 0 all is well; 2 something is wrong; 75 a server was
    out of reach.
    """
    iterations = _load(file)
    typer.echo(f"{file}: {len(iterations)} valid FeedbackIteration{'s' * (len(iterations) > 1)}")
    if models:
        with s3_environment(state, [iteration.spec.artifacts.uri for iteration in iterations]) as environment:
            raise typer.Exit(check_models(iterations, state, environment))


@app.command()
def shapes(
    seed: Annotated[int, typer.Option(help="Seed of pictures and models.")] = 0,
    to: Annotated[str, typer.Option(help="Folder for the artifacts.")] = "s3://feedback/shapes",
    labelers: Annotated[bool, typer.Option("--labelers", help="Build the labelers of the ablations, too.")] = False,
    state: State = DEFAULT_STATE,
) -> None:
    """Build the synthetic world once: pictures with known truth, a policy that hallucinates, and a labeler."""
    config = ShapesConfig(output=to, seed=seed, labelers=labelers)
    with s3_environment(state, [to]) as environment:
        raise typer.Exit(build_shapes(config, state, environment, Console(highlight=False)))


def server_arguments(iteration: FeedbackIteration, model: PromotedModel) -> list[str]:
    """What a server of `model` on this machine is told; clients call it as they would on a cluster."""
    given = iteration.spec.serving or ServingSpec()
    name = given.endpoint or iteration.metadata.name
    return [*model_arguments(model, given, iteration.spec.sampling.max_model_len), f"--model-name={name}"]


def _help_server(asked: bool) -> None:
    if asked:
        raise typer.Exit(workload("feedback_workloads.serving", ["--help"], DEFAULT_STATE, {}))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def serve(
    context: typer.Context,
    result: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a finished run (feedback run --out DIR).")],
    state: State = DEFAULT_STATE,
    _help: Annotated[
        bool,
        typer.Option(
            "--help-server", help="Show the server's own options and exit.", is_eager=True, callback=_help_server
        ),
    ] = False,
) -> None:
    """Serve the aligned policy of a finished run with best-of-N, as an OpenAI-compatible endpoint.

    Options after DIR go to the server: --host, --port, --best-of and others (feedback serve --help-server).
    """
    iteration = finished(result)
    model = served_model(iteration)
    if model is None:
        errors.print(f"{result}: the run has no aligned policy to serve; run it to its end first")
        raise typer.Exit(ExitStatus.INVALID)
    arguments = server_arguments(iteration, model)
    with s3_environment(state, [model.uri, model.reference.uri]) as environment:
        raise typer.Exit(workload("feedback_workloads.serving", [*arguments, *context.args], state, environment))


@app.command()
def score(
    given: Annotated[
        Path, typer.Argument(metavar="FILE", help="Rows with image, question, answer: *.jsonl, *.parquet.")
    ],
    *,
    out: Annotated[Path, typer.Option(metavar="FILE", help="New file for the rows with their rewards.")],
    api: Annotated[str, typer.Option(metavar="URL", help="A best-of-N server, such as http://localhost:8000/v1.")],
    model: Annotated[str, typer.Option(metavar="NAME", help="What the server calls the policy.")],
    concurrency: Annotated[int, typer.Option(min=1, help="Requests under way at once.")] = 8,
) -> None:
    """Ask a server what the answers in a table are worth, whoever gave them; run it again where it was interrupted.

    Exit codes: 0 written, and rows without a reward say why; 2 a file or an option is wrong; 75 the server is away.
    """
    arguments = [
        "score",
        str(given),
        f"--out={out}",
        f"--api={api}",
        f"--model={model}",
        f"--concurrency={concurrency}",
    ]
    raise typer.Exit(workload("feedback_workloads.data", arguments, DEFAULT_STATE, {}))


@app.command()
def evaluate(
    *,
    benchmark: Annotated[str, typer.Option(metavar="NAME", help="One of those in docs/benchmarks.md, such as pope.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the official result file and metrics.json.")],
    answers: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Answers in the form that the benchmark's authors have.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="URI", help="Or the model to ask: s3://, hf://, a folder, or a name at --api.")
    ] = None,
    api: Annotated[
        str | None, typer.Option(metavar="URL", help="OpenAI-compatible API, behind which --model is.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Revision of an hf:// model.")] = None,
    questions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The benchmark's file of questions, for --model.")
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the benchmark's pictures, for --model.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer of --model in tokens.")] = 512,
    truth: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File or folder of the benchmark that answers are judged by.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="A choice of the benchmark, such as words=noun.")
    ] = None,
    judge: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Model that judges answers, by its name at --judge-api.")
    ] = None,
    judge_api: Annotated[
        str | None, typer.Option(metavar="URL", help="OpenAI-compatible API; $OPENAI_BASE_URL, else OpenAI's own.")
    ] = None,
    judge_prompts: Annotated[
        Path | None, typer.Option(metavar="PATH", help="The authors' scripts, in which stands what a judge is told.")
    ] = None,
    state: State = DEFAULT_STATE,
) -> None:
    """Judge a file of answers, or a model, as a public benchmark's authors do; see docs/benchmarks.md.

    Exit codes: 0 judged; 2 a file or an option is wrong; 75 a server was out of reach.
    """
    given = {
        "benchmark": benchmark,
        "out": out,
        "answers": answers,
        "model": model,
        "api": api,
        "revision": revision,
        "questions": questions,
        "pictures": pictures,
        "max-new-tokens": max_new_tokens,
        "truth": truth,
        "judge": judge,
        "judge-api": judge_api,
        "judge-prompts": judge_prompts,
    }
    arguments = [f"--{name}={value}" for name, value in given.items() if value is not None]
    arguments += [f"--option={pair}" for pair in option or ()]
    with s3_environment(state, [model or ""]) as environment:
        raise typer.Exit(workload("feedback_workloads.benchmarks", arguments, state, environment))


@app.command()
def compare(
    *,
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="DIR ...", help="Folders of `feedback evaluate --out`, the first to compare with."),
    ],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="The same as JSON.")] = None,
    state: State = DEFAULT_STATE,
) -> None:
    """Set several models on one benchmark side by side, with a paired test of each against the first.

    Exit codes: 0 compared; 2 a folder is not of `feedback evaluate`, or was made otherwise than the first.
    """
    arguments = [*map(str, folders), *([f"--out={out}"] if out else [])]
    raise typer.Exit(workload("feedback_workloads.benchmarks.comparing", arguments, state, {}))


@app.command()
def push(
    result: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a finished run (feedback run --out DIR).")],
    to: Annotated[str, typer.Option(metavar="PLACE", help="hf://owner/name, or a folder that is not there yet.")],
    public: Annotated[bool, typer.Option("--public", help="On the hub: for all to see.")] = False,
    state: State = DEFAULT_STATE,
) -> None:
    """Publish the aligned policy and its pairs, with cards and the report, on the hub or in a folder.

    The policy loads in transformers and vLLM, the pairs in datasets, each with one line. On the hub the pairs are
    owner/name-pairs, and HF_TOKEN has to be one that may write there. Exit codes: 0 published; 2 there is nothing to
    publish, or it is refused; 75 a server was out of reach.
    """
    iteration = finished(result)
    arguments = [f"--result={result}", f"--to={to}", *(["--public"] if public else [])]
    with s3_environment(state, [iteration.spec.artifacts.uri]) as environment:
        raise typer.Exit(workload("feedback_workloads.report.push", arguments, state, environment))


app.add_typer(on_cluster.app)
app.add_typer(data.app, name="data")
app.add_typer(people.app)


def main() -> None:
    """Entry point of the console scripts."""
    try:
        app()
    except (AlreadyRunning, ClusterError, EmbeddedS3Error) as error:
        errors.print(str(error))
        raise SystemExit(ExitStatus.INVALID if isinstance(error, ManifestRejected) else ExitStatus.FAILED) from error


def _load(target: Path) -> tuple[FeedbackIteration, ...]:
    loaded = manifests.load(target)
    for problem in loaded.problems:
        errors.print(str(problem))
    if loaded.problems:
        raise typer.Exit(ExitStatus.INVALID)
    return loaded.iterations


def served_model(iteration: FeedbackIteration) -> PromotedModel | None:
    """The aligned policy of a finished run as it was scored, whether or not it passed the gate; None without one."""
    reference = iteration.status.model
    scores = next((shard for stage in iteration.status.stages for shard in stage.shards if shard.aligned), None)
    return scored_model(iteration.spec, scores, reference) if scores and reference else None
