"""What happens to one chat request: its turn, its prompt, its candidates, its answer; and all requests' accounts."""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from typing import TYPE_CHECKING

from PIL import Image

from feedback_workloads.contract import BadInput, Ranking
from feedback_workloads.method.ranking import asks_reference
from feedback_workloads.models.family import Prompt
from feedback_workloads.serving.best_of import Ranked, best_of, candidate_seed
from feedback_workloads.serving.engines import Drawn, Engines, Sampling
from feedback_workloads.serving.errors import invalid, unknown_model
from feedback_workloads.serving.intake.admission import Admission
from feedback_workloads.serving.intake.pictures import Pictures
from feedback_workloads.serving.intake.receiving import Arrived
from feedback_workloads.serving.logprobs import PIECE, along, told
from feedback_workloads.serving.metrics import Metrics
from feedback_workloads.serving.prompts import Chat, Prompts, Raw, too_long
from feedback_workloads.serving.protocol.chat import (
    AnswerMessage,
    ChatRequest,
    Choice,
    Chunk,
    ChunkChoice,
    Completion,
    Delta,
    Logprobs,
)
from feedback_workloads.serving.protocol.completions import AsText, CompletionRequest, TextCompletion
from feedback_workloads.serving.protocol.drawing import DrawingRequest, Wanted, wanted
from feedback_workloads.serving.protocol.parts import Usage, conversation, read
from feedback_workloads.serving.protocol.responses import AsResponse, Response, ResponsesRequest

if TYPE_CHECKING:
    from feedback_workloads.serving.settings import Settings

KEEP_ALIVE_SECONDS = 8.0
"""A stream is never silent for longer: below the time after which the most impatient proxies hang up, ten seconds."""


@dataclass(frozen=True)
class Ask:
    """A request that was understood: a chat, or a text to go on with.

    `again` says that the client sends it after it was turned away, `response` that it is told as a response.
    """

    wanted: Wanted
    chat: Chat | Raw
    stream: bool
    include_usage: bool
    again: bool
    response: ResponsesRequest | None = None

    @property
    def raw(self) -> bool:
        """Whether it is a text that is gone on with."""
        return isinstance(self.chat, Raw)

    @property
    def new_id(self) -> str:
        return answer_id("resp" if self.response else "cmpl" if self.raw else "chatcmpl")

    def as_response(self, request: ResponsesRequest) -> AsResponse:
        return AsResponse(request, self.wanted.temperature, self.wanted.top_p)


@dataclass(frozen=True)
class Ready:
    """A prompt that the engines can take, and how to sample from it."""

    prompt: Prompt
    sampling: Sampling


