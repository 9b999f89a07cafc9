"""Pairs, ours and those that were converted, as they are handed on to others' formats."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feedback_workloads.rows.pair_files import raw_pairs


@dataclass(frozen=True)
class PairRow:
    """A pair: the encoded picture, and what its first authors said of it, empty of pairs that were made here."""

    id: str
    image: bytes
    question: str
    chosen: str
    rejected: str
    logps: str | None
    origin: Mapping[str, Any]


def read_pairs(folder: Path, uri: str) -> Iterator[PairRow]:
    """Stream the pairs below `folder`; see `raw_pairs`."""
    return map(_pair, raw_pairs(folder, uri))


def _pair(row: Mapping[str, Any]) -> PairRow:
    origin = row.get("origin")
    return PairRow(
        id=row["id"],
        image=row["image"]["bytes"],
        question=row["question"],
        chosen=row["chosen"],
        rejected=row["rejected"],
        logps=row.get("logps"),
        origin=json.loads(origin) if origin else {},
    )
