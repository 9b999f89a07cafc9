"""The HTTP surface: routes, limits, errors, and what happens when a client leaves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from functools import cache, partial
from http import HTTPStatus
from importlib import metadata
from typing import Any, Protocol, TypeVar

import pydantic_core
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import Receive, Scope, Send

from feedback_workloads.serving.access import REQUEST_ID, Identified, Keyed
from feedback_workloads.serving.description import describe
from feedback_workloads.serving.errors import (
    ApiError,
    draining,
    engine_dead,
    internal,
    too_large,
    unknown_model,
)
from feedback_workloads.serving.intake.receiving import Arrived, Receiving
from feedback_workloads.serving.protocol.parts import Answered, Model, ModelList
from feedback_workloads.serving.protocol.scores import RerankRequest
from feedback_workloads.serving.protocol.tokens import DetokenizeRequest
from feedback_workloads.serving.scoring import Given, Scoring
from feedback_workloads.serving.service import Ask, Service
from feedback_workloads.serving.tokenizing import Cut, Tokenizing

LOG = logging.getLogger(__name__)

LARGEST_AT_ONCE = 32
"""Requests of the largest size that may be received at once, and as many more as have no more bytes in all."""

TRIES = "X-Stainless-Retry-Count"
"""How often a client of OpenAI's was turned away before."""

READ = ["GET", "HEAD"]

CLIENT_CLOSED_REQUEST = 499
"""nginx's word for it; nobody reads the answer."""

T = TypeVar("T")
Understood_co = TypeVar("Understood_co", covariant=True)


class Understand(Protocol[Understood_co]):
    """Makes of a body what is asked, and tells what arrives meanwhile. Raises ApiError."""

    async def __call__(self, body: bytes, arrived: Arrived, *, again: bool) -> Understood_co: ...


class ClientDisconnected(Exception):
    """The client left before it had its answer."""


def build_app(service: Service) -> FastAPI:
    """The server's routes around `service`."""
    app = FastAPI(title="best-of-N", docs_url=None, redoc_url=None)  # its pages load their scripts from elsewhere
    app.openapi = cache(partial(describe, app))  # type: ignore[method-assign]
    receiving = Receiving(LARGEST_AT_ONCE * service.settings.max_body_bytes)
    scoring, tokenizing = Scoring(service), Tokenizing(service)
    settings = service.settings
    served = Model(id=settings.model_name, created=service.created, max_model_len=service.engines.max_model_len)
    app.add_middleware(Keyed, keys=settings.api_keys)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=settings.cors_origins,
        allow_methods=["GET", "HEAD", "POST"],
        allow_headers=["*"],
        expose_headers=[REQUEST_ID, "Retry-After"],
    )
    app.add_middleware(Identified)

    async def taken(
        request: Request, understand: Understand[T], answer: Callable[[T], Awaitable[Response]]
    ) -> Response:
        if not service.admission.is_open:
            raise draining()
        with service.admission.held():
            async with receiving.request(request.client.host if request.client else "") as arrived:
                body = await read_body(request, service.settings.max_body_bytes, arrived)
                ask = await understand(body, arrived, again=request.headers.get(TRIES, "0") != "0")
            return await answer(ask)

    async def told(request: Request, ask: Ask) -> Response:
        if not ask.stream:
            return _json(await unless_ended(service, request.receive, service.complete(ask)))
        events = service.stream(ask)
        # What is wrong with a request comes to light before its first event, while there is a status to say it with.
        first = await unless_ended(service, request.receive, anext(events))
        return EventStream(service, first, events)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await taken(request, service.understand, partial(told, request))

    @app.post("/v1/responses")
    async def response(request: Request) -> Response:
        return await taken(request, service.understand_response, partial(told, request))

    @app.post("/v1/completions")
    async def completion(request: Request) -> Response:
        return await taken(request, service.understand_text, partial(told, request))

    @app.post("/score")
    @app.post("/v1/score")
    async def score(request: Request) -> Response:
        async def answer(given: Given) -> Response:
            return _json(await unless_ended(service, request.receive, scoring.scores(given)))

        return await taken(request, scoring.understand_scores, answer)

    @app.post("/rerank")
    @app.post("/v1/rerank")
    @app.post("/v2/rerank")
    async def rerank(request: Request) -> Response:
        async def answer(asked: tuple[Given, RerankRequest]) -> Response:
            return _json(await unless_ended(service, request.receive, scoring.rerank(asked)))

        return await taken(request, scoring.understand_rerank, answer)

    @app.post("/tokenize")
    async def tokenize(request: Request) -> Response:
        async def answer(cut: Cut) -> Response:
            return _json(await unless_ended(service, request.receive, tokenizing.tokens(cut)))

        return await taken(request, tokenizing.understand, answer)

    @app.post("/detokenize")
    async def detokenize(request: Request) -> Response:
        async def answer(asked: DetokenizeRequest) -> Response:
            return _json(await tokenizing.text(asked))

        return await taken(request, tokenizing.understand_tokens, answer)

    @app.api_route("/v1/models", methods=READ)
    async def models() -> Response:
        return _json(ModelList(data=[served]))

    @app.api_route("/v1/models/{name:path}", methods=READ)
    async def model(name: str) -> Response:
        if name != served.id:
            raise unknown_model(name, served.id)
        return _json(served)

    @app.api_route("/version", methods=READ)
    async def version() -> Response:
        return JSONResponse({"version": metadata.version("feedback-operator")})

    @app.api_route("/health", methods=READ)
    async def health() -> Response:
        if service.healthy:
            return JSONResponse({"status": "ok"})
        return JSONResponse({"status": "draining" if service.engines.alive else "engine stopped"}, 503)

    @app.api_route("/metrics", methods=READ)
    async def metrics() -> Response:
        return Response(service.metrics.render(), media_type=CONTENT_TYPE_LATEST)

    @app.exception_handler(ClientDisconnected)
    async def disconnected(request: Request, error: ClientDisconnected) -> Response:
        return Response(status_code=CLIENT_CLOSED_REQUEST)

    @app.exception_handler(HTTPException)
    async def no_such_route(request: Request, error: HTTPException) -> Response:
        message = f"{request.method} {request.url.path}: {HTTPStatus(error.status_code).phrase.lower()}"
        return _error(ApiError(error.status_code, message, code="unknown_url", headers=error.headers or {}))

    @app.exception_handler(ApiError)
    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return _error(error_of(service, error))

    return app


