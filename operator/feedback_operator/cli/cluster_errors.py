"""What goes wrong between a command and the cluster, in sentences that say what to do."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from feedback_operator.api.schema import NAME as CRD_NAME
from feedback_operator.api.schema import PLURAL


class ClusterError(Exception):
    """What went wrong on the way to the cluster or there, in one sentence with a remedy."""


class ClusterUnavailable(ClusterError):
    """The API server cannot be reached, or cannot answer, now."""


class Owned(ClusterError):
    """Fields that a manifest wants to change belong to others, whose names as field managers are `owners`."""

    def __init__(self, message: str, owners: frozenset[str]) -> None:
        super().__init__(message)
        self.owners = owners


class ManifestRejected(ClusterError):
    """The API server finds a manifest wrong; the text names each field in a line of its own."""


class NotFound(ClusterError):
    """There is no object of this name."""


class Forbidden(ClusterError):
    """The user may not, or admission refuses what they send; `said` are the API server's own words."""

    def __init__(self, message: str, said: str) -> None:
        super().__init__(message)
        self.said = said


@dataclass(frozen=True)
class ClusterRequest:
    """What was asked of the API server, as a person would say it."""

    verb: str
    resource: str
    namespace: str
    name: str
    context: str


def explain(status: int, body: bytes, asked: ClusterRequest) -> ClusterError:
    """The error for an answer with this HTTP status and body, which is a metav1.Status or a page of some proxy."""
    answer = _status(body)
    message = str(answer.get("message", "")).strip() or "without a reason"
    if status == 404:
        return _not_found(answer, asked)
    if status == 409:
        return Owned(
            f"{asked.name} was not changed: {message}; change the field where its owner takes it from, or take it over "
            "with kubectl apply --server-side --force-conflicts",
            frozenset(re.findall(r'conflict with "([^"]+)"', " ".join(_causes(answer, message)))),
        )
    if status in (400, 422):
        return ManifestRejected("\n".join(f"{asked.name}: {line}" for line in _causes(answer, message)))
    if status == 401:
        return ClusterError(
            f"the cluster does not accept the credentials of context {asked.context}; log in to it again"
        )
    if status == 403:
        return Forbidden(
            f"you may not {asked.verb} {asked.resource} in namespace {asked.namespace}; ask for the role edit there, "
            "or name another namespace with -n",
            message,
        )
    return ClusterUnavailable(f"the API server answered {status}: {message}; try again")


def _not_found(answer: Mapping[str, Any], asked: ClusterRequest) -> ClusterError:
    if asked.resource == PLURAL and not answer.get("details", {}).get("name"):
        return ClusterError(
            f"the cluster of context {asked.context} does not know {CRD_NAME}; install the operator there, or name "
            "another context with --context"
        )
    what = "iteration" if asked.resource == PLURAL else asked.resource
    return NotFound(f"there is no {what} {asked.name} in namespace {asked.namespace}")


def _causes(answer: Mapping[str, Any], message: str) -> list[str]:
    causes = answer.get("details", {}).get("causes") or [{"message": message}]
    return [f"{cause['field']}: {cause['message']}" if cause.get("field") else cause["message"] for cause in causes]


def with_near_names(error: NotFound, name: str, names: Sequence[str]) -> NotFound:
    """The error, with the names that were perhaps meant."""
    near = get_close_matches(name, names, n=3)
    if near:
        return NotFound(f"{error}; did you mean {' or '.join(near)}?")
    return NotFound(f"{error}; {'feedback list shows what there is' if names else 'there are none at all'}")


def root_cause(error: BaseException) -> str:
    """What is under the wrappings of an HTTP library: `[Errno 111] Connection refused`."""
    inner = getattr(error, "reason", None) or error.__cause__
    return root_cause(inner) if isinstance(inner, BaseException) else first_line(error)


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _status(body: bytes) -> Mapping[str, Any]:
    try:
        parsed = json.loads(body)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
