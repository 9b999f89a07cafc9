"""Models behind an API that misbehaves in every way that APIs do: what is sent again, what is told, what is paid."""

from __future__ import annotations

import math
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from feedback_workloads.apis.asking import Asking, Queue, Request
from feedback_workloads.apis.client import Client, Names, Refused
from feedback_workloads.apis.kept import Forgotten, KeptReplies
from feedback_workloads.apis.ledger import Ledger, Limits, stored_usage
from feedback_workloads.apis.replies import (
    MODERATED,
    REFUSED,
    TRUNCATED,
    WITHOUT_PROBABILITIES,
    Usage,
    content,
    usage_of,
    vote_shares,
    whole_text,
    yes_no_probabilities,
)
from feedback_workloads.contract import BadInput, Price, Temporary
from feedback_workloads.rows.rejected import BadRow
from feedback_workloads.storage.artifacts import ArtifactStore
from tests.unit.judges import Answer, Sent, completion, failure, judge_that

NAMES = Names("the API", "spec.url", "spec.model", "spec.key")
FINE = completion({"content": "fine"}, prompt_tokens=30, completion_tokens=2)


@contextmanager
def asking(url: str, waited: list[float] | None = None, **given: Any) -> Iterator[Asking]:
    seconds = waited if waited is not None else []
    with Client(url, "model", None, NAMES, given.pop("timeout", 30.0)) as client:
        arguments = {"kept": Forgotten(), "ledger": Ledger(), **given}
        yield Asking(client=client, pause=lambda _, wait: seconds.append(wait), **arguments)


def said(asked: Asking, *texts: str) -> list[str | None]:
    """What the model says to each, in their order."""
    found = dict(asked.replies((text, Request.of(text)) for text in texts))
    return [content(reply) if not isinstance(reply, Refused) else None for reply in map(found.get, texts)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("trouble", "waits"),
    [
        pytest.param([failure(429, "rate_limit", retry_after="7")] * 3, [7.0] * 3, id="a burst, with Retry-After"),
        pytest.param([failure(429, "rate_limit", retry_after_ms="1500")], [1.5], id="in milliseconds"),
        pytest.param([failure(429, "rate_limit", retry_after="soon")] * 2, [1.0, 2.0], id="a word is no time"),
        pytest.param([500, 503, 502], [1.0, 2.0, 4.0], id="servers fail"),
        pytest.param([Sent(FINE.body, cut_at=40)] * 2, [1.0, 2.0], id="cut in the middle"),
        pytest.param([b"<html>busy</html>", b'{"choices": ['], [1.0, 2.0], id="no JSON"),
        pytest.param([b'{"choices": []}', b'{"choices": [{}]}', b"{}"], [], id="no completion"),
    ],
)
def test_what_may_pass_is_sent_again(trouble: Sequence[Answer], waits: list[float]) -> None:
    answers, waited = iter([*trouble, FINE]), list[float]()
    with judge_that(lambda _: next(answers)) as server, asking(server.address, waited) as asked:
        assert said(asked, "?") == ["fine"]
    assert waited == waits
    assert len(server.bodies) == len(trouble) + 1


