"""How long a text is in words, whatever script it is written in."""

from __future__ import annotations

from typing import Final

import regex

UNSPACED: Final = r"[[\p{LB=ID}\p{LB=CJ}\p{LB=SA}]&&[\p{L}\p{Nl}]]"
"""Letters of scripts without spaces, where a line may end beside any of them (Unicode Standard Annex 14): Chinese and
Japanese (ID, CJ), Thai, Lao, Khmer, Burmese and their like (SA)."""

_UNSPACED: Final = regex.compile(UNSPACED, regex.V1)
_WORD: Final = regex.compile(rf"{UNSPACED}\p{{M}}*|[\w--{UNSPACED}][^{UNSPACED}]*", regex.V1)


def count_words(text: str) -> int:
    """Number of words: of what stands between spaces, as the paper counts, where the script has spaces between words.

    A letter of a script without them is a word of its own, which is how the length of such a text is commonly given.
    """
    pieces = text.split()
    if not _UNSPACED.search(text):
        return len(pieces)
    return sum(max(1, len(_WORD.findall(piece))) for piece in pieces)
