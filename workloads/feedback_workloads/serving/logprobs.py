"""Log-probabilities of an answer's tokens as OpenAI's clients read them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from feedback_workloads.serving.protocol.chat import LikelyToken, Logprobs, TokenLogprob

if TYPE_CHECKING:
    from feedback_workloads.models.family import Family
    from feedback_workloads.serving.engines import Drawn

PIECE = re.compile(r"\s*\S+|\s+")
"""What a winner is streamed in: a word with the space before it."""

LEAST = -9999.0
"""OpenAI's word for a token that cannot be; JSON has none for minus infinity."""


def told(family: Family, drawn: Iterable[Drawn]) -> Logprobs:
    """The tokens of an answer, or of a piece of one, in the texts of the family's tokenizer."""
    return Logprobs(
        content=[
            TokenLogprob(
                **_token(family, one.token, one.logprob),
                top_logprobs=[LikelyToken(**_token(family, *likely)) for likely in one.top],
            )
            for one in drawn
        ]
    )


def _token(family: Family, id: int, logprob: float) -> dict[str, object]:
    written = family.token_bytes(id)
    name = family.tokenizer.convert_ids_to_tokens(id) if written is None else written.decode(errors="replace")
    return {"token": name, "logprob": max(logprob, LEAST), "bytes": None if written is None else list(written)}


def along(pieces: Sequence[str], tokens: Logprobs) -> Iterator[tuple[str, Logprobs]]:
    """Hand out the tokens of an answer with the pieces of its text, each with the piece in which it begins.

    What is left after the last piece, such as the token that ends the answer, comes with an empty text.
    """
    left = list(reversed(tokens.content))
    reached = begins = 0
    for piece in pieces:
        reached += len(piece.encode())
        mine = []
        while left and begins < reached:
            mine.append(left.pop())
            begins += len(mine[-1].bytes or ())
        yield piece, Logprobs(content=mine)
    yield "", Logprobs(content=left[::-1])
