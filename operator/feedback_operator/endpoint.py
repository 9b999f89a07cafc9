"""Who holds an endpoint: promoted iterations take it over in turn, and a revision that does not start gives it back."""

from __future__ import annotations

from collections.abc import Iterable

from feedback_operator.api import FeedbackIteration
from feedback_operator.snapshot import Claimant


def claimants(iterations: Iterable[FeedbackIteration], endpoint: str) -> tuple[Claimant, ...]:
    """Those iterations of one namespace that have a promoted model for `endpoint`, the newest first.

    Whenever one of them changes or goes, the others need another look.
    """
    found = [claim for iteration in iterations if (claim := _claim(iteration, endpoint))]
    return tuple(sorted(found, key=lambda claim: (claim.created, claim.name), reverse=True))


def _claim(iteration: FeedbackIteration, endpoint: str) -> Claimant | None:
    meta, serving, status = iteration.metadata, iteration.spec.serving, iteration.status
    if serving is None or serving.endpoint != endpoint or status.promoted is None or meta.deletion_timestamp:
        return None
    rolled_back = status.serving is not None and status.serving.rolled_back_generation == meta.generation
    return Claimant(meta.name, meta.uid, meta.creation_timestamp, rolled_back)


def holder(claims: Iterable[Claimant]) -> Claimant | None:
    """The newest one whose pods were not taken back; None where there is none."""
    return next((claim for claim in claims if not claim.rolled_back), None)
