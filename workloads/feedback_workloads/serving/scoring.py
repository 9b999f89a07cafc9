"""What happens to a request that brings answers with it: they are weighed as candidates are, and none is written."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from feedback_workloads.contract import Ranking
from feedback_workloads.method.ranking import order
from feedback_workloads.models.family import Prompt
from feedback_workloads.serving.best_of import scored
from feedback_workloads.serving.errors import invalid
from feedback_workloads.serving.intake.receiving import Arrived
from feedback_workloads.serving.prompts import Chat, too_long
from feedback_workloads.serving.protocol.parts import Score, Usage, read
from feedback_workloads.serving.protocol.scores import (
    Document,
    GivenAnswers,
    Reranked,
    RerankList,
    RerankRequest,
    Scored,
    ScoreList,
    ScoreRequest,
    check_number,
)
from feedback_workloads.serving.service import Service, answer_id


@dataclass(frozen=True)
class Given:
    """A request that was understood: answers, each with its place in it, to a chat.

    `again` says that the client sends it after it was turned away.
    """

    chat: Chat
    answers: tuple[tuple[str, Document], ...]
    rule: Ranking
    again: bool


class Scoring:
    """Answers requests for scores, within the bounds and the accounts of `service`."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def understand_scores(self, body: bytes, arrived: Arrived, *, again: bool) -> Given:
        """Check a request for scores and get its picture. Raises ApiError."""
        return await self._understand(read(ScoreRequest, body), arrived, again=again)

    async def understand_rerank(self, body: bytes, arrived: Arrived, *, again: bool) -> tuple[Given, RerankRequest]:
        """Check a request for an order and get its picture. Raises ApiError."""
        request = read(RerankRequest, body)
        return await self._understand(request, arrived, again=again), request

    async def scores(self, given: Given) -> ScoreList:
        """The reward of each answer, in the order of the request. Raises ApiError, or what the engines raise."""
        found, usage = await self._scored(given)
        return ScoreList(
            id=answer_id("score"),
            created=int(time.time()),
            model=self._service.settings.model_name,
            system_fingerprint=self._service.settings.fingerprint,
            data=[Scored(score=score.reward, **_weight(score)) for score in found],
            usage=usage,
        )

    async def rerank(self, asked: tuple[Given, RerankRequest]) -> RerankList:
        """The answers in the order of their rewards, best first. Raises as `scores` does."""
        given, request = asked
        found, usage = await self._scored(given)
        best_first = order([score.reward for score in found])[: request.top_n or None]
        return RerankList(
            id=answer_id("rerank"),
            model=self._service.settings.model_name,
            system_fingerprint=self._service.settings.fingerprint,
            results=[
                Reranked(
                    relevance_score=found[place].reward,
                    document=_document(given.answers[place][1]) if request.return_documents else None,
                    **_weight(found[place]),
                )
                for place in best_first
            ],
            usage=usage,
        )

    async def _understand(self, request: GivenAnswers, arrived: Arrived, *, again: bool) -> Given:
        service = self._service
        service.check_model(request.model)
        check_number(request, service.settings.defaults.max_best_of)
        asked, answers = request.chat, tuple(request.given)
        for place, document in answers:
            service.prompts.check_characters(len(document.said), place)
        return Given(await service.prompts.gather(asked, arrived), answers, request.rule, again)

    async def _scored(self, given: Given) -> tuple[Sequence[Score], Usage]:
        service = self._service
        with service.measured():
            async with service.admission.turn(len(given.answers), again=given.again):
                prompt = await service.prompts.prompt(given.chat)
                answers = [await self._tokens(prompt, *answer) for answer in given.answers]
                found = await scored(service.engines, prompt, answers, ranking=given.rule, beta=service.settings.beta)
            return found, service.weighed(prompt, answers)

    async def _tokens(self, prompt: Prompt, place: str, document: Document) -> tuple[int, ...]:
        """The answer's tokens, fit to be weighed. Raises ApiError."""
        engines = self._service.engines
        ids = tuple(document.token_ids or await self._service.prompts.answer(document.said, place))
        if any(i in engines.family.banned_ids for i in ids):
            raise invalid(place, f"{place} has the model's own picture token in it; leave it out")
        if (largest := max(ids)) >= engines.vocabulary:
            raise invalid(place, f"{place} has token {largest}; the model's tokens are 0 to {engines.vocabulary - 1}")
        if prompt.length + len(ids) > engines.max_model_len:
            what = f"the question has {prompt.length} tokens and {place} {len(ids)}"
            raise too_long(what, engines.max_model_len, place)
        return ids


def _weight(score: Score) -> dict[str, int | float]:
    return {"index": score.candidate, "logp": score.logp, "ref_logp": score.ref_logp, "tokens": score.tokens}


def _document(given: Document) -> dict[str, str | None]:
    return {"text": None if given.token_ids else given.said, "multi_modal": None}
