"""What every request passes: ids, the log's lines, keys."""

from __future__ import annotations

import logging
import re

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from feedback_workloads.serving.access import Identified, Keyed

KEYS = ("first", "second")


async def answer(_: Request) -> Response:
    return PlainTextResponse("answer")


def client(*keys: str) -> httpx.AsyncClient:
    app = Starlette(routes=[Route(path, answer, methods=["GET", "POST"]) for path in ("/v1/models", "/health")])
    transport = httpx.ASGITransport(Identified(Keyed(app, keys)))
    return httpx.AsyncClient(transport=transport, base_url="http://server")


@pytest.mark.parametrize(
    ("keys", "path", "header", "status"),
    [
        pytest.param((), "/v1/models", None, 200, id="no key asked for"),
        pytest.param(KEYS, "/v1/models", "Bearer first", 200, id="the first key"),
        pytest.param(KEYS, "/v1/models", "bearer second", 200, id="the second, in other letters"),
        pytest.param(KEYS, "/v1/models", None, 401, id="no key"),
        pytest.param(KEYS, "/v1/models", "Bearer firs", 401, id="the start of a key"),
        pytest.param(KEYS, "/v1/models", "Bearer ", 401, id="an empty key"),
        pytest.param(KEYS, "/v1/models", "Basic first", 401, id="another scheme"),
        pytest.param(KEYS, "/v1/models", "Bearer \u00fcber", 401, id="letters that no key has"),
        pytest.param(KEYS, "/nowhere", None, 401, id="what is not there is not told"),
        pytest.param(KEYS, "/health", None, 200, id="a probe"),
    ],
)
async def test_keys(keys: tuple[str, ...], path: str, header: str | None, status: int) -> None:
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    async with client(*keys) as asking:
        got = await asking.get(path, headers=headers)  # type: ignore[arg-type]
    assert got.status_code == status
    if status == 401:
        assert got.json()["error"]["code"] == "invalid_api_key"
        assert (got.headers["www-authenticate"], got.headers["connection"]) == ("Bearer", "close")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        pytest.param("trace-1/a", True, id="the client's own"),
        pytest.param(None, False, id="none"),
        pytest.param("x" * 129, False, id="too long for a line"),
        pytest.param("a b", False, id="not one word"),
    ],
)
async def test_ids(given: str | None, kept: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "feedback_workloads.serving.access")
    async with client() as asking:
        got = await asking.get("/v1/models", headers={"X-Request-Id": given} if given else {})
        await asking.get("/health")
    name = got.headers["x-request-id"]
    assert (name == given) == kept
    assert kept or re.fullmatch("[0-9a-f]{32}", name)
    [line] = caplog.messages
    assert re.fullmatch(rf"GET '/v1/models' 200 \d+\.\d{{3}}s 127\.0\.0\.1 {re.escape(name)}", line)


async def test_the_line_of_a_client_that_left(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "feedback_workloads.serving.access")

    async def begins(_scope: object, _receive: object, send: object) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})  # type: ignore[operator]

    async def nothing(_: object = None) -> dict[str, str]:
        return {"type": "http.disconnect"}

    scope = {"type": "http", "method": "POST", "path": "/v1/a", "headers": [], "client": ("::1", 1)}
    await Identified(begins)(scope, nothing, nothing)  # type: ignore[arg-type]
    assert " 200 left " in caplog.text
