"""Completions of a text as it is, as OpenAI defines them: https://platform.openai.com/docs/api-reference/completions.

What a chat is answered is told in another form here, and all else is as for a chat.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from feedback_workloads.serving.protocol.chat import Choice, Chunk, ChunkChoice, Completion, Logprobs
from feedback_workloads.serving.protocol.drawing import MAX_TOP_LOGPROBS, DrawingRequest, FinishReason
from feedback_workloads.serving.protocol.parts import Answered, Score, Told, absent

USUAL_MAX_TOKENS = 16
"""As OpenAI, where a request does not say."""

TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
OneText = Annotated[list[str] | list[TokenIds], Field(min_length=1, max_length=1)]


def _one_prompt(prompt: Any) -> Any:
    match prompt:
        case [str() | list() as one]:
            return one
        case [str() | list(), *_]:
            raise ValueError(f"{len(prompt)} prompts were sent; send each by itself")
        case _:
            return prompt


class CompletionRequest(DrawingRequest):
    """The body of POST /v1/completions."""

    prompt: Annotated[str | TokenIds, BeforeValidator(_one_prompt, json_schema_input_type=str | TokenIds | OneText)]
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    echo: Literal[False] = False

    @property
    def longest(self) -> int:
        """The request's own, or OpenAI's."""
        return self.max_tokens or USUAL_MAX_TOKENS

    @property
    def told_logprobs(self) -> int | None:
        """What `logprobs` says."""
        return self.logprobs


class TextLogprobs(Answered):
    """Tokens one by one: where each begins in the text, its log-probability, and those of the most likely ones."""

    text_offset: list[int]
    token_logprobs: list[float]
    tokens: list[str]
    top_logprobs: list[dict[str, float]]


class TextChoice(Answered):
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: FinishReason | None
    score: Annotated[Score | None, Field(exclude_if=absent)] = None
    token_ids: Annotated[list[int] | None, Field(exclude_if=absent)] = None


class TextCompletion(Told):
    """The body of a response, or one event of a stream."""

    object: Literal["text_completion"] = "text_completion"
    choices: list[TextChoice]


class AsText:
    """Tells what a chat is answered in the form of completions: one response, or the chunks of one stream in order."""

    def __init__(self) -> None:
        self._offsets: Counter[int] = Counter()

    def whole(self, answer: Completion) -> TextCompletion:
        """A whole response."""
        return self._told(answer)

    def chunk(self, chunk: Chunk) -> TextCompletion | None:
        """The next event; None of one that only says who speaks."""
        return None if any(choice.delta.role for choice in chunk.choices) else self._told(chunk)

    def _told(self, told: Completion | Chunk) -> TextCompletion:
        return TextCompletion(
            id=told.id,
            created=told.created,
            model=told.model,
            system_fingerprint=told.system_fingerprint,
            choices=[self._choice(choice) for choice in told.choices],
            usage=told.usage,
            candidate_rewards=told.candidate_rewards,
        )

    def _choice(self, choice: Choice | ChunkChoice) -> TextChoice:
        text = choice.message.content if isinstance(choice, Choice) else choice.delta.content or ""
        return TextChoice(
            index=choice.index,
            text=text,
            logprobs=None if choice.logprobs is None else self._logprobs(choice.index, choice.logprobs),
            finish_reason=choice.finish_reason,
            score=choice.score,
            token_ids=choice.token_ids if isinstance(choice, Choice) else None,
        )

    def _logprobs(self, index: int, logprobs: Logprobs) -> TextLogprobs:
        offsets = []
        for token in logprobs.content:
            offsets.append(self._offsets[index])
            self._offsets[index] += len(token.token) if token.bytes is not None else 0
        return TextLogprobs(
            text_offset=offsets,
            token_logprobs=[token.logprob for token in logprobs.content],
            tokens=[token.token for token in logprobs.content],
            top_logprobs=[{one.token: one.logprob for one in token.top_logprobs} for token in logprobs.content],
        )
