"""Pairs, ours and those that were converted, as they are handed on to others' formats."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feedback_workloads.contract import BadInput
from feedback_workloads.rows.conversations import Message, question_of
from feedback_workloads.rows.pair_files import asked_in, raw_pairs, survey
from feedback_workloads.rows.rejected import BadRow


@dataclass(frozen=True)
class PairRow:
    """A pair: what is asked, with its encoded pictures, the two answers, and what its first authors said of it, which
    is empty of pairs that were made here."""

    id: str
    images: tuple[bytes, ...]
    messages: tuple[Message, ...]
    chosen: str
    rejected: str
    logps: str | None
    origin: Mapping[str, Any]
    conversations: bool = False
    """Whether any pair of its data set has several pictures or turns."""

    @property
    def question(self) -> str:
        """What is asked, as a text; see `question_of`."""
        return question_of(self.messages)


def read_pairs(folder: Path, uri: str) -> Iterator[PairRow]:
    """Stream the pairs below `folder`; see `raw_pairs`. Raises BadInput, too, where one asks nothing."""
    conversations = survey(folder, uri).conversations
    return (_pair(row, uri, conversations=conversations) for row in raw_pairs(folder, uri))


def _pair(row: Mapping[str, Any], uri: str, *, conversations: bool) -> PairRow:
    origin = row.get("origin")
    try:
        messages, images = asked_in(row)
    except BadRow as bad:
        raise BadInput(
            f"the pair {row['id']!r} of {uri} cannot be used: {bad.detail}; mend it, or leave it out"
        ) from bad
    return PairRow(
        id=row["id"],
        images=images,
        messages=messages,
        chosen=row["chosen"],
        rejected=row["rejected"],
        logps=row.get("logps"),
        origin=json.loads(origin) if origin else {},
        conversations=conversations,
    )
