"""Tokens in bytes, and which of them are told with which piece of a streamed answer."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback_workloads.models.token_bytes import byte_level, byte_of_letter, sentence_piece
from feedback_workloads.serving.logprobs import PIECE, along
from feedback_workloads.serving.protocol.chat import Logprobs, TokenLogprob


def token(data: bytes | None) -> TokenLogprob:
    told = None if data is None else list(data)
    return TokenLogprob(token="", logprob=0.0, bytes=told, top_logprobs=[])


@pytest.mark.parametrize(
    ("pieces", "tokens", "expect"),
    [
        pytest.param(
            ["A", " dog"], [b"A", b" d", b"og", None], [("A", 1), (" dog", 2), ("", 1)], id="each with its word"
        ),
        pytest.param(["A", " dog"], [b"A do", b"g"], [("A", 1), (" dog", 1), ("", 0)], id="a token of two words"),
        pytest.param([], [None], [("", 1)], id="nothing but the end"),
        pytest.param(["\u00e9"], [b"\xc3", b"\xa9"], [("\u00e9", 2), ("", 0)], id="parts of a character"),
        pytest.param(["A"], [b"A", b"###"], [("A", 1), ("", 1)], id="what stopped the answer is no part of it"),
    ],
)
def test_along(pieces: list[str], tokens: list[bytes | None], expect: list[tuple[str, int]]) -> None:
    found = along(pieces, Logprobs(content=[token(data) for data in tokens]))
    assert [(piece, len(mine.content)) for piece, mine in found] == expect


@given(st.lists(st.binary(max_size=4)))
def test_every_token_is_told_once_and_in_order(data: list[bytes]) -> None:
    whole = Logprobs(content=[token(one) for one in data])
    pieces = PIECE.findall(b"".join(data).decode(errors="replace"))
    found = list(along(pieces, whole))
    assert [one for _, mine in found for one in mine.content] == whole.content
    assert [piece for piece, _ in found] == [*pieces, ""]


def test_every_byte_has_its_letter() -> None:
    letters = {byte: letter for letter, byte in byte_of_letter().items()}
    assert sorted(letters) == list(range(256))
    assert byte_level("".join(letters[byte] for byte in "Dög, 犬\n".encode())).decode() == "Dög, 犬\n"


def test_letters_of_bytes_are_those_of_tokenizers() -> None:
    from tokenizers import pre_tokenizers

    split: Any = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for text in ("A dog\n", "Dög, 犬\t", "".join(map(chr, range(256)))):
        assert byte_level("".join(piece for piece, _ in split.pre_tokenize_str(text))) == text.encode()


@pytest.mark.parametrize(
    ("name", "expect"), [("▁dog", b" dog"), ("<0x0A>", b"\n"), ("<0xE7>", b"\xe7"), ("<0x0a>", b"<0x0a>")]
)
def test_a_token_of_sentence_piece(name: str, expect: bytes) -> None:
    assert sentence_piece(name) == expect
