"""The best-of-N server as a process, asked by the official client, and its ranking against transformers."""

from __future__ import annotations

import base64
import json
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import yaml
from PIL import Image
from vllm.entrypoints.pooling.scoring.protocol import RerankResponse, ScoreResponse

from feedback_workloads.contract import Ranking
from feedback_workloads.method.ranking import reward
from feedback_workloads.models.families import family_of
from feedback_workloads.serving.description import CALLS
from tests.integration.models import picture
from tests.integration.servers import PATIENCE_SECONDS, Models, Server, make_models
from tests.loopback import serving

BETA = 0.1
MAX_PICTURE_BYTES = 100_000
CONTEXT = 1024
QUESTIONS = ("What is this?", "Which colours are there?", "Name the objects.", "Is there a dog?", "Where is it?")
TOLERANCE = 1e-3
"""Nats over a whole answer, in float32."""

NEAR_TIE = 1e-6
"""Rewards that are closer may swap places between two implementations."""

AUTOSCALER = Path("examples/autoscaling/llava.yaml")

LONG = 900
"""Tokens that take the tiny model seconds."""

SLOW_CLIENTS = 32


# ── what is served ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return make_models(tmp_path_factory.mktemp("serving-models"))


@dataclass(frozen=True)
class Site:
    """A web site with pictures, on loopback. Who asks for /slow.png is counted, and answered when `answers` is set."""

    address: str
    asked: threading.Semaphore
    answers: threading.Event


class Listener(ThreadingHTTPServer):
    request_queue_size = 2 * SLOW_CLIENTS


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    asked, answers = threading.Semaphore(0), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/redirect?"):
                self.send_response(302)
                self.send_header("Location", self.path.removeprefix("/redirect?"))
                self.end_headers()
                return
            if self.path == "/slow.png":
                asked.release()
                answers.wait()
            body = picture(3) if self.path == "/cat.png" else bytes(MAX_PICTURE_BYTES + 1)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    httpd = Listener(("127.0.0.1", 0), Handler)
    with serving(httpd):
        yield Site(f"127.0.0.1:{httpd.server_port}", asked, answers)


def flags(policy: Path, reference: Path, **more: Any) -> list[str]:
    usual = {"policy": policy, "reference": reference, "precision": "float32", "beta": BETA, "max_model_len": CONTEXT}
    return [f"--{name.replace('_', '-')}={value}" for name, value in {**usual, **more}.items()]


