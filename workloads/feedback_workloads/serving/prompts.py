"""From a conversation to what the engines take: its pictures fetched, its texts in the model's template, its tokens."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import TemplateError

from feedback_workloads.models.family import AS_USUAL, Family, Prompt, Rendering, Shown
from feedback_workloads.models.pictures import MAX_PIXELS
from feedback_workloads.rows.rejected import BadRow
from feedback_workloads.serving.errors import ApiError, invalid
from feedback_workloads.serving.intake.pictures import Pictures
from feedback_workloads.serving.intake.receiving import Arrived
from feedback_workloads.serving.protocol.parts import ChatMessage, Conversation, PictureURL

MOST_CHARACTERS_A_TOKEN = 32
"""On average over a prompt; a longer text cannot fit and is refused without tokenising it."""


@dataclass(frozen=True)
class Chat:
    """A conversation of which everything is there, its pictures encoded.

    `param` is the field of the request that has all of it, `picture_params` are those of the pictures.
    """

    messages: tuple[ChatMessage, ...]
    pictures: tuple[bytes, ...] = ()
    picture_params: tuple[str | None, ...] = ()
    param: str = "messages"
    rendering: Rendering = AS_USUAL

    @property
    def may_think(self) -> bool:
        """Whether a variable is switched on, which may be one by which the model thinks before it answers."""
        return any(self.rendering.variables.values())


@dataclass(frozen=True)
class Raw:
    """A text that is read as it is, or its tokens; the field `param` has it."""

    text: str | tuple[int, ...]
    param: str = "prompt"


class Prompts:
    """Makes prompts for one family's model, whose context has `max_model_len` tokens."""

    def __init__(self, family: Family, max_model_len: int, pictures: Pictures) -> None:
        self._family = family
        self._max_model_len = max_model_len
        self._pictures = pictures
        self._tokenizing = threading.Lock()  # Hugging Face tokenizers change their own state while they work

    async def gather(self, asked: Conversation, arrived: Arrived) -> Chat:
        """Get the pictures, where they are to be fetched. Raises ApiError, also for texts that cannot fit."""
        for name in asked.rendering.variables:
            if not self._family.reads(name):
                place = f"chat_template_kwargs.{name}"
                raise invalid(place, f"{place} is not read by this model's template; leave it out", "unknown_parameter")
        if asked.rendering.continue_final_message and self._family.thinks:
            message = "continue_final_message is not served for this model, which begins each answer with a thought"
            raise invalid("continue_final_message", message)
        texts = (part.get("text", "") for message in asked.messages for part in message["content"])
        self.check_characters(sum(map(len, texts)), asked.param)
        pictures = await self._read(asked.pictures, arrived)
        return Chat(asked.messages, pictures, tuple(one.param for one in asked.pictures), asked.param, asked.rendering)

    async def _read(self, sent: Sequence[PictureURL], arrived: Arrived) -> tuple[bytes, ...]:
        """The pictures of a request, which together may have as many bytes as one alone. Raises ApiError."""
        if len(sent) > (most := self._family.most_pictures):
            takes = f"this model takes {'one' if most == 1 else most}"
            raise invalid(sent[most].param, f"{len(sent)} pictures were sent; {takes}", "too_many_pictures")
        found: list[bytes] = []
        for one in sent:
            found.append(await self._pictures.read(one.url, one.param, arrived))
            self._pictures.check_together(found, one.param)
        return tuple(found)

    def check_characters(self, characters: int, param: str) -> None:
        """Raise ApiError about the field `param` where so many characters cannot fit, whatever they are."""
        if characters > MOST_CHARACTERS_A_TOKEN * self._max_model_len:
            raise too_long(f"{param} has {characters} characters", self._max_model_len, param)

    async def prompt(self, asked: Chat | Raw) -> Prompt:
        """Preprocess a chat and its pictures, or a text. Raises ApiError."""
        if isinstance(asked, Chat):
            return await asyncio.to_thread(self._prompt, asked)
        ids = asked.text if isinstance(asked.text, tuple) else await self.text_tokens(asked.text, special=True)
        if any(i in self._family.banned_ids for i in ids):
            raise invalid(asked.param, f"{asked.param} contains the model's own picture token; leave it out")
        if not ids:
            raise invalid(asked.param, f"{asked.param} has no tokens; say what is to be gone on with")
        return Prompt(tuple(ids))

    async def tokens(self, chat: Chat) -> list[int]:
        """A chat's tokens as the model sees them, those that stand for its pictures among them. Raises ApiError."""
        prompt = await self.prompt(chat)
        if not prompt.shown:
            return list(prompt.ids)
        return await asyncio.to_thread(self._family.expand, prompt.ids, *prompt.pictures)

    async def text_tokens(self, text: str, *, special: bool) -> list[int]:
        """A text's tokens, with those that begin every text where `special` says so. Raises ApiError."""
        self.check_characters(len(text), "prompt")
        return await asyncio.to_thread(self._text_tokens, text, special)

    async def answer(self, text: str, place: str) -> tuple[int, ...]:
        """Tokens of a whole answer that stands at `place` of a request. Raises ApiError."""
        return await asyncio.to_thread(self._answer, text, place)

    def _prompt(self, chat: Chat) -> Prompt:
        family = self._family
        shown: list[Shown] = []
        for data, param in zip(chat.pictures, chat.picture_params, strict=True):
            try:
                shown += family.show([data])
            except BadRow as error:
                raise _bad_picture(error, param) from error
            _check_pixels(shown, param)
        try:
            with self._tokenizing:
                ids = family.chat_ids(chat.messages, rendering=chat.rendering)
        except (TemplateError, TypeError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise invalid(chat.param, f"the model's chat template refuses this conversation: {reason}") from error
        if sum(i in family.banned_ids for i in ids) != len(shown):
            raise invalid(chat.param, "a text contains the model's own picture token; leave it out")
        return Prompt(tuple(ids), tuple(shown))

    def _text_tokens(self, text: str, special: bool) -> list[int]:
        with self._tokenizing:
            ids: list[int] = self._family.tokenizer(text, add_special_tokens=special)["input_ids"]
        return ids

    def _answer(self, text: str, place: str) -> tuple[int, ...]:
        if self._family.spoken(text) is None:
            message = f"{place} has no thought before it, with which this model begins; give it too, or its token_ids"
            raise invalid(place, message)
        with self._tokenizing:
            return tuple(self._family.answer_ids(text))


def too_long(what: str, limit: int, param: str = "messages") -> ApiError:
    """More than the model's context of `limit` tokens."""
    message = f"{what}, but the model takes {limit} tokens in all; shorten it or lower max_tokens"
    return invalid(param, message, "context_length_exceeded")


def _check_pixels(shown: Sequence[Shown], param: str | None) -> None:
    """Raise ApiError where several pictures have more pixels than one may have, which bounds memory."""
    pixels = sum(one.picture.width * one.picture.height for one in shown)
    if len(shown) > 1 and pixels > MAX_PIXELS:
        message = f"the pictures have {pixels} pixels together, more than {MAX_PIXELS}; send fewer or smaller ones"
        raise invalid(param, message, "image_too_large")


def _bad_picture(error: BadRow, param: str | None) -> ApiError:
    if error.reason == "picture-too-large":
        return invalid(param, f"the picture is too large: {error.detail}", "image_too_large")
    if error.reason == "picture-refused":
        return invalid(param, f"the model takes no such picture: {error.detail}", "invalid_image")
    return invalid(param, "the picture cannot be decoded; send a whole JPEG, PNG or WebP file", "invalid_image")
