"""Chat completions as OpenAI defines them, as far as they are served here: what may be asked and what is answered.

A field that is not served is an error that names it, never ignored. Four fields are not OpenAI's: `best_of`, which it
has for completions alone, `ranking` and `return_scores`, which are ours, and `return_token_ids`, as in vLLM.
Reference: https://platform.openai.com/docs/api-reference/chat.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import pydantic_core
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from feedback_workloads.contract import Ranking, RankingRule
from feedback_workloads.serving.errors import ApiError, invalid

MAX_STOPS = 4
"""As OpenAI."""

SEED_LIMIT = 2**63
"""Seeds are signed 64-bit integers."""


# ── what may be asked ────────────────────────────────────────────────────────────────────────────────────────────────


class RequestPart(BaseModel):
    """Part of a request. Types are strict (no "2" for 2), and null means that the field was left out."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        return {name: value for name, value in data.items() if value is not None} if isinstance(data, dict) else data


class TextPart(RequestPart):
    type: Literal["text"]
    text: str


class ImageUrl(RequestPart):
    url: str
    detail: Literal["auto"] = "auto"


class ImagePart(RequestPart):
    type: Literal["image_url"]
    image_url: ImageUrl


def _as_parts(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


Text = Annotated[list[TextPart], Field(min_length=1), BeforeValidator(_as_parts)]
Parts = Annotated[
    list[Annotated[TextPart | ImagePart, Field(discriminator="type")]],
    Field(min_length=1),
    BeforeValidator(_as_parts),
]


class SystemMessage(RequestPart):
    role: Literal["system", "developer"]
    content: Text


class UserMessage(RequestPart):
    role: Literal["user"]
    content: Parts


class AssistantMessage(RequestPart):
    role: Literal["assistant"]
    content: Text


Message = Annotated[SystemMessage | UserMessage | AssistantMessage, Field(discriminator="role")]


class StreamOptions(RequestPart):
    include_usage: bool = False


class ResponseFormat(RequestPart):
    type: Literal["text"]


class RankingRequest(RequestPart):
    """By what candidates are ranked, in place of the server's rule."""

    rule: RankingRule
    weight: float | None = Field(default=None, gt=0, le=1000, alias="lambda")

    @model_validator(mode="after")
    def _weight_of_its_rule(self) -> Self:
        if (self.rule == "Regularised") != (self.weight is not None):
            raise ValueError("lambda must be given for rule Regularised, and for no other")
        return self

    @property
    def ranking(self) -> Ranking:
        return Ranking(rule=self.rule, weight=self.weight or 0.0)


class ChatRequest(RequestPart):
    """The body of POST /v1/chat/completions."""

    model: str
    messages: Annotated[list[Message], Field(min_length=1)]
    n: Annotated[int, Field(ge=1)] = 1
    best_of: Annotated[int, Field(ge=1)] | None = None
    ranking: RankingRequest | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=-SEED_LIMIT, lt=SEED_LIMIT)] | None = None
    stop: Annotated[
        list[Annotated[str, Field(min_length=1)]],
        Field(max_length=MAX_STOPS),
        BeforeValidator(lambda stop: [stop] if isinstance(stop, str) else stop),
    ] = []
    stream: bool = False
    stream_options: StreamOptions | None = None
    return_scores: bool = False
    return_token_ids: bool = False
    # What clients send without wanting anything by it.
    user: str | None = None
    logprobs: Literal[False] = False
    response_format: ResponseFormat | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] = 0.0
    presence_penalty: Annotated[float, Field(ge=0, le=0)] = 0.0


def read_request(body: bytes) -> ChatRequest:
    """Read a request's body. Raises ApiError (400) that names the first wrong field and what is wrong with it."""
    try:
        data = pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise invalid(None, f"the body is not JSON: {error}", code="invalid_json") from error
    try:
        return ChatRequest.model_validate(data)
    except ValidationError as error:
        raise _first(error, data) from error