@pytest.fixture(scope="session")
def server(models: Models, site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two full checkpoints."""
    more = {"max_picture_bytes": MAX_PICTURE_BYTES, "private_picture_host": site.address, "drain_seconds": 1}
    log = tmp_path_factory.mktemp("serving") / "full.log"
    running = Server(log, *flags(models.policy, models.reference, **more))
    yield running
    running.stop()


@pytest.fixture(scope="session")
def adapter_server(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An adapter and its base, with a queue of one."""
    log = tmp_path_factory.mktemp("serving") / "adapter.log"
    patient = {"drain_seconds": PATIENCE_SECONDS}
    who = {"api_key": "none", "cors_origin": "https://pages.example"}
    running = Server(
        log, *flags(models.adapter, models.base, best_of=4, max_num_seqs=32, max_queue=1, **patient, **who)
    )
    yield running
    running.stop()


def data_url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def about(url: str, question: str = QUESTIONS[0]) -> list[Any]:
    """A conversation about one picture, the text first, as many clients write it."""
    parts = [{"type": "text", "text": question}, {"type": "image_url", "image_url": {"url": url}}]
    return [{"role": "user", "content": parts}]


PICTURE = data_url(picture(0))


def ask(server: Server, **fields: Any) -> Any:
    """Ask through the official client; fields that it does not know go through as they are."""
    known = {"n", "temperature", "top_p", "max_tokens", "seed", "stop", "stream", "stream_options"}
    known |= {"logprobs", "top_logprobs", "response_format"}
    extra = {name: value for name, value in fields.items() if name not in {*known, "messages"}}
    return server.client.chat.completions.create(
        model="tiny",
        messages=fields.get("messages", about(PICTURE)),
        extra_body=extra,
        **{name: value for name, value in fields.items() if name in known},
    )


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_models(server: Server) -> None:
    assert [model.id for model in server.client.models.list()] == ["tiny"]
    model = server.client.models.retrieve("tiny")
    assert (model.id, (model.model_extra or {})["max_model_len"]) == ("tiny", CONTEXT)
    with pytest.raises(openai.NotFoundError):
        server.client.models.retrieve("other")


def test_the_server_says_at_its_start_how_many_answers_it_ranks(server: Server, adapter_server: Server) -> None:
    assert "a request that does not say best_of gets one answer, not ranked" in server.log.read_text()
    assert "a request that does not say best_of gets the best of 4 answers" in adapter_server.log.read_text()


def test_the_server_describes_its_calls(server: Server) -> None:
    answer = httpx.get(f"{server.url}/openapi.json", timeout=PATIENCE_SECONDS)
    assert set(CALLS) < set(answer.json()["paths"])
    assert httpx.head(f"{server.url}/openapi.json", timeout=PATIENCE_SECONDS).status_code == 200
    assert httpx.get(f"{server.url}/docs", timeout=PATIENCE_SECONDS).status_code == 404


def test_health(server: Server) -> None:
    answer = httpx.get(f"{server.url}/health", timeout=PATIENCE_SECONDS)
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_one_answer(server: Server) -> None:
    answer = ask(server, best_of=8, max_tokens=12)
    [choice] = answer.choices
    assert (choice.index, choice.message.role) == (0, "assistant")
    assert choice.finish_reason in ("stop", "length")
    assert isinstance(choice.message.content, str)
    assert not {"score", "token_ids"} & set(choice.model_extra or ())
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.prompt_tokens > 16  # the picture's patches
    assert 8 <= answer.usage.completion_tokens <= 8 * 12  # all candidates


def test_scores(server: Server) -> None:
    answer = ask(server, best_of=8, n=2, max_tokens=12, return_scores=True)
    scores = [choice.score for choice in answer.choices]
    rewards = answer.candidate_rewards
    assert len(rewards) == 8
    assert [score["reward"] for score in scores] == sorted(rewards, reverse=True)[:2]
    for score in scores:
        assert rewards[score["candidate"]] == score["reward"]
        expect = reward(Ranking(), score["logp"], score["ref_logp"], score["tokens"], BETA)
        assert score["reward"] == pytest.approx(expect)


def test_a_request_names_another_rule(server: Server) -> None:
    fields = {"best_of": 8, "n": 8, "seed": 3, "max_tokens": 12, "return_scores": True}
    answer = ask(server, ranking={"rule": "PolicyLikelihood"}, **fields)
    scores = [choice.score for choice in answer.choices]
    assert [score["reward"] for score in scores] == [score["logp"] for score in scores]
    assert [score["logp"] for score in scores] == sorted((score["logp"] for score in scores), reverse=True)


def test_one_candidate_is_scored_only_when_asked(server: Server) -> None:
    assert "score" not in ask(server, best_of=1, max_tokens=4).choices[0].model_extra
    answer = ask(server, best_of=1, max_tokens=4, return_scores=True)
    assert answer.candidate_rewards == [answer.choices[0].score["reward"]]


def test_greedy_gives_one_answer_twice(server: Server) -> None:
    first, second = (ask(server, temperature=0, max_tokens=12) for _ in range(2))
    assert first.choices[0].message.content == second.choices[0].message.content


def test_a_seed_repeats_candidates_that_differ(server: Server) -> None:
    first, second, other = (
        ask(server, seed=seed, n=4, best_of=4, max_tokens=12, return_token_ids=True) for seed in (5, 5, 6)
    )
    assert [c.token_ids for c in first.choices] == [c.token_ids for c in second.choices]
    assert len({tuple(c.token_ids) for answer in (first, other) for c in answer.choices}) == 8


def test_the_distribution_is_changed_as_asked(server: Server) -> None:
    def drawn(**fields: Any) -> set[tuple[int, ...]]:
        answer = ask(server, n=4, best_of=4, seed=7, max_tokens=8, return_token_ids=True, **fields)
        return {tuple(choice.token_ids) for choice in answer.choices}

    assert len(drawn(temperature=1.5)) > 1
    assert len(drawn(temperature=1.5, top_k=1)) == len(drawn(temperature=1.5, min_p=1)) == 1
    first = next(iter(drawn()))[0]
    assert drawn(logit_bias={str(first): 100}) == {(first,) * 8}
    assert {len(ids) for ids in drawn(min_tokens=8)} == {8}
    with pytest.raises(openai.BadRequestError) as caught:
        drawn(logit_bias={"99999999": 1})
    assert caught.value.param == "logit_bias"


def test_a_picture_without_a_question(server: Server) -> None:
    [message] = about(PICTURE)
    assert ask(server, messages=[{"role": "user", "content": message["content"][1:]}], max_tokens=4).choices


def test_stop(server: Server) -> None:
    whole = ask(server, seed=1, best_of=1, max_tokens=30).choices[0].message.content
    letter = next(letter for letter in whole[3:] if letter.isascii())
    answer = ask(server, seed=1, best_of=1, max_tokens=30, stop=letter).choices[0]
    assert (answer.message.content, answer.finish_reason) == (whole[: whole.index(letter)], "stop")


def test_an_answer_up_to_the_end_of_the_context(server: Server) -> None:
    prompt = ask(server, best_of=1, max_tokens=1).usage.prompt_tokens
    room = CONTEXT - prompt
    assert ask(server, best_of=2, max_tokens=room).choices
    with pytest.raises(openai.BadRequestError) as caught:
        ask(server, best_of=2, max_tokens=room + 1)
    assert caught.value.code == "context_length_exceeded"


def test_conversation(server: Server) -> None:
    messages = about(PICTURE)
    first = ask(server, messages=messages, max_tokens=5)
    messages += [first.choices[0].message, {"role": "user", "content": "And now?"}]
    second = ask(server, messages=messages, max_tokens=5)
    assert second.usage.prompt_tokens > first.usage.prompt_tokens
    assert ask(server, messages=[{"role": "user", "content": "Without a picture?"}], max_tokens=5).choices


# ── who asks ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_who_may_ask(adapter_server: Server) -> None:
    url, key = adapter_server.url, {"Authorization": "Bearer none"}
    with httpx.Client(base_url=url, timeout=PATIENCE_SECONDS) as client:
        assert client.post("/v1/chat/completions", json={}).status_code == 401
        head = client.head("/v1/models", headers={**key, "X-Request-Id": "mine"})
        assert (head.status_code, head.content, head.headers["x-request-id"]) == (200, b"", "mine")
        assert client.get("/version").json()["version"]
        asks = {"Origin": "https://pages.example", "Access-Control-Request-Method": "POST"}
        asks["Access-Control-Request-Headers"] = "authorization"
        allowed = client.options("/v1/chat/completions", headers=asks)
        assert allowed.headers["access-control-allow-origin"] == asks["Origin"]
        refused = client.post("/v1/chat/completions", json={}, headers={"Origin": asks["Origin"]})
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, asks["Origin"])
        assert client.options("/v1/models", headers={**asks, "Origin": "https://evil.example"}).status_code == 400
    assert "HEAD '/v1/models' 200 " in adapter_server.log.read_text()


# ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("best_of", [1, 4])
def test_a_stream_says_the_same(server: Server, best_of: int) -> None:
    fields = {"seed": 3, "best_of": best_of, "max_tokens": 20}
    whole = ask(server, **fields)
    chunks = list(ask(server, **fields, stream=True, stream_options={"include_usage": True}))
    assert {chunk.system_fingerprint for chunk in chunks} == {ask(server, max_tokens=1).system_fingerprint}
    *events, last = chunks
    assert (last.choices, last.usage) == ([], whole.usage)
    assert {chunk.id for chunk in chunks} == {events[0].id}
    assert all(chunk.object == "chat.completion.chunk" for chunk in chunks)
    assert events[0].choices[0].delta.role == "assistant"
    assert "".join(event.choices[0].delta.content or "" for event in events) == whole.choices[0].message.content
    assert [event.choices[0].finish_reason for event in events if event.choices[0].finish_reason] == [
        whole.choices[0].finish_reason
    ]


def test_a_stream_of_two_winners_with_scores(server: Server) -> None:
    fields = {"seed": 4, "n": 2, "best_of": 8, "max_tokens": 10, "return_scores": True}
    whole = ask(server, **fields)
    chunks = list(ask(server, **fields, stream=True))
    for choice in whole.choices:
        mine = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == choice.index]
        assert "".join(piece.delta.content or "" for piece in mine) == choice.message.content
        assert mine[-1].finish_reason == choice.finish_reason
        assert mine[-1].score["reward"] == pytest.approx(choice.score["reward"], abs=NEAR_TIE)
    assert chunks[-1].candidate_rewards == pytest.approx(whole.candidate_rewards, abs=NEAR_TIE)
    assert all(chunk.usage is None for chunk in chunks)