def error_of(service: Service, error: Exception) -> ApiError:
    """What the client is told of an error; it is counted, and logged where it is ours."""
    if not isinstance(error, ApiError):
        LOG.error("a request failed", exc_info=error)
        error = internal() if service.engines.alive else engine_dead()
    service.metrics.requests.labels(error.code or "error").inc()
    return error


async def read_body(request: Request, limit: int, arrived: Arrived) -> bytes:
    """Read a request's body. Raises ApiError once it is larger than `limit` bytes."""
    message = f"the body has more than {limit} bytes; send a smaller picture"
    if int(request.headers.get("content-length", "0")) > limit:
        raise too_large(message)
    body = bytearray()
    async for chunk in request.stream():
        arrived(len(chunk))
        body += chunk
        if len(body) > limit:
            raise too_large(message)
    return bytes(body)


async def unless_ended(service: Service, receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Do `work`, but cancel it once its client has left (ClientDisconnected) or the server's time is up (ApiError).

    The request's body must have been read before.
    """

    async def left() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    working = asyncio.ensure_future(work)
    leaving, ending = asyncio.create_task(left()), asyncio.create_task(service.out_of_time.wait())
    tasks = {working, leaving, ending}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return await working
        raise ClientDisconnected if leaving.done() else draining()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


class EventStream(Response):
    """Server-sent events. Starlette's own would notice a client that left only when there is something to send."""

    media_type = "text/event-stream"

    def __init__(self, service: Service, first: bytes, events: AsyncGenerator[bytes, None]) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._service = service
        self._first = first
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            await unless_ended(self._service, receive, self._send(send))
        except ClientDisconnected:
            return
        except Exception as error:  # the status is sent: the stream itself has to say it
            body = b"data: " + pydantic_core.to_json(error_of(self._service, error).body()) + b"\n\n"
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send) -> None:
        async with aclosing(self._events) as events:
            await send({"type": "http.response.body", "body": self._first, "more_body": True})
            async for event in events:
                await send({"type": "http.response.body", "body": event, "more_body": True})


def _json(answer: Answered) -> Response:
    return Response(answer.model_dump_json(), media_type="application/json")


def _error(error: ApiError) -> Response:
    return JSONResponse(error.body(), error.status, headers=dict(error.headers))
