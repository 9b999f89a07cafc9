"""An API that tests can ask: a real HTTP server with OpenAI's chat completions, which says what it is told to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.loopback import serving


@dataclass(frozen=True)
class Sent:
    """What goes over the wire: a body, as JSON unless it is bytes, of which so many bytes come before the end."""

    body: Any = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_at: int | None = None


Answer = str | int | bytes | Sent
"""What the model says, a status that the server fails with, a body as it stands, or all of it."""


def completion(*choices: Mapping[str, Any], prompt_tokens: int = 0, completion_tokens: int = 0) -> Sent:
    """A chat completion of these choices. Each is given by its message's fields, and finish_reason and logprobs."""

    def choice(said: Mapping[str, Any]) -> dict[str, Any]:
        beside = {name: said[name] for name in ("finish_reason", "logprobs") if name in said}
        message = {name: value for name, value in said.items() if name not in beside}
        return {"finish_reason": "stop", **beside, "message": {"role": "assistant", "content": None, **message}}

    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return Sent({"model": "judge-2026", "choices": [choice(said) for said in choices], "usage": usage})


def failure(status: int, code: str, **headers: str) -> Sent:
    """An error as OpenAI's API tells it."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Sent({"error": {"message": f"it says {code}", "code": code}}, status, named)


def _sent(said: Answer) -> Sent:
    match said:
        case Sent():
            return said
        case int():
            return Sent({"error": {"message": "no"}}, said)
        case bytes():
            return Sent(said)
    return completion({"content": said})


@dataclass
class AskedJudge:
    """`says` answers the body of a request; what was asked is kept, with the headers."""

    says: Callable[[Mapping[str, Any]], Answer]
    bodies: list[Mapping[str, Any]] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    address: str = ""

    @property
    def texts(self) -> list[str]:
        """The last message of each request."""
        return [body["messages"][-1]["content"] for body in self.bodies]


@contextmanager
def judge_that(says: Callable[[Mapping[str, Any]], Answer], call: str = "/v1/chat/completions") -> Iterator[AskedJudge]:
    """Serve such a judge, at one address."""
    judge = AskedJudge(says)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            judge.bodies.append(body)
            judge.headers.append(self.headers)
            sent = _sent(judge.says(body) if self.path == call else 404)
            data = sent.body if isinstance(sent.body, bytes) else json.dumps(sent.body).encode()
            self.send_response(sent.status)
            for name, value in {"Content-Length": str(len(data)), **sent.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data[: sent.cut_at])

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    judge.address = f"http://127.0.0.1:{server.server_port}/v1"
    with serving(server):
        yield judge
