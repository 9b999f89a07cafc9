"""Every field of OpenAI's request types does what docs/serving.md says of it."""

from __future__ import annotations

import collections.abc
import json
import re
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

import pytest
import typing_extensions
from fastapi import FastAPI
from jsonschema import Draft202012Validator
from openai.types.chat import ChatCompletionContentPartParam, ChatCompletionMessageParam
from openai.types.chat.chat_completion_assistant_message_param import ContentArrayOfContentPart
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from openai.types.completion_create_params import CompletionCreateParamsNonStreaming as TextParamsNonStreaming
from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming
from typing_extensions import is_typeddict as is_newer_typeddict

from feedback_workloads.contract import Ranking
from feedback_workloads.serving.description import CALLS, describe
from feedback_workloads.serving.errors import ApiError
from feedback_workloads.serving.protocol.chat import (
    AnswerMessage,
    ChatRequest,
    Choice,
    Completion,
    Logprobs,
    TokenLogprob,
)
from feedback_workloads.serving.protocol.completions import CompletionRequest
from feedback_workloads.serving.protocol.drawing import Defaults, wanted
from feedback_workloads.serving.protocol.parts import Usage, conversation, read
from feedback_workloads.serving.protocol.responses import ResponsesRequest
from feedback_workloads.serving.protocol.scores import RerankRequest, ScoreRequest

DEFAULTS = Defaults(
    best_of=1, max_best_of=64, ranking=Ranking(), temperature=0.7, top_p=1.0, ranked_temperature=0.7,
    ranked_top_p=0.9, max_tokens=512,
)  # fmt: skip
ROW = re.compile(r"^\| (`[^|]+`) \| (used|ignored|only|refused) \|", re.MULTILINE)
PAGE = Path("docs/serving.md").read_text()


def documented(part: str) -> dict[str, str]:
    """What happens to each field of a table."""
    return {name: what for names, what in ROW.findall(part) for name in re.findall("`([^`]+)`", names)}


DOCUMENTED = documented(PAGE.partition("<!-- completions:")[0])
RESPONSES = documented(PAGE.partition("<!-- responses:")[2].partition("## ")[0])
COMPLETIONS = documented(PAGE.partition("<!-- completions:")[2].partition("## ")[0])
QUESTION = {"role": "user", "content": "What is this?"}
TEXT = {"type": "text", "text": "What is this?"}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}}
URL = {"type": "image_url", "image_url": "data:image/png;base64,AA=="}


