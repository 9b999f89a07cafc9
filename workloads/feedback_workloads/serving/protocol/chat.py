"""Chat completions as OpenAI defines them, as far as they are served here: what may be asked and what is answered.

Reference: https://platform.openai.com/docs/api-reference/chat.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from feedback_workloads.serving.errors import invalid
from feedback_workloads.serving.protocol.drawing import MAX_TOP_LOGPROBS, DrawingRequest, FinishReason
from feedback_workloads.serving.protocol.parts import (
    Answered,
    Ignored,
    Message,
    Nothing,
    RequestPart,
    Score,
    Told,
    Usage,
    Written,
    absent,
)

MAX_SCHEMA_CHARACTERS = 120_000
"""As OpenAI."""

ANY_OBJECT = {"type": "object"}
"""The JSON Schema of every object."""

# ── what may be asked ────────────────────────────────────────────────────────────────────────────────────────────────


class TextFormat(RequestPart):
    type: Literal["text"]

    @property
    def json_schema_text(self) -> None:
        """None: an answer may be any text."""
        return None


class ObjectFormat(RequestPart):
    """Some JSON object."""

    type: Literal["json_object"]

    @property
    def json_schema_text(self) -> str:
        """The schema of every object."""
        return json.dumps(ANY_OBJECT)


class NamedSchema(RequestPart):
    """A JSON Schema. It is always kept to, whether `strict` or not."""

    name: Annotated[str, Field(pattern="^[A-Za-z0-9_-]{1,64}$")]
    content: dict[str, Any] = Field(default=ANY_OBJECT, alias="schema")
    strict: bool = True
    description: Ignored = None

    @model_validator(mode="after")
    def _of_a_size(self) -> Self:
        if len(json.dumps(self.content)) > MAX_SCHEMA_CHARACTERS:
            raise ValueError(f"the schema has more than {MAX_SCHEMA_CHARACTERS} characters")
        return self


class SchemaFormat(RequestPart):
    type: Literal["json_schema"]
    json_schema: NamedSchema

    @property
    def json_schema_text(self) -> str:
        """What an answer must be, as JSON Schema."""
        return json.dumps(self.json_schema.content)


ResponseFormat = Annotated[TextFormat | ObjectFormat | SchemaFormat, Field(discriminator="type")]


class ChatRequest(Written, DrawingRequest):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    response_format: ResponseFormat | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    # What asks for nothing that is not done anyway.
    modalities: list[Literal["text"]] | None = None
    verbosity: Literal["medium"] | None = None
    tools: Nothing = Field(default=[])
    tool_choice: Literal["none", "auto"] | None = None
    functions: Nothing = Field(default=[])
    function_call: Literal["none", "auto"] | None = None
    # What is about bookkeeping, price and speed.
    metadata: Ignored = None
    parallel_tool_calls: Ignored = None
    prediction: Ignored = None
    prompt_cache_key: Ignored = None
    prompt_cache_options: Ignored = None
    prompt_cache_retention: Ignored = None
    reasoning_effort: Ignored = None
    safety_identifier: Ignored = None
    service_tier: Ignored = None
    store: Ignored = None

    @property
    def longest(self) -> int | None:
        """By its old name or by its new one."""
        old, new = self.max_tokens, self.max_completion_tokens
        if old is not None and new is not None and old != new:
            raise invalid("max_tokens", f"max_tokens is {old} and max_completion_tokens is {new}; give one of them")
        return old if new is None else new

    @property
    def told_logprobs(self) -> int | None:
        """As many as `top_logprobs` says, where `logprobs` asks for any."""
        if self.top_logprobs is not None and not self.logprobs:
            raise invalid("top_logprobs", "top_logprobs needs logprobs to be true")
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def schema_text(self) -> str | None:
        """What the `response_format` asks for."""
        return self.response_format.json_schema_text if self.response_format else None


# ── what is answered ─────────────────────────────────────────────────────────────────────────────────────────────────


class LikelyToken(Answered):
    """A token with its log-probability (nats, at temperature 1); special tokens have no `bytes`.

    `token` is its text where it is whole characters.
    """

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(LikelyToken):
    """A token of an answer, and the most likely ones in its place."""

    top_logprobs: list[LikelyToken]


class Logprobs(Answered):
    """All tokens that were drawn, one by one, the one that ends the answer among them."""

    content: list[TokenLogprob]
    refusal: None = None


class AnswerMessage(Answered):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(Answered):
    index: int
    message: AnswerMessage
    logprobs: Logprobs | None = None
    finish_reason: FinishReason
    score: Annotated[Score | None, Field(exclude_if=absent)] = None
    token_ids: Annotated[list[int] | None, Field(exclude_if=absent)] = None


class Completion(Told):
    """The body of a response that is not streamed."""

    object: Literal["chat.completion"] = "chat.completion"
    choices: list[Choice]
    usage: Usage


class Delta(Answered):
    role: Annotated[Literal["assistant"] | None, Field(exclude_if=absent)] = None
    content: Annotated[str | None, Field(exclude_if=absent)] = None


class ChunkChoice(Answered):
    index: int
    delta: Delta
    logprobs: Logprobs | None = None
    finish_reason: FinishReason | None = None
    score: Annotated[Score | None, Field(exclude_if=absent)] = None


class Chunk(Told):
    """One event of a streamed response."""

    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    choices: list[ChunkChoice]
