"""`feedback submit`: iterations to a cluster, and their progress until nothing more happens by itself."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from rich.console import Console

from feedback_operator.api import FeedbackIteration
from feedback_operator.cli.cluster_errors import ClusterError, ClusterUnavailable
from feedback_operator.cli.describe import advice, outcome, settled
from feedback_operator.cli.display import display
from feedback_operator.cli.remote import Remote

LOOK_SECONDS: Final = 1.0
PATIENCE_SECONDS: Final = 600.0
"""An API server that cannot be reached for so long ends the waiting."""


def submit(remote: Remote, iterations: Sequence[FeedbackIteration], console: Console, *, given: str | None) -> None:
    """Apply all iterations, and say of each what became of it. `given` is the namespace that the person named."""
    for iteration in iterations:
        change = home(remote, iteration, given).apply(iteration)
        console.print(f"{iteration.metadata.name} {change}", markup=False, highlight=False)


def home(remote: Remote, iteration: FeedbackIteration, given: str | None) -> Remote:
    """The namespace that an iteration belongs to. Raises ClusterError where manifest and command name two."""
    meta = iteration.metadata
    if "namespace" not in meta.model_fields_set or meta.namespace == remote.namespace:
        return remote
    if given is not None:
        raise ClusterError(
            f"{meta.name} says namespace {meta.namespace}, the command says {given}; take one of the two away"
        )
    return remote.within(meta.namespace)


def wait(
    remote: Remote, iterations: Sequence[FeedbackIteration], console: Console, *, given: str | None
) -> list[FeedbackIteration]:
    """Show progress until nothing more happens by itself; the iterations as they are then."""
    with display(console) as shown:
        reached = time.monotonic()
        while True:
            try:
                current = [home(remote, one, given).iteration(one.metadata.name) for one in iterations]
                reached = time.monotonic()
                shown.update(current)
                if all(map(settled, current)):
                    return current
            except ClusterUnavailable:
                if time.monotonic() - reached > PATIENCE_SECONDS:
                    raise
            time.sleep(LOOK_SECONDS)


def conclude(iterations: Sequence[FeedbackIteration], console: Console, flags: str) -> None:
    """Say of each iteration how it ended, and what there is to do."""
    for iteration in iterations:
        for text in filter(None, [*outcome(iteration), advice(iteration, flags)]):
            console.print(f"{iteration.metadata.name}: {text}", soft_wrap=True, markup=False, highlight=False)