def test_a_slow_api_is_given_up_and_asked_again() -> None:
    late, turns = Event(), iter([True, False])

    def says(_: Mapping[str, Any]) -> Answer:
        if next(turns):
            late.wait()
        return FINE

    with judge_that(says) as server, asking(server.address, timeout=0.3) as asked:
        try:
            assert said(asked, "?") == ["fine"]
        finally:
            late.set()


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (
            failure(401, "invalid_api_key"),
            BadInput,
            r"the API http://.*/chat/completions wants another key .* set spec.key",
        ),
        (failure(403, "forbidden"), BadInput, r"wants another key \(HTTP 403: .*\); set spec.key"),
        (
            failure(404, "model_not_found"),
            BadInput,
            r"refuses \(HTTP 404: .*model_not.*\); mend spec.model or spec.url",
        ),
        (failure(429, "insufficient_quota"), BadInput, r"has no credit left \(HTTP 429: .*see to it, or spec.key"),
    ],
    ids=["a wrong key", "no right", "no such model", "no credit"],
)
def test_what_no_waiting_helps_is_told_at_once(answer: Sent, error: type[Exception], message: str) -> None:
    with judge_that(lambda _: answer) as server, asking(server.address) as asked:
        with pytest.raises(error, match=message):
            said(asked, "?")
        assert len(server.bodies) == 1


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (503, Temporary, r"after 3 attempts: the API .* fails \(HTTP 503: .*\); try later"),
        (failure(429, "rate_limit"), Temporary, r"after 3 attempts: .* fails \(HTTP 429"),
        (b"<html>", BadInput, r"after 3 attempts: .* is not JSON .*; check spec.url: give an OpenAI-compatible API"),
        (b"{}", BadInput, r"after 3 attempts: model of the API does not keep to the form .*: \{\}; name another"),
    ],
    ids=["down", "overrun", "no API", "no completions"],
)
def test_attempts_are_counted(answer: Answer, error: type[Exception], message: str) -> None:
    with judge_that(lambda _: answer) as server, asking(server.address, attempts=3) as asked:
        with pytest.raises(error, match=message):
            said(asked, "?")
        assert len(server.bodies) == 3


def test_a_request_that_is_refused_leaves_the_others() -> None:
    def says(body: Mapping[str, Any]) -> Answer:
        return failure(400, "context_length_exceeded") if body["messages"][0]["content"] == "long" else FINE

    with judge_that(says) as server, asking(server.address) as asked:
        assert said(asked, "one", "long", "two") == ["fine", None, "fine"]
    assert len(server.bodies) == 3


def test_no_more_are_under_way_than_is_said() -> None:
    """All that may be sent at once are, and no more: each waits for as many others, and one too many would be seen."""
    here, all_here, most = [0], Event(), [0]

    def says(_: Mapping[str, Any]) -> Answer:
        here[0] += 1
        most[0] = max(most[0], here[0])
        if here[0] == 4:
            all_here.set()
        assert all_here.wait(30)
        here[0] -= 1
        return FINE

    with judge_that(says) as server, asking(server.address, at_once=4) as asked:
        assert said(asked, *"abcdefgh") == ["fine"] * 8
    assert most[0] == 4


def test_a_reply_may_give_rise_to_a_request() -> None:
    def named(text: str) -> tuple[str, Request]:
        return text, Request.of(text)

    following, found = deque[str](), list[str]()
    with judge_that(lambda body: body["messages"][0]["content"] + "b") as server, asking(server.address) as asked:
        for text, reply in asked.replies(map(named, Queue(following, ["a"]))):
            assert not isinstance(reply, Refused)
            found.append(text)
            if len(found) < 3:
                following.append(str(content(reply)))
    assert found == ["a", "ab", "abb"]


# ── what is kept ─────────────────────────────────────────────────────────────────────────────────────────────────────


def kept(folder: Path, url: str) -> KeptReplies:
    root = str(folder)
    return KeptReplies(ArtifactStore(folder / "cache").objects(root), root, url)


def test_nothing_is_paid_twice(tmp_path: Path) -> None:
    """Not within one process, nor by the next; but what is asked several times on purpose, or of another API, is."""
    with judge_that(lambda _: FINE) as server:
        with asking(server.address, kept=kept(tmp_path, server.address), at_once=1) as asked:
            assert said(asked, "one", "two") == ["fine", "fine"]
        with asking(server.address, kept=kept(tmp_path, server.address)) as asked:
            assert said(asked, "two", "one") == ["fine", "fine"]
            assert len(server.bodies) == 2
            list(asked.replies([(0, Request.of("one", run=2)), (1, Request.of("one", temperature=0.5))]))
            assert len(server.bodies) == 4
        with asking(server.address, kept=kept(tmp_path, "http://elsewhere/v1")) as asked:
            said(asked, "one")
    assert server.texts[-1] == "one"


