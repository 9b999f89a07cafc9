"""What tokens are in UTF-8, by the two ways in which vocabularies name bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BYTE: Final = re.compile("<0x([0-9A-F]{2})>")
"""A byte as SentencePiece's vocabularies name it where they have no letter for it."""


def reading_of(tokenizer: PreTrainedTokenizerFast) -> Callable[[str], bytes]:
    """How the names of a tokenizer's tokens are read."""
    decoder = json.loads(tokenizer.backend_tokenizer.to_str())["decoder"]
    return byte_level if "ByteLevel" in str(decoder) else sentence_piece


def byte_level(token: str) -> bytes:
    """The bytes of a token of a byte-level vocabulary; a token that was added to it is text."""
    known = byte_of_letter()
    return bytes(known[letter] for letter in token) if set(token) <= known.keys() else token.encode()


def sentence_piece(token: str) -> bytes:
    """The bytes of a token of a SentencePiece vocabulary, which writes a space as a low line of its own."""
    byte = BYTE.fullmatch(token)
    return bytes.fromhex(byte[1]) if byte else token.replace("▁", " ").encode()


@cache
def byte_of_letter() -> dict[str, int]:
    """Bytes by the letters that stand for them in byte-level vocabularies."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return {letter: byte for byte, letter in bytes_to_unicode().items()}
