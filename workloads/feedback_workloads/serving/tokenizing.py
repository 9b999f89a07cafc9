"""What happens to a request that asks for tokens: a picture is prepared as for a chat, and no engine is asked."""

from __future__ import annotations

from dataclasses import dataclass

from feedback_workloads.serving.errors import invalid
from feedback_workloads.serving.intake.receiving import Arrived
from feedback_workloads.serving.prompts import Chat
from feedback_workloads.serving.protocol.parts import conversation, read
from feedback_workloads.serving.protocol.tokens import Detokenized, DetokenizeRequest, TokenizeRequest, Tokens
from feedback_workloads.serving.service import Service


@dataclass(frozen=True)
class Cut:
    """A request that was understood: its chat, or None where it is a text. `again` as for a chat."""

    request: TokenizeRequest
    chat: Chat | None
    again: bool


class Tokenizing:
    """Answers requests for tokens, within the bounds and the accounts of `service`."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def understand(self, body: bytes, arrived: Arrived, *, again: bool) -> Cut:
        """Check a request and get its picture. Raises ApiError."""
        request = read(TokenizeRequest, body)
        self._check_model(request.model)
        chat = None
        if request.messages:
            chat = await self._service.prompts.gather(conversation(request.messages, request.rendering), arrived)
        return Cut(request, chat, again)

    async def tokens(self, cut: Cut) -> Tokens:
        """The tokens of a chat, as many as a completion of it would count, or of a text. Raises ApiError."""
        service = self._service
        with service.measured():
            async with service.admission.turn(1, again=cut.again):
                if cut.chat is not None:
                    found = await service.prompts.tokens(cut.chat)
                else:
                    special = cut.request.add_special_tokens is not False
                    found = await service.prompts.text_tokens(cut.request.prompt or "", special=special)
        names = service.engines.family.tokenizer.convert_ids_to_tokens(found) if cut.request.return_token_strs else None
        return Tokens(count=len(found), max_model_len=service.engines.max_model_len, tokens=found, token_strs=names)

    async def understand_tokens(self, body: bytes, arrived: Arrived, *, again: bool) -> DetokenizeRequest:
        """Check a request for a text. Raises ApiError."""
        request = read(DetokenizeRequest, body)
        self._check_model(request.model)
        for place, token in enumerate(request.tokens):
            if token >= self._service.engines.vocabulary:
                message = f"tokens has {token}; the model's are 0 to {self._service.engines.vocabulary - 1}"
                raise invalid(f"tokens[{place}]", message)
        return request

    async def text(self, request: DetokenizeRequest) -> Detokenized:
        """The text that tokens stand for, special ones among them."""
        with self._service.measured():
            return Detokenized(prompt=self._service.engines.family.tokenizer.decode(request.tokens))

    def _check_model(self, name: str | None) -> None:
        if name is not None:
            self._service.check_model(name)