KILLED = """
import sys
from pathlib import Path
from feedback_workloads.apis.asking import Request
from tests.unit.test_apis import asking, kept
url, folder = sys.argv[1], Path(sys.argv[2])
with asking(url, kept=kept(folder, url), at_once=3) as asked:
    for number, _ in asked.replies((number, Request.of(str(number))) for number in range(12)):
        pass
"""


def test_a_kill_pays_again_for_what_was_under_way_alone(tmp_path: Path) -> None:
    """The server counts: the process is killed while three requests of twelve are under way."""
    process: list[subprocess.Popen[bytes]] = []
    killed, stuck = Event(), Event()

    def says(_: Mapping[str, Any]) -> Answer:
        if len(server.bodies) > 6 and not killed.is_set():
            if len(server.bodies) == 9:
                stuck.set()
            assert killed.wait(120)
        return FINE

    with judge_that(says) as server:
        process.append(subprocess.Popen([sys.executable, "-c", KILLED, server.address, str(tmp_path)]))
        assert stuck.wait(120)
        process[0].kill()
        process[0].wait()
        killed.set()
        before = set(server.texts[:6])
        with asking(server.address, kept=kept(tmp_path, server.address), at_once=3) as asked:
            assert said(asked, *map(str, range(12))) == ["fine"] * 12
    again = [text for text in server.texts[9:] if text in before]
    assert not again
    assert len(server.texts) == 9 + 6


# ── what is paid ─────────────────────────────────────────────────────────────────────────────────────────────────────

PRICE = Price(input=2.5, output=10)


@pytest.mark.parametrize(
    ("reply", "usage"),
    [
        ({"usage": {"prompt_tokens": 1000, "completion_tokens": 1}}, Usage(1, 1000, 1, 2510)),
        ({"usage": {"prompt_tokens": 1, "completion_tokens": 0}}, Usage(1, 1, 0, 3)),
        ({"usage": {"prompt_tokens": None}}, Usage(1)),
        ({"usage": None}, Usage(1)),
        ({}, Usage(1)),
    ],
)
def test_what_a_reply_costs(reply: Mapping[str, Any], usage: Usage) -> None:
    assert usage_of(reply, PRICE) == usage


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        pytest.param(
            Limits(tokens=100, field="spec.limits"),
            "spec.limits.tokens is reached: 128 of 100 tokens are spent; raise it, and the answers so far are kept",
            id="tokens",
        ),
        pytest.param(
            Limits(cost=0.00035, price=PRICE, field="spec.limits"),
            "spec.limits.cost is reached: 0.00038 of 0.00035 are spent; raise it",
            id="money",
        ),
    ],
)
def test_a_limit_holds_over_processes(limits: Limits, message: str, tmp_path: Path) -> None:
    """Each reply takes 32 tokens: the fifth request is not sent, nor any by the next process."""
    objects = ArtifactStore(tmp_path / "cache").objects(str(tmp_path))
    with judge_that(lambda _: FINE) as server:
        for _ in range(2):
            ledger = Ledger(limits, objects, str(tmp_path))
            with asking(server.address, ledger=ledger, at_once=1) as asked, pytest.raises(BadInput, match=message):
                said(asked, *"abcdefgh")
            assert len(server.bodies) == 4
    assert stored_usage(objects, str(tmp_path)) == Usage(4, 120, 8, 380 if limits.price == PRICE else 0)


def test_what_is_not_answered_is_not_paid(tmp_path: Path) -> None:
    objects, answers = ArtifactStore(tmp_path / "cache").objects(str(tmp_path)), iter([500, 429, FINE])
    ledger = Ledger(Limits(), objects, str(tmp_path))
    with judge_that(lambda _: next(answers)) as server, asking(server.address, ledger=ledger) as asked:
        said(asked, "?")
    assert stored_usage(objects, str(tmp_path)) == Usage(1, 30, 2)


