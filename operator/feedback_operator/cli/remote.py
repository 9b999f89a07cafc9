"""The cluster that the kubeconfig's context names, as the commands see it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import urlencode

from pydantic import ValidationError

from feedback_operator.api import API_VERSION, KIND, FeedbackIteration
from feedback_operator.api.schema import PLURAL
from feedback_operator.cli.cluster_errors import (
    ClusterError,
    ClusterRequest,
    ClusterUnavailable,
    NotFound,
    Owned,
    explain,
    first_line,
    root_cause,
    with_near_names,
)

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

FIELD_MANAGER: Final = "feedback-cli"
JSON: Final = "application/json"
APPLY: Final = "application/apply-patch+yaml"
MERGE: Final = "application/merge-patch+json"
JOB_LABEL: Final = "batch.kubernetes.io/job-name"
STAGE_CONTAINER: Final = "stage"
"""Others may stand beside it, put there by a webhook."""

INDEX_LABEL: Final = "batch.kubernetes.io/job-completion-index"
CONNECT_SECONDS: Final = 10
READ_SECONDS: Final = 60
Change = Literal["created", "configured", "unchanged"]


@dataclass(frozen=True)
class StagePod:
    """The pod of one shard of a stage. Before it has begun there is no log to read, and `waits_for` says why."""

    name: str
    shard: int
    created: str
    begun: bool
    waits_for: str


@dataclass(frozen=True)
class Call:
    """One request. `read_seconds` None waits for ever, as following a log does."""

    method: str
    path: str
    asked: ClusterRequest
    body: Any = None
    content: str = JSON
    query: Mapping[str, str] = field(default_factory=dict)
    read_seconds: float | None = READ_SECONDS


class Remote:
    """One namespace of one cluster. All methods raise ClusterError."""

    def __init__(self, client: ApiClient, context: str, namespace: str) -> None:
        self._client = client
        self._context = context
        self.namespace = namespace

    @classmethod
    def connect(cls, context: str | None, namespace: str | None) -> Remote:
        """The cluster of this context, or of the current one; its namespace unless another is given."""
        from kubernetes import config
        from kubernetes.client import ApiClient, Configuration

        configuration = Configuration()
        try:
            config.load_kube_config(context=context, client_configuration=configuration)  # type: ignore[no-untyped-call]
            contexts, active = config.list_kube_config_contexts()  # type: ignore[no-untyped-call]
        except config.ConfigException as error:
            raise ClusterError(f"{first_line(error)}; set KUBECONFIG, or name a context with --context") from error
        configuration.retries = False
        chosen = next((one for one in contexts if one["name"] == context), active)
        space = namespace or chosen["context"].get("namespace") or "default"
        return cls(ApiClient(configuration), chosen["name"], space)

    def within(self, namespace: str) -> Remote:
        """Another namespace of the same cluster."""
        return Remote(self._client, self._context, namespace)

    # ── iterations ──────────────────────────────────────────────────────────────────────────────────────────────────

    def iterations(self, *, everywhere: bool = False) -> list[FeedbackIteration]:
        """All iterations of the namespace, or of all namespaces, by name."""
        path = f"/apis/{API_VERSION}/{PLURAL}" if everywhere else self._path()
        items = self._send(Call("GET", path, self._asked("list")))["items"]
        return sorted(map(_read, items), key=lambda one: (one.metadata.namespace, one.metadata.name))

    def iteration(self, name: str) -> FeedbackIteration:
        """The iteration; of one that is not there, the error says which names are near."""
        try:
            return _read(self._send(Call("GET", self._path(name), self._asked("get", name))))
        except NotFound as error:
            raise with_near_names(error, name, [one.metadata.name for one in self.iterations()]) from error

    def apply(self, iteration: FeedbackIteration) -> Change:
        """Server-side apply of what the manifest says. Raises Rejected where the API server finds it wrong."""
        name = iteration.metadata.name
        before = self._version(name)
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
        call = Call("PATCH", self._path(name), self._asked("patch", name), _manifest(iteration), APPLY, query)
        try:
            after = self._send(call)
        except Owned as error:
            if error.owners != {FIELD_MANAGER}:  # what `feedback suspend` or `resume` wrote is the same person's
                raise
            after = self._send(replace(call, query={**query, "force": "true"}))
        if before is None:
            return "created"
        return "unchanged" if after["metadata"]["resourceVersion"] == before else "configured"

    def suspend(self, name: str, *, suspended: bool) -> None:
        """Set spec.suspend."""
        self.iteration(name)
        body = {"spec": {"suspend": suspended}}
        query = {"fieldManager": FIELD_MANAGER}
        self._send(Call("PATCH", self._path(name), self._asked("patch", name), body, MERGE, query))

    def delete(self, name: str) -> None:
        """Delete the iteration and, by way of the garbage collector, its children. Artifacts stay."""
        self.iteration(name)
        self._send(Call("DELETE", self._path(name), self._asked("delete", name)))

    def _version(self, name: str) -> str | None:
        try:
            found = self._send(Call("GET", self._path(name), self._asked("get", name)))
        except NotFound:
            return None
        return str(found["metadata"]["resourceVersion"])

    # ── pods ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def pods(self, job: str) -> list[StagePod]:
        """The youngest pod of each shard of a Job, by shard."""
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        query = {"labelSelector": f"{JOB_LABEL}={job}"}
        items = self._send(Call("GET", path, self._asked("list", resource="pods"), query=query))["items"]
        return youngest([stage_pod(item) for item in items])

    def log(self, pod: StagePod, *, follow: bool) -> Iterator[str]:
        """The lines of a pod's log, without line ends; with `follow` until the pod ends."""
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod.name}/log"
        asked = self._asked("get", pod.name, "pods/log")
        query = {"container": STAGE_CONTAINER, "follow": str(follow).lower()}
        response = self._open(Call("GET", path, asked, query=query, read_seconds=None))
        rest = b""
        for chunk in response.stream(4096):
            *lines, rest = (rest + chunk).split(b"\n")
            yield from (line.decode(errors="replace") for line in lines)
        if rest:
            yield rest.decode(errors="replace")

    # ── any object ──────────────────────────────────────────────────────────────────────────────────────────────────

    def version(self) -> tuple[str, datetime]:
        """The API server's version, and the time by its clock."""
        response = self._open(Call("GET", "/version", self._asked("get", resource="version")))
        return json.loads(response.data)["gitVersion"], parsedate_to_datetime(response.headers["Date"])

    def get(self, path: str, query: Mapping[str, str] | None = None) -> dict[str, Any]:
        """The object or list at a path of the API."""
        return self._send(Call("GET", path, self._asked("get", resource=_resource(path)), query=query or {}))

    def create(self, path: str, body: Any, query: Mapping[str, str] | None = None) -> dict[str, Any]:
        """What becomes of an object that is made at the path of its kind; with dryRun, what would become of it."""
        return self._send(Call("POST", path, self._asked("create", resource=_resource(path)), body, query=query or {}))

    def dry_apply(self, iteration: FeedbackIteration) -> None:
        """Have the API server look at the iteration as if it were applied."""
        name = iteration.metadata.name
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict", "dryRun": "All", "force": "true"}
        self._send(Call("PATCH", self._path(name), self._asked("patch", name), _manifest(iteration), APPLY, query))

    def remove(self, path: str) -> None:
        """Delete the object at a path, and then what belongs to it."""
        query = {"propagationPolicy": "Background"}
        self._send(Call("DELETE", path, self._asked("delete", resource=_resource(path)), query=query))

    # ── requests ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _path(self, name: str = "") -> str:
        return f"/apis/{API_VERSION}/namespaces/{self.namespace}/{PLURAL}" + (f"/{name}" if name else "")

    def _asked(self, verb: str, name: str = "", resource: str = PLURAL) -> ClusterRequest:
        return ClusterRequest(verb, resource, self.namespace, name, self._context)

    def _send(self, call: Call) -> dict[str, Any]:
        """The answer as JSON."""
        answer: dict[str, Any] = json.loads(self._open(call).data)
        return answer

    def _open(self, call: Call) -> Any:
        """The answer, if it is a success, with its body unread."""
        from urllib3.exceptions import HTTPError

        serialized = self._client.param_serialize(
            call.method,
            call.path + (f"?{urlencode(call.query)}" if call.query else ""),
            header_params={"Accept": "application/json, */*", "Content-Type": call.content},
            body=call.body,
            auth_settings=["BearerToken"],
        )
        try:
            answer = self._client.call_api(*serialized, _request_timeout=(CONNECT_SECONDS, call.read_seconds))
            response = answer.response
            if response.status >= 400:
                raise explain(response.status, response.data, call.asked)
        except HTTPError as error:
            raise self._unreachable(error) from error
        return response

    def _unreachable(self, error: Exception) -> ClusterError:
        return ClusterUnavailable(
            f"cannot reach the API server {self._client.configuration.host} of context {self._context}: "
            f"{root_cause(error)}; check the network, or name another context with --context"
        )


