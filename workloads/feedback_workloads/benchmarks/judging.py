"""Has a model judge answers, behind any API that speaks OpenAI's chat completions.

Each reply is kept as a line of a file, by all that it depends on, so that nothing is asked twice: not after an
interruption, not when more answers are judged or numbers are computed anew. What the judge is told stands in the
scripts of a benchmark's authors, and is read from there (`scripts`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Final
from urllib.parse import urlsplit

from feedback_workloads.apis.asking import Asking, Request
from feedback_workloads.apis.client import Client, Names, Refused, Reply
from feedback_workloads.apis.kept import RepliesFile
from feedback_workloads.apis.ledger import Ledger
from feedback_workloads.apis.replies import content
from feedback_workloads.contract import BadInput

JUDGED: Final = "judged.json"
"""The answers with what the judge said about each."""
REPLIES: Final = "judge.jsonl"
"""What the judge has said, as it came: a line a reply."""
API: Final = "https://api.openai.com/v1"
API_VARIABLE: Final = "OPENAI_BASE_URL"
KEY_VARIABLE: Final = "OPENAI_API_KEY"
NAMES: Final = Names(api="the judge's API", address="--judge-api", model="--judge", key=KEY_VARIABLE)


def address(option: str, api: str) -> str:
    """The address of an API that an option names; BadInput where it is none."""
    if urlsplit(api).scheme not in ("http", "https") or not urlsplit(api).netloc:
        raise BadInput(f"{option} {api} is no address; give one such as http://localhost:8000/v1")
    return api.rstrip("/")


@dataclass(frozen=True)
class Judge:
    """A model that judges. `api` is the address up to and with `/v1`; `kept` the file of its replies."""

    api: str
    model: str
    kept: Path
    pause: Callable[[Event, float], object] = field(default=Event.wait, repr=False)

    @staticmethod
    def named(model: str, api: str | None, folder: Path) -> Judge:
        """The judge of that name, whose replies are kept in a folder; BadInput where the address is none."""
        given = api or os.environ.get(API_VARIABLE) or API
        return Judge(address("--judge-api", given), model, folder / REPLIES)

    def replies(self, requests: Sequence[Request], usable: Callable[[str], bool] = lambda reply: True) -> list[str]:
        """What the judge says to each, in their order; replies that are not `usable` are asked for again.

        Raises BadInput where the API refuses, or no reply is usable; Temporary where it is out of reach.
        """

        def says(reply: Reply) -> bool:
            said = content(reply)
            return said is not None and usable(said)

        found = RepliesFile(self.kept).read()
        keys = [request.key(self.model) for request in requests]
        todo = {key: request for key, request in zip(keys, requests, strict=True) if key not in found}
        if todo:
            found |= self._asked(todo, says)
        return [str(content(found[key])) for key in keys]

    def _asked(self, todo: Mapping[str, Request], usable: Callable[[Reply], bool]) -> dict[str, Reply]:
        found: dict[str, Reply] = {}
        with Client(self.api, self.model, os.environ.get(KEY_VARIABLE), NAMES) as client:
            asking = Asking(client, RepliesFile(self.kept), Ledger(), pause=self.pause)
            for key, reply in asking.replies(todo.items(), usable):
                if isinstance(reply, Refused):
                    raise reply
                found[key] = reply
        return found

    def models(self) -> list[str]:
        """The models that the API says its replies are of."""
        return sorted({str(reply.get("model", self.model)) for reply in RepliesFile(self.kept).read().values()})