def _first(error: ValidationError, data: Any) -> ApiError:
    details = error.errors(include_url=False, include_input=False)[0]
    param = _path(details["loc"], data)
    match details["type"]:
        case "extra_forbidden":
            return invalid(param, f"{param} is not supported by this server; leave it out", code="unknown_parameter")
        case "missing":
            return invalid(param, f"{param} is missing", code="missing_required_parameter")
        case _:
            where = f"{param}: " if param else ""
            return invalid(param, f"{where}{details['msg']}")


def _path(location: Sequence[str | int], data: Any) -> str | None:
    """Return the place of an error as `messages[0].content`, leaving out the names pydantic adds for union members."""
    path = ""
    for index, step in enumerate(location):
        match data:
            case dict() if step in data:
                data = data[step]
            case list() if isinstance(step, int):
                data = data[step]
            case dict() if index == len(location) - 1:  # the field that is missing
                data = None
            case _:
                continue
        path += f"[{step}]" if isinstance(step, int) else f".{step}"
    return path.removeprefix(".") or None


# ── what is wanted, with nothing left open ───────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Defaults:
    """What this server does where a request does not say, and the most that it allows.

    `temperature` and `top_p` are those of one answer, `ranked_temperature` and `ranked_top_p` those of several.
    """

    best_of: int
    max_best_of: int
    ranking: Ranking
    temperature: float
    top_p: float
    ranked_temperature: float
    ranked_top_p: float
    max_tokens: int


@dataclass(frozen=True)
class Wanted:
    """A request's parameters, checked against each other and complete.

    `max_tokens` of None means as many as the server's default and the model's context allow.
    """

    n: int
    best_of: int
    ranking: Ranking
    temperature: float
    top_p: float
    max_tokens: int | None
    seed: int | None
    stop: tuple[str, ...]
    scores: bool
    token_ids: bool

    @property
    def ranked(self) -> bool:
        """Whether answers are scored at all."""
        return self.best_of > 1 or self.scores


def wanted(request: ChatRequest, defaults: Defaults) -> Wanted:
    """Fill in the defaults. Raises ApiError (400) where fields contradict each other or exceed the server's limits."""
    for field in ("n", "best_of"):
        if (asked := getattr(request, field)) is not None and asked > defaults.max_best_of:
            raise invalid(field, f"{field} is {asked}; this server gives at most {defaults.max_best_of}")
        if request.temperature == 0 and asked is not None and asked > 1:
            raise invalid(field, f"{field} is {asked}, but temperature 0 gives one answer; raise temperature")
    default_best_of = 1 if request.temperature == 0 else max(request.n, defaults.best_of)
    best_of = default_best_of if request.best_of is None else request.best_of
    if best_of > 1:
        temperature, top_p = defaults.ranked_temperature, defaults.ranked_top_p
    else:
        temperature, top_p = defaults.temperature, defaults.top_p
    if best_of < request.n:
        raise invalid("best_of", f"best_of is {best_of}, less than n, which is {request.n}; raise best_of")
    if request.ranking and best_of == 1 and not request.return_scores:
        raise invalid("ranking", "ranking is given, but one answer is drawn; raise best_of")
    if request.stream_options is not None and not request.stream:
        raise invalid("stream_options", "stream_options needs stream to be true")
    if request.return_token_ids and request.stream:
        raise invalid("return_token_ids", "return_token_ids needs stream to be false")
    return Wanted(
        n=request.n,
        best_of=best_of,
        ranking=request.ranking.ranking if request.ranking else defaults.ranking,
        temperature=temperature if request.temperature is None else request.temperature,
        top_p=top_p if request.top_p is None else request.top_p,
        max_tokens=_max_tokens(request),
        seed=request.seed,
        stop=tuple(request.stop),
        scores=request.return_scores,
        token_ids=request.return_token_ids,
    )


def _max_tokens(request: ChatRequest) -> int | None:
    old, new = request.max_tokens, request.max_completion_tokens
    if old is not None and new is not None and old != new:
        raise invalid("max_tokens", f"max_tokens is {old} and max_completion_tokens is {new}; give one of them")
    return old if new is None else new


