"""How a chat or a text is cut into tokens, as vLLM's /tokenize and /detokenize tell it."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from feedback_workloads.serving.protocol.parts import Answered, Message, RequestPart, Written


class TokenizeRequest(Written):
    """The body of POST /tokenize: `messages` of a chat, or a `prompt` as it is.

    Special tokens are those of the chat's template; before a prompt, those that the tokenizer puts before every text.
    """

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool = False

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if len({"prompt", "messages"} & self.model_fields_set) != 1:
            raise ValueError("give one of messages and prompt")
        if self.messages and self.add_special_tokens:
            raise ValueError("add_special_tokens is true, but a chat's template writes them all; leave it out")
        return self


class Tokens(Answered):
    """The body of a response of /tokenize."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeRequest(RequestPart):
    """The body of POST /detokenize."""

    model: str | None = None
    tokens: list[Annotated[int, Field(ge=0)]]


class Detokenized(Answered):
    """The body of a response of /detokenize."""

    prompt: str
