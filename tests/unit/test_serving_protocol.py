"""What a request may say, which field an error names, and how a conversation reaches the chat template."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedback_workloads.contract import Ranking
from feedback_workloads.models.family import Rendering
from feedback_workloads.serving.errors import ApiError
from feedback_workloads.serving.protocol.chat import (
    ChatRequest,
    Choice,
    Completion,
)
from feedback_workloads.serving.protocol.drawing import Defaults, Shaping, Wanted, wanted
from feedback_workloads.serving.protocol.parts import Conversation, PictureURL, Usage, conversation, read
from feedback_workloads.serving.protocol.tokens import TokenizeRequest

LIKELIHOOD = Ranking(rule="PolicyLikelihood")
DEFAULTS = Defaults(
    best_of=8, max_best_of=64, ranking=LIKELIHOOD, temperature=0.0, top_p=1.0, ranked_temperature=0.7,
    ranked_top_p=0.9, max_tokens=512,
)  # fmt: skip
USUAL = Wanted(
    n=1, best_of=8, ranking=LIKELIHOOD, temperature=0.7, top_p=0.9, max_tokens=None, seed=None, stop=(),
    shaping=Shaping(), scores=False, token_ids=False, top_logprobs=None, schema=None,
)  # fmt: skip
ONE = replace(USUAL, best_of=1, temperature=0.0, top_p=1.0)
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
TEXT = {"type": "text", "text": "What is in the picture?"}


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hello"}], **fields}).encode()


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


@pytest.mark.parametrize(
    ("fields", "expect"),
    [
        pytest.param({}, USUAL, id="nothing said: the server's defaults"),
        pytest.param({"best_of": 1}, ONE, id="one answer: greedy, as this server is"),
        pytest.param({"best_of": 1, "temperature": 1}, replace(ONE, temperature=1), id="one answer, and how"),
        pytest.param({"temperature": 1}, replace(USUAL, temperature=1), id="several, and how"),
        pytest.param(
            {"ranking": {"rule": "Regularised", "lambda": 0.5}},
            replace(USUAL, ranking=Ranking(rule="Regularised", weight=0.5)),
            id="another rule than the server's",
        ),
        pytest.param({"n": 3}, replace(USUAL, n=3), id="n below the default best_of"),
        pytest.param({"n": 10}, replace(USUAL, n=10, best_of=10), id="n above it raises it"),
        pytest.param({"best_of": 64, "n": 64}, replace(USUAL, best_of=64, n=64), id="the most there is"),
        pytest.param({"temperature": 0}, ONE, id="greedy: one answer"),
        pytest.param({"temperature": None}, USUAL, id="null is absent"),
        pytest.param({"max_tokens": 5}, replace(USUAL, max_tokens=5), id="old name"),
        pytest.param({"max_completion_tokens": 5}, replace(USUAL, max_tokens=5), id="new name"),
        pytest.param({"max_tokens": 5, "max_completion_tokens": 5}, replace(USUAL, max_tokens=5), id="both, equal"),
        pytest.param({"stop": "."}, replace(USUAL, stop=(".",)), id="one stop string"),
        pytest.param({"stop": [".", "!"]}, replace(USUAL, stop=(".", "!")), id="several"),
        pytest.param({"seed": -3, "top_p": 0.9}, replace(USUAL, seed=-3, top_p=0.9), id="seed and top_p"),
        pytest.param({"logprobs": True}, replace(USUAL, top_logprobs=0), id="logprobs"),
        pytest.param({"response_format": {"type": "text"}}, USUAL, id="any text"),
        pytest.param(
            {"response_format": {"type": "json_object"}}, replace(USUAL, schema='{"type": "object"}'), id="an object"
        ),
        pytest.param(
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"enum": [1]}}}},
            replace(USUAL, schema='{"enum": [1]}'),
            id="a schema",
        ),
        pytest.param({"logprobs": True, "top_logprobs": 20}, replace(USUAL, top_logprobs=20), id="and likely tokens"),
        pytest.param({"logprobs": False}, USUAL, id="no logprobs"),
        pytest.param({"return_scores": True}, replace(USUAL, scores=True), id="scores"),
        pytest.param(
            {"top_k": 5, "min_p": 0.1, "min_tokens": 2, "presence_penalty": -1, "logit_bias": {"7": -100}},
            replace(
                USUAL,
                shaping=Shaping(top_k=5, min_p=0.1, min_tokens=2, presence_penalty=-1, logit_bias=((7, -100.0),)),
            ),
            id="how the distribution is changed",
        ),
    ],
)
def test_wanted(fields: dict[str, Any], expect: Wanted) -> None:
    assert wanted(read(ChatRequest, body(**fields)), DEFAULTS) == expect


@pytest.mark.parametrize(
    ("fields", "param", "word"),
    [
        pytest.param({"n": 0}, "n", "greater", id="no answers"),
        pytest.param({"n": "2"}, "n", "integer", id="text for a number"),
        pytest.param({"n": True}, "n", "integer", id="true for a number"),
        pytest.param({"best_of": 65}, "best_of", "at most 64", id="best_of above the limit"),
        pytest.param({"n": 65}, "n", "at most 64", id="n above the limit"),
        pytest.param({"n": 3, "best_of": 2}, "best_of", "less than n", id="best_of below n"),
        pytest.param({"temperature": 2.5}, "temperature", "less", id="too hot"),
        pytest.param({"temperature": 0, "n": 2}, "n", "temperature 0", id="greedy gives one answer: n"),
        pytest.param({"temperature": 0, "best_of": 2}, "best_of", "temperature 0", id="greedy: best_of"),
        pytest.param({"ranking": {"rule": "Best"}}, "ranking.rule", "LogRatio", id="no such rule"),
        pytest.param({"ranking": {"rule": "Regularised"}}, "ranking", "lambda must be given", id="no weight"),
        pytest.param({"ranking": {"rule": "LogRatio", "lambda": 1}}, "ranking", "no other", id="a weight of nothing"),
        pytest.param({"top_p": 0}, "top_p", "greater", id="no probability mass"),
        pytest.param({"max_tokens": 0}, "max_tokens", "greater", id="no tokens"),
        pytest.param({"max_tokens": 2, "max_completion_tokens": 3}, "max_tokens", "one of them", id="contradiction"),
        pytest.param({"seed": 2**63}, "seed", "less", id="seed of 64 bits"),
        pytest.param({"stop": list("abcde")}, "stop", "4", id="five stop strings"),
        pytest.param({"stop": [""]}, "stop[0]", "at least 1", id="empty stop string"),
        pytest.param({"stream_options": {"include_usage": True}}, "stream_options", "stream", id="not streamed"),
        pytest.param({"return_token_ids": True, "stream": True}, "return_token_ids", "stream", id="streamed token ids"),
        pytest.param({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "less", id="too many likely tokens"),
        pytest.param({"top_logprobs": 2}, "top_logprobs", "logprobs", id="likely tokens of no token"),
        pytest.param({"tools": [{}]}, "tools", "not supported", id="tools"),
        pytest.param({"frequency_penalty": 2.5}, "frequency_penalty", "less", id="penalty"),
        pytest.param({"min_tokens": 3, "max_tokens": 2}, "min_tokens", "more than max_tokens", id="no room for it"),
        pytest.param({"logit_bias": {"a": 1}}, "logit_bias.a", "match", id="a word for a token"),
        pytest.param({"response_format": {"type": "xml"}}, "response_format.type", "json_schema", id="another form"),
        pytest.param(
            {"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing", id="no schema"
        ),
        pytest.param(
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a b"}}},
            "response_format.json_schema.name",
            "pattern",
            id="a name of two words",
        ),
        pytest.param(
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "a", "schema": {"enum": ["x" * 130_000]}},
                }
            },
            "response_format.json_schema",
            "120000 characters",
            id="a schema that is too large",
        ),
        pytest.param({"skip_reading_prefix_cache": False}, "skip_reading_prefix_cache", "not supported", id="engine's"),
        pytest.param({"model": None}, "model", "missing", id="no model"),
        pytest.param({"messages": []}, "messages", "at least 1", id="no messages"),
        pytest.param({"messages": [{"role": "user"}]}, "messages[0].content", "missing", id="no content"),
        pytest.param({"messages": [{"content": "x"}]}, "messages[0].role", "missing", id="no role"),
        pytest.param({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "'tool'", id="unknown role"),
        pytest.param({"messages": [user({"type": "video_url"})]}, "messages[0].content[0].type", "video", id="a video"),
        pytest.param(
            {"messages": [user(TEXT, {"type": "image_url", "image_url": {}})]},
            "messages[0].content[1].image_url.url",
            "missing",
            id="a picture without URL",
        ),
        pytest.param(
            {"messages": [{"role": "assistant", "content": [PICTURE]}]},
            "messages[0].content[0].type",
            "text",
            id="a picture from the assistant",
        ),
    ],
)
def test_errors_name_the_field(fields: dict[str, Any], param: str, word: str) -> None:
    with pytest.raises(ApiError) as caught:
        wanted(read(ChatRequest, body(**fields)), DEFAULTS)
    error = caught.value
    assert (error.status, error.param) == (400, param)
    assert word in error.message


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"3", b"null", b"\xff", b'{"model": "\\ud800"}', b'{"n": NaN}'])
def test_not_a_request(data: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        read(ChatRequest, data)
    assert caught.value.status == 400


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(max_examples=30)
@given(json_values)
def test_any_messages_that_are_not_messages_are_refused(messages: Any) -> None:
    with pytest.raises(ApiError) as caught:
        read(ChatRequest, json.dumps({"model": "m", "messages": messages}).encode())
    assert caught.value.status == 400


def test_picture_goes_before_the_text() -> None:
    request = read(ChatRequest, body(messages=[user(TEXT, PICTURE)]))
    assert conversation(request.messages) == Conversation(
        messages=({"role": "user", "content": [{"type": "image"}, TEXT]},),
        pictures=(PictureURL("data:image/png;base64,AA==", "messages[0].content[1].image_url.url"),),
    )


def test_several_pictures_stand_where_they_were_sent() -> None:
    """One that is alone in its message goes before the text, as in training."""
    asked = conversation(read(ChatRequest, body(messages=[user(TEXT, PICTURE), user(PICTURE, TEXT, PICTURE)])).messages)
    picture = {"type": "image"}
    assert [turn["content"] for turn in asked.messages] == [[picture, TEXT], [picture, TEXT, picture]]
    assert [one.param for one in asked.pictures] == [
        "messages[0].content[1].image_url.url",
        "messages[1].content[0].image_url.url",
        "messages[1].content[2].image_url.url",
    ]


def test_conversation_of_several_turns() -> None:
    request = read(
        ChatRequest,
        body(
            messages=[
                {"role": "developer", "content": "Be brief."},
                user(PICTURE, {"type": "text", "text": "What is this?"}, {"type": "text", "text": "And where?"}),
                {"role": "assistant", "content": "A dog.", "refusal": None},
                {"role": "user", "content": "Which colour?"},
            ]
        ),
    )
    assert conversation(request.messages).messages == (
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?\nAnd where?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A dog."}]},
        {"role": "user", "content": [{"type": "text", "text": "Which colour?"}]},
    )


@pytest.mark.parametrize("text", [[], [{"type": "text", "text": ""}]])
def test_a_picture_without_a_question(text: list[Any]) -> None:
    turns = conversation(read(ChatRequest, body(messages=[user(PICTURE, *text)])).messages).messages
    assert turns == ({"role": "user", "content": [{"type": "image"}]},)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        pytest.param({"content": None}, "", id="null"),
        pytest.param({"content": None, "refusal": "No."}, "No.", id="declined"),
        pytest.param({"content": [{"type": "refusal", "refusal": "No."}]}, "No.", id="declined in a part"),
        pytest.param({"content": "Yes.", "tool_calls": [], "annotations": [], "audio": None}, "Yes.", id="as it came"),
    ],
)
def test_an_answer_that_is_sent_back(answer: dict[str, Any], said: str) -> None:
    messages = [user(TEXT), {"role": "assistant", **answer}, user(TEXT)]
    turn = conversation(read(ChatRequest, body(messages=messages)).messages).messages[1]
    assert turn == {"role": "assistant", "content": [{"type": "text", "text": said}]}


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        pytest.param([user({"type": "text", "text": " \n"})], "messages[0].content", id="neither text nor picture"),
        pytest.param(
            [user(PICTURE, TEXT), {"role": "assistant", "content": "A dog."}],
            "messages[1].role",
            id="nothing to answer",
        ),
    ],
)
def test_conversations_that_cannot_be_answered(messages: list[Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        conversation(read(ChatRequest, body(messages=messages)).messages)
    assert (caught.value.status, caught.value.param) == (400, param)


@pytest.mark.parametrize(
    ("fields", "expect"),
    [
        pytest.param({}, Rendering(), id="nothing said"),
        pytest.param({"add_generation_prompt": False}, Rendering(add_generation_prompt=False), id="without a header"),
        pytest.param({"continue_final_message": True}, Rendering(False, True), id="the last message goes on"),
        pytest.param(
            {"chat_template_kwargs": {"enable_thinking": False}},
            Rendering(variables={"enable_thinking": False}),
            id="a variable of the template",
        ),
    ],
)
def test_how_a_chat_is_written(fields: dict[str, Any], expect: Rendering) -> None:
    last = [{"role": "assistant", "content": "It is"}] if "continue_final_message" in fields else []
    request = read(ChatRequest, body(messages=[user(TEXT), *last], **fields))
    assert conversation(request.messages, request.rendering).rendering == expect


@pytest.mark.parametrize(
    ("fields", "messages", "param"),
    [
        pytest.param(
            {"continue_final_message": True, "add_generation_prompt": True},
            [user(TEXT), {"role": "assistant", "content": "It is"}],
            "add_generation_prompt",
            id="both at once",
        ),
        pytest.param(
            {"continue_final_message": True},
            [user(TEXT)],
            "continue_final_message",
            id="the user's last word",
        ),
        pytest.param(
            {"continue_final_message": True},
            [user(TEXT), {"role": "assistant", "content": " "}],
            "continue_final_message",
            id="nothing to go on with",
        ),
    ],
)
def test_chats_that_cannot_be_written(fields: dict[str, Any], messages: list[Any], param: str) -> None:
    request = read(ChatRequest, body(messages=messages, **fields))
    with pytest.raises(ApiError) as caught:
        _ = conversation(request.messages, request.rendering)
    assert (caught.value.status, caught.value.param) == (400, param)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        pytest.param({}, "one of messages and prompt", id="nothing to cut"),
        pytest.param({"prompt": "x", "messages": [user(TEXT)]}, "one of messages and prompt", id="two things"),
        pytest.param({"messages": [user(TEXT)], "add_special_tokens": True}, "template", id="special tokens twice"),
    ],
)
def test_what_cannot_be_cut_into_tokens(fields: dict[str, Any], word: str) -> None:
    with pytest.raises(ApiError) as caught:
        read(TokenizeRequest, json.dumps(fields).encode())
    assert word in caught.value.message


def test_fields_of_our_own_appear_only_when_asked_for() -> None:
    choice = Choice.model_validate({"index": 0, "message": {"content": "A dog."}, "finish_reason": "stop"})
    usage = Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3)
    answer = Completion(id="x", created=0, model="m", system_fingerprint="fp", choices=[choice], usage=usage)
    assert answer.model_dump() == {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "system_fingerprint": "fp",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "A dog.", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    }