# ── the conversation ─────────────────────────────────────────────────────────────────────────────────────────────────

ChatMessage = Mapping[str, Any]
"""A chat template's message: `role`, and `content` as parts `{"type": "image"}` and `{"type": "text", "text": ...}`."""


@dataclass(frozen=True)
class Conversation:
    """The messages for the chat template, and the picture's URL with the path of the field that held it."""

    messages: tuple[ChatMessage, ...]
    picture: str | None
    picture_param: str | None


def conversation(messages: Sequence[Message]) -> Conversation:
    """Put a conversation into the form of chat templates, with the picture before the text of its message.

    The order is that of sampling and training, whatever the order of the parts. Raises ApiError (400) for a user's
    message without text, for more than one picture, and where it is not the user's turn to be answered.
    """
    if not isinstance(messages[-1], UserMessage):
        raise invalid(f"messages[{len(messages) - 1}].role", "the last message must have the role user")
    pictures: list[tuple[str, str]] = []
    turns: list[ChatMessage] = []
    for i, message in enumerate(messages):
        text = "\n".join(part.text for part in message.content if isinstance(part, TextPart))
        if isinstance(message, UserMessage) and not text.strip():
            raise invalid(f"messages[{i}].content", "the message has no text; say what is asked about the picture")
        found = [
            (part.image_url.url, f"messages[{i}].content[{j}].image_url.url")
            for j, part in enumerate(message.content)
            if isinstance(part, ImagePart)
        ]
        pictures += found
        role = "system" if message.role == "developer" else message.role
        turns.append({"role": role, "content": [{"type": "image"}] * len(found) + [{"type": "text", "text": text}]})
    if len(pictures) > 1:
        raise invalid(pictures[1][1], f"{len(pictures)} pictures were sent; this model takes one", "too_many_pictures")
    url, param = pictures[0] if pictures else (None, None)
    return Conversation(tuple(turns), url, param)


# ── what is answered ─────────────────────────────────────────────────────────────────────────────────────────────────


class Answered(BaseModel):
    """Part of a response."""

    model_config = ConfigDict(frozen=True)


FinishReason = Literal["stop", "length"]


def _absent(value: object) -> bool:
    return value is None


class Score(Answered):
    """Why a choice stands where it stands: `reward` is by the rule that ranked (see method/ranking.py).

    `candidate` is its place in `candidate_rewards`; log-probabilities are sums over its `tokens` tokens (nats, at
    temperature 1).
    """

    candidate: int
    reward: float
    logp: float
    ref_logp: float
    tokens: int


class AnswerMessage(Answered):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(Answered):
    index: int
    message: AnswerMessage
    logprobs: None = None
    finish_reason: FinishReason
    score: Annotated[Score | None, Field(exclude_if=_absent)] = None
    token_ids: Annotated[list[int] | None, Field(exclude_if=_absent)] = None


class Usage(Answered):
    """Tokens that were spent: the prompt once, with the picture's tokens, and every candidate's tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completion(Answered):
    """The body of a response that is not streamed. `candidate_rewards` has one reward a candidate, in order."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[Choice]
    usage: Usage
    candidate_rewards: Annotated[list[float] | None, Field(exclude_if=_absent)] = None


class Delta(Answered):
    role: Annotated[Literal["assistant"] | None, Field(exclude_if=_absent)] = None
    content: Annotated[str | None, Field(exclude_if=_absent)] = None


class ChunkChoice(Answered):
    index: int
    delta: Delta
    logprobs: None = None
    finish_reason: FinishReason | None = None
    score: Annotated[Score | None, Field(exclude_if=_absent)] = None


class Chunk(Answered):
    """One event of a streamed response."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: Annotated[Usage | None, Field(exclude_if=_absent)] = None
    candidate_rewards: Annotated[list[float] | None, Field(exclude_if=_absent)] = None


class Model(Answered):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "feedback-operator"


class ModelList(Answered):
    object: Literal["list"] = "list"
    data: list[Model]
