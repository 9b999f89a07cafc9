"""Somebody who asks an endpoint again and again, and keeps what came back."""

from __future__ import annotations

import base64
import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

import httpx
import openai

from feedback_workloads.shapes.world import png, rows

ANSWER_SECONDS: Final = 60.0
CLIENTS: Final = 2


def question() -> list[Any]:
    """A conversation about a picture of the shapes world."""
    row = rows(0, "report", 1)[0]
    url = "data:image/png;base64," + base64.b64encode(png(row.scene)).decode()
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": row.question}]
    return [{"role": "user", "content": parts}]


def ask(client: openai.OpenAI, model: str, **fields: Any) -> Any:
    return client.chat.completions.create(model=model, messages=question(), **fields)


def client_of(url: str, *, keep_alive: bool = True) -> openai.OpenAI:
    """A client that never tries twice: whatever goes wrong is seen."""
    limits = httpx.Limits() if keep_alive else httpx.Limits(max_keepalive_connections=0)
    connection = httpx.Client(limits=limits, timeout=ANSWER_SECONDS)
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, http_client=connection)


@dataclass
class Asking:
    """While the context lasts, one client on a connection that it keeps, and one that makes a new one each time."""

    url: str
    model: str
    revisions: list[str] = field(default_factory=list)
    """Of each answer, in the order in which they came, which policy gave it."""
    failures: list[str] = field(default_factory=list)
    _end: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        for number in range(CLIENTS):
            thread = threading.Thread(target=self._ask, args=(client_of(self.url, keep_alive=number == 0),))
            self._threads.append(thread)
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, client: openai.OpenAI) -> None:
        with client:
            while not self._end.wait(0.2):  # there is little processor time, and the pods need it
                try:
                    answer = ask(client, self.model, max_tokens=16, extra_body={"best_of": 1})
                except openai.OpenAIError as error:
                    self.failures.append(f"after {len(self.revisions)} answers: {error!r} {error.__cause__!r}")
                else:
                    self.revisions.append(answer.system_fingerprint)
