"""Completions of a text: what may be asked, and how a chat's answer is told as one."""

from __future__ import annotations

import json
from typing import Any

import pytest

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
from feedback_workloads.serving.protocol.completions import AsText, CompletionRequest
from feedback_workloads.serving.protocol.parts import Usage, read


def request(**fields: Any) -> CompletionRequest:
    return read(CompletionRequest, json.dumps({"model": "m", **fields}).encode())


@pytest.mark.parametrize(
    ("prompt", "expect"),
    [("A dog", "A dog"), (["A dog"], "A dog"), ([1, 2], [1, 2]), ([[1, 2]], [1, 2]), ("", "")],
)
def test_one_prompt(prompt: Any, expect: Any) -> None:
    assert request(prompt=prompt).prompt == expect


@pytest.mark.parametrize(
    ("fields", "param", "word"),
    [
        pytest.param({}, "prompt", "missing", id="nothing to go on with"),
        pytest.param({"prompt": ["a", "b"]}, "prompt", "2 prompts", id="two texts"),
        pytest.param({"prompt": [[1], [2]]}, "prompt", "2 prompts", id="the tokens of two"),
        pytest.param({"prompt": "a", "echo": True}, "echo", "False", id="the prompt once more"),
        pytest.param({"prompt": "a", "suffix": "b"}, "suffix", "not supported", id="a text behind it"),
        pytest.param({"prompt": "a", "logprobs": 21}, "logprobs", "less", id="too many likely tokens"),
        pytest.param({"prompt": "a", "messages": []}, "messages", "not supported", id="a chat"),
    ],
)
def test_errors_name_the_field(fields: dict[str, Any], param: str, word: str) -> None:
    with pytest.raises(ApiError) as caught:
        request(**fields)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert word in caught.value.message


def token(text: str, logprob: float, *likely: tuple[str, float], special: bool = False) -> TokenLogprob:
    top = [LikelyToken(token=name, logprob=value, bytes=list(name.encode())) for name, value in likely]
    return TokenLogprob(token=text, logprob=logprob, bytes=None if special else list(text.encode()), top_logprobs=top)


DRAWN = Logprobs(
    content=[token("A", -1.0, ("A", -1.0)), token(" dog", -2.0, (" cat", -0.5)), token("</s>", -3.0, special=True)]
)
HEAD: dict[str, Any] = {"id": "cmpl-1", "created": 1, "model": "m", "system_fingerprint": "fp"}


def test_a_whole_answer() -> None:
    choice = Choice(index=0, message=AnswerMessage(content="A dog"), logprobs=DRAWN, finish_reason="stop")
    usage = Usage(prompt_tokens=1, completion_tokens=3, total_tokens=4)
    told = AsText().whole(Completion(**HEAD, choices=[choice], usage=usage)).model_dump()
    assert told == {
        **HEAD,
        "object": "text_completion",
        "choices": [
            {
                "index": 0,
                "text": "A dog",
                "logprobs": {
                    "text_offset": [0, 1, 5],
                    "token_logprobs": [-1.0, -2.0, -3.0],
                    "tokens": ["A", " dog", "</s>"],
                    "top_logprobs": [{"A": -1.0}, {" cat": -0.5}, {}],
                },
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4},
    }


def test_offsets_go_on_from_chunk_to_chunk_of_each_choice() -> None:
    text = AsText()
    assert text.chunk(chunk(0, Delta(role="assistant", content=""), [])) is None
    told = [text.chunk(chunk(index, Delta(content=one.token), [one])) for one in DRAWN.content[:2] for index in (0, 1)]
    told.append(text.chunk(chunk(1, Delta(), DRAWN.content[2:], "stop")))
    found = [(event.choices[0].index, event.choices[0].text, event.choices[0].logprobs) for event in told if event]
    assert [(index, said, logprobs.text_offset) for index, said, logprobs in found if logprobs] == [
        (0, "A", [0]),
        (1, "A", [0]),
        (0, " dog", [1]),
        (1, " dog", [1]),
        (1, "", [5]),
    ]


def chunk(index: int, delta: Delta, tokens: list[TokenLogprob], reason: Any = None) -> Chunk:
    choice = ChunkChoice(index=index, delta=delta, logprobs=Logprobs(content=tokens), finish_reason=reason)
    return Chunk(**HEAD, choices=[choice])
