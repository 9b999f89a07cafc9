"""Chat completions as OpenAI defines them, as far as they are served here: what may be asked and what is answered.

A field is ignored where the answer would mean the same without it; any other that is not served is an error that names
it. The table of all is in docs/serving.md. `ranking` and `return_scores` are ours; `best_of` OpenAI has for completions
alone; `return_token_ids`, `top_k`, `min_p`, `min_tokens` and `repetition_penalty` are as in vLLM.
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


Ignored = Any
"""Of fields that are taken and not read: nothing in the answer could be otherwise for them."""

Nothing = Annotated[list[Any], Field(max_length=0)]
"""A list that may be sent as long as there is nothing in it."""


class TextPart(RequestPart):
    type: Literal["text"]
    text: str
    cache_control: Ignored = None
    prompt_cache_breakpoint: Ignored = None


class RefusalPart(RequestPart):
    """What an assistant said, when it declined to answer."""

    type: Literal["refusal"]
    refusal: str

    @property
    def text(self) -> str:
        return self.refusal


class ImageUrl(RequestPart):
    url: str
    detail: Literal["auto", "low", "high", "original"] = "auto"  # every picture is read in the model's own resolution


class ImagePart(RequestPart):
    type: Literal["image_url"]
    image_url: Annotated[ImageUrl, BeforeValidator(lambda url: {"url": url} if isinstance(url, str) else url)]
    uuid: Ignored = None
    cache_control: Ignored = None
    prompt_cache_breakpoint: Ignored = None


def _as_parts(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


Text = Annotated[list[TextPart], Field(min_length=1), BeforeValidator(_as_parts)]
Parts = Annotated[
    list[Annotated[TextPart | ImagePart, Field(discriminator="type")]],
    Field(min_length=1),
    BeforeValidator(_as_parts),
]
Said = Annotated[
    list[Annotated[TextPart | RefusalPart, Field(discriminator="type")]],
    BeforeValidator(_as_parts),
]


class SystemMessage(RequestPart):
    role: Literal["system", "developer"]
    content: Text
    name: Ignored = None


class UserMessage(RequestPart):
    role: Literal["user"]
    content: Parts
    name: Ignored = None


class AssistantMessage(RequestPart):
    """An answer as it was given, sent back."""

    role: Literal["assistant"]
    content: Said = []
    refusal: str | None = None
    name: Ignored = None
    annotations: Ignored = None
    reasoning: Ignored = None  # templates leave the thoughts of earlier turns out
    reasoning_content: Ignored = None
    tool_calls: Nothing = []

    @property
    def text(self) -> str:
        return "\n".join(part.text for part in self.content) or self.refusal or ""


Message = Annotated[SystemMessage | UserMessage | AssistantMessage, Field(discriminator="role")]


class StreamOptions(RequestPart):
    include_usage: bool = False
    include_obfuscation: Ignored = None


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


TokenId = Annotated[str, Field(pattern="^[0-9]{1,9}$")]
"""As a name in a JSON object."""


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
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] = 1.0
    top_k: Annotated[int, Field(ge=-1)] = 0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    min_tokens: Annotated[int, Field(ge=0)] = 0
    logit_bias: dict[TokenId, Annotated[float, Field(ge=-100, le=100)]] = {}
    # What asks for nothing that is not done anyway.
    logprobs: Literal[False] = False
    response_format: ResponseFormat | None = None
    modalities: list[Literal["text"]] | None = None
    verbosity: Literal["medium"] | None = None
    tools: Nothing = []
    tool_choice: Literal["none", "auto"] | None = None
    functions: Nothing = []
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
    user: Ignored = None


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
        case "union_tag_invalid" | "union_tag_not_found":
            field = details["ctx"]["discriminator"].strip("'")
            param = f"{param}.{field}"
            if details["type"] == "union_tag_not_found":
                return invalid(param, f"{param} is missing", code="missing_required_parameter")
            message = f"{param} is {details['ctx']['tag']!r}; this server takes {details['ctx']['expected_tags']}"
            return invalid(param, message)
        case "too_long" if details["ctx"]["max_length"] == 0:
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
class Shaping:
    """How the model's own distribution is changed before a token is drawn, in vLLM's terms.

    Log-probabilities and rewards are of the distribution before that. `logit_bias` has pairs of token id and bias.
    """

    top_k: int = 0
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    min_tokens: int = 0
    logit_bias: tuple[tuple[int, float], ...] = ()


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
    shaping: Shaping
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
    if request.stream_options is not None and request.stream_options.include_usage and not request.stream:
        raise invalid("stream_options", "stream_options.include_usage needs stream to be true")
    if (longest := _max_tokens(request)) is not None and request.min_tokens > longest:
        raise invalid("min_tokens", f"min_tokens is {request.min_tokens}, more than max_tokens, which is {longest}")
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
        shaping=Shaping(
            top_k=request.top_k,
            min_p=request.min_p,
            frequency_penalty=request.frequency_penalty,
            presence_penalty=request.presence_penalty,
            repetition_penalty=request.repetition_penalty,
            min_tokens=request.min_tokens,
            logit_bias=tuple((int(token), bias) for token, bias in request.logit_bias.items()),
        ),
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
    message with neither text nor picture, for more than one picture, and where it is not the user's turn to be
    answered.
    """
    if not isinstance(messages[-1], UserMessage):
        raise invalid(f"messages[{len(messages) - 1}].role", "the last message must have the role user")
    pictures: list[tuple[str, str]] = []
    turns: list[ChatMessage] = []
    for i, message in enumerate(messages):
        if isinstance(message, AssistantMessage):
            text = message.text
        else:
            text = "\n".join(part.text for part in message.content if isinstance(part, TextPart))
        found = [
            (part.image_url.url, f"messages[{i}].content[{j}].image_url.url")
            for j, part in enumerate(message.content)
            if isinstance(part, ImagePart)
        ]
        if isinstance(message, UserMessage) and not text.strip() and not found:
            raise invalid(f"messages[{i}].content", "the message has neither text nor picture; say what is asked")
        pictures += found
        role = "system" if message.role == "developer" else message.role
        said = [{"type": "text", "text": text}] if text.strip() or not found else []
        turns.append({"role": role, "content": [{"type": "image"}] * len(found) + said})
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
    max_model_len: int


class ModelList(Answered):
    object: Literal["list"] = "list"
    data: list[Model]