def test_the_bytes_of_a_stream(server: Server) -> None:
    body = {"model": "tiny", "messages": about(PICTURE), "stream": True, "max_tokens": 4}
    answer = httpx.post(f"{server.base_url}/chat/completions", json=body, timeout=PATIENCE_SECONDS)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = answer.text.removesuffix("\n\n").split("\n\n")
    assert events[-1] == "data: [DONE]"
    for event in events[:-1]:
        assert json.loads(event.removeprefix("data: "))["model"] == "tiny"


# ── the ranking against transformers ─────────────────────────────────────────────────────────────────────────────────


class Offline:
    """Log-probabilities by transformers, in float32."""

    def __init__(self, base: Path, adapter: Path | None = None) -> None:
        from peft import PeftModel
        from transformers import LlavaForConditionalGeneration

        model: Any = LlavaForConditionalGeneration.from_pretrained(base).eval()
        self.model = model if adapter is None else PeftModel.from_pretrained(model, adapter).eval()
        self.family = family_of(base)

    def logps(self, data: bytes, question: str, answers: list[list[int]]) -> list[float]:
        """Sum of each answer's log-probabilities, answers in one batch padded on the right."""
        import torch

        image = self.family.picture(data)
        prompt = self.family.expand(self.family.prompt_ids(question), image)
        longest = max(map(len, answers))
        ids = torch.tensor([prompt + answer + [0] * (longest - len(answer)) for answer in answers])
        pixels = self.family.features(image)["pixel_values"].expand(len(answers), -1, -1, -1)
        with torch.inference_mode():
            logits = self.model(input_ids=ids, pixel_values=pixels).logits[:, len(prompt) - 1 : -1]
        found = logits.log_softmax(-1).gather(-1, ids[:, len(prompt) :, None]).squeeze(-1)
        return [float(row[: len(answer)].double().sum()) for row, answer in zip(found, answers, strict=True)]

    def text_logp(self, prompt: list[int], answer: list[int]) -> float:
        """Sum of an answer's log-probabilities behind a text without a picture."""
        import torch

        ids = torch.tensor([prompt + answer])
        with torch.inference_mode():
            logits = self.model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
        found = logits.log_softmax(-1).gather(-1, ids[0, len(prompt) :, None])
        return float(found.double().sum())

    def likely(self, data: bytes, question: str, before: list[int], number: int) -> list[float]:
        """Log-probabilities of the most likely tokens behind `before`, the beginning of an answer."""
        import torch

        image = self.family.picture(data)
        ids = self.family.expand(self.family.prompt_ids(question), image) + before
        with torch.inference_mode():
            pixels = self.family.features(image)["pixel_values"]
            logits = self.model(input_ids=torch.tensor([ids]), pixel_values=pixels).logits[0, -1]
        return [float(one) for one in logits.log_softmax(-1).topk(number).values]


PROMPTS = [(picture(10 + i % 10), QUESTIONS[i // 10]) for i in range(50)]


def check_against(policy: Offline, reference: Offline, data: bytes, question: str, answer: Any) -> None:
    """Every log-probability is transformers', and so is the order."""
    answers = [choice.token_ids for choice in answer.choices]
    logps, ref_logps = policy.logps(data, question, answers), reference.logps(data, question, answers)
    for choice, logp, ref_logp in zip(answer.choices, logps, ref_logps, strict=True):
        assert choice.score["tokens"] == len(choice.token_ids)
        assert choice.score["logp"] == pytest.approx(logp, abs=TOLERANCE)
        assert choice.score["ref_logp"] == pytest.approx(ref_logp, abs=TOLERANCE)
    offline = [reward(Ranking(), a, b, len(ids), BETA) for a, b, ids in zip(logps, ref_logps, answers, strict=True)]
    for better, worse in pairwise(offline):
        assert better > worse - NEAR_TIE
    if len(offline) > 1:
        assert max(offline) - min(offline) > 100 * NEAR_TIE  # there was something to rank


def all_candidates(server: Server, data: bytes, question: str) -> Any:
    fields = {"n": 8, "best_of": 8, "max_tokens": 16, "return_scores": True, "return_token_ids": True}
    return ask(server, messages=about(data_url(data), question), **fields)


def test_ranking_equals_transformers(server: Server, models: Models) -> None:
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda prompt: all_candidates(server, *prompt), PROMPTS))
    policy, reference = Offline(models.policy), Offline(models.reference)
    for (data, question), answer in zip(PROMPTS, answers, strict=True):
        check_against(policy, reference, data, question, answer)


def test_adapter_on_and_off_in_one_batch_equals_transformers(adapter_server: Server, models: Models) -> None:
    """Candidates of one request are written with the adapter while those of another are scored without it."""
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda prompt: all_candidates(adapter_server, *prompt), PROMPTS))
    policy, reference = Offline(models.base, models.adapter), Offline(models.base)
    for (data, question), answer in zip(PROMPTS, answers, strict=True):
        check_against(policy, reference, data, question, answer)


# ── log-probabilities ────────────────────────────────────────────────────────────────────────────────────────────────


def written(tokens: Sequence[Any]) -> str:
    """The text that tokens of an answer are, by their bytes."""
    return bytes(byte for token in tokens for byte in token.bytes or ()).decode(errors="replace")


def whole_characters(text: str) -> str:
    """Without the beginning of a character at its end, where the answer was cut off."""
    return text.rstrip("\ufffd")


@pytest.mark.parametrize("best_of", [1, 4])
def test_log_probabilities_of_the_chosen_answer(server: Server, models: Models, best_of: int) -> None:
    fields = {"seed": 8, "best_of": best_of, "max_tokens": 12, "return_scores": True, "return_token_ids": True}
    [choice] = ask(server, **fields, logprobs=True, top_logprobs=3).choices
    tokens = choice.logprobs.content
    assert whole_characters(written(tokens)) == whole_characters(choice.message.content)
    assert len(tokens) == len(choice.token_ids)
    assert sum(token.logprob for token in tokens) == pytest.approx(choice.score["logp"], abs=NEAR_TIE)
    policy = Offline(models.policy)
    assert sum(token.logprob for token in tokens) == pytest.approx(
        policy.logps(picture(0), QUESTIONS[0], [choice.token_ids])[0], abs=TOLERANCE
    )
    for place, token in enumerate(tokens):
        likely = [one.logprob for one in token.top_logprobs]
        assert len(likely) == 3
        assert likely == sorted(likely, reverse=True)
        assert likely[0] >= token.logprob
        if place < 4:  # the most likely in its place are transformers'
            before = choice.token_ids[:place]
            expect = policy.likely(picture(0), QUESTIONS[0], before, 3)
            assert likely == pytest.approx(expect, abs=TOLERANCE)
    assert not {token.token for token in tokens if token.bytes is None} - {"</s>"}


