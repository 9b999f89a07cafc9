"""Rewards of given answers: as vLLM's /score and as /rerank of vLLM, Jina and Cohere, with what is ours beside it.

A query is what the user asks, as text or as parts with a picture; a document is an answer to it. In place of a query a
request may have the `messages` of a chat, and in place of a document's text the tokens that a chat told with
`return_token_ids`. `ranking` is ours.
References: https://docs.vllm.ai/en/latest/serving/openai_compatible_server, https://jina.ai/reranker.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from feedback_workloads.contract import Ranking
from feedback_workloads.serving.errors import invalid
from feedback_workloads.serving.protocol.parts import (
    Answered,
    Conversation,
    Ignored,
    Message,
    Parts,
    RankingRequest,
    RequestPart,
    Text,
    Usage,
    UserMessage,
    absent,
    conversation,
    question,
)

ASKED = ("messages", "query", "queries", "data_1", "text_1")
"""The names under which vLLM's clients send what is asked, and our own for a whole chat."""

GIVEN = ("documents", "items", "data_2", "text_2")
"""The names under which they send what is compared with it."""


# ── what may be asked ────────────────────────────────────────────────────────────────────────────────────────────────


class Document(RequestPart):
    """An answer: its text, whole or in parts, or its tokens."""

    text: str | None = None
    content: Text | None = None
    token_ids: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if len(self.model_fields_set) != 1:
            raise ValueError("give one of text, content and token_ids")
        return self

    @property
    def said(self) -> str:
        """Its text; empty where it is given as tokens."""
        return "\n".join(part.text for part in self.content) if self.content else self.text or ""


def _as_document(given: Any) -> Any:
    return {"text": given} if isinstance(given, str) else given


def _as_list(given: Any) -> Any:
    return given if isinstance(given, list) else [given]


def _as_message(given: Any) -> Any:
    if isinstance(given, list) and len(given) == 1:
        given = given[0]
    match given:
        case str():
            return {"role": "user", "content": given}
        case dict():
            return {"role": "user", **given}
        case list():
            raise ValueError(f"{len(given)} queries were sent; give one, with all answers to it")
        case _:
            return given


class Question(RequestPart):
    """What is asked, as vLLM's clients write it."""

    content: Parts


OneQuestion = Annotated[list[str | Question], Field(min_length=1, max_length=1)]
Query = Annotated[UserMessage, BeforeValidator(_as_message, json_schema_input_type=str | Question | OneQuestion)]
OneDocument = Annotated[Document, BeforeValidator(_as_document, json_schema_input_type=str | Document)]
ManyDocuments = Annotated[list[OneDocument], Field(min_length=1)]
Documents = Annotated[ManyDocuments, BeforeValidator(_as_list, json_schema_input_type=str | Document | ManyDocuments)]
Chat = Annotated[list[Message], Field(min_length=1)]


class GivenAnswers(RequestPart):
    """What both calls have: answers to one question, and the rule that says what they are worth."""

    model: str
    messages: Chat | None = None
    ranking: RankingRequest | None = None
    user: Ignored = None

    @model_validator(mode="after")
    def _one_question(self) -> Self:
        _only(self, _of(self, ASKED))
        _only(self, _of(self, GIVEN))
        return self

    @property
    def rule(self) -> Ranking:
        """The request's own; else the log-ratio for each token, whatever the server ranks its candidates by."""
        return self.ranking.ranking if self.ranking else Ranking()

    @property
    def chat(self) -> Conversation:
        """What is asked. Raises ApiError as `conversation` does."""
        name = _given(self, ASKED)
        if name == "messages":
            assert self.messages
            return conversation(self.messages)
        return question(getattr(self, name), name)

    @property
    def given(self) -> list[tuple[str, Document]]:
        """The answers, each with its place in the request."""
        name = _given(self, GIVEN)
        return [(f"{name}[{i}]", document) for i, document in enumerate(getattr(self, name))]


def _of(request: GivenAnswers, names: Sequence[str]) -> list[str]:
    return [name for name in names if name in type(request).model_fields]


def _only(request: GivenAnswers, names: Sequence[str]) -> None:
    if sum(name in request.model_fields_set for name in names) != 1:
        raise ValueError(f"give one of {', '.join(names)}")


def _given(request: GivenAnswers, names: Sequence[str]) -> str:
    return next(name for name in names if name in request.model_fields_set)


class ScoreRequest(GivenAnswers):
    """The body of POST /v1/score."""

    queries: Query | None = None
    data_1: Query | None = None
    text_1: Query | None = None
    documents: Documents | None = None
    items: Documents | None = None
    data_2: Documents | None = None
    text_2: Documents | None = None


class RerankRequest(GivenAnswers):
    """The body of POST /v1/rerank. `top_n` of 0 is all of them."""

    query: Query | None = None
    documents: Documents
    top_n: Annotated[int, Field(ge=0)] = 0
    return_documents: bool = True


def check_number(request: GivenAnswers, limit: int) -> None:
    """Raise ApiError (400) where there are more answers than `limit`."""
    if len(request.given) > limit:
        name = request.given[0][0].partition("[")[0]
        raise invalid(name, f"{name} has {len(request.given)} answers; this server scores at most {limit} at once")


# ── what is answered ─────────────────────────────────────────────────────────────────────────────────────────────────


class Weight(Answered):
    """What both models say of an answer: sums of log-probabilities over its `tokens` tokens (nats, temperature 1)."""

    index: int
    logp: float
    ref_logp: float
    tokens: int


class Scored(Weight):
    """`score` is the answer's reward."""

    object: Literal["score"] = "score"
    score: float


class ScoreList(Answered):
    """The body of a response of /v1/score, in the order of the request."""

    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    system_fingerprint: str
    data: list[Scored]
    usage: Usage


class Reranked(Weight):
    """`relevance_score` is the answer's reward. `document` is what was sent: the text is null where that was tokens."""

    relevance_score: float
    document: Annotated[dict[str, str | None] | None, Field(exclude_if=absent)] = None


class RerankList(Answered):
    """The body of a response of /v1/rerank, best first."""

    id: str
    model: str
    system_fingerprint: str
    results: list[Reranked]
    usage: Usage
