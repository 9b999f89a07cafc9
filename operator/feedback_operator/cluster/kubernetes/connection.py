"""How to reach the API server: the pod's service account, or the kubeconfig that KUBECONFIG or the user's home has."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import aiohttp
from aiohttp import ClientHandlerType, ClientRequest, ClientResponse
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")


async def connect() -> ApiClient:
    """A client with the credentials at hand. Raises ConfigException where there are none."""
    configuration = Configuration()
    configuration.retries = None
    configuration.client_session_kwargs = {"trust_env": False}  # else ~/.netrc is read with each call
    if os.environ.get("KUBECONFIG") or not ACCOUNT.exists():
        await config.load_kube_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    else:
        config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    return ApiClient(configuration)


def own_namespace() -> str | None:
    """The namespace that this pod runs in; None outside of a cluster."""
    file = ACCOUNT / "namespace"
    return file.read_text().strip() if file.exists() else None


def session(client: ApiClient, asked: Callable[[str, Mapping[str, str]], None]) -> aiohttp.ClientSession:
    """A session with the client's credentials, asked for anew with each request: tokens are renewed under us.

    `asked` is told path and query of each request that has been answered well.
    """

    async def authenticate(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        headers: dict[str, str] = {}
        await client.update_params_for_auth(headers, [], ["BearerToken"], str(request.url), request.method, None)
        request.headers.update(headers)
        response = await handler(request)
        if response.ok:
            asked(request.url.path, request.url.query)
        return response

    connector = aiohttp.TCPConnector(limit=0, ssl=client.rest_client.ssl_context)
    return aiohttp.ClientSession(connector=connector, middlewares=(authenticate,))
