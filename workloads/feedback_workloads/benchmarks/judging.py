"""Has a model judge answers, behind any API that speaks OpenAI's chat completions.

Each reply is kept as a line of a file, by all that it depends on, so that nothing is asked twice: not after an
interruption, not when more answers are judged or numbers are computed anew. What the judge is told stands in the
scripts of a benchmark's authors, and is read from there (`scripts`).
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from feedback_workloads.contract import BadInput, Temporary

JUDGED: Final = "judged.json"
"""The answers with what the judge said about each."""
REPLIES: Final = "judge.jsonl"
"""What the judge has said, as it came: a line a reply."""
API: Final = "https://api.openai.com/v1"
API_VARIABLE: Final = "OPENAI_BASE_URL"
KEY_VARIABLE: Final = "OPENAI_API_KEY"
AT_ONCE: Final = 8
"""Requests under way."""
ATTEMPTS: Final = 6
"""How often one thing is asked, where the API fails in a way that may pass or the reply cannot be used."""
TIMEOUT_SECONDS: Final = 600.0
"""Within which an API has to send something."""


@dataclass(frozen=True)
class Request:
    """What a judge is asked. `parameters` are those of the API beside model and messages, such as `temperature`.

    `run` tells apart what is asked several times on purpose.
    """

    messages: tuple[Mapping[str, str], ...]
    parameters: Mapping[str, float]
    run: int = 1

    @staticmethod
    def of(user: str, *, system: str = "", run: int = 1, **parameters: float) -> Request:
        """One message of a user, after one of the system where there is such a text."""
        first = ({"role": "system", "content": system},) if system else ()
        return Request((*first, {"role": "user", "content": user}), parameters, run)


@dataclass(frozen=True)
class Judge:
    """A model that judges. `api` is the address up to and with `/v1`; `kept` the file of its replies."""

    api: str
    model: str
    kept: Path
    wait: Callable[[float], None] = field(default=time.sleep, repr=False)

    @staticmethod
    def named(model: str, api: str | None, folder: Path) -> Judge:
        """The judge of that name, whose replies are kept in a folder; BadInput where the address is none."""
        address = (api or os.environ.get(API_VARIABLE) or API).rstrip("/")
        if urlsplit(address).scheme not in ("http", "https") or not urlsplit(address).netloc:
            raise BadInput(f"--judge-api {address} is no address; give one such as http://localhost:8000/v1")
        return Judge(address, model, folder / REPLIES)

    def replies(self, requests: Sequence[Request], usable: Callable[[str], bool] = lambda reply: True) -> list[str]:
        """What the judge says to each, in their order; replies that are not `usable` are asked for again.

        Raises BadInput where the API refuses, or no reply is usable; Temporary where it is out of reach.
        """
        keys = [self._key(request) for request in requests]
        found = {key: content(reply) for key, reply in self._kept().items()}
        todo = {key: one for key, one in zip(keys, requests, strict=True) if key not in found}
        if todo:
            self.kept.parent.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            asked = {pool.submit(self._ask, request, usable): key for key, request in todo.items()}
            try:
                for future in as_completed(asked):
                    reply = future.result()
                    found[asked[future]] = content(reply)
                    self._keep({"key": asked[future], "reply": reply})
            finally:
                pool.shutdown(cancel_futures=True)
        return [str(found[key]) for key in keys]

    def models(self) -> list[str]:
        """The models that the API says its replies are of."""
        return sorted({str(reply.get("model", self.model)) for reply in self._kept().values()})

    def _key(self, request: Request) -> str:
        identity = {"model": self.model, "messages": request.messages, "run": request.run, **request.parameters}
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def _kept(self) -> dict[str, Any]:
        """Replies by their keys; a line that was being written when a command was killed is taken away."""
        text = self.kept.read_text(encoding="utf-8") if self.kept.exists() else ""
        *lines, cut = text.split("\n")
        if cut:
            self.kept.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return {line["key"]: line["reply"] for line in map(json.loads, lines)}

    def _keep(self, line: Mapping[str, Any]) -> None:
        with self.kept.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _ask(self, request: Request, usable: Callable[[str], bool]) -> Mapping[str, Any]:
        """The whole reply of the API. Other trouble than a reply that cannot be used is told by its own sentence."""
        body = {"model": self.model, "messages": request.messages, **request.parameters}
        trouble: Exception | None = None
        for attempt in range(ATTEMPTS):
            if isinstance(trouble, Temporary):
                self.wait(2.0 ** (attempt - 1))
            try:
                reply = self._send(body)
            except Temporary as error:
                trouble = error
                continue
            said = content(reply)
            if said is not None and usable(said):
                return reply
            shown = json.dumps(reply if said is None else said, ensure_ascii=False)[:200]
            trouble = BadInput(
                f"the judge {self.model} does not keep to the form that it is asked for, after {ATTEMPTS} attempts: "
                f"{shown}; name another model by --judge"
            )
        assert trouble
        raise trouble

    def _send(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        address = f"{self.api}/chat/completions"
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY_VARIABLE):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(address, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
                reply = json.load(response)
        except urllib.error.HTTPError as error:
            raise _refused(address, error) from error
        except (urllib.error.URLError, HTTPException, OSError) as error:
            why = error.reason if isinstance(error, urllib.error.URLError) else error
            raise Temporary(
                f"the judge's API {address} cannot be reached ({why}); check --judge-api, and that it is up"
            ) from error
        except ValueError as error:
            raise BadInput(f"what {address} says is not JSON ({error}); give an OpenAI-compatible API") from error
        if not isinstance(reply, dict):
            raise BadInput(f"what {address} says is no JSON object; give an OpenAI-compatible API")
        return reply


def content(reply: Mapping[str, Any]) -> str | None:
    """What the model said; None where the reply has no text."""
    match reply:
        case {"choices": [{"message": {"content": str(text)}}, *_]}:
            return text
    return None


def _refused(address: str, error: urllib.error.HTTPError) -> BadInput | Temporary:
    said = error.read(2000).decode(errors="replace").strip().replace("\n", " ")[:300]
    if error.code in (408, 409, 429) or error.code >= 500:
        return Temporary(f"the judge's API {address} failed {ATTEMPTS} times (HTTP {error.code}: {said}); try later")
    if error.code in (401, 403):
        return BadInput(f"the judge's API {address} wants another key (HTTP {error.code}: {said}); set {KEY_VARIABLE}")
    return BadInput(f"the judge's API {address} refuses (HTTP {error.code}: {said}); mend --judge or --judge-api")