def youngest(pods: Sequence[StagePod]) -> list[StagePod]:
    """The youngest pod of each shard, by shard."""
    by_shard = {pod.shard: pod for pod in sorted(pods, key=lambda pod: pod.created)}
    return [by_shard[shard] for shard in sorted(by_shard)]


def stage_pod(item: Mapping[str, Any]) -> StagePod:
    """A pod as the API server gives it."""
    meta, status = item["metadata"], item.get("status", {})
    state: Mapping[str, Any] = next(
        (one.get("state", {}) for one in status.get("containerStatuses", ()) if one["name"] == STAGE_CONTAINER), {}
    )
    scheduled = [one.get("reason") for one in status.get("conditions", ()) if one["type"] == "PodScheduled"]
    return StagePod(
        name=meta["name"],
        shard=int(meta.get("labels", {}).get(INDEX_LABEL, 0)),
        created=meta["creationTimestamp"],
        begun="running" in state or "terminated" in state,
        waits_for=state.get("waiting", {}).get("reason") or next(filter(None, scheduled), "Pending"),
    )


def _resource(path: str) -> str:
    """What a path of the API leads to, for people: `secrets`."""
    parts = [part for part in path.split("/") if part]
    within = parts.index("namespaces") + 2 if "namespaces" in parts[:-2] else 3 if parts[0] == "apis" else 2
    return parts[within] if within < len(parts) else parts[-1]


def _manifest(iteration: FeedbackIteration) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": _own_metadata(iteration),
        "spec": iteration.spec.model_dump(mode="json", by_alias=True, exclude_unset=True),
    }


def _own_metadata(iteration: FeedbackIteration) -> dict[str, Any]:
    meta = iteration.metadata
    optional = {"labels": meta.labels, "annotations": meta.annotations}
    return {"name": meta.name, **{key: value for key, value in optional.items() if value}}


def _read(item: Mapping[str, Any]) -> FeedbackIteration:
    try:
        return FeedbackIteration.model_validate({"apiVersion": API_VERSION, "kind": KIND, **item})
    except ValidationError as error:
        name, where = item["metadata"]["name"], ".".join(map(str, error.errors()[0]["loc"]))
        raise ClusterError(
            f"{name} has {where}, which this feedback does not understand; use the version that the operator has"
        ) from error