@pytest.mark.parametrize("best_of", [1, 4])
def test_a_stream_tells_the_same_log_probabilities(server: Server, best_of: int) -> None:
    fields = {"seed": 8, "best_of": best_of, "max_tokens": 12, "logprobs": True, "top_logprobs": 2}
    whole = ask(server, **fields).choices[0].logprobs.content
    chunks = [chunk.choices[0] for chunk in ask(server, **fields, stream=True)]
    tokens = [token for chunk in chunks if chunk.logprobs for token in chunk.logprobs.content]
    assert [token.token for token in tokens] == [token.token for token in whole]
    assert [token.logprob for token in tokens] == pytest.approx([token.logprob for token in whole], abs=TOLERANCE)
    assert sum(bool(chunk.logprobs and chunk.logprobs.content) for chunk in chunks) > 1  # not all at once
    assert not any(chunk.logprobs for chunk in chunks[:1])


def test_answers_that_are_scored_meanwhile_take_no_likely_tokens_away(server: Server) -> None:
    def drawn() -> list[list[str]]:
        answer = ask(server, seed=1, best_of=4, n=4, min_tokens=40, max_tokens=40, logprobs=True, top_logprobs=4)
        return [
            [one.token for token in choice.logprobs.content for one in token.top_logprobs] for choice in answer.choices
        ]

    alone = drawn()
    with ThreadPoolExecutor(3) as pool:
        answers = [{"queries": f"What is {i}?", "documents": [f"{i} and {j}" for j in range(16)]} for i in range(6)]
        scorings = [pool.submit(post, server, "/v1/score", **fields) for fields in answers]
        beside = pool.submit(drawn)
        assert sorted(beside.result()) == sorted(alone)
        assert all(scoring.result() for scoring in scorings)


def test_no_log_probabilities_where_none_are_asked_for(server: Server) -> None:
    assert ask(server, max_tokens=2).choices[0].logprobs is None
    told = ask(server, max_tokens=2, logprobs=True).choices[0].logprobs.content
    assert all(token.top_logprobs == [] for token in told)


# ── completions of a text ────────────────────────────────────────────────────────────────────────────────────────────

BEGUN = "USER: What is red? ASSISTANT:"


