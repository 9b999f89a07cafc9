"""Pairs that were made elsewhere, as the stage pairing leaves its own: in the policy's tokens, with their pictures."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final

from feedback_workloads.contract import (
    STATISTICS_NAME,
    BadInput,
    PairingConfig,
    PublishedPairs,
    canonical_json,
    shard_uri,
)
from feedback_workloads.method.words import count_words
from feedback_workloads.models.families import check_pictures, check_trainable, family_of
from feedback_workloads.models.sources import described, fetch
from feedback_workloads.process.outcome import Outcome
from feedback_workloads.rows.pair_files import asked_columns, asked_in, number_of_pairs, raw_pairs, survey
from feedback_workloads.rows.rejected import BadRow, Rejected
from feedback_workloads.rows.schemas import PAIRS, PAIRS_OF_CONVERSATIONS

if TYPE_CHECKING:
    import pyarrow as pa

    from feedback_workloads.models.family import Family
    from feedback_workloads.process.progress import Progress
    from feedback_workloads.storage.artifacts import ArtifactStore
    from feedback_workloads.storage.parts import Parts

PART_PAIRS: Final = 256  # pairs a part file, which bounds the pictures in memory
SIDES: Final = ("chosen", "rejected")
NOT_SAMPLED: Final = -1
"""The number of a candidate that is none."""


def run(
    config: PairingConfig, published: PublishedPairs, shard: int, store: ArtifactStore, progress: Progress
) -> Outcome:
    """Write PAIRS, or PAIRS_OF_CONVERSATIONS, of the published ones, and statistics.json.

    Rejects pairs without a picture, a question or two answers that differ. Raises BadInput where the policy cannot be
    trained, and where no pair is left.
    """
    progress.phase("reading the policy's tokens")
    uri = published.model.uri
    folder = described(store, published.model) or fetch(store, published.model, config.output, progress.phase)
    family = family_of(folder, published.model)
    check_trainable(family, uri, lora=config.lora)
    progress.phase("writing pairs")
    output = shard_uri(config, shard)
    found = survey(store.download(published.source), published.source.uri)
    check_pictures(family, found.most_pictures, "spec.model")
    with store.append(output, PAIRS_OF_CONVERSATIONS if found.conversations else PAIRS) as parts:
        words = write_pairs(published, family, store, parts, progress)
    statistics = summarise(words, parts.counts())
    if not words["chosen"]:
        raise BadInput(f"{published.source.uri} has no pair that can be trained on; see what was rejected in {output}")
    file = store.put(canonical_json(statistics), output, STATISTICS_NAME)
    return Outcome(
        files=(*parts.files(), file),
        counts={**parts.counts(), **statistics["funnel"]},
        metrics=statistics["metrics"],
    )


def write_pairs(
    published: PublishedPairs, family: Family, store: ArtifactStore, parts: Parts, progress: Progress
) -> dict[str, list[int]]:
    """Write all pairs that are not stored yet, in their order; return the words of the answers of all, by side."""
    folder, uri = store.download(published.source), published.source.uri
    finished = parts.finished_ids()
    progress.start(total=number_of_pairs(folder, uri), done=len(finished))
    words: dict[str, list[int]] = {side: [] for side in SIDES}
    part: list[dict[str, Any]] = []
    rejected: list[Rejected] = []

    def flush() -> None:
        parts.write(part, rejected)
        progress.count("pairs", len(part))
        progress.count("rejected", len(rejected))
        part.clear()
        rejected.clear()

    for id, row in _told_apart(raw_pairs(folder, uri)):
        if len(part) + len(rejected) >= PART_PAIRS:
            flush()
        try:
            check(row)
            for side in SIDES:
                words[side].append(count_words(row[side]))
            if id not in finished:
                part.append(pair_row(id, row, family, parts.schema))
                progress.advance()
        except BadRow as bad:
            if id not in finished:
                rejected.append(Rejected(id, None, bad.reason, bad.detail))
                progress.advance()
    flush()
    return words


def check(row: Mapping[str, Any]) -> None:
    """Raise BadRow where a row is no pair. Reasons: missing-text, missing-picture, identical-answers."""
    for column in ("question", *SIDES) if "question" in row else SIDES:
        if not isinstance(row[column], str) or not row[column].strip():
            raise BadRow("missing-text", f"the column {column} holds {row[column]!r}, where a text has to be")
    column, images = ("images", row["images"] or [None]) if "images" in row else ("image", [row["image"]])
    for image in images:
        match image:
            case {"bytes": bytes(data)} if data:
                pass
            case _:
                raise BadRow("missing-picture", f"the column {column} has no bytes of a picture")
    if "messages" in row and not isinstance(row["messages"], list):
        raise BadRow("missing-text", f"the column messages holds {row['messages']!r}, where turns have to be")
    asked_in(row)
    if row["chosen"] == row["rejected"]:
        raise BadRow("identical-answers", "chosen and rejected are the same text")


def pair_row(id: str, row: Mapping[str, Any], family: Family, schema: pa.Schema) -> dict[str, Any]:
    """A row of `schema`: the answers as the policy would have written them, but without what only sampling knows."""
    return {
        "id": id,
        **asked_columns(schema, *asked_in(row)),
        **{name: value for side in SIDES for name, value in _side(side, row[side], family).items()},
    }


def _side(side: str, text: str, family: Family) -> dict[str, Any]:
    ids = family.answer_ids(text)
    return {
        side: text,
        f"{side}_token_ids": ids,
        f"{side}_logps": [math.nan] * len(ids),
        f"{side}_candidate": NOT_SAMPLED,
        f"{side}_score": 0,
        f"{side}_claims": [],
        f"{side}_accepted": [],
    }


def _told_apart(rows: Iterator[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows with ids of their own: the second pair of one id is `id#2`."""
    times: Counter[str] = Counter()
    for row in rows:
        id = row["id"]
        times[id] += 1
        yield (id if times[id] == 1 else f"{id}#{times[id]}"), row


def summarise(words: Mapping[str, list[int]], counts: Mapping[str, int]) -> dict[str, Any]:
    """The content of statistics.json, as of pairs that were made here: what was not measured of these is left out."""
    kept = len(words["chosen"])
    histograms = {side: {str(n): number for n, number in sorted(Counter(words[side]).items())} for side in SIDES}
    return {
        "funnel": {"published": kept + counts["rejected"], "balanced": kept},
        "metrics": {f"balanced.{side}_words": fmean(words[side]) for side in SIDES} if kept else {},
        "scores": {},
        "differences": {},
        "words": {"balanced": histograms},
    }
