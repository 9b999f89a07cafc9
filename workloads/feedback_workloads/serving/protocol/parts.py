"""What all calls have in common: strict types, messages and their parts, and errors that name the field.

A field is ignored where the answer would mean the same without it; any other that is not served is an error that names
it. The tables of all are in docs/serving.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

import pydantic_core
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from feedback_workloads.contract import Ranking, RankingRule
from feedback_workloads.models.family import AS_USUAL, Rendering
from feedback_workloads.serving.errors import ApiError, invalid

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


def _as_url(url: Any) -> Any:
    return {"url": url} if isinstance(url, str) else url


class ImagePart(RequestPart):
    FIELD: ClassVar[str] = "image_url.url"
    """Where its address stands in the part."""

    type: Literal["image_url"]
    image_url: Annotated[ImageUrl, BeforeValidator(_as_url, json_schema_input_type=str | ImageUrl)]
    uuid: Ignored = None
    cache_control: Ignored = None
    prompt_cache_breakpoint: Ignored = None


def _as_parts(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


TextParts = Annotated[list[TextPart], Field(min_length=1)]
UserParts = Annotated[list[Annotated[TextPart | ImagePart, Field(discriminator="type")]], Field(min_length=1)]
SaidParts = list[Annotated[TextPart | RefusalPart, Field(discriminator="type")]]

Text = Annotated[TextParts, BeforeValidator(_as_parts, json_schema_input_type=str | TextParts)]
Parts = Annotated[UserParts, BeforeValidator(_as_parts, json_schema_input_type=str | UserParts)]
Said = Annotated[SaidParts, BeforeValidator(_as_parts, json_schema_input_type=str | SaidParts)]


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


class Written(RequestPart):
    """What a request may say of how its chat is written, as in vLLM."""

    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: dict[str, Any] = {}

    @property
    def rendering(self) -> Rendering:
        """The same for the template. Raises ApiError (400) where it contradicts itself."""
        asks_for_header = self.add_generation_prompt and "add_generation_prompt" in self.model_fields_set
        if self.continue_final_message and asks_for_header:
            message = "add_generation_prompt and continue_final_message are both true; give one of them"
            raise invalid("add_generation_prompt", message)
        header = self.add_generation_prompt and not self.continue_final_message
        return Rendering(header, self.continue_final_message, self.chat_template_kwargs)


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


Asked = TypeVar("Asked", bound=RequestPart)


def read(kind: type[Asked], body: bytes) -> Asked:
    """Read a request's body. Raises ApiError (400) that names the first wrong field and what is wrong with it."""
    try:
        data = pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise invalid(None, f"the body is not JSON: {error}", code="invalid_json") from error
    try:
        return kind.model_validate(data)
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
        if [step] == list(location[index + 1 : index + 2]):  # the member, and its field of the same name
            continue
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


# ── the conversation ─────────────────────────────────────────────────────────────────────────────────────────────────

ChatMessage = Mapping[str, Any]
"""A chat template's message: `role`, and `content` as parts `{"type": "image"}` and `{"type": "text", "text": ...}`."""


@dataclass(frozen=True)
class PictureURL:
    """Where a picture is, or the picture itself as a data URL, and the path of the field that held it."""

    url: str
    param: str


@dataclass(frozen=True)
class Conversation:
    """The messages for the chat template, and the pictures in them, in their order.

    `param` is the field that has all of it, and `rendering` how the template is to write it.
    """

    messages: tuple[ChatMessage, ...]
    pictures: tuple[PictureURL, ...] = ()
    param: str = "messages"
    rendering: Rendering = AS_USUAL


def conversation(
    messages: Sequence[Message],
    rendering: Rendering = AS_USUAL,
    param: str = "messages",
    places: Sequence[str] | None = None,
) -> Conversation:
    """Put a conversation into the form of chat templates. `places` are the fields that its messages stand in.

    A picture that is alone in its message stands before the text, as in sampling and training, whatever the order of
    the parts; several stand where they were sent. Raises ApiError (400) for a user's message with neither text nor
    picture, and where the last message is not the user's, or not the assistant's where that is to be gone on with.
    """
    places = places or [f"{param}[{i}]" for i in range(len(messages))]
    return _conversation(messages, param, places, rendering)


def question(message: UserMessage, param: str) -> Conversation:
    """A conversation of the one message that stands in the field `param`. Raises as `conversation` does."""
    return _conversation([message], param, [param], AS_USUAL)


def _conversation(messages: Sequence[Message], param: str, places: Sequence[str], rendering: Rendering) -> Conversation:
    last = messages[-1]
    if rendering.continue_final_message:
        if not (isinstance(last, AssistantMessage) and last.text.strip()):
            message = "continue_final_message needs a last message of the role assistant, with a text to go on with"
            raise invalid("continue_final_message", message)
    elif not isinstance(last, UserMessage):
        raise invalid(f"{places[-1]}.role", "the last message must have the role user")
    pictures: list[PictureURL] = []
    turns: list[ChatMessage] = []
    for place, message in zip(places, messages, strict=True):
        if isinstance(message, AssistantMessage):
            text = message.text
        else:
            text = "\n".join(part.text for part in message.content if isinstance(part, TextPart))
        found = [
            PictureURL(part.image_url.url, f"{place}.content[{i}].{part.FIELD}")
            for i, part in enumerate(message.content)
            if isinstance(part, ImagePart)
        ]
        if isinstance(message, UserMessage) and not text.strip() and not found:
            raise invalid(f"{place}.content", "the message has neither text nor picture; say what is asked")
        pictures += found
        role = "system" if message.role == "developer" else message.role
        if len(found) > 1:
            content = [_as_sent(part) for part in message.content]
        else:
            said = [{"type": "text", "text": text}] if text.strip() or not found else []
            content = [{"type": "image"}] * len(found) + said
        turns.append({"role": role, "content": content})
    return Conversation(tuple(turns), tuple(pictures), param, rendering)


def _as_sent(part: object) -> dict[str, str]:
    """A part of a message as templates take it, where it stands."""
    return {"type": "text", "text": part.text} if isinstance(part, TextPart) else {"type": "image"}


# ── what is answered ─────────────────────────────────────────────────────────────────────────────────────────────────


class Answered(BaseModel):
    """Part of a response."""

    model_config = ConfigDict(frozen=True)


def absent(value: object) -> bool:
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


class Usage(Answered):
    """Tokens that were spent: the prompt once, with the picture's tokens, and every candidate's tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Told(Answered):
    """What every body of drawn answers has: which answers, of whom, and, where they were ranked, one reward a
    candidate, in order. In a stream, the last event has the usage."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    usage: Annotated[Usage | None, Field(exclude_if=absent)] = None
    candidate_rewards: Annotated[list[float] | None, Field(exclude_if=absent)] = None


class Model(Answered):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "feedback-operator"
    max_model_len: int


class ModelList(Answered):
    object: Literal["list"] = "list"
    data: list[Model]
