"""Responses as OpenAI defines them, for texts and pictures: https://platform.openai.com/docs/api-reference/responses.

What is asked becomes a chat, and what that is answered is told in another form. Nothing is kept between requests: all
of a conversation is in `input`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from feedback_workloads.serving.protocol.chat import (
    Chunk,
    Completion,
    LikelyToken,
    NamedSchema,
    ObjectFormat,
    TextFormat,
    TokenLogprob,
)
from feedback_workloads.serving.protocol.drawing import (
    MAX_TOP_LOGPROBS,
    DrawingRequest,
    FinishReason,
    StreamOptions,
)
from feedback_workloads.serving.protocol.parts import (
    Answered,
    AssistantMessage,
    Conversation,
    Ignored,
    ImagePart,
    ImageUrl,
    Message,
    Nothing,
    RefusalPart,
    RequestPart,
    Score,
    SystemMessage,
    TextPart,
    Usage,
    UserMessage,
    absent,
    conversation,
)

LOGPROBS = "message.output_text.logprobs"
"""What `include` names to have log-probabilities told."""

# ── what may be asked ────────────────────────────────────────────────────────────────────────────────────────────────


class InputText(RequestPart):
    type: Literal["input_text"]
    text: str
    prompt_cache_breakpoint: Ignored = None

    @property
    def part(self) -> TextPart:
        return TextPart(type="text", text=self.text)


class SentPicture(ImagePart):
    """A picture whose address stands in the part itself."""

    FIELD: ClassVar[str] = "image_url"


class InputImage(RequestPart):
    type: Literal["input_image"]
    image_url: str
    detail: Literal["auto", "low", "high", "original"] = "auto"
    prompt_cache_breakpoint: Ignored = None

    @property
    def part(self) -> SentPicture:
        return SentPicture(type="image_url", image_url=ImageUrl(url=self.image_url))


class OutputText(RequestPart):
    """What was answered, sent back."""

    type: Literal["output_text"]
    text: str
    annotations: Ignored = None
    logprobs: Ignored = None

    @property
    def part(self) -> TextPart:
        return TextPart(type="text", text=self.text)


class OutputRefusal(RefusalPart):
    @property
    def part(self) -> RefusalPart:
        return RefusalPart(type="refusal", refusal=self.refusal)


def _as_input(content: Any) -> Any:
    return [{"type": "input_text", "text": content}] if isinstance(content, str) else content


def _as_output(content: Any) -> Any:
    return [{"type": "output_text", "text": content}] if isinstance(content, str) else content


Shown = Annotated[list[Annotated[InputText | InputImage, Field(discriminator="type")]], Field(min_length=1)]
Written = Annotated[list[InputText], Field(min_length=1)]
Answers = list[Annotated[OutputText | OutputRefusal, Field(discriminator="type")]]


class Item(RequestPart):
    """A message of a conversation."""

    type: Literal["message"] = "message"
    id: Ignored = None
    status: Ignored = None
    phase: Ignored = None


class UserItem(Item):
    role: Literal["user"]
    content: Annotated[Shown, BeforeValidator(_as_input, json_schema_input_type=str | Shown)]

    @property
    def message(self) -> UserMessage:
        return UserMessage.model_construct(role="user", content=[one.part for one in self.content])


class SystemItem(Item):
    role: Literal["system", "developer"]
    content: Annotated[Written, BeforeValidator(_as_input, json_schema_input_type=str | Written)]

    @property
    def message(self) -> SystemMessage:
        return SystemMessage(role=self.role, content=[one.part for one in self.content])


class AssistantItem(Item):
    role: Literal["assistant"]
    content: Annotated[Answers, BeforeValidator(_as_output, json_schema_input_type=str | Answers)]

    @property
    def message(self) -> AssistantMessage:
        return AssistantMessage(role="assistant", content=[one.part for one in self.content])


Items = Annotated[
    list[Annotated[UserItem | SystemItem | AssistantItem, Field(discriminator="role")]], Field(min_length=1)
]


def _as_items(given: Any) -> Any:
    return [{"role": "user", "content": given}] if isinstance(given, str) else given


class FlatSchema(NamedSchema):
    """A JSON Schema as an answer's form, whose name and schema stand beside its type."""

    type: Literal["json_schema"]

    @property
    def json_schema_text(self) -> str:
        return json.dumps(self.content)


class TextOptions(RequestPart):
    form: Annotated[TextFormat | ObjectFormat | FlatSchema, Field(discriminator="type")] | None = Field(
        default=None, alias="format"
    )
    verbosity: Literal["medium"] | None = None


