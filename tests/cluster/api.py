"""The API server as plain JSON: read, write, watch, and wait until an object is in some state."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import aiohttp
from kubernetes.aio import client, config

Object = dict[str, Any]
"""A Kubernetes object as plain JSON data."""

WAIT_SECONDS: Final = 120.0
FIELD_MANAGER: Final = "tests"
JSON: Final = "application/json"
TABLE: Final = "application/json;as=Table;v=v1;g=meta.k8s.io"
APPLY: Final = "application/apply-patch+yaml"
MERGE: Final = "application/merge-patch+json"
STRATEGIC: Final = "application/strategic-merge-patch+json"
GONE: Final = 410
NOT_FOUND: Final = 404
TOO_MANY_REQUESTS: Final = 429


@dataclass(frozen=True)
class Kind:
    """A kind of object and where the API server has it."""

    name: str
    group_version: str
    plural: str

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        root = f"/apis/{self.group_version}" if "/" in self.group_version else f"/api/{self.group_version}"
        within = f"/namespaces/{namespace}" if namespace else ""
        return f"{root}{within}/{self.plural}" + "".join(f"/{part}" for part in (name, subresource) if part)


ITERATIONS: Final = Kind("FeedbackIteration", "feedback.rlaif.dev/v1alpha1", "feedbackiterations")
JOBS: Final = Kind("Job", "batch/v1", "jobs")
PODS: Final = Kind("Pod", "v1", "pods")
CONFIG_MAPS: Final = Kind("ConfigMap", "v1", "configmaps")
SERVICES: Final = Kind("Service", "v1", "services")
SERVICE_ACCOUNTS: Final = Kind("ServiceAccount", "v1", "serviceaccounts")
SECRETS: Final = Kind("Secret", "v1", "secrets")
EVENTS: Final = Kind("Event", "v1", "events")
NODES: Final = Kind("Node", "v1", "nodes")
NAMESPACES: Final = Kind("Namespace", "v1", "namespaces")
DEPLOYMENTS: Final = Kind("Deployment", "apps/v1", "deployments")
REPLICA_SETS: Final = Kind("ReplicaSet", "apps/v1", "replicasets")
BUDGETS: Final = Kind("PodDisruptionBudget", "policy/v1", "poddisruptionbudgets")
AUTOSCALERS: Final = Kind("HorizontalPodAutoscaler", "autoscaling/v2", "horizontalpodautoscalers")
NETWORK_POLICIES: Final = Kind("NetworkPolicy", "networking.k8s.io/v1", "networkpolicies")
LEASES: Final = Kind("Lease", "coordination.k8s.io/v1", "leases")
ADMISSION_POLICIES: Final = Kind(
    "ValidatingAdmissionPolicy", "admissionregistration.k8s.io/v1", "validatingadmissionpolicies"
)
ADMISSION_BINDINGS: Final = Kind(
    "ValidatingAdmissionPolicyBinding", "admissionregistration.k8s.io/v1", "validatingadmissionpolicybindings"
)
HTTP_ROUTES: Final = Kind("HTTPRoute", "gateway.networking.k8s.io/v1", "httproutes")
QUOTAS: Final = Kind("ResourceQuota", "v1", "resourcequotas")
LIMIT_RANGES: Final = Kind("LimitRange", "v1", "limitranges")
DEFINITIONS: Final = Kind("CustomResourceDefinition", "apiextensions.k8s.io/v1", "customresourcedefinitions")
CLUSTER_ROLES: Final = Kind("ClusterRole", "rbac.authorization.k8s.io/v1", "clusterroles")
CLUSTER_ROLE_BINDINGS: Final = Kind("ClusterRoleBinding", "rbac.authorization.k8s.io/v1", "clusterrolebindings")
ROLES: Final = Kind("Role", "rbac.authorization.k8s.io/v1", "roles")
ROLE_BINDINGS: Final = Kind("RoleBinding", "rbac.authorization.k8s.io/v1", "rolebindings")
KINDS: Final = {
    kind.name: kind
    for kind in (
        ITERATIONS, JOBS, PODS, CONFIG_MAPS, SERVICES, SERVICE_ACCOUNTS, SECRETS, EVENTS, NODES, NAMESPACES,
        DEPLOYMENTS, REPLICA_SETS, BUDGETS, AUTOSCALERS, NETWORK_POLICIES, LEASES, DEFINITIONS, CLUSTER_ROLES,
        CLUSTER_ROLE_BINDINGS, ROLES, ROLE_BINDINGS, QUOTAS, LIMIT_RANGES, ADMISSION_POLICIES,
        ADMISSION_BINDINGS, HTTP_ROUTES,
    )
}  # fmt: skip


class Refused(Exception):
    """The API server said no. `code` is the HTTP status, `reason` its one word, the text its message."""

    def __init__(self, code: int, body: str) -> None:
        try:
            status = json.loads(body)
        except ValueError:
            status = {"message": body}
        self.code = code
        self.reason = str(status.get("reason", ""))
        self.causes: list[Object] = status.get("details", {}).get("causes", [])
        super().__init__(f"{code}: {status.get('message', '')}")


class Api:
    """A client of one API server with one user's rights."""

    def __init__(self, connection: client.ApiClient) -> None:
        self._client = connection

    @classmethod
    @asynccontextmanager
    async def connect(cls, kubeconfig: Path) -> AsyncIterator[Self]:
        """Talk to the API server that the kubeconfig names."""
        configuration = client.Configuration()
        await config.load_kube_config(str(kubeconfig), client_configuration=configuration)
        async with client.ApiClient(configuration) as connection:
            yield cls(connection)

    async def get(self, kind: Kind, namespace: str, name: str) -> Object:
        return await self._request("GET", kind.path(namespace, name))

    async def find(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """The object, or None where there is none of that name."""
        try:
            return await self.get(kind, namespace, name)
        except Refused as refused:
            if refused.code == NOT_FOUND:
                return None
            raise

    async def list(self, kind: Kind, namespace: str = "", selector: str = "") -> list[Object]:
        answer = await self._request("GET", kind.path(namespace), query={"labelSelector": selector})
        return list(answer["items"])

    async def table(self, kind: Kind, namespace: str) -> Object:
        """What `kubectl get` shows: columnDefinitions and rows."""
        return await self._request("GET", kind.path(namespace), accept=TABLE)

    async def create(
        self,
        kind: Kind,
        namespace: str,
        body: Object,
        *,
        name: str = "",
        subresource: str = "",
        query: Mapping[str, str] | None = None,
    ) -> Object:
        return await self._request("POST", kind.path(namespace, name, subresource), body=body, query=query)

    async def apply(self, manifest: Object, namespace: str = "") -> Object:
        """Server-side apply, as `kubectl apply --server-side` does it."""
        kind, meta = KINDS[manifest["kind"]], manifest["metadata"]
        path = kind.path(meta.get("namespace", namespace), meta["name"])
        return await self._request(
            "PATCH", path, body=manifest, content=APPLY, query={"fieldManager": FIELD_MANAGER, "force": "true"}
        )

    async def patch(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        body: Object,
        *,
        subresource: str = "",
        content: str = MERGE,
    ) -> Object:
        return await self._request("PATCH", kind.path(namespace, name, subresource), body=body, content=content)

    async def delete(self, kind: Kind, namespace: str, name: str, *, grace_seconds: int | None = None) -> None:
        """Delete; an object that is gone already is as good."""
        body: Object = {"propagationPolicy": "Background"}
        if grace_seconds is not None:
            body["gracePeriodSeconds"] = grace_seconds
        try:
            await self._request("DELETE", kind.path(namespace, name), body=body)
        except Refused as refused:
            if refused.code != NOT_FOUND:
                raise

    async def watch(self, kind: Kind, namespace: str = "", field: str = "") -> AsyncIterator[tuple[str, Object]]:
        """All objects as ADDED, then every change, for ever; a watch that was closed goes on where it stood."""
        while True:
            answer = await self._request("GET", kind.path(namespace), query={"fieldSelector": field})
            for item in answer["items"]:
                yield "ADDED", item
            version: str | None = answer["metadata"]["resourceVersion"]
            while version:
                async for event, item in self._changes(kind, namespace, field, version):
                    if event == "ERROR":
                        if item.get("code") != GONE:
                            raise Refused(int(item.get("code", 0)), json.dumps(item))
                        version = None
                        break
                    version = item["metadata"]["resourceVersion"]
                    if event != "BOOKMARK":
                        yield event, item

    async def wait(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        expected: Callable[[Object], bool],
        seconds: float = WAIT_SECONDS,
    ) -> Object:
        """Return the object as soon as it is as expected. Raises AssertionError with what it was like in the end."""
        last: Object = {}
        try:
            async with asyncio.timeout(seconds):
                async for event, item in self.watch(kind, namespace, field=f"metadata.name={name}"):
                    last = item
                    if event != "DELETED" and expected(item):
                        return item
        except TimeoutError:
            shown = json.dumps({"spec": last.get("spec"), "status": last.get("status")}, indent=1)
            raise AssertionError(f"{kind.name} {name} is not as expected after {seconds:.0f} s: {shown}") from None
        raise AssertionError("a watch has no end")

    async def wait_gone(self, kind: Kind, namespace: str, name: str, seconds: float = WAIT_SECONDS) -> None:
        """Return as soon as there is no such object."""
        field = f"metadata.name={name}"
        try:
            async with asyncio.timeout(seconds):
                while True:
                    answer = await self._request("GET", kind.path(namespace), query={"fieldSelector": field})
                    if not answer["items"]:
                        return
                    async for event, _ in self._changes(kind, namespace, field, answer["metadata"]["resourceVersion"]):
                        if event == "DELETED":
                            return
        except TimeoutError:
            left = await self.find(kind, namespace, name) or {}
            raise AssertionError(f"{kind.name} {name} is still there: {left.get('metadata')}") from None

    async def _changes(self, kind: Kind, namespace: str, field: str, version: str) -> AsyncIterator[tuple[str, Object]]:
        query = {"watch": "true", "resourceVersion": version, "fieldSelector": field, "allowWatchBookmarks": "true"}
        response = await self._send("GET", kind.path(namespace), query=query)
        try:
            while line := await response.content.readline():
                event = json.loads(line)
                yield event["type"], event["object"]
        except aiohttp.ClientError:
            return
        finally:
            response.close()

    async def _request(
        self,
        method: str,
        path: str,
        *,
        body: Object | None = None,
        content: str = JSON,
        query: Mapping[str, str] | None = None,
        accept: str = JSON,
    ) -> Object:
        response = await self._send(method, path, body=body, content=content, query=query, accept=accept)
        answer: Object = json.loads(await response.read())
        return answer

    async def _answer(self, serialized: Any) -> aiohttp.ClientResponse:
        answer = await self._client.call_api(*serialized[:3], body=serialized[3], _request_timeout=3600)
        response: aiohttp.ClientResponse = answer.response
        return response

    async def _send(
        self,
        method: str,
        path: str,
        *,
        body: Object | None = None,
        content: str = JSON,
        query: Mapping[str, str] | None = None,
        accept: str = JSON,
    ) -> aiohttp.ClientResponse:
        given = [(key, value) for key, value in (query or {}).items() if value]
        serialized = await self._client.param_serialize(
            method,
            path,
            query_params=given,
            header_params={"Accept": accept, "Content-Type": content},
            body=body,
            auth_settings=["BearerToken"],
        )
        response = await self._answer(serialized)
        while method == "GET" and response.status == TOO_MANY_REQUESTS:  # a definition that is new may be set up twice
            await asyncio.sleep(float(response.headers.get("Retry-After", 1)))
            response = await self._answer(serialized)
        if response.status >= 400:
            raise Refused(response.status, await response.text())
        return response