def fields(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def required(kind: Any) -> set[str]:
    """The fields that must be given. The class itself does not know, for its annotations are texts."""
    hints = get_type_hints(kind, include_extras=True)
    return {name for name, hint in hints.items() if get_origin(hint) in (typing.Required, typing_extensions.Required)}


def members(union: Any) -> tuple[Any, ...]:
    return get_args(union)


def tag(kind: Any, field: str) -> str:
    """The role or type by which a message or a part is known."""
    [word] = get_args(fields(kind)[field])
    return str(word)


def examples(kind: Any) -> Iterator[Any]:
    """Values of a published type, at least one of each alternative; null aside."""
    origin, inner = get_origin(kind), get_args(kind)
    if is_typeddict(kind) or is_newer_typeddict(kind):
        hints = fields(kind)
        least = {name: next(examples(hints[name])) for name in required(kind)}
        yield least
        for name in sorted(set(hints) - required(kind)):
            yield from ({**least, name: value} for value in examples(hints[name]))
    elif origin is Literal:
        yield from inner
    elif origin is Union or str(origin) == "<class 'types.UnionType'>":
        for one in inner:
            yield from examples(one)
    elif origin is dict or origin is collections.abc.Mapping:
        yield from ({"1": value} for value in examples(inner[1]))
    elif isinstance(origin, type) and issubclass(origin, collections.abc.Iterable):
        yield []
        yield from ([value] for value in examples(inner[0]))
    elif kind is bool:
        yield from (True, False)
    elif kind in (int, float, str):
        yield {int: 1, float: 0.5, str: "x"}[kind]
    elif kind is object:
        yield "x"
    elif isinstance(kind, type) and issubclass(kind, collections.abc.Sequence):
        yield ["x"]
    else:
        assert kind in (type(None), Any), f"a kind of type that is not known here: {kind}"


def understood(request: dict[str, Any]) -> Any:
    request_read = read(ChatRequest, json.dumps({"model": "m", "messages": [QUESTION], **request}).encode())
    return wanted(request_read, DEFAULTS), conversation(request_read.messages)


def refused(request: dict[str, Any], understood: Callable[[dict[str, Any]], Any] = understood) -> str | None:
    """The field that an error names; None where the request is taken."""
    try:
        understood(request)
    except ApiError as error:
        return error.param or "nothing"
    return None


def understood_text(request: dict[str, Any]) -> Any:
    found = read(CompletionRequest, json.dumps({"model": "m", "prompt": "A", **request}).encode())
    return wanted(found, DEFAULTS), found.prompt


def check(
    what: str,
    base: dict[str, Any],
    requests: list[dict[str, Any]],
    place: str,
    understood: Callable[[dict[str, Any]], Any] = understood,
) -> None:
    """Requests that give one field, at `place`, all its published kinds of values do `what` the table says."""
    errors = [refused(request, understood) for request in requests]
    assert requests
    assert {error for error in errors if error and not error.startswith(place)} == set()
    match what:
        case "used":
            assert None in errors
        case "ignored":
            assert set(errors) == {None}
            assert all(understood(request) == understood(base) for request in requests)
        case "only":
            assert None in errors
            assert set(errors) > {None}
        case "refused":
            assert None not in errors


NEEDED: dict[str, Any] = {"stream_options": {"stream": True}, "top_logprobs": {"logprobs": True}}
"""What a field needs beside it."""

REQUEST = {**fields(CompletionCreateParamsNonStreaming), "stream": bool}
MESSAGES = [
    pytest.param(kind, name, id=f"{tag(kind, 'role')}.{name}")
    for kind in members(ChatCompletionMessageParam)
    for name in fields(kind)
    if name != "role"
]
PARTS = [
    pytest.param(kind, name, id=f"{tag(kind, 'type')}.{name}")
    for kind in dict.fromkeys([*members(ChatCompletionContentPartParam), *members(ContentArrayOfContentPart)])
    for name in fields(kind)
    if name != "type"
]


def test_every_published_field_is_in_the_table_and_no_other() -> None:
    published = {*REQUEST, *(str(case.id) for case in (*MESSAGES, *PARTS))}
    assert set(DOCUMENTED) == published


@pytest.mark.parametrize("name", REQUEST)
def test_request(name: str) -> None:
    values = [QUESTION["content"]] if name == "model" else list(examples(REQUEST[name]))
    if name == "messages":
        values = [[QUESTION]]
    base = NEEDED.get(name, {})
    check(DOCUMENTED[name], base, [{**base, name: value} for value in values], name)


@pytest.mark.parametrize(("kind", "name"), MESSAGES)
def test_message(kind: Any, name: str) -> None:
    role = tag(kind, "role")
    message = {"role": role, **({} if role == "assistant" else {"content": "x"})}
    base = {"messages": [message, QUESTION]}
    requests = [{"messages": [{**message, name: value}, QUESTION]} for value in examples(fields(kind)[name])]
    check(DOCUMENTED[f"{role}.{name}"], base, requests, "messages[0]")


@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_part(kind: Any, name: str) -> None:
    word = tag(kind, "type")
    least = {field: next(examples(fields(kind)[field])) for field in required(kind)}
    role = "assistant" if word == "refusal" else "user"

    def request(part: dict[str, Any]) -> dict[str, Any]:
        return {"messages": [{"role": role, "content": [part]}, QUESTION]}

    requests = [request({**least, name: value}) for value in examples(fields(kind)[name])]
    check(DOCUMENTED[f"{word}.{name}"], request(least), requests, "messages[0].content[0]")


TEXT_REQUEST = {**fields(TextParamsNonStreaming), "stream": bool}


def test_every_published_field_of_completions_is_in_their_table_and_no_other() -> None:
    assert set(COMPLETIONS) == set(TEXT_REQUEST)


@pytest.mark.parametrize("name", TEXT_REQUEST)
def test_completion(name: str) -> None:
    values = ["m"] if name == "model" else list(examples(TEXT_REQUEST[name]))
    base = {"stream": True} if name == "stream_options" else {}
    check(COMPLETIONS[name], base, [{**base, name: value} for value in values], name, understood_text)


RESPONSE_REQUEST = {**fields(ResponseCreateParamsNonStreaming), "stream": bool}


def understood_response(request: dict[str, Any]) -> Any:
    found = read(ResponsesRequest, json.dumps({"model": "m", "input": "A", **request}).encode())
    return wanted(found, DEFAULTS), found.conversation


def test_every_published_field_of_responses_is_in_their_table_and_no_other() -> None:
    assert set(RESPONSES) == set(RESPONSE_REQUEST)


@pytest.mark.parametrize("name", sorted(RESPONSE_REQUEST.keys() - {"tools"}))  # whose examples have no end
def test_response(name: str) -> None:
    values = ["m"] if name == "model" else list(examples(RESPONSE_REQUEST[name])) if name != "input" else ["A"]
    base = {"stream": True} if name == "stream_options" else {}
    check(RESPONSES[name], base, [{**base, name: value} for value in values], name, understood_response)


def test_the_examples_reach_every_alternative() -> None:
    """The check would hold of nothing if a kind of value were left out."""
    assert {"type": "json_object"} in list(examples(REQUEST["response_format"]))
    assert [] in list(examples(REQUEST["tools"]))
    assert {"low", "medium", "high"} <= set(examples(REQUEST["verbosity"]))
    assert {True, False} == set(examples(REQUEST["logprobs"]))


def test_the_table_of_scores_has_the_fields_that_are_taken() -> None:
    table = PAGE.partition("<!-- scores:")[2].partition("\n\n")[2].partition("\n\n")[0]
    cells = [row.split("|")[1] for row in table.splitlines()[2:]]
    named = [name for cell in cells for name in re.findall("`(\\w+)`", cell)]
    assert sorted(named) == sorted({*ScoreRequest.model_fields, *RerankRequest.model_fields})


# ── OpenAPI ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """What a client reads, of an app that only has routes."""
    app = FastAPI()
    for path in CALLS:
        app.post(path)(lambda: None)
    app.get("/v1/models")(lambda: None)
    found: dict[str, Any] = json.loads(json.dumps(describe(app)))
    return found


def validator(document: dict[str, Any], path: str, *place: str) -> Draft202012Validator:
    """Of what is posted at `path`, or of what is at `place` there."""
    found = document["paths"][path]["post"]
    for step in place or ("requestBody", "content", "application/json", "schema"):
        found = found[step]
    return Draft202012Validator({**found, "components": document["components"]})


def test_every_post_is_described() -> None:
    source = Path("workloads/feedback_workloads/serving/app.py").read_text()
    assert sorted(re.findall(r'@app\.post\("([^"]+)"\)', source)) == sorted(CALLS)


def test_the_document_is_whole(document: dict[str, Any]) -> None:
    """Every schema is one, and every reference leads to one."""
    assert document["openapi"].startswith("3.1")
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    references = set(re.findall(r'"\$ref": "#/components/schemas/([^"]+)"', json.dumps(document)))
    assert references <= set(document["components"]["schemas"])
    assert {"ChatRequest", "Completion", "Chunk", "ScoreRequest", "RerankList"} <= references


@pytest.mark.parametrize("name", REQUEST)
def test_the_document_takes_what_the_server_takes(document: dict[str, Any], name: str) -> None:
    """And refuses the names that it refuses."""
    values = [[QUESTION]] if name == "messages" else list(examples(REQUEST[name]))
    checked = validator(document, "/v1/chat/completions")
    for value in values:
        request = {"model": "m", "messages": [QUESTION], **NEEDED.get(name, {}), name: value}
        if name != "model" and refused(request) is None:
            assert checked.is_valid(request), f"{name}: {value}"
        if refused(request) == name and DOCUMENTED[name] == "refused":
            assert not checked.is_valid(request)


@pytest.mark.parametrize(
    ("path", "request_"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [TEXT, PICTURE, URL]}], "stop": "."}),
        ("/v1/chat/completions", {"messages": [QUESTION, {"role": "assistant", "content": None}, QUESTION]}),
        ("/v1/completions", {"prompt": "A", "logprobs": 1}),
        ("/v1/completions", {"prompt": [[1, 2]], "stop": ["."]}),
        ("/v1/responses", {"input": "A", "text": {"format": {"type": "json_schema", "name": "a", "schema": {}}}}),
        ("/v1/responses", {"input": [{"role": "user", "content": [{"type": "input_text", "text": "A"}]}]}),
        ("/v1/score", {"queries": "?", "documents": "x"}),
        ("/v1/score", {"text_1": [{"content": [TEXT, PICTURE]}], "text_2": ["x", {"token_ids": [1]}]}),
        ("/v1/rerank", {"query": {"content": "?"}, "documents": [{"text": "x"}], "top_n": 1}),
        ("/tokenize", {"messages": [QUESTION]}),
        ("/detokenize", {"tokens": [1, 2]}),
    ],
)
def test_the_document_takes_a_request_in_each_of_its_forms(
    document: dict[str, Any], path: str, request_: dict[str, Any]
) -> None:
    read(CALLS[path][0], json.dumps({"model": "m", **request_}).encode())  # type: ignore[type-var]
    whole = json.loads(json.dumps({"model": "m", **request_}), object_hook=without_nulls)
    validator(document, path).validate(whole)
    assert not validator(document, path).is_valid({**whole, "nobody_knows_it": 1})


def without_nulls(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def test_the_document_describes_an_answer(document: dict[str, Any]) -> None:
    token = TokenLogprob(token="A", logprob=-1.0, bytes=[65], top_logprobs=[])
    choice = Choice(
        index=0, message=AnswerMessage(content="A"), logprobs=Logprobs(content=[token]), finish_reason="stop"
    )
    usage = Usage(prompt_tokens=1, completion_tokens=1, total_tokens=2)
    answer = Completion(id="x", created=0, model="m", system_fingerprint="fp", choices=[choice], usage=usage)
    place = ("responses", "200", "content", "application/json", "schema")
    validator(document, "/v1/chat/completions", *place).validate(answer.model_dump(mode="json"))
