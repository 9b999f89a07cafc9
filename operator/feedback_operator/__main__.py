"""`python -m feedback_operator`: the operator itself. Every option is an environment variable, too."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import uuid
from typing import Annotated, Final, get_args

import typer
from pydantic import ValidationError

from feedback_operator.api import Capability, PodOverrides
from feedback_operator.cluster.kubernetes.connection import own_namespace
from feedback_operator.cluster.kubernetes.election import Terms
from feedback_operator.plan.snapshot import Limits
from feedback_operator.resources.house_rules import HouseRules
from feedback_operator.service.logs import Format, log_to_stderr
from feedback_operator.service.serve import Options, serve
from feedback_operator.service.tracing import start_tracing

LEASE: Final = "feedback-operator"
SHORTEST_LEASE_SECONDS: Final = 2
YOUNG_OBJECTS: Final = 10_000
"""After so many new ones the garbage collector looks for the first time which of them are left."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(  # noqa: PLR0917 each is an option
    namespace: Annotated[
        list[str], typer.Option(envvar="FEEDBACK_NAMESPACES", help="Namespace to serve; may be given several times.")
    ] = [],  # noqa: B006 typer copies it
    all_namespaces: Annotated[
        bool, typer.Option("--all-namespaces", envvar="FEEDBACK_ALL_NAMESPACES", help="Serve the whole cluster.")
    ] = False,
    generate_image: Annotated[
        str, typer.Option(envvar="FEEDBACK_GENERATE_IMAGE", help="Image of stages that generate, and of endpoints.")
    ] = "feedback-operator/generate:latest",
    train_image: Annotated[
        str, typer.Option(envvar="FEEDBACK_TRAIN_IMAGE", help="Image of stages that train.")
    ] = "feedback-operator/train:latest",
    lease_namespace: Annotated[
        str,
        typer.Option(envvar="POD_NAMESPACE", help="Of the Lease. Default: this pod's, else the first served."),
    ] = "",
    lease_seconds: Annotated[
        int, typer.Option(envvar="FEEDBACK_LEASE_SECONDS", min=SHORTEST_LEASE_SECONDS, help="How long others wait.")
    ] = 15,
    identity: Annotated[
        str, typer.Option(envvar="FEEDBACK_IDENTITY", help="Name of this replica. Default: its host and a random part.")
    ] = "",
    workers: Annotated[
        int, typer.Option(envvar="FEEDBACK_WORKERS", min=1, max=256, help="Iterations looked at side by side.")
    ] = 16,
    stall_after_seconds: Annotated[
        float,
        typer.Option(
            envvar="FEEDBACK_STALL_AFTER_SECONDS", min=0, help="Pods that cannot start are waited for so long."
        ),
    ] = Limits.stall_after_seconds,
    retry_seconds: Annotated[
        float,
        typer.Option(envvar="FEEDBACK_RETRY_SECONDS", min=0, help="Wait before a stage that failed is tried again."),
    ] = Limits.retry_seconds,
    inherit_label: Annotated[
        list[str],
        typer.Option(
            envvar="FEEDBACK_INHERIT_LABELS", help="Label that children take over from their iteration; repeatable."
        ),
    ] = [],  # noqa: B006 typer copies it
    allow_capability: Annotated[
        list[str],
        typer.Option(envvar="FEEDBACK_ALLOW_CAPABILITIES", help="What spec.*.pod.capabilities may name; repeatable."),
    ] = [],  # noqa: B006 typer copies it
    platform_uid: Annotated[
        bool,
        typer.Option(
            "--platform-uid", envvar="FEEDBACK_PLATFORM_UID", help="Leave user and group of pods to the platform."
        ),
    ] = False,
    metrics_port: Annotated[
        int, typer.Option(envvar="FEEDBACK_METRICS_PORT", min=0, max=65535, help="Prometheus metrics; 0: none.")
    ] = 0,
    health_port: Annotated[
        int, typer.Option(envvar="FEEDBACK_HEALTH_PORT", min=0, max=65535, help="/healthz for probes; 0: none.")
    ] = 0,
    log_format: Annotated[str, typer.Option(envvar="FEEDBACK_LOG_FORMAT", help="json or text.")] = "json",
    log_level: Annotated[
        str, typer.Option(envvar="FEEDBACK_LOG_LEVEL", help="debug, info, warning or error.")
    ] = "info",
) -> None:
    """Reconcile FeedbackIterations until SIGTERM."""
    if bool(namespace) == all_namespaces:
        raise typer.BadParameter("give either --namespace NAME or --all-namespaces")
    if log_format not in get_args(Format):
        raise typer.BadParameter(f"--log-format {log_format} is neither json nor text")
    log_to_stderr("json" if log_format == "json" else "text", log_level)
    start_tracing()
    options = Options(
        namespaces=tuple(dict.fromkeys(name for words in namespace for name in words.split(","))),
        images={"generate": generate_image, "train": train_image},
        terms=terms(
            lease_namespace or own_namespace() or (namespace[0] if namespace else "default"),
            identity or f"{os.environ.get('POD_NAME') or socket.gethostname()}-{uuid.uuid4().hex[:8]}",
            lease_seconds,
        ),
        limits=Limits(stall_after_seconds, retry_seconds),
        house=HouseRules(
            inherited_labels=label_keys(inherit_label),
            capabilities=capabilities(allow_capability),
            platform_uid=platform_uid,
        ),
        workers=workers,
        metrics_port=metrics_port,
        health_port=health_port,
    )
    collect_seldom()
    asyncio.run(serve(options))


def label_keys(given: list[str]) -> tuple[str, ...]:
    """Keys of labels, each of which may be a list with commas. Raises BadParameter where one is none of the user's."""
    keys = tuple(dict.fromkeys(key for words in given for key in words.split(",") if key))
    for key in keys:
        try:
            PodOverrides(labels={key: ""})
        except ValidationError as error:
            raise typer.BadParameter(f"--inherit-label {key}: {error.errors()[0]['msg']}") from error
    return keys


def capabilities(given: list[str]) -> tuple[str, ...]:
    """Raises BadParameter where one cannot be allowed."""
    for name in given:
        if name not in get_args(Capability):
            raise typer.BadParameter(f"--allow-capability {name} is none of {', '.join(get_args(Capability))}")
    return tuple(given)


def collect_seldom() -> None:
    """Have the garbage collector look through all objects only once many more have become old.

    That stops all work, for 0.15 s at 1,000 iterations. What a watch brings lives for a second: by Python's defaults it
    is old by then, and all objects were looked through every four seconds.
    """
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)


def terms(namespace: str, identity: str, seconds: int) -> Terms:
    """A Lease of so many seconds, renewed often enough that two renewals may fail."""
    return Terms(
        namespace=namespace,
        name=LEASE,
        identity=identity,
        duration=seconds,
        renew_within=seconds * 2 / 3,
        renew_every=seconds / 5,
        look_every=min(1.0, seconds / 10),
    )


if __name__ == "__main__":
    app()
