"""One request to an OpenAI-compatible API, and what its trouble means."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from feedback_workloads.contract import BadInput, Temporary

Reply = Mapping[str, Any]
"""A chat completion, or what another call gives, as the API sent it."""

PASSING: Final = frozenset({408, 409, 425, 429})
"""Statuses after which the same request may be answered, beside those of 500 and more."""
OF_THE_REQUEST: Final = frozenset({400, 413, 422})
MODERATED: Final = frozenset({"content_filter", "content_policy_violation"})
"""Codes of an API that looks at what it is asked before the model does."""
WITHOUT_CREDIT: Final = "insufficient_quota"
"""OpenAI's code of a 429 that no waiting helps against."""
MODERATED_REPLY: Final[Reply] = {
    "choices": [{"finish_reason": "content_filter", "message": {"role": "assistant", "content": None}}]
}
CHAT: Final = "/chat/completions"
RAW: Final = "X-Stainless-Raw-Response"
"""Asks openai's client for the reply as it came: what it does not know of would be lost."""
NO_KEY: Final = "none"
"""What the client is given in place of a key, which it does not send then."""


@dataclass(frozen=True)
class Names:
    """What a person calls an API and what they have said of it: for messages."""

    api: str
    address: str
    model: str
    key: str


class Refused(BadInput):
    """The API does not take this request; another one may be good."""


class Busy(Temporary):
    """The API fails in a way that may pass; it asks for `after` seconds of patience, where it says how many."""

    def __init__(self, message: str, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after


class Garbled(BadInput):
    """What answers is no API, or an API behind something that answers in its place for now."""


class Unreachable(Busy):
    """Nothing answers at the address of the API, or connections break."""


class Client:
    """A model at the address `url`, which ends where `call` follows: a chat, unless another one is named.

    Threads may share it. Close it, as a context.
    """

    def __init__(
        self,
        url: str,
        model: str,
        key: str | None,
        names: Names,
        timeout_seconds: float = 600.0,
        *,
        call: str = CHAT,
    ) -> None:
        from openai import Omit, OpenAI

        self.url = url.rstrip("/")
        self._call = call
        self.model = model
        self.names = names
        self._key = key
        self._headers: dict[str, str | Omit] = {RAW: "true", **({} if key else {"Authorization": Omit()})}
        self._openai = OpenAI(
            base_url=self.url,
            api_key=key or NO_KEY,
            max_retries=0,  # ours are counted, and end with the process
            timeout=timeout_seconds,
        )

    def send(self, body: Mapping[str, Any]) -> Reply:
        """The API's reply to a body, which lacks the model. What it holds back before the model reads it is one, too.

        Raises Refused, or another BadInput, where asking again does not help; Busy or Garbled where it may.
        """
        from openai import APIConnectionError, APIStatusError

        try:
            raw: Any = self._openai.post(
                self._call, cast_to=object, body={"model": self.model, **body}, options={"headers": self._headers}
            )
        except APIConnectionError as error:
            why = error.__cause__ or error
            raise Unreachable(
                f"{self.names.api} {self._place} cannot be reached ({_line(why)}); check {self.names.address}, and "
                "that it is up"
            ) from error
        except APIStatusError as error:
            if error.code in MODERATED:
                return MODERATED_REPLY
            raise self._trouble(error) from error
        return self._read(raw.http_response.content)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._openai.close()

    @property
    def _place(self) -> str:
        return f"{self.url}{self._call}"

    def _read(self, data: bytes) -> Reply:
        remedy = f"check {self.names.address}: give an OpenAI-compatible API"
        try:
            reply = json.loads(data)
        except ValueError as error:
            raise Garbled(f"what {self._place} says is not JSON ({error}); {remedy}") from error
        if not isinstance(reply, dict):
            raise Garbled(f"what {self._place} says is no JSON object; {remedy}")
        return reply

    def _trouble(self, error: Any) -> Exception:
        """What an error status means, as one sentence. `error` is openai's APIStatusError."""
        names, status = self.names, error.status_code
        told = error.response.text
        if self._key:
            told = told.replace(self._key, "***")  # some APIs tell the key that they do not take
        said = f"(HTTP {status}: {_line(told)[:300]})"
        if error.code == WITHOUT_CREDIT:
            return BadInput(
                f"the account at {names.api} {self._place} has no credit left {said}; see to it, or {names.key}"
            )
        if status in PASSING or status >= 500:
            return Busy(f"{names.api} {self._place} fails {said}; try later", _retry_after(error.response.headers))
        if status in (401, 403):
            return BadInput(f"{names.api} {self._place} wants another key {said}; set {names.key}")
        kind = Refused if status in OF_THE_REQUEST else BadInput
        return kind(f"{names.api} {self._place} refuses {said}; mend {names.model} or {names.address}")


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, where a reply says so in seconds (RFC 9110, 10.2.3) or, as OpenAI does, in milliseconds."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        if 0 <= seconds < float("inf"):
            return seconds
    return None


def _line(what: object) -> str:
    return " ".join(str(what).split())
