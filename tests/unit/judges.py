"""A judge that tests can ask: a real HTTP server with OpenAI's chat completions, which says what it is told to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

Answer = str | int | bytes
"""What the model says, a status that the server fails with, or a body as it stands."""


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
def judge_that(says: Callable[[Mapping[str, Any]], Answer]) -> Iterator[AskedJudge]:
    """Serve such a judge."""
    judge = AskedJudge(says)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            judge.bodies.append(body)
            judge.headers.append(dict(self.headers))
            said = judge.says(body) if self.path == "/v1/chat/completions" else 404
            message = {"model": "judge-2026", "choices": [{"message": {"role": "assistant", "content": said}}]}
            data = said if isinstance(said, bytes) else json.dumps(message).encode()
            self.send_response(said if isinstance(said, int) else 200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    judge.address = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield judge
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
