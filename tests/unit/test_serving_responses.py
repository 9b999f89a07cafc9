"""Responses: what may be asked, and how a chat's answer is told as one, as the official client reads it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.responses import Response as PublishedResponse
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from feedback_workloads.serving.errors import ApiError
from feedback_workloads.serving.protocol.chat import (
    AnswerMessage,
    Choice,
    Chunk,
    ChunkChoice,
    Completion,
    Delta,
    LikelyToken,
    Logprobs,
    TokenLogprob,
)
from feedback_workloads.serving.protocol.parts import Usage, read
from feedback_workloads.serving.protocol.responses import AsResponse, ResponsesRequest

HEAD: dict[str, Any] = {"id": "resp-1", "created": 7, "model": "m", "system_fingerprint": "f"}
TOKEN = TokenLogprob(
    token="A", logprob=-1.0, bytes=[65], top_logprobs=[LikelyToken(token="</s>", logprob=-2.0, bytes=None)]
)
USAGE = Usage(prompt_tokens=5, completion_tokens=2, total_tokens=7)


def request(**fields: Any) -> ResponsesRequest:
    return read(ResponsesRequest, json.dumps({"model": "m", "input": "A?", **fields}).encode())


def told(**fields: Any) -> AsResponse:
    return AsResponse(request(**fields), temperature=0.5, top_p=0.9)


def test_a_conversation_is_that_of_a_chat() -> None:
    picture = {"type": "input_image", "image_url": "data:x", "detail": "low"}
    given = [
        {"role": "developer", "content": "Be short."},
        {"role": "user", "content": [{"type": "input_text", "text": "What?"}, picture]},
        {"type": "message", "id": "msg-1", "role": "assistant", "status": "completed",
         "content": [{"type": "output_text", "text": "A dog.", "annotations": []}]},
        {"role": "user", "content": "Sure?"},
    ]  # fmt: skip
    found = request(input=given, instructions="Look.").conversation
    assert [(turn["role"], [part.get("text") for part in turn["content"]]) for turn in found.messages] == [
        ("system", ["Look."]), ("system", ["Be short."]), ("user", [None, "What?"]), ("assistant", ["A dog."]),
        ("user", ["Sure?"]),
    ]  # fmt: skip
    assert [(one.url, one.param) for one in found.pictures] == [("data:x", "input[1].content[1].image_url")]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": []}, "input"),
        ({"input": [{"type": "function_call_output", "call_id": "x", "output": "y"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "x"}]}]},
         "input[0].content[0].image_url"),
        ({"input": [{"role": "assistant", "content": "A"}]}, "input[0].role"),
        ({"input": " "}, "input[0].content"),
        ({"previous_response_id": "resp-1"}, "previous_response_id"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"n": 2}, "n"),
    ],
)  # fmt: skip
def test_what_is_not_served_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        _ = request(**fields).conversation
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("ended", "status", "cut"), [("stop", "completed", None), ("length", "incomplete", "max_output_tokens")]
)
def test_a_whole_answer(ended: Any, status: str, cut: str | None) -> None:
    choice = Choice(
        index=0, message=AnswerMessage(content="A"), logprobs=Logprobs(content=[TOKEN]), finish_reason=ended
    )
    answer = told(instructions="Look.", metadata={"a": "b"}, max_output_tokens=9).whole(
        Completion(**HEAD, choices=[choice], usage=USAGE, candidate_rewards=[0.5])
    )
    found = PublishedResponse.model_validate_json(answer.model_dump_json(), strict=False)
    assert (found.output_text, found.status, found.output[0].status) == ("A", status, status)
    assert (found.incomplete_details and found.incomplete_details.reason) == cut
    assert found.usage
    assert (found.usage.input_tokens, found.usage.output_tokens, found.usage.total_tokens) == (5, 2, 7)
    assert (found.temperature, found.top_p, found.metadata, found.max_output_tokens) == (0.5, 0.9, {"a": "b"}, 9)
    assert found.output[0].content[0].logprobs[0].top_logprobs[0].token == "</s>"
    assert found.model_extra
    assert found.model_extra["candidate_rewards"] == [0.5]


def test_a_stream_has_the_events_of_the_api() -> None:
    chunks = [
        Chunk(**HEAD, choices=[ChunkChoice(index=0, delta=Delta(role="assistant", content=""))]),
        Chunk(**HEAD, choices=[ChunkChoice(index=0, delta=Delta(content="A"), logprobs=Logprobs(content=[TOKEN]))]),
        Chunk(**HEAD, choices=[ChunkChoice(index=0, delta=Delta(content=" dog"))]),
        Chunk(**HEAD, choices=[ChunkChoice(index=0, delta=Delta(), finish_reason="stop")]),
        Chunk(**HEAD, choices=[], usage=USAGE),
    ]
    form = told(stream=True)
    events = [event for chunk in chunks for event in form.chunk(chunk)]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    published = TypeAdapter[Any](ResponseStreamEvent)
    read_back = [published.validate_json(event.model_dump_json()) for event in events]
    assert [event.type.removeprefix("response.") for event in read_back] == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    assert "".join(event.delta for event in read_back if event.type == "response.output_text.delta") == "A dog"
    assert read_back[-1].response.output_text == "A dog"
    assert read_back[-1].response.usage.total_tokens == 7
    assert read_back[0].response.output == []
