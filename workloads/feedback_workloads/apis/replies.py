"""What chat completions say."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from feedback_workloads.contract import Price
from feedback_workloads.rows.rejected import BadRow

REFUSED: Final = "refused"
MODERATED: Final = "moderated"
TRUNCATED: Final = "truncated"
"""Reasons of rejected rows: the model would not answer, the API held its answer back, or cut it before its end."""
WITHOUT_PROBABILITIES: Final = "no-log-probabilities"
"""Reason of a rejected row: the API does not say how likely the answer's first token was."""

MILLION: Final = 1_000_000
FIRST_WORD: Final = re.compile(r"\W*(\w+)")


@dataclass(frozen=True)
class Usage:
    """What was paid for. `cost_micros` is in millionths of the currency of the price, rounded up a reply."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_micros: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.requests + other.requests,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cost_micros + other.cost_micros,
        )

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens


def usage_of(reply: Mapping[str, Any], price: Price) -> Usage:
    """Of one reply, at that price; its request alone where the API does not say how many tokens there were."""
    usage = reply.get("usage") or {}
    given, made = (int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens"))
    return Usage(1, given, made, math.ceil(round(given * price.input + made * price.output, 6)))


def readable(reply: Mapping[str, Any]) -> bool:
    """Whether it is a chat completion at all, whatever the model said."""
    match reply:
        case {"choices": [*choices]} if choices:
            return all(isinstance(choice, dict) and isinstance(choice.get("message"), dict) for choice in choices)
    return False


def content(reply: Mapping[str, Any]) -> str | None:
    """What the model said; None where the reply has no text."""
    match reply:
        case {"choices": [{"message": {"content": str(text)}}, *_]}:
            return text
    return None


def whole_text(choice: Mapping[str, Any]) -> str:
    """The whole answer of a choice. Raises BadRow where it is none."""
    _check(choice)
    text = choice["message"].get("content")
    if choice.get("finish_reason") == "length" or not text:
        raise BadRow(TRUNCATED, "the answer was cut before its end")
    return str(text)


def _check(choice: Mapping[str, Any]) -> None:
    """Raise BadRow where the model refused or the API held back."""
    if refusal := choice["message"].get("refusal"):
        raise BadRow(REFUSED, str(refusal))
    if choice.get("finish_reason") == "content_filter":
        raise BadRow(MODERATED, "the API holds the answer back")


def yes_no_probabilities(reply: Mapping[str, Any]) -> tuple[float, float]:
    """p(yes) and p(no) of the first token, over those that the API tells and every way to write the words.

    Raises BadRow where there is no answer, or nothing is told of it.
    """
    choice = reply["choices"][0]
    _check(choice)
    match choice.get("logprobs"):
        case {"content": [{"top_logprobs": [_, *_] as likely}, *_]}:
            return _probability(likely, "yes"), _probability(likely, "no")
    raise BadRow(WITHOUT_PROBABILITIES, "the reply has no top_logprobs")


def _probability(likely: Sequence[Mapping[str, Any]], word: str) -> float:
    return math.fsum(math.exp(one["logprob"]) for one in likely if str(one["token"]).strip().lower() == word)


def vote_shares(choices: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Shares of the answers that begin with yes, and with no.

    Raises BadRow where none does, and one was refused, held back or cut.
    """
    found = [_vote(choice) for choice in choices]
    yes, no = (sum(vote == word for vote in found) for word in ("yes", "no"))
    if not yes + no and (bad := next((vote for vote in found if isinstance(vote, BadRow)), None)):
        raise bad
    return yes / len(found), no / len(found)


def _vote(choice: Mapping[str, Any]) -> str | BadRow:
    """The first word of an answer, or why there is none."""
    try:
        _check(choice)
    except BadRow as bad:
        return bad
    said = FIRST_WORD.match(choice["message"].get("content") or "")
    word = said[1].lower() if said else ""
    if word not in ("yes", "no") and choice.get("finish_reason") == "length":
        return BadRow(TRUNCATED, "the answer was cut before it said yes or no")
    return word