@pytest.mark.parametrize("best_of", [1, 4])
def test_a_text_is_gone_on_with(server: Server, models: Models, best_of: int) -> None:
    fields: dict[str, Any] = {"seed": 3, "temperature": 1, "best_of": best_of, "max_tokens": 8}
    extra = {"return_scores": True, "return_token_ids": True}
    found = server.client.completions.create(model="tiny", prompt=BEGUN, logprobs=2, extra_body=extra, **fields)
    [choice] = found.choices
    policy, reference = Offline(models.policy), Offline(models.reference)
    prompt = policy.family.tokenizer(BEGUN)["input_ids"]
    assert found.usage.prompt_tokens == len(prompt)
    assert sum(choice.logprobs.token_logprobs) == pytest.approx(choice.score["logp"], abs=NEAR_TIE)
    assert choice.score["logp"] == pytest.approx(policy.text_logp(prompt, choice.token_ids), abs=TOLERANCE)
    assert choice.score["ref_logp"] == pytest.approx(reference.text_logp(prompt, choice.token_ids), abs=TOLERANCE)
    assert {len(likely) for likely in choice.logprobs.top_logprobs} <= {1, 2}  # two may be written alike
    given = server.client.completions.create(model="tiny", prompt=prompt, extra_body=extra, **fields)
    assert (given.choices[0].text, given.choices[0].token_ids) == (choice.text, choice.token_ids)
    events = list(server.client.completions.create(model="tiny", prompt=BEGUN, stream=True, **fields))
    assert "".join(event.choices[0].text for event in events) == choice.text
    assert events[-1].choices[0].finish_reason == choice.finish_reason
    assert {event.object for event in events} == {"text_completion"}


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        pytest.param({"prompt": "An <image>?"}, "picture token", id="a picture token"),
        pytest.param({"prompt": [10**6]}, "0 to", id="no such token"),
        pytest.param({"prompt": "x" * CONTEXT}, "tokens", id="too long"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_text_that_cannot_be_gone_on_with(server: Server, fields: dict[str, Any], word: str, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        server.client.completions.create(model="tiny", stream=stream, **fields)
    assert caught.value.param == "prompt"
    assert word in caught.value.message


# ── responses ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("best_of", [1, 4])
def test_a_response_is_what_a_chat_is_answered(server: Server, best_of: int) -> None:
    """Whole and streamed, of a picture with a question."""
    fields: dict[str, Any] = {"temperature": 1, "seed": 5, "best_of": best_of}
    chat = ask(server, **fields, max_tokens=8)
    content = [{"type": "input_text", "text": QUESTIONS[0]}, {"type": "input_image", "image_url": PICTURE}]
    given: dict[str, Any] = {
        "model": "tiny", "input": [{"role": "user", "content": content}], "temperature": 1, "max_output_tokens": 8,
        "extra_body": {"seed": 5, "best_of": best_of},
    }  # fmt: skip
    whole = server.client.responses.create(**given)
    assert whole.output_text == chat.choices[0].message.content
    assert whole.usage.total_tokens == chat.usage.total_tokens
    assert whole.status == ("incomplete" if chat.choices[0].finish_reason == "length" else "completed")
    events = list(server.client.responses.create(stream=True, **given))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text
    assert events[-1].response.output_text == whole.output_text
    assert events[-1].response.usage.total_tokens == whole.usage.total_tokens


# ── answers in a form ────────────────────────────────────────────────────────────────────────────────────────────────

SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green", "blue"]}, "there": {"type": "boolean"}},
    "required": ["colour", "there"],
    "additionalProperties": False,
}


def form(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


@pytest.fixture(scope="session")
def blanks(models: Models) -> dict[str, float]:
    """A bias against blanks between the parts of JSON, of which a model of random weights writes any number."""
    vocabulary = family_of(models.policy).tokenizer.get_vocab()
    return {str(vocabulary[letter]): -100.0 for letter in "ĠĊĉč"}


@pytest.mark.parametrize("best_of", [1, 6])
def test_every_candidate_keeps_to_a_schema(
    server: Server, models: Models, blanks: dict[str, float], best_of: int
) -> None:
    fields = {"seed": 5, "best_of": best_of, "n": best_of, "max_tokens": 60, "response_format": form(SCHEMA)}
    fields |= {"return_scores": True, "return_token_ids": True, "logprobs": True, "logit_bias": blanks}
    answer = ask(server, **fields, top_logprobs=2)
    for choice in answer.choices:
        found = json.loads(choice.message.content)
        assert set(found) == {"colour", "there"}
        assert found["colour"] in SCHEMA["properties"]["colour"]["enum"]
        assert isinstance(found["there"], bool)
        assert choice.finish_reason == "stop"
        # Those of the policy, not those among what the schema allows, which are nearly all nothing.
        assert sum(token.logprob for token in choice.logprobs.content) == pytest.approx(choice.score["logp"])
        assert all(token.top_logprobs[0].logprob >= token.logprob for token in choice.logprobs.content)
    check_against(Offline(models.policy), Offline(models.reference), picture(0), QUESTIONS[0], answer)


def test_a_stream_keeps_to_a_schema(server: Server, blanks: dict[str, float]) -> None:
    fields = {"temperature": 0, "max_tokens": 60, "response_format": form(SCHEMA), "logit_bias": blanks}
    said = "".join(chunk.choices[0].delta.content or "" for chunk in ask(server, **fields, stream=True))
    assert said == ask(server, **fields).choices[0].message.content
    assert set(json.loads(said)) == {"colour", "there"}


def test_some_object(server: Server, blanks: dict[str, float]) -> None:
    fields = {"seed": 1, "best_of": 4, "n": 4, "max_tokens": 80, "logit_bias": blanks}
    for choice in ask(server, **fields, response_format={"type": "json_object"}).choices:
        if choice.finish_reason == "stop":
            assert isinstance(json.loads(choice.message.content), dict)
        assert choice.message.content.startswith("{")


@pytest.mark.parametrize(
    "schema",
    [
        pytest.param({"type": "objekt"}, id="no such type"),
        pytest.param({"$ref": "#/nowhere"}, id="a part that is not there"),
        pytest.param({"type": "string", "pattern": "("}, id="a pattern that is none"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_schema_that_cannot_be_kept_to(server: Server, schema: Any, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(server, response_format=form(schema), stream=stream)
    assert caught.value.param == "response_format.json_schema.schema"
    assert ask(server, max_tokens=1).choices  # and the engine goes on


# ── how a chat is written, and its tokens ────────────────────────────────────────────────────────────────────────────


def test_an_answer_that_is_begun_is_gone_on_with(server: Server, models: Models) -> None:
    chat = {"messages": [*about(PICTURE), {"role": "assistant", "content": "Red, I"}], "continue_final_message": True}
    tokens = post(server, "/tokenize", **chat)["tokens"]
    assert post(server, "/detokenize", tokens=tokens)["prompt"].endswith("ASSISTANT: Red, I")
    answer = ask(server, **chat, temperature=0, max_tokens=3, logprobs=True)
    assert answer.usage.prompt_tokens == len(tokens)
    assert not answer.choices[0].message.content.startswith("Red")
    policy = Offline(models.policy)
    begun = policy.family.tokenizer(" Red, I", add_special_tokens=False)["input_ids"]
    [expect] = policy.likely(picture(0), QUESTIONS[0], begun, 1)
    assert answer.choices[0].logprobs.content[0].logprob == pytest.approx(expect, abs=TOLERANCE)


def test_a_chat_without_the_header_of_an_answer(server: Server) -> None:
    whole, without = (
        post(server, "/tokenize", messages=about(PICTURE), add_generation_prompt=header)["tokens"]
        for header in (True, False)
    )
    assert whole[: len(without)] == without
    assert post(server, "/detokenize", tokens=whole[len(without) :])["prompt"] == "ASSISTANT:"
    usage = ask(server, add_generation_prompt=False, max_tokens=1).usage
    assert usage.prompt_tokens == len(without)


def test_tokens(server: Server, models: Models) -> None:
    family = family_of(models.policy)
    found = post(server, "/tokenize", messages=about(PICTURE), return_token_strs=True)
    expect = family.expand(family.prompt_ids(QUESTIONS[0]), family.picture(picture(0)))
    assert found["tokens"] == expect
    assert found["count"] == len(expect) == ask(server, max_tokens=1).usage.prompt_tokens
    assert found["token_strs"] == family.tokenizer.convert_ids_to_tokens(expect)
    assert found["max_model_len"] == CONTEXT
    text = post(server, "/tokenize", prompt="A dog.", add_special_tokens=False)
    assert post(server, "/detokenize", tokens=text["tokens"])["prompt"] == "A dog."
    assert (text["count"], text["token_strs"]) == (6, None)


def test_a_variable_that_no_template_reads(server: Server) -> None:
    for name in ("enable_thinking", "messages", "chat_template", "bos_token"):
        with pytest.raises(openai.BadRequestError) as caught:
            ask(server, chat_template_kwargs={name: "x"})
        assert caught.value.param == f"chat_template_kwargs.{name}"


# ── scores of given answers ──────────────────────────────────────────────────────────────────────────────────────────

ANSWERS = ("A red square.", "Nothing at all, I am afraid; the picture is empty.", "", "A red square.")


def post(server: Server, path: str, **fields: Any) -> Any:
    """What the server answers at a path that the official client does not know."""
    headers = {"Authorization": "Bearer none"}
    body = {"model": "tiny", **fields}
    answer = httpx.post(server.url + path, json=body, headers=headers, timeout=PATIENCE_SECONDS)
    assert answer.status_code == 200, answer.text
    return answer.json()


def parts(url: str, question: str) -> dict[str, Any]:
    """What is asked about a picture, as vLLM's clients send it for a score."""
    return {"content": about(url, question)[0]["content"]}


def check_scores(server: Server, policy: Offline, reference: Offline) -> None:
    """Sums and rewards of answers in words are those of transformers, with the token that ends each."""
    family = policy.family
    written = [family.tokenizer(text, add_special_tokens=False)["input_ids"] for text in ANSWERS]
    ids = [[*answer, family.tokenizer.eos_token_id] for answer in written]
    for data, question in PROMPTS[::10]:
        found = post(server, "/v1/score", queries=parts(data_url(data), question), documents=ANSWERS)
        ScoreResponse.model_validate(found)  # as vLLM's clients read it
        assert [item["index"] for item in found["data"]] == list(range(len(ANSWERS)))
        logps, ref_logps = policy.logps(data, question, ids), reference.logps(data, question, ids)
        for item, answer, logp, ref_logp in zip(found["data"], ids, logps, ref_logps, strict=True):
            assert item["object"] == "score"
            assert item["tokens"] == len(answer)
            assert item["logp"] == pytest.approx(logp, abs=TOLERANCE)
            assert item["ref_logp"] == pytest.approx(ref_logp, abs=TOLERANCE)
            expect = reward(Ranking(), logp, ref_logp, len(answer), BETA)
            assert item["score"] == pytest.approx(expect, abs=BETA * TOLERANCE / len(answer))
        ratios = [abs(logp - ref_logp) for logp, ref_logp in zip(logps, ref_logps, strict=True)]
        assert max(ratios) > 10 * TOLERANCE  # there was something to be wrong about


def test_scores_of_given_answers_equal_transformers(server: Server, models: Models) -> None:
    check_scores(server, Offline(models.policy), Offline(models.reference))


def test_scores_with_an_adapter_equal_transformers(adapter_server: Server, models: Models) -> None:
    check_scores(adapter_server, Offline(models.base, models.adapter), Offline(models.base))


def test_an_answer_that_was_drawn_has_the_score_that_it_was_ranked_by(server: Server) -> None:
    fields = {"n": 4, "best_of": 4, "seed": 2, "max_tokens": 8, "return_scores": True, "return_token_ids": True}
    choices = ask(server, **fields).choices
    documents = [{"token_ids": choice.token_ids} for choice in reversed(choices)]
    again = post(server, "/v1/rerank", messages=about(PICTURE), documents=documents)["results"]
    assert [result["index"] for result in again] == [3, 2, 1, 0]
    for choice, result in zip(choices, again, strict=True):
        assert result["relevance_score"] == pytest.approx(choice.score["reward"], abs=BETA * TOLERANCE)
        assert result["logp"] == pytest.approx(choice.score["logp"], abs=TOLERANCE)
        assert result["ref_logp"] == pytest.approx(choice.score["ref_logp"], abs=TOLERANCE)
        assert result["tokens"] == choice.score["tokens"]


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_answers_are_put_in_order(server: Server, path: str) -> None:
    query, documents = parts(PICTURE, QUESTIONS[1]), list(ANSWERS[:3])
    scores = [item["score"] for item in post(server, "/score", text_1=query, text_2=documents)["data"]]
    found = post(server, path, query=query, documents=documents, top_n=2)
    RerankResponse.model_validate(found)
    order = sorted(range(3), key=lambda i: -scores[i])[:2]
    assert [result["index"] for result in found["results"]] == order
    assert [result["relevance_score"] for result in found["results"]] == pytest.approx(
        [scores[i] for i in order], abs=NEAR_TIE
    )
    assert [result["document"]["text"] for result in found["results"]] == [documents[i] for i in order]
    untold = post(server, path, query=query, documents=documents, return_documents=False)
    assert all("document" not in result for result in untold["results"])


def test_another_rule_scores_a_given_answer(server: Server) -> None:
    fields = {"queries": "What is red?", "documents": "Blood.", "ranking": {"rule": "PolicyLikelihood"}}
    [item] = post(server, "/v1/score", **fields)["data"]
    assert item["score"] == item["logp"]


def test_given_answers_are_counted_apart(server: Server) -> None:
    names = ("scored_total", "candidates_total", "tokens_total")

    def counted() -> list[float]:
        kinds = [{}, {}, {"kind": "scored"}]
        found = [server.metric(f"feedback_serving_{name}", **kind) for name, kind in zip(names, kinds, strict=True)]
        return [*found, server.metric("feedback_serving_requests_total", outcome="ok")]

    before = counted()
    usage = post(server, "/v1/score", queries="What is red?", documents=["Blood.", "A rose."])["usage"]
    gained = [after - earlier for earlier, after in zip(before, counted(), strict=True)]
    assert gained == [2, 0, len("Blood.") + 1 + len("A rose.") + 1, 1]  # one token a byte, and the last
    assert usage["completion_tokens"] == 0
    assert usage["prompt_tokens"] == usage["total_tokens"] > gained[2]


@pytest.mark.parametrize(
    ("fields", "param", "word"),
    [
        pytest.param({"documents": ["x"] * 65}, "documents", "at most 64", id="too many"),
        pytest.param({"documents": ["fine", "An <image>?"]}, "documents[1]", "picture token", id="a picture token"),
        pytest.param({"documents": {"token_ids": [10**6]}}, "documents[0]", "0 to", id="no such token"),
        pytest.param({"documents": ["x" * CONTEXT]}, "documents[0]", "tokens", id="an answer too long"),
        pytest.param({"documents": ["fine"], "queries": "An <image>?"}, "queries", "picture token", id="in the query"),
        pytest.param({"documents": ["fine"], "queries": "x" * CONTEXT}, "documents[0]", "tokens", id="too long"),
    ],
)
def test_answers_that_cannot_be_scored(server: Server, fields: dict[str, Any], param: str, word: str) -> None:
    body = {"model": "tiny", "queries": "What is red?", **fields}
    answer = httpx.post(f"{server.base_url}/score", json=body, timeout=PATIENCE_SECONDS)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param)
    assert word in error["message"]


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def png(width: int, height: int) -> bytes:
    data = BytesIO()
    Image.new("1", (width, height)).save(data, "PNG")
    return data.getvalue()


@pytest.mark.parametrize(
    ("fields", "status", "param", "code"),
    [
        pytest.param({"model": "other"}, 404, "model", "model_not_found", id="another model"),
        pytest.param({"n": 3, "best_of": 2}, 400, "best_of", "invalid_value", id="best_of below n"),
        pytest.param({"best_of": 65}, 400, "best_of", "invalid_value", id="best_of above the limit"),
        pytest.param({"tools": [{}]}, 400, "tools", "unknown_parameter", id="a field that is not served"),
        pytest.param({"ignore_eos": True}, 400, "ignore_eos", "unknown_parameter", id="a field of the engine"),
        pytest.param({"max_tokens": CONTEXT}, 400, "messages", "context_length_exceeded", id="an answer too long"),
        pytest.param(
            {"messages": about(PICTURE, "word " * CONTEXT)}, 400, "messages", "context_length_exceeded", id="too long"
        ),
        pytest.param(
            {"messages": about(PICTURE, "x" * 900_000)}, 400, "messages", "context_length_exceeded", id="far too long"
        ),
        pytest.param({"messages": about(PICTURE, "An <image>?")}, 400, "messages", "invalid_value", id="picture token"),
        pytest.param(
            {"messages": about(data_url(picture(1)[:200]))},
            400,
            "messages[0].content[1].image_url.url",
            "invalid_image",
            id="a picture cut short",
        ),
        pytest.param(
            {"messages": about(data_url(b"%!PS-Adobe-3.0 EPSF-3.0"))},
            400,
            "messages[0].content[1].image_url.url",
            "invalid_image",
            id="a program for a picture",
        ),
        pytest.param(
            {"messages": about(data_url(png(5000, 4000)))},
            400,
            "messages[0].content[1].image_url.url",
            "image_too_large",
            id="20 megapixels",
        ),
        pytest.param(
            {"messages": about(data_url(png(16_000_000, 1)))},
            400,
            "messages[0].content[1].image_url.url",
            "image_too_large",
            id="a strip that would be padded to a terabyte",
        ),
        pytest.param(
            {"messages": about(data_url(bytes(MAX_PICTURE_BYTES + 1)))},
            400,
            "messages[0].content[1].image_url.url",
            "image_too_large",
            id="too many bytes",
        ),
        pytest.param({"messages": about(PICTURE, "x" * 2_000_000)}, 413, None, "request_too_large", id="a large body"),
        pytest.param(
            {"messages": [*about(PICTURE), *about(PICTURE)]},
            400,
            "messages[1].content[1].image_url.url",
            "too_many_pictures",
            id="two pictures",
        ),
        pytest.param(
            {"messages": about("http://pictures.example/cat.png")},
            400,
            "messages[0].content[1].image_url.url",
            "image_host_refused",
            id="a picture from anywhere",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors(
    server: Server, fields: dict[str, Any], status: int, param: str | None, code: str, stream: bool
) -> None:
    body = {"model": "tiny", "messages": about(PICTURE), "max_tokens": 4, "stream": stream, **fields}
    answer = httpx.post(f"{server.base_url}/chat/completions", json=body, timeout=PATIENCE_SECONDS)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (status, param, code)
    assert error["type"] == "invalid_request_error"
    assert error["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("GET", "/v1/chat/completions", 405), ("POST", "/v1/embeddings", 404)],
)
def test_routes_that_are_not_there(server: Server, method: str, path: str, status: int) -> None:
    answer = httpx.request(method, server.url + path)
    assert answer.status_code == status
    assert path in answer.json()["error"]["message"]


def test_a_large_body_without_a_length(server: Server) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield bytes(100_000)

    with httpx.Client(timeout=PATIENCE_SECONDS) as client:
        request = client.build_request("POST", f"{server.base_url}/chat/completions", content=endless())
        with suppress(httpx.WriteError):  # where the server hung up before its answer was read
            assert client.send(request).status_code == 413
    assert server.metric("feedback_serving_requests_total", outcome="request_too_large") > 0


def test_pictures_from_hosts(server: Server, site: Site) -> None:
    def fetch(url: str) -> Any:
        return ask(server, messages=about(url), best_of=1, max_tokens=4)

    assert fetch(f"http://{site.address}/cat.png").usage.prompt_tokens > 16
    unlisted = site.address.replace("127.0.0.1", "localhost")
    for url, code in (
        (f"http://{unlisted}/cat.png", "image_host_refused"),
        (f"http://{site.address}/redirect?http://{unlisted}/cat.png", "image_host_refused"),
        (f"http://{site.address}/large.png", "image_too_large"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            fetch(url)
        assert caught.value.code == code
    assert fetch(f"http://{site.address}/redirect?/cat.png").choices


# ── what is counted ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_metrics(server: Server) -> None:
    def counted() -> tuple[float, ...]:
        return (
            server.metric("feedback_serving_requests_total", outcome="ok"),
            server.metric("feedback_serving_request_seconds_count"),
            server.metric("feedback_serving_candidates_total"),
            server.metric("feedback_serving_tokens_total", kind="completion"),
            server.metric("feedback_serving_tokens_total", kind="prompt"),
            server.metric("feedback_serving_requests_total", outcome="invalid_value"),
        )

    before = counted()
    usage = ask(server, best_of=4, max_tokens=6).usage
    list(ask(server, best_of=1, max_tokens=1, stream=True))
    with pytest.raises(openai.BadRequestError):
        ask(server, n=3, best_of=2)
    gained = [after - earlier for earlier, after in zip(before, counted(), strict=True)]
    assert gained == [2, 2, 5, usage.completion_tokens + 1, 2 * usage.prompt_tokens, 1]
    assert server.metric("feedback_serving_up") == 1
    shown = httpx.get(f"{server.url}/metrics", timeout=PATIENCE_SECONDS).text
    assert "vllm:num_requests_running" in shown
    for metric in yaml.safe_load(AUTOSCALER.read_text())["spec"]["metrics"]:
        assert f"# TYPE {metric['pods']['metric']['name']} gauge" in shown


# ── clients that leave, queues that are full, servers that end ───────────────────────────────────────────────────────


def send(server: Server, *, narrow: bool = False, **fields: Any) -> socket.socket:
    """Send a request that takes long, and do not wait for its answer; on a `narrow` connection little of it fits."""
    body = {"model": "tiny", "messages": about(PICTURE), "max_tokens": LONG, **fields}
    return send_to(server, "/v1/chat/completions", body, narrow=narrow)


def send_to(server: Server, path: str, fields: dict[str, Any], *, narrow: bool = False) -> socket.socket:
    """Send a request, and do not wait for its answer."""
    body = json.dumps(fields).encode()
    url = httpx.URL(server.url)
    connection = socket.socket()
    if narrow:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    connection.connect((url.host, url.port))
    head = f"POST {path} HTTP/1.1\r\nHost: {url.host}\r\nAuthorization: Bearer none\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"best_of": 16}, id="while the candidates are written"),
        pytest.param({"best_of": 16, "stream": True}, id="while a stream is ranked"),
        pytest.param({"best_of": 1, "stream": True, "temperature": 0}, id="in the middle of a stream"),
    ],
)
def test_a_client_that_leaves_stops_its_work(server: Server, fields: dict[str, Any]) -> None:
    outcomes = ("disconnected", "ok")
    before = [server.metric("feedback_serving_requests_total", outcome=outcome) for outcome in outcomes]
    with send(server, **fields):
        server.wait_until(lambda: server.metric("feedback_serving_sequences") > 0)
    server.wait_until(lambda: server.metric("feedback_serving_requests_running") == 0)
    server.wait_until(lambda: server.metric("feedback_serving_sequences") == 0)
    after = [server.metric("feedback_serving_requests_total", outcome=outcome) for outcome in outcomes]
    assert after == [before[0] + 1, before[1]]


def test_a_client_that_leaves_stops_the_scoring(server: Server) -> None:
    before = server.metric("feedback_serving_requests_total", outcome="disconnected")
    documents = ["x" * LONG + str(i) for i in range(64)]
    with send_to(server, "/v1/score", {"model": "tiny", "queries": "?", "documents": documents}):
        server.wait_until(lambda: server.metric("feedback_serving_sequences") > 0)
    server.wait_until(lambda: server.metric("feedback_serving_requests_running") == 0)
    server.wait_until(lambda: server.metric("feedback_serving_sequences") == 0)
    assert server.metric("feedback_serving_requests_total", outcome="disconnected") == before + 1


def begin(server: Server, length: int = 1000, first: bytes = b"{") -> socket.socket:
    """Begin a request, and return once the server waits for the body of `length` bytes, of which the first come."""
    url = httpx.URL(server.url)
    connection = socket.create_connection((url.host, url.port), PATIENCE_SECONDS)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {url.host}\r\nContent-Length: {length}\r\n"
    connection.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
    assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
    connection.sendall(first)
    return connection


def answered(connections: Sequence[socket.socket]) -> list[socket.socket]:
    """Those that the server has answered, or ended."""
    return select.select(connections, [], [], 0)[0]


def test_clients_that_send_slowly_do_not_block_chat(server: Server) -> None:
    with ExitStack() as clients:
        slow = [clients.enter_context(begin(server)) for _ in range(SLOW_CLIENTS)]
        assert ask(server, best_of=1, max_tokens=4).choices
        assert not answered(slow)


def test_hosts_of_pictures_that_answer_slowly_do_not_block_chat(server: Server, site: Site) -> None:
    with ExitStack() as clients:
        clients.callback(site.answers.set)
        messages = about(f"http://{site.address}/slow.png")
        slow = [clients.enter_context(send(server, messages=messages)) for _ in range(SLOW_CLIENTS)]
        for _ in slow:
            assert site.asked.acquire(timeout=PATIENCE_SECONDS)
        assert ask(server, best_of=1, max_tokens=4).choices
        assert not answered(slow)


def test_a_client_that_does_not_read_keeps_no_turn(server: Server) -> None:
    """Its stream is more than fits between the two."""
    before = server.metric("feedback_serving_requests_total", outcome="ok")
    with send(server, narrow=True, best_of=32, n=32, seed=0, stream=True):
        server.wait_until(lambda: server.metric("feedback_serving_requests_total", outcome="ok") > before)
        assert server.metric("feedback_serving_requests_running") == 0


def test_a_full_queue(adapter_server: Server) -> None:
    server = adapter_server
    with send(server, best_of=32):
        server.wait_until(lambda: server.metric("feedback_serving_requests_running") == 1)
        with send(server, best_of=32):
            server.wait_until(lambda: server.metric("feedback_serving_requests_waiting") == 1)
            with pytest.raises(openai.RateLimitError) as caught:
                ask(server)
            assert caught.value.code == "rate_limit_exceeded"
            assert int(caught.value.response.headers["retry-after"]) >= 1
            body = {"model": "tiny", "queries": "?", "documents": ["x"]}
            key = {"Authorization": "Bearer none"}
            scored = httpx.post(f"{server.base_url}/score", json=body, headers=key, timeout=PATIENCE_SECONDS)
            assert (scored.status_code, int(scored.headers["retry-after"]) >= 1) == (429, True)
        server.wait_until(lambda: server.metric("feedback_serving_requests_waiting") == 0)
    server.wait_until(lambda: server.metric("feedback_serving_requests_running") == 0)


# The last tests end the servers that the others share.


def test_sigterm_finishes_what_runs_and_turns_new_requests_away(adapter_server: Server) -> None:
    server = adapter_server
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(ask, server, best_of=32, max_tokens=LONG)
        server.wait_until(lambda: server.metric("feedback_serving_requests_running") == 1)
        server.terminate()
        server.wait_until(lambda: server.health() == 503)
        with pytest.raises(openai.InternalServerError) as caught:
            ask(server)
        assert (caught.value.status_code, caught.value.code) == (503, "shutting_down")
        assert caught.value.response.headers["retry-after"] == "1"
        assert not running.done()
        assert running.result().choices[0].message.content
    assert server.process.wait(PATIENCE_SECONDS) == 0


def turned_away(server: Server) -> bool:
    """Whether new requests are."""
    with pytest.raises(openai.APIStatusError) as caught:
        ask(server, model="other", n=3, best_of=2)  # refused at once, whatever it is
    return caught.value.status_code == 503


def test_a_server_that_leaves_answers_whom_it_has(models: Models, tmp_path: Path) -> None:
    """A connection that is kept, until load balancers know; and a request whose body still arrives then."""
    leaving = {"unlisted_seconds": 10, "drain_seconds": PATIENCE_SECONDS}
    server = Server(tmp_path / "leaving.log", *flags(models.policy, models.reference, **leaving))
    body = json.dumps({"model": "tiny", "messages": about(PICTURE), "max_tokens": 4}).encode()
    with server.client, begin(server, len(body), body[:1]) as connection:
        ask(server, best_of=1, max_tokens=4)
        server.terminate()
        server.wait_until(lambda: server.health() == 503)
        answers = server.client.chat.completions.with_raw_response
        last = answers.create(model="tiny", messages=about(PICTURE), max_tokens=4)
        assert (last.status_code, last.headers["connection"]) == (200, "close")
        server.wait_until(lambda: turned_away(server))
        connection.sendall(body[1:])
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
    assert server.process.wait(PATIENCE_SECONDS) == 0


def test_sigterm_does_not_wait_for_ever(server: Server) -> None:
    def stream() -> None:
        list(ask(server, best_of=64, max_tokens=LONG, stream=True))

    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(ask, server, best_of=64, max_tokens=LONG), pool.submit(stream)]
        server.wait_until(lambda: server.metric("feedback_serving_requests_running") == 2)
        server.terminate()
        assert server.process.wait(PATIENCE_SECONDS) == 0
        errors = [request.exception() for request in running]
    assert all(isinstance(error, openai.APIError) and error.code == "shutting_down" for error in errors)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        pytest.param({"best_of": 65}, "--best-of is 65", id="a flag out of its range"),
        pytest.param({"reference": "/nowhere"}, "/nowhere", id="no such model"),
        pytest.param({"picture_host": "http://a"}, "picture host", id="not a host"),
    ],
)
def test_a_server_that_cannot_start_says_why(models: Models, change: dict[str, Any], word: str) -> None:
    words = flags(models.policy, change.pop("reference", models.reference), **change)
    command = [sys.executable, "-m", "feedback_workloads.serving", *words]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert word in ended.stderr
    assert "Traceback" not in ended.stderr
