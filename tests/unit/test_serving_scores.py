"""What a request for scores may say, in the words of vLLM's clients and of others that rerank."""

from __future__ import annotations

import json
from typing import Any

import pytest

from feedback_workloads.contract import Ranking
from feedback_workloads.serving.errors import ApiError
from feedback_workloads.serving.protocol.parts import read
from feedback_workloads.serving.protocol.scores import RerankRequest, ScoreRequest, check_number

PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
TEXT = {"type": "text", "text": "What is this?"}
CHAT = [{"role": "user", "content": [TEXT, PICTURE]}]
ASKED = {"role": "user", "content": [{"type": "image"}, TEXT]}


def score(**fields: Any) -> ScoreRequest:
    return read(ScoreRequest, json.dumps({"model": "m", **fields}).encode())


def rerank(**fields: Any) -> RerankRequest:
    return read(RerankRequest, json.dumps({"model": "m", **fields}).encode())


@pytest.mark.parametrize(
    ("request_", "message", "place"),
    [
        pytest.param(
            score(messages=CHAT, documents="x"), ASKED, "messages[0].content[1].image_url.url", id="a whole chat"
        ),
        pytest.param(
            score(queries={"content": [TEXT, PICTURE]}, documents="x"),
            ASKED,
            "queries.content[1].image_url.url",
            id="vLLM: a picture",
        ),
        pytest.param(
            score(data_1=[{"content": [TEXT, PICTURE]}], data_2="x"),
            ASKED,
            "data_1.content[1].image_url.url",
            id="vLLM: a list of one",
        ),
        pytest.param(
            score(text_1="What is this?", text_2="x"), {"role": "user", "content": [TEXT]}, None, id="vLLM: text"
        ),
        pytest.param(
            rerank(query="What is this?", documents=["x"]), {"role": "user", "content": [TEXT]}, None, id="rerank"
        ),
    ],
)
def test_what_is_asked(request_: ScoreRequest, message: dict[str, Any], place: str | None) -> None:
    chat = request_.chat
    assert (chat.messages, [one.param for one in chat.pictures]) == ((message,), [place] if place else [])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        pytest.param("A dog.", ["A dog."], id="one answer"),
        pytest.param(["A dog.", ""], ["A dog.", ""], id="several, one of them empty"),
        pytest.param([{"text": "A dog."}], ["A dog."], id="as Jina's clients send it"),
        pytest.param(
            {"content": [{"type": "text", "text": "A dog."}, {"type": "text", "text": "A cat."}]},
            ["A dog.\nA cat."],
            id="vLLM: parts",
        ),
        pytest.param({"token_ids": [1, 2]}, [""], id="tokens"),
    ],
)
@pytest.mark.parametrize("name", ["documents", "items", "data_2", "text_2"])
def test_what_is_given(name: str, given: Any, said: list[str]) -> None:
    found = score(queries="?", **{name: given}).given
    assert [(place, document.said) for place, document in found] == [
        (f"{name}[{i}]", said[i]) for i in range(len(said))
    ]


def test_the_rule_is_the_log_ratio_unless_the_request_says_another() -> None:
    assert score(queries="?", documents="x").rule == Ranking()
    asked = {"rule": "Regularised", "lambda": 0.5}
    assert rerank(query="?", documents="x", ranking=asked).rule == Ranking(rule="Regularised", weight=0.5)


@pytest.mark.parametrize(
    ("call", "fields", "param", "word"),
    [
        pytest.param(score, {"documents": "x"}, None, "messages, queries", id="nothing asked"),
        pytest.param(score, {"queries": "?"}, None, "documents, items", id="nothing given"),
        pytest.param(
            score, {"queries": "?", "text_1": "?", "documents": "x"}, None, "give one of", id="two names for one thing"
        ),
        pytest.param(score, {"queries": ["?", "!"], "documents": "x"}, "queries", "2 queries", id="two questions"),
        pytest.param(
            score,
            {"queries": {"role": "system", "content": "?"}, "documents": "x"},
            "queries.role",
            "user",
            id="a question of nobody",
        ),
        pytest.param(score, {"queries": "?", "documents": []}, "documents", "at least 1", id="no answers"),
        pytest.param(score, {"queries": "?", "documents": [{}]}, "documents[0]", "give one of", id="an empty one"),
        pytest.param(
            score, {"queries": "?", "documents": [{"token_ids": []}]}, "documents[0].token_ids", "at least 1", id="none"
        ),
        pytest.param(
            score,
            {"queries": "?", "documents": ["x", {"content": [PICTURE]}]},
            "documents[1].content[0].type",
            "text",
            id="a picture for an answer",
        ),
        pytest.param(
            score,
            {"queries": "?", "documents": "x", "truncate_prompt_tokens": 5},
            "truncate_prompt_tokens",
            "not supported",
            id="what would change the answer",
        ),
        pytest.param(rerank, {"query": "?"}, "documents", "missing", id="nothing to put in order"),
        pytest.param(rerank, {"query": "?", "documents": "x", "top_n": -1}, "top_n", "greater", id="fewer than none"),
        pytest.param(rerank, {"queries": "?", "documents": "x"}, "queries", "not supported", id="a name of the other"),
    ],
)
def test_errors_name_the_field(call: Any, fields: dict[str, Any], param: str | None, word: str) -> None:
    with pytest.raises(ApiError) as caught:
        call(**fields)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert word in caught.value.message


def test_how_many_are_scored_at_once() -> None:
    request = score(queries="?", items=["x"] * 3)
    check_number(request, 3)
    with pytest.raises(ApiError) as caught:
        check_number(request, 2)
    assert caught.value.param == "items"
