"""Models behind APIs in the places of models here: one that labels, one that writes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final, TypeVar

from PIL import Image

from feedback_workloads.apis.asking import Asking, Queue, Request
from feedback_workloads.apis.client import Client, Names, Refused, Reply
from feedback_workloads.apis.kept import Forgotten, KeptReplies
from feedback_workloads.apis.ledger import Ledger, Limits, stored_usage
from feedback_workloads.apis.replies import (
    WITHOUT_PROBABILITIES,
    Usage,
    usage_of,
    vote_shares,
    whole_text,
    yes_no_probabilities,
)
from feedback_workloads.contract import (
    COMMON_KEY_VARIABLE,
    KEY_VARIABLES,
    APILabeler,
    APIModel,
    BadInput,
    Decoding,
    LabelingConfig,
    Price,
    Requests,
    SplittingConfig,
    shard_uri,
)
from feedback_workloads.engine import Draw, Verdict
from feedback_workloads.models.pictures import data_url
from feedback_workloads.models.sources import root_of
from feedback_workloads.rows.rejected import BadRow

if TYPE_CHECKING:
    from feedback_workloads.storage.artifacts import ArtifactStore

Key = TypeVar("Key")
Messages = tuple[Mapping[str, Any], ...]

FIELDS: Final = {"labeling": "spec.labeling.api", "splitting": "spec.splitting.llm.api"}
MOST_TOLD: Final = 20
"""Of the likeliest first tokens; no API tells more."""
GREEDY_WORD: Final = {"max_completion_tokens": 1, "temperature": 0.0, "logprobs": True, "top_logprobs": MOST_TOLD}
REFUSED_REQUEST: Final = "refused-request"
"""Reason of a rejected row whose request the API does not take, such as one that is too long."""
PROBE: Final = Requests(retries=2, timeout_seconds=15)
PROBE_QUESTION: Final = "Is there a dog in the picture? Please answer yes or no."
PROBE_SIDE: Final = 224
PROBE_TOKENS: Final = 16


def client_of(stage: str, api: APIModel, requests: Requests) -> Client:
    """The client of the API of a stage, with the key that its environment holds."""
    field, variable = FIELDS[stage], KEY_VARIABLES[stage]
    names = Names(
        api=field,
        address=f"{field}.url",
        model=f"{field}.model",
        key=f"{field}.keySecretRef or, where there is no cluster, {variable} or {COMMON_KEY_VARIABLE}",
    )
    key = os.environ.get(variable) or os.environ.get(COMMON_KEY_VARIABLE)
    return Client(api.url, api.model, key, names, requests.timeout_seconds)


@dataclass(frozen=True)
class Written:
    """A whole answer in words, and how many tokens it had."""

    text: str
    tokens: int


@contextmanager
def asking(
    config: LabelingConfig | SplittingConfig, api: APIModel, shard: int, store: ArtifactStore
) -> Iterator[Asking]:
    """How a stage asks its API: within its limits, and nothing that is kept beside its artifacts already."""
    requests = config.requests
    limits = Limits(
        tokens=requests.max_tokens and requests.max_tokens / config.shards,
        cost=requests.max_cost and requests.max_cost / config.shards,
        price=requests.price,
        field=f"{FIELDS[config.stage]}.limits",
    )
    output = shard_uri(config, shard)
    root = root_of(store, config.output)
    with client_of(config.stage, api, requests) as client:
        kept = KeptReplies(store.objects(root), root, client.url)
        ledger = Ledger(limits, store.objects(output), output)
        yield Asking(client, kept, ledger, requests.concurrency, 1 + requests.retries)


def paid(config: LabelingConfig | SplittingConfig, shard: int, store: ArtifactStore) -> dict[str, int]:
    """What a stage paid to its API, for the counts of its manifest; money where there is a price."""
    output = shard_uri(config, shard)
    usage = stored_usage(store.objects(output), output)
    counts = {
        "api_requests": usage.requests,
        "api_input_tokens": usage.input_tokens,
        "api_output_tokens": usage.output_tokens,
    }
    return {**counts, "api_cost_micros": usage.cost_micros} if usage.cost_micros else counts


# ── who labels ───────────────────────────────────────────────────────────────────────────────────────────────────────


NOTHING: Final = Usage()


@dataclass(frozen=True)
class _Poll:
    """A question about a picture, and the answers to it so far."""

    key: Any
    messages: Messages
    choices: tuple[Mapping[str, Any], ...] = ()
    usage: Usage = NOTHING


class APIJudge:
    """A labeler behind an API. What it asks is a chat of one message, pictures first."""

    def __init__(self, asking: Asking, api: APILabeler) -> None:
        self._asking = asking
        self._api = api

    def about(self, images: Sequence[bytes]) -> Callable[[str], Messages]:
        """What asks a question about pictures. Raises BadRow where one cannot be read."""
        urls = [data_url(image, self._api.max_picture_side) for image in images]
        shown = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        return lambda question: ({"role": "user", "content": [*shown, {"type": "text", "text": question}]},)

    def yes_no(self, requests: Iterable[tuple[Key, Messages]]) -> Iterator[tuple[Key, Verdict | BadRow]]:
        """Verdicts as they come; BadRow where there is none."""
        following = deque[_Poll]()
        polls = Queue(following, (_Poll(key, messages) for key, messages in requests))
        for poll, reply in self._asking.replies(map(self._asked, polls)):
            if isinstance(reply, Refused):
                yield poll.key, BadRow(REFUSED_REQUEST, str(reply))
                continue
            went_on = replace(
                poll, choices=(*poll.choices, *reply["choices"]), usage=poll.usage + usage_of(reply, Price())
            )
            if self._api.votes and len(went_on.choices) < self._api.votes.number:
                following.append(went_on)
            else:
                yield poll.key, self._verdict(went_on, reply)

    def _asked(self, poll: _Poll) -> tuple[_Poll, Request]:
        """The next request of a poll: all answers that it lacks. Some APIs give one at a time."""
        votes = self._api.votes
        if votes is None:
            return poll, Request(poll.messages, {**GREEDY_WORD, **self._api.parameters})
        drawn = {
            "n": votes.number - len(poll.choices),
            "max_completion_tokens": votes.max_new_tokens,
            "temperature": votes.temperature,
        }
        return poll, Request(poll.messages, {**drawn, **self._api.parameters}, run=1 + len(poll.choices))

    def _verdict(self, poll: _Poll, reply: Reply) -> Verdict | BadRow:
        try:
            yes, no = vote_shares(poll.choices) if self._api.votes else yes_no_probabilities(reply)
        except BadRow as bad:
            return bad
        return Verdict(yes, no, poll.usage.input_tokens, 0)


def check_labeler(api: APILabeler, requests: Requests) -> None:
    """Ask a labeler behind an API one question about a picture. Raises as `Asking.replies`, and where it gives none."""
    blank = BytesIO()
    Image.new("RGB", (PROBE_SIDE, PROBE_SIDE), "white").save(blank, "PNG")
    with _probing("labeling", api, requests) as asking:
        judge = APIJudge(asking, api)
        ((_, verdict),) = judge.yes_no([(None, judge.about([blank.getvalue()])(PROBE_QUESTION))])
    if isinstance(verdict, BadRow) and verdict.reason == WITHOUT_PROBABILITIES:
        raise BadInput(
            f"{FIELDS['labeling']} {api.url} does not tell how likely its answers are; give {FIELDS['labeling']}.votes"
        )
    if isinstance(verdict, BadRow) and verdict.reason == REFUSED_REQUEST:
        raise BadInput(verdict.detail)


# ── who writes ───────────────────────────────────────────────────────────────────────────────────────────────────────


class APIWriter:
    """A model behind an API that is asked in words."""

    def __init__(self, asking: Asking, api: APIModel) -> None:
        self._asking = asking
        self._api = api

    def prompt(self, text: str) -> Messages:
        """A chat of one message."""
        return ({"role": "user", "content": text},)

    def write(
        self, requests: Iterable[tuple[Key, Messages, Draw]], decoding: Decoding
    ) -> Iterator[tuple[Key, Written | BadRow]]:
        """What the model says, as it comes; BadRow where that is not a whole answer."""

        def request(given: tuple[Key, Messages, Draw]) -> tuple[Key, Request]:
            key, messages, draw = given
            parameters = {
                "max_completion_tokens": decoding.max_new_tokens,
                "temperature": draw.temperature,
                "top_p": decoding.top_p,
            }
            return key, Request(messages, {**parameters, **self._api.parameters}, run=draw.seed)

        for key, reply in self._asking.replies(map(request, requests)):
            try:
                if isinstance(reply, Refused):
                    raise BadRow(REFUSED_REQUEST, str(reply))
                yield key, Written(whole_text(reply["choices"][0]), usage_of(reply, Price()).output_tokens)
            except BadRow as bad:
                yield key, bad


def check_splitter(api: APIModel, requests: Requests) -> None:
    """Ask a splitter behind an API for one word. Raises as `Asking.replies`."""
    with _probing("splitting", api, requests) as asking:
        body = {"max_completion_tokens": PROBE_TOKENS, **api.parameters}
        ((_, reply),) = asking.replies([(None, Request.of(PROBE_QUESTION, **body))])
    if isinstance(reply, Refused):
        raise reply


@contextmanager
def _probing(stage: str, api: APIModel, requests: Requests) -> Iterator[Asking]:
    """How an API is asked whether it answers at all: nothing is kept, so that it has to."""
    with client_of(stage, api, requests) as client:
        yield Asking(client, Forgotten(), Ledger(), at_once=1, attempts=1 + requests.retries)