class ResponseStreamOptions(StreamOptions):
    """The usage is always told."""

    include_usage: Literal[False] = False


class ResponsesRequest(DrawingRequest):
    """The body of POST /v1/responses."""

    input: Annotated[Items, BeforeValidator(_as_items, json_schema_input_type=str | Items)]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    text: TextOptions = TextOptions()
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    include: list[Literal["message.output_text.logprobs"]] = Field(default=[])
    # What chats and completions say otherwise.
    n: Literal[1] = 1
    max_tokens: None = None
    stream_options: ResponseStreamOptions | None = None
    # What asks for nothing that is not done anyway.
    background: Literal[False] = False
    tools: Nothing = Field(default=[])
    tool_choice: Literal["none", "auto"] | None = None
    truncation: Literal["disabled"] | None = None
    # What is about bookkeeping, price and speed.
    metadata: Ignored = None
    max_tool_calls: Ignored = None
    parallel_tool_calls: Ignored = None
    prompt_cache_key: Ignored = None
    prompt_cache_options: Ignored = None
    prompt_cache_retention: Ignored = None
    reasoning: Ignored = None
    safety_identifier: Ignored = None
    service_tier: Ignored = None
    store: Ignored = None

    @property
    def longest(self) -> int | None:
        """By the name that it has here."""
        return self.max_output_tokens

    @property
    def told_logprobs(self) -> int | None:
        """As many as `top_logprobs` says, where that or `include` asks for any."""
        return (self.top_logprobs or 0) if self.top_logprobs is not None or LOGPROBS in self.include else None

    @property
    def schema_text(self) -> str | None:
        """What `text.format` asks for."""
        return self.text.form.json_schema_text if self.text.form else None

    @property
    def conversation(self) -> Conversation:
        """The chat that is asked for. Raises ApiError (400) as a chat's does."""
        messages: list[Message] = [one.message for one in self.input]
        places = [f"input[{number}]" for number in range(len(messages))]
        if self.instructions:
            text = TextPart(type="text", text=self.instructions)
            messages.insert(0, SystemMessage(role="system", content=[text]))
            places.insert(0, "instructions")
        return conversation(messages, param="input", places=places)


# ── what is answered ─────────────────────────────────────────────────────────────────────────────────────────────────


class TokenTold(Answered):
    """A token with its log-probability (nats, at temperature 1); special tokens have no `bytes`."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: Annotated[list[TokenTold] | None, Field(exclude_if=absent)] = None


class OutputPart(Answered):
    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[Any] = Field(default=[])
    logprobs: list[TokenTold] = Field(default=[])


Status = Literal["in_progress", "completed", "incomplete"]


class OutputMessage(Answered):
    """An answer. `score` says why it stands where it stands, where scores were asked for."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    status: Status
    content: list[OutputPart]
    score: Annotated[Score | None, Field(exclude_if=absent)] = None


class InputDetails(Answered):
    cached_tokens: int = 0
    cache_write_tokens: int = 0


class OutputDetails(Answered):
    reasoning_tokens: int = 0


class Spent(Answered):
    """Tokens that were spent: the prompt once, with its pictures' tokens, and every candidate's tokens."""

    input_tokens: int
    input_tokens_details: InputDetails = InputDetails()
    output_tokens: int
    output_tokens_details: OutputDetails = OutputDetails()
    total_tokens: int


class Cut(Answered):
    reason: Literal["max_output_tokens"] = "max_output_tokens"


