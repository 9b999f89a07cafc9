"""What a client is told when a request cannot be served: OpenAI's error object, with its status."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

HANG_UP = {"Connection": "close"}
"""For answers that are given before the body was read: nobody will read the rest of it."""


# Not frozen: contextlib sets the traceback of an exception that passes through it.
@dataclass(eq=False)
class ApiError(Exception):
    """An answer that is an error.

    `message` is one sentence for the person who sent the request; `param` names the field it is about, as in
    `messages[0].content[1].image_url.url`; `code` is a stable word for programs. Format:
    https://platform.openai.com/docs/guides/error-codes.
    """

    status: int
    message: str
    type: str = "invalid_request_error"
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


def invalid(param: str | None, message: str, code: str = "invalid_value") -> ApiError:
    """The request is wrong; sending it again cannot help."""
    return ApiError(400, message, param=param, code=code)


def no_key() -> ApiError:
    return ApiError(
        401,
        "this server asks for a key, and the request has none that it knows; send Authorization: Bearer KEY",
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer", **HANG_UP},
    )


def too_large(message: str) -> ApiError:
    return ApiError(413, message, code="request_too_large", headers=HANG_UP)


def unknown_model(asked: str, served: str) -> ApiError:
    return ApiError(
        404, f"model {asked!r} is not served here; ask for {served!r}", param="model", code="model_not_found"
    )


def busy(retry_after: int) -> ApiError:
    """The queue is full."""
    return ApiError(
        429,
        f"as many requests wait as this server allows; try again in {retry_after} s",
        type="requests",
        code="rate_limit_exceeded",
        headers={"Retry-After": str(retry_after)},
    )


def draining() -> ApiError:
    """The server finishes what it has and takes nothing new."""
    return ApiError(
        503,
        "the server is shutting down; try again, so that another replica answers",
        type="server_error",
        code="shutting_down",
        headers={"Retry-After": "1", **HANG_UP},
    )


def internal() -> ApiError:
    """Something we did not foresee; what it was stands in the log, not in the answer."""
    return ApiError(500, "the server failed to answer; its log says why", type="server_error", code="internal_error")


def engine_dead() -> ApiError:
    return ApiError(503, "the engine has stopped; the server ends", type="server_error", code="engine_stopped")


def crowded() -> ApiError:
    """More is being received than fits, and this request has held the most of it for the longest."""
    message = "more is sent to this server at once than it has room for, and this request slowly; try again"
    headers = {"Retry-After": "1", **HANG_UP}
    return ApiError(429, message, type="requests", code="rate_limit_exceeded", headers=headers)


def too_slow(seconds: float) -> ApiError:
    message = f"the request and its picture did not arrive within {seconds:g} s; send it again"
    return ApiError(408, message, code="request_timeout", headers=HANG_UP)