# ── what replies say ─────────────────────────────────────────────────────────────────────────────────────────────────


def reply_of(answer: Sent) -> Mapping[str, Any]:
    with judge_that(lambda _: answer) as server, asking(server.address) as asked:
        ((_, reply),) = asked.replies([(0, Request.of("?"))])
    assert not isinstance(reply, Refused)
    return reply


def likely(**tokens: float) -> dict[str, Any]:
    """The log-probabilities of a first token; `_` before a word stands for a blank."""
    top = [{"token": token.replace("_", " "), "logprob": math.log(p)} for token, p in tokens.items()]
    return {"content": "x", "finish_reason": "length", "logprobs": {"content": [{"top_logprobs": top}]}}


def test_probabilities_are_over_every_way_to_write_the_words() -> None:
    told = likely(Yes=0.4, _yes=0.1, YES=0.05, No=0.2, _no=0.1, Yesterday=0.1, nothing=0.05)
    assert yes_no_probabilities(reply_of(completion(told))) == pytest.approx((0.55, 0.3))
    assert yes_no_probabilities(reply_of(completion(likely(The=0.9)))) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param(completion({"refusal": "I will not look at this."}), REFUSED, id="refused"),
        pytest.param(completion({"finish_reason": "content_filter"}), MODERATED, id="held back"),
        pytest.param(failure(400, "content_filter"), MODERATED, id="held back before the model read it"),
        pytest.param(completion({"content": "Yes"}), WITHOUT_PROBABILITIES, id="nothing told"),
        pytest.param(completion({"content": "Yes", "logprobs": {"content": []}}), WITHOUT_PROBABILITIES, id="empty"),
    ],
)
def test_no_verdict(answer: Sent, reason: str) -> None:
    with pytest.raises(BadRow) as bad:
        yes_no_probabilities(reply_of(answer))
    assert bad.value.reason == reason


YES, NO, PERHAPS = {"content": "**Yes**, there is."}, {"content": "no."}, {"content": "Perhaps. Yes?"}
CUT = {"content": "Let me think: yes", "finish_reason": "length"}
HELD = {"finish_reason": "content_filter"}


@pytest.mark.parametrize(
    ("choices", "shares"),
    [
        ([YES, YES, NO, PERHAPS], (0.5, 0.25)),
        ([PERHAPS], (0.0, 0.0)),
        ([{"content": "Yes", "finish_reason": "length"}, NO], (0.5, 0.5)),
        ([YES, HELD, CUT], (1 / 3, 0.0)),
        ([HELD, CUT], MODERATED),
        ([PERHAPS, CUT], TRUNCATED),
        ([{"refusal": "no!"}], REFUSED),
        ([{"content": None}], (0.0, 0.0)),
    ],
)
def test_votes(choices: Sequence[Mapping[str, Any]], shares: tuple[float, float] | str) -> None:
    given = reply_of(completion(*choices))["choices"]
    if isinstance(shares, tuple):
        assert vote_shares(given) == pytest.approx(shares)
        return
    with pytest.raises(BadRow) as bad:
        vote_shares(given)
    assert bad.value.reason == shares


@pytest.mark.parametrize(
    ("said", "reason"),
    [(CUT, TRUNCATED), ({"content": ""}, TRUNCATED), (HELD, MODERATED), ({"refusal": "no"}, REFUSED), (NO, None)],
)
def test_whole_answers(said: Mapping[str, Any], reason: str | None) -> None:
    choice = reply_of(completion(said))["choices"][0]
    if reason is None:
        assert whole_text(choice) == "no."
        return
    with pytest.raises(BadRow) as bad:
        whole_text(choice)
    assert bad.value.reason == reason