class Response(Answered):
    """The body of a response, and what stands in the events that begin and end a stream."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    model: str
    status: Status
    output: list[OutputMessage]
    usage: Spent | None = None
    incomplete_details: Cut | None = None
    error: None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    metadata: dict[str, Any] = Field(default={})
    parallel_tool_calls: bool = False
    previous_response_id: None = None
    temperature: float
    top_p: float
    text: dict[str, Any]
    tool_choice: Literal["none"] = "none"
    tools: list[Any] = Field(default=[])
    truncation: Literal["disabled"] = "disabled"
    candidate_rewards: Annotated[list[float] | None, Field(exclude_if=absent)] = None


class Event(Answered):
    """One event of a stream; which fields it has follows from its type."""

    type: str
    sequence_number: int
    response: Annotated[Response | None, Field(exclude_if=absent)] = None
    output_index: Annotated[int | None, Field(exclude_if=absent)] = None
    content_index: Annotated[int | None, Field(exclude_if=absent)] = None
    item_id: Annotated[str | None, Field(exclude_if=absent)] = None
    item: Annotated[OutputMessage | None, Field(exclude_if=absent)] = None
    part: Annotated[OutputPart | None, Field(exclude_if=absent)] = None
    delta: Annotated[str | None, Field(exclude_if=absent)] = None
    text: Annotated[str | None, Field(exclude_if=absent)] = None
    logprobs: Annotated[list[TokenTold] | None, Field(exclude_if=absent)] = None


@dataclass
class AsResponse:
    """Tells what a chat is answered as a response: whole, or event by event in order.

    `temperature` and `top_p` are those that the answers are drawn by.
    """

    request: ResponsesRequest
    temperature: float
    top_p: float
    _events: int = 0
    _pieces: list[str] = field(default_factory=list)
    _tokens: list[TokenTold] = field(default_factory=list)
    _ended: FinishReason = "stop"
    _score: Score | None = None

    def whole(self, answer: Completion) -> Response:
        """A whole response."""
        [choice] = answer.choices
        self._pieces, self._ended, self._score = [choice.message.content], choice.finish_reason, choice.score
        self._tokens = _told(choice.logprobs.content) if choice.logprobs else []
        return self._response(answer, self._status, answer.usage)

    def chunk(self, chunk: Chunk) -> Iterator[Event]:
        """The events that tell what is in a chunk of a chat; the last chunk is that with the usage."""
        if chunk.usage is not None:
            yield from self._end(chunk)
        for choice in chunk.choices:
            if choice.delta.role:
                yield from self._begin(chunk)
            tokens = _told(choice.logprobs.content) if choice.logprobs else []
            self._tokens += tokens
            if choice.delta.content:
                self._pieces.append(choice.delta.content)
                yield self._event(
                    "output_text.delta", **self._place(chunk), delta=choice.delta.content, logprobs=tokens
                )
            if choice.finish_reason:
                self._ended, self._score = choice.finish_reason, choice.score

    @property
    def _status(self) -> Status:
        return "incomplete" if self._ended == "length" else "completed"

    def _begin(self, chunk: Chunk) -> Iterator[Event]:
        begun = self._response(chunk, "in_progress", None).model_copy(update={"output": []})
        yield self._event("created", response=begun)
        yield self._event("in_progress", response=begun)
        item = OutputMessage(id=_item(chunk.id), status="in_progress", content=[])
        yield self._event("output_item.added", output_index=0, item=item)
        yield self._event("content_part.added", **self._place(chunk), part=OutputPart(text=""))

    def _end(self, chunk: Chunk) -> Iterator[Event]:
        whole = self._response(chunk, self._status, chunk.usage)
        [item] = whole.output
        [part] = item.content
        yield self._event("output_text.done", **self._place(chunk), text=part.text, logprobs=part.logprobs)
        yield self._event("content_part.done", **self._place(chunk), part=part)
        yield self._event("output_item.done", output_index=0, item=item)
        yield self._event(self._status, response=whole)

    def _event(self, name: str, **told: Any) -> Event:
        self._events += 1
        return Event(type=f"response.{name}", sequence_number=self._events - 1, **told)

    @staticmethod
    def _place(chunk: Chunk) -> dict[str, Any]:
        return {"item_id": _item(chunk.id), "output_index": 0, "content_index": 0}

    def _response(self, told: Completion | Chunk, status: Status, usage: Usage | None) -> Response:
        part = OutputPart(text="".join(self._pieces), logprobs=self._tokens)
        return Response(
            id=told.id,
            created_at=told.created,
            model=told.model,
            status=status,
            output=[OutputMessage(id=_item(told.id), status=status, content=[part], score=self._score)],
            usage=None
            if usage is None
            else Spent(
                input_tokens=usage.prompt_tokens,
                output_tokens=usage.completion_tokens,
                total_tokens=usage.total_tokens,
            ),
            incomplete_details=Cut() if status == "incomplete" else None,
            instructions=self.request.instructions,
            max_output_tokens=self.request.max_output_tokens,
            metadata=self.request.metadata or {},
            temperature=self.temperature,
            top_p=self.top_p,
            text={"format": form.model_dump(by_alias=True) if (form := self.request.text.form) else {"type": "text"}},
            candidate_rewards=told.candidate_rewards,
        )


def _item(id: str) -> str:
    """The name of the one message of a response."""
    return id.replace("resp-", "msg-", 1)


def _told(tokens: Sequence[TokenLogprob]) -> list[TokenTold]:
    return [_likely(one).model_copy(update={"top_logprobs": list(map(_likely, one.top_logprobs))}) for one in tokens]


def _likely(one: LikelyToken) -> TokenTold:
    return TokenTold(token=one.token, logprob=one.logprob, bytes=one.bytes or [])