class Service:
    """Answers chats and completions, and counts all requests.

    Every wait inside can be cancelled, and then leaves no work behind.
    """

    def __init__(self, settings: Settings, engines: Engines) -> None:
        self.settings = settings
        self.engines = engines
        self.admission = Admission(settings.engine.max_num_seqs, settings.max_queue)
        self.metrics = Metrics()
        self.leaving = False
        """True from the moment when the server is told to end."""
        self.out_of_time = asyncio.Event()
        """Set when the server ends whatever still runs."""
        self.created = int(time.time())
        pictures = Pictures(settings.picture_hosts, settings.max_picture_bytes)
        self.prompts = Prompts(engines.family, engines.max_model_len, pictures)
        gauge = self.metrics.gauge
        gauge("requests_running", "Requests whose turn it is.", lambda: self.admission.running)
        gauge("requests_waiting", "Requests that wait for their turn.", lambda: self.admission.waiting)
        gauge("sequences", "Candidates and scorings in the engines.", engines.unfinished)
        gauge("up", "1 while new requests are taken.", lambda: float(self.healthy))

    @property
    def healthy(self) -> bool:
        return self.engines.alive and not self.leaving

    def check_model(self, name: str) -> None:
        """Raise ApiError (404) unless it is the model that is served here."""
        if name != self.settings.model_name:
            raise unknown_model(name, self.settings.model_name)

    async def understand(self, body: bytes, arrived: Arrived, *, again: bool) -> Ask:
        """Check a request and get its picture, where it is to be fetched. Raises ApiError."""
        request = read(ChatRequest, body)
        self.check_model(request.model)
        asked, chat = wanted(request, self.settings.defaults), conversation(request.messages, request.rendering)
        self._check_bias(asked)
        if asked.schema is not None:
            await self._check_schema(asked.schema, "response_format")
        return _ask(request, asked, await self.prompts.gather(chat, arrived), again=again)

    async def understand_response(self, body: bytes, arrived: Arrived, *, again: bool) -> Ask:
        """Check a request for a response, and get its pictures. Raises ApiError."""
        request = read(ResponsesRequest, body)
        self.check_model(request.model)
        asked, chat = wanted(request, self.settings.defaults), request.conversation
        self._check_bias(asked)
        if asked.schema is not None:
            await self._check_schema(asked.schema, "text.format")
        ask = _ask(request, asked, await self.prompts.gather(chat, arrived), again=again)
        return replace(ask, response=request, include_usage=request.stream)

    async def understand_text(self, body: bytes, arrived: Arrived, *, again: bool) -> Ask:
        """Check a request for a completion. Raises ApiError."""
        request = read(CompletionRequest, body)
        self.check_model(request.model)
        asked = wanted(request, self.settings.defaults)
        self._check_bias(asked)
        prompt = request.prompt if isinstance(request.prompt, str) else tuple(request.prompt)
        if isinstance(prompt, tuple) and max(prompt) >= self.engines.vocabulary:
            message = f"prompt has token {max(prompt)}; the model's tokens are 0 to {self.engines.vocabulary - 1}"
            raise invalid("prompt", message)
        return _ask(request, asked, Raw(prompt), again=again)

    def _check_bias(self, asked: Wanted) -> None:
        for token, _ in asked.shaping.logit_bias:
            if token >= self.engines.vocabulary:
                message = f"logit_bias names token {token}; the model's tokens are 0 to {self.engines.vocabulary - 1}"
                raise invalid("logit_bias", message)

    async def _check_schema(self, schema: str, param: str) -> None:
        if self.engines.family.thinks:
            raise invalid(param, f"{param} is not served for this model, which thinks before it answers; leave it out")
        try:
            await asyncio.to_thread(self.engines.check_schema, schema)
        except ValueError as error:
            place = f"{param}.json_schema.schema" if param == "response_format" else f"{param}.schema"
            reason = " ".join(str(error).split())
            raise invalid(place, f"{place} cannot be kept to: {reason}; change the schema") from error

    async def complete(self, ask: Ask) -> Completion | TextCompletion | Response:
        """The whole answer. Raises ApiError, or what the engines raise."""
        with self.measured():
            async with self.admission.turn(ask.wanted.best_of, again=ask.again):
                ready = await self._prepare(ask)
                ranked = await self._rank(ready, ask.wanted)
            answer = Completion(
                id=ask.new_id,
                created=int(time.time()),
                model=self.settings.model_name,
                system_fingerprint=self.settings.fingerprint,
                choices=self._choices(ranked, ask.wanted),
                usage=self._usage(ready, ranked),
                candidate_rewards=_rewards(ranked, ask.wanted),
            )
        if ask.response:
            return ask.as_response(ask.response).whole(answer)
        return AsText().whole(answer) if ask.raw else answer

    def stream(self, ask: Ask) -> AsyncGenerator[bytes, None]:
        """The answer as server-sent events, in OpenAI's chunks.

        The winners are streamed once they are known; a single answer that nothing is compared with, as it is written.
        Before the first event this raises ApiError, later whatever the engines raise. The request has its turn for as
        long as the engines work for it, however slowly the events are taken. While there is no event, as in the
        queue, comments are.
        """
        return self._ahead(self._events_of(ask, ask.response) if ask.response else self._events(ask))

    async def _events_of(self, ask: Ask, request: ResponsesRequest) -> AsyncGenerator[bytes, None]:
        told = ask.as_response(request)
        async with aclosing(self._chunks(ask)) as chunks:
            async for chunk in chunks:
                for event in told.chunk(chunk):
                    yield f"event: {event.type}\ndata: {event.model_dump_json()}\n\n".encode()

    async def _events(self, ask: Ask) -> AsyncGenerator[bytes, None]:
        text = AsText()
        async with aclosing(self._chunks(ask)) as chunks:
            async for chunk in chunks:
                if event := text.chunk(chunk) if ask.raw else chunk:
                    yield b"data: " + event.model_dump_json().encode() + b"\n\n"
        yield b"data: [DONE]\n\n"

    async def _chunks(self, ask: Ask) -> AsyncGenerator[Chunk, None]:
        head = Chunk(
            id=answer_id("cmpl" if ask.raw else "chatcmpl"),
            created=int(time.time()),
            model=self.settings.model_name,
            system_fingerprint=self.settings.fingerprint,
            choices=[],
        )
        with self.measured():
            async with self.admission.turn(ask.wanted.best_of, again=ask.again):
                ready = await self._prepare(ask)
                for index in range(ask.wanted.n):
                    yield _chunk(head, ChunkChoice(index=index, delta=Delta(role="assistant", content="")))
                chunks = self._winners(head, ready, ask) if self._whole(ask) else self._live(head, ready, ask)
                async with aclosing(chunks):
                    async for chunk in chunks:
                        yield chunk

    def _whole(self, ask: Ask) -> bool:
        """Whether an answer must be whole before any of it is told.

        A thought is no part of an answer; and one that keeps to a schema is weighed when it is there.
        """
        asked = ask.wanted
        thinks = isinstance(ask.chat, Chat) and (self.engines.family.thinks or ask.chat.may_think)
        return asked.ranked or thinks or (asked.schema is not None and asked.top_logprobs is not None)

    async def check(self) -> None:
        """Answer one request about a blank picture through everything that a real one goes through.

        Raises BadInput where a model gives log-probabilities that are not numbers.
        """
        blank = BytesIO()
        Image.new("RGB", (64, 48), "white").save(blank, "PNG")
        messages = ({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]},)
        prompt = await self.prompts.prompt(Chat(messages, (blank.getvalue(),), (None,)))
        sampling = Sampling(temperature=1.0, top_p=1.0, max_tokens=4, seed=0)
        ranked = await best_of(self.engines, prompt, sampling, 2, ranking=Ranking(), beta=self.settings.beta)
        for score in ranked.scores or ():
            for flag, logp in (("--policy", score.logp), ("--reference", score.ref_logp)):
                if not math.isfinite(logp):
                    raise BadInput(f"{flag} gives a log-probability of {logp}; its weights are damaged, name another")

    # ── a prompt ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _prepare(self, ask: Ask) -> Ready:
        prompt = await self.prompts.prompt(ask.chat)
        return Ready(prompt, self._sampling(ask, prompt.length))

    def _sampling(self, ask: Ask, prompt_tokens: int) -> Sampling:
        asked, param = ask.wanted, ask.chat.param
        room = self.engines.max_model_len - prompt_tokens
        if room < (asked.max_tokens or 1):
            raise too_long(
                f"{param} has {prompt_tokens} tokens and the answer {asked.max_tokens or 'at least 1'}",
                self.engines.max_model_len,
                param,
            )
        longest = asked.max_tokens or min(room, self.settings.defaults.max_tokens)
        if asked.shaping.min_tokens > longest:
            message = (
                f"min_tokens is {asked.shaping.min_tokens}, but the answer has at most {longest}; raise max_tokens"
            )
            raise invalid("min_tokens", message)
        return Sampling(
            temperature=asked.temperature,
            top_p=asked.top_p,
            max_tokens=longest,
            stop=asked.stop,
            seed=asked.seed,
            weighed=asked.ranked or asked.top_logprobs is not None,
            top_logprobs=asked.top_logprobs or 0,
            schema=asked.schema,
            raw=ask.raw,
            shaping=asked.shaping,
        )

    # ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _rank(self, ready: Ready, asked: Wanted) -> Ranked:
        if asked.ranked:
            return await best_of(
                self.engines,
                ready.prompt,
                ready.sampling,
                asked.best_of,
                ranking=asked.ranking,
                beta=self.settings.beta,
                reference=asked.scores or asks_reference(asked.ranking),
            )
        sampling = replace(ready.sampling, seed=candidate_seed(ready.sampling.seed, 0))
        return Ranked((await self.engines.generate(ready.prompt, sampling),), None, (0,))

    def _choices(self, ranked: Ranked, asked: Wanted) -> list[Choice]:
        """The n best, in order."""
        best = [(place, ranked.candidates[place]) for place in ranked.order[: asked.n]]
        return [
            Choice(
                index=index,
                message=AnswerMessage(content=candidate.text),
                logprobs=self._logprobs(candidate.drawn, asked),
                finish_reason=candidate.finish_reason,
                score=ranked.scores[place] if asked.scores and ranked.scores is not None else None,
                token_ids=list(candidate.token_ids) if asked.token_ids else None,
            )
            for index, (place, candidate) in enumerate(best)
        ]

    def _logprobs(self, drawn: Sequence[Drawn], asked: Wanted) -> Logprobs | None:
        return None if asked.top_logprobs is None else told(self.engines.family, drawn)

    async def _winners(self, head: Chunk, ready: Ready, ask: Ask) -> AsyncGenerator[Chunk, None]:
        ranked = await self._rank(ready, ask.wanted)
        usage = self._usage(ready, ranked)
        for choice in self._choices(ranked, ask.wanted):
            pieces, tokens = PIECE.findall(choice.message.content), choice.logprobs
            *first, (_, rest) = along(pieces, tokens) if tokens else [*((piece, None) for piece in pieces), ("", None)]
            for piece, mine in first:
                yield _chunk(head, ChunkChoice(index=choice.index, delta=Delta(content=piece), logprobs=mine))
            last = ChunkChoice(
                index=choice.index,
                delta=Delta(),
                logprobs=rest,
                finish_reason=choice.finish_reason,
                score=choice.score,
            )
            rewards = _rewards(ranked, ask.wanted) if choice.index == ask.wanted.n - 1 else None
            yield _chunk(head.model_copy(update={"candidate_rewards": rewards}), last)
        if ask.include_usage:
            yield _chunk(head.model_copy(update={"usage": usage}))

    async def _live(self, head: Chunk, ready: Ready, ask: Ask) -> AsyncGenerator[Chunk, None]:
        sampling = replace(ready.sampling, seed=candidate_seed(ready.sampling.seed, 0))
        tokens, untold = 0, list[Drawn]()
        async with aclosing(self.engines.stream(ready.prompt, sampling)) as pieces:
            async for piece in pieces:
                tokens += len(piece.drawn)
                untold += piece.drawn  # a token may have no text yet
                if piece.text:
                    logprobs, untold = self._logprobs(untold, ask.wanted), []
                    yield _chunk(head, ChunkChoice(index=0, delta=Delta(content=piece.text), logprobs=logprobs))
                if piece.finish_reason is not None:
                    rest = self._logprobs(untold, ask.wanted)
                    last = ChunkChoice(index=0, delta=Delta(), logprobs=rest, finish_reason=piece.finish_reason)
                    yield _chunk(head, last)
        usage = self._spent(ready, 1, tokens)
        if ask.include_usage:
            yield _chunk(head.model_copy(update={"usage": usage}))

    async def _ahead(self, events: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """Yield `events`, made as fast as they can be, whether or not they are taken, since an answer is bounded.

        Where none comes for a while, yields a comment, so that no proxy hangs up. When closed early, closes `events`.
        """
        made: asyncio.Queue[bytes | None] = asyncio.Queue()

        async def make() -> None:
            try:
                with self.admission.held():
                    async with aclosing(events):
                        async for event in events:
                            made.put_nowait(event)
            finally:
                made.put_nowait(None)

        making = asyncio.create_task(make())
        try:
            while True:
                try:
                    async with asyncio.timeout(KEEP_ALIVE_SECONDS):
                        event = await made.get()
                except TimeoutError:
                    yield b": at work\n\n"
                    continue
                if event is None:
                    break
                yield event
            await making  # raises what ended it early
        finally:
            making.cancel()
            await asyncio.gather(making, return_exceptions=True)

    # ── accounts ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Time an answered request, and count one that its client gave up; errors are counted where they are told."""
        began = time.monotonic()
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            if not self.out_of_time.is_set():
                self.metrics.requests.labels("disconnected").inc()
            raise
        self.metrics.requests.labels("ok").inc()
        self.metrics.seconds.observe(time.monotonic() - began)

    def _usage(self, ready: Ready, ranked: Ranked) -> Usage:
        tokens = sum(len(candidate.token_ids) for candidate in ranked.candidates)
        return self._spent(ready, len(ranked.candidates), tokens)

    def weighed(self, prompt: Prompt, answers: Sequence[Sequence[int]]) -> Usage:
        """Count given answers that were scored. Their tokens are part of the prompts, as nothing was written."""
        tokens = sum(map(len, answers))
        self.metrics.scored.inc(len(answers))
        self.metrics.tokens.labels("prompt").inc(prompt.length)
        self.metrics.tokens.labels("scored").inc(tokens)
        whole = prompt.length + tokens
        return Usage(prompt_tokens=whole, completion_tokens=0, total_tokens=whole)

    def _spent(self, ready: Ready, candidates: int, completion_tokens: int) -> Usage:
        self.metrics.candidates.inc(candidates)
        self.metrics.tokens.labels("prompt").inc(ready.prompt.length)
        self.metrics.tokens.labels("completion").inc(completion_tokens)
        return Usage(
            prompt_tokens=ready.prompt.length,
            completion_tokens=completion_tokens,
            total_tokens=ready.prompt.length + completion_tokens,
        )


def _rewards(ranked: Ranked, asked: Wanted) -> list[float] | None:
    return [score.reward for score in ranked.scores] if asked.scores and ranked.scores is not None else None


def _chunk(head: Chunk, *choices: ChunkChoice) -> Chunk:
    return head.model_copy(update={"choices": list(choices)})


def _ask(request: DrawingRequest, asked: Wanted, given: Chat | Raw, *, again: bool) -> Ask:
    return Ask(
        wanted=asked,
        chat=given,
        stream=request.stream,
        include_usage=request.stream_options is not None and request.stream_options.include_usage,
        again=again,
    )


def answer_id(kind: str) -> str:
    """A new id, as OpenAI writes them."""
    return f"{kind}-{uuid.uuid4().hex}"
