"""The API server through kubernetes.aio: one client, bounded, with retries that depend on why a call failed."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio.client import ApiClient

from feedback_operator.api.calls import Kind, Verb
from feedback_operator.resources import FIELD_MANAGER, Manifest

JSON: Final = "application/json"
MERGE_PATCH: Final = "application/merge-patch+json"
APPLY: Final = "application/apply-patch+yaml"
METADATA_OF_A_LIST: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

ATTEMPTS: Final = 5
FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 5.0
TIMEOUT: Final = aiohttp.ClientTimeout(total=15, sock_connect=5)
NO_ANSWER: Final = 0
PASSING: Final = frozenset({NO_ANSWER, 429, 500, 502, 503, 504})
"""Status codes that say nothing about the request itself."""
OURS: Final = {"fieldManager": FIELD_MANAGER}


class ApiServerError(Exception):
    """The API server did not do what was asked. `message` is its own word, meant for a person."""

    def __init__(self, call: str, status: int, reason: str, message: str) -> None:
        super().__init__(f"{call}: {status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message


class Conflict(ApiServerError):
    """The object is not at the version that was named."""


class Exists(ApiServerError):
    """There is an object of this name."""


class Missing(ApiServerError):
    """There is no such object, or no such namespace any more."""


class Refused(ApiServerError):
    """The request itself is not acceptable: invalid, forbidden, over a quota, denied by a webhook."""


class ApiServerUnavailable(ApiServerError):
    """The API server cannot be reached or cannot serve, after all retries."""


class NotLeading(Exception):
    """This replica must not write: another one may have taken over."""


class Meter(Protocol):
    """Counts calls. `code` is a status code, or the name of what happened in its place."""

    def __call__(self, kind: str, verb: str, code: str, seconds: float) -> None: ...


Span = Callable[[str, Mapping[str, str]], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Response:
    """Status, headers and parsed body of a response."""

    status: int
    headers: Mapping[str, str]
    body: Manifest


@dataclass(frozen=True)
class Census:
    """The uids of all objects of a kind that there were at a version."""

    uids: frozenset[str]
    version: int


@dataclass(frozen=True)
class _Request:
    verb: Verb
    kind: Kind
    method: str
    path: str
    body: Manifest | None = None
    query: Mapping[str, str] = field(default_factory=dict)
    content: str = JSON
    accept: str = JSON
    timeout: aiohttp.ClientTimeout = TIMEOUT

    @property
    def url(self) -> str:
        return f"{self.path}?{urlencode(self.query)}" if self.query else self.path


class ApiServer:
    """Calls to the API server, at most `concurrency` at a time.

    `may_write` is asked before every attempt at a write. Raises ApiServerError and NotLeading.
    """

    def __init__(
        self,
        client: ApiClient,
        *,
        may_write: Callable[[], bool] = lambda: True,
        concurrency: int = 16,
        meter: Meter = lambda kind, verb, code, seconds: None,
        span: Span = lambda name, attributes: nullcontext(),
    ) -> None:
        self._client = client
        self._may_write = may_write
        self._slots = asyncio.Semaphore(concurrency)
        self._meter = meter
        self._span = span

    async def get(self, kind: Kind, namespace: str, name: str) -> Manifest:
        return await self._call(_Request("get", kind, "GET", kind.path(namespace, name)))

    async def list(self, kind: Kind, namespace: str, labels: str = "", fields: str = "") -> list[Manifest]:
        """Objects with these labels and fields, as items of a list: without kind and apiVersion."""
        selectors = {"labelSelector": labels, "fieldSelector": fields}
        query = {name: selector for name, selector in selectors.items() if selector}
        answer = await self._call(_Request("list", kind, "GET", kind.path(namespace), query=query))
        return list(answer["items"])

    async def census(self, kind: Kind, namespace: str) -> Census:
        """Which objects there are of those that are watched, in a namespace or, without one, in all."""
        query = {"labelSelector": kind.labels} if kind.labels else {}
        request = _Request("list", kind, "GET", kind.path(namespace), query=query, accept=METADATA_OF_A_LIST)
        answer = await self._call(request)
        uids = frozenset(str(item["metadata"]["uid"]) for item in answer["items"])
        return Census(uids, int(answer["metadata"]["resourceVersion"]))

    async def create(self, kind: Kind, manifest: Manifest) -> Manifest:
        path = kind.path(manifest["metadata"]["namespace"])
        return await self._call(_Request("create", kind, "POST", path, manifest, query=OURS))

    async def apply(self, kind: Kind, manifest: Manifest) -> Manifest:
        """Server-side apply: what the manifest names is ours, all else is left to others."""
        meta = manifest["metadata"]
        path = kind.path(meta["namespace"], meta["name"])
        query = {**OURS, "force": "true"}
        return await self._call(_Request("patch", kind, "PATCH", path, manifest, query=query, content=APPLY))

    async def patch(self, kind: Kind, namespace: str, name: str, patch: Manifest, subresource: str = "") -> Manifest:
        """JSON merge patch."""
        path = kind.path(namespace, name, subresource)
        return await self._call(_Request("patch", kind, "PATCH", path, patch, query=OURS, content=MERGE_PATCH))

    async def update(self, kind: Kind, manifest: Manifest, timeout_seconds: float) -> Manifest:
        meta = manifest["metadata"]
        path = kind.path(meta["namespace"], meta["name"])
        timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        return await self._call(_Request("update", kind, "PUT", path, manifest, query=OURS, timeout=timeout))

    async def delete(self, kind: Kind, namespace: str, name: str, *, uid: str) -> Manifest:
        """In the foreground: the object stays until what it owns is gone. Only that very object, by its uid."""
        options = {"propagationPolicy": "Foreground", "preconditions": {"uid": uid}}
        return await self._call(_Request("delete", kind, "DELETE", kind.path(namespace, name), options))

    async def preferred(self, kind: Kind) -> Kind:
        """The kind in the version of its group that the API server prefers. Raises Missing where it has none."""
        path = f"/apis/{kind.group}"
        with self._span("discover", {"url.path": path}):
            answer = await self._once(_Request("get", kind, "GET", path))
        if answer.status != 200:
            raise error_of(f"GET {path}", answer)
        return replace(kind, api_version=str(answer.body["preferredVersion"]["groupVersion"]))

    async def serves(self, kind: Kind) -> bool:
        """Whether the API server knows this kind: for a custom resource, whether its definition is installed."""
        path = f"/apis/{kind.api_version}"
        with self._span("discover", {"url.path": path}):
            answer = await self._once(_Request("get", kind, "GET", path))
        return any(resource.get("name") == kind.plural for resource in answer.body.get("resources", ()))

    async def _call(self, request: _Request) -> Manifest:
        permitted = request.kind.status if request.path.endswith("/status") else request.kind.verbs
        if request.verb not in permitted:
            raise ValueError(f"{request.verb} of {request.path} is not in the table of calls.py")
        attributes = {"k8s.kind": request.kind.name, "k8s.verb": request.verb, "url.path": request.path}
        with self._span(f"{request.verb} {request.kind.plural}", attributes):
            return await self._with_retries(request)

    async def _with_retries(self, request: _Request) -> Manifest:
        what = f"{request.method} {request.path}"
        for attempt in range(1, ATTEMPTS + 1):
            async with self._slots:
                if request.method != "GET" and not self._may_write():
                    raise NotLeading(f"{what}: this replica is not the leader any more")
                answer = await self._once(request)
            if 200 <= answer.status < 300:
                return answer.body
            if answer.status not in PASSING:
                raise error_of(what, answer)
            if attempt < ATTEMPTS:
                await asyncio.sleep(pause(answer, attempt, random.random()))
        raise ApiServerUnavailable(what, answer.status, answer.body.get("reason", ""), answer.body.get("message", ""))

    async def _once(self, request: _Request) -> Response:
        """One attempt."""
        headers = {"Accept": request.accept, "Content-Type": request.content}
        url = self._client.configuration.host + request.url
        await self._client.update_params_for_auth(headers, [], ["BearerToken"], url, request.method, None)
        started = time.perf_counter()
        code = "cancelled"
        try:
            response = await self._client.call_api(
                request.method, url, headers, request.body, _request_timeout=request.timeout
            )
            data: bytes = await response.read()  # type: ignore[no-untyped-call]
            code = str(response.status)
            return Response(response.status, response.headers, parsed(data))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            code = type(error).__name__
            return Response(NO_ANSWER, {}, {"reason": code, "message": str(error)})
        finally:
            self._meter(request.kind.name, request.verb, code, time.perf_counter() - started)


def parsed(data: bytes) -> Manifest:
    """The body of a response; what is in front of an API server answers in other tongues, so its text is kept."""
    try:
        body = json.loads(data)
    except ValueError:
        body = None
    return body if isinstance(body, dict) else {"message": data[:1024].decode(errors="replace")}


def error_of(call: str, answer: Response) -> ApiServerError:
    """The error that a status means."""
    reason, message = str(answer.body.get("reason", "")), str(answer.body.get("message", ""))
    kind: type[ApiServerError] = Refused
    if answer.status == 404 or _namespace_ends(answer.body):
        kind = Missing
    elif answer.status == 409:
        kind = Exists if reason == "AlreadyExists" else Conflict
    elif answer.status == 401:
        kind = ApiServerUnavailable
    return kind(call, answer.status, reason, message)


def _namespace_ends(body: Manifest) -> bool:
    causes = (body.get("details") or {}).get("causes") or ()
    return any(cause.get("reason") == "NamespaceTerminating" for cause in causes)


def pause(answer: Response, attempt: int, chance: float) -> float:
    """Seconds before the next attempt: as long as the server says, else doubling, from half to all of it by chance."""
    told = answer.headers.get("Retry-After", "")
    if told.isdigit():
        return min(LONGEST_PAUSE_SECONDS, float(told)) + chance * FIRST_PAUSE_SECONDS
    return float(min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** (attempt - 1))) * (0.5 + chance / 2)


def merge_patch(before: Manifest, after: Manifest) -> Manifest:
    """The JSON merge patch (RFC 7386) that makes `after` out of `before`; empty where they are equal."""
    patch: Manifest = {key: None for key in before if key not in after}
    for key, value in after.items():
        old = before.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            if inner := merge_patch(old, value):
                patch[key] = inner
        elif key not in before or old != value:
            patch[key] = value
    return patch
