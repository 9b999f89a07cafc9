"""The pairs as the trainer reads them: checked, tokenised once, in one memory-mapped Arrow file."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from feedback_workloads.models.family import Family
from feedback_workloads.rows.pair_files import asked_in
from feedback_workloads.rows.rejected import BadRow, Rejected
from feedback_workloads.training.batches.preflight import check_pair
from feedback_workloads.training.references import total

COLUMNS = ("id", "chosen_token_ids", "rejected_token_ids", "chosen_logps", "rejected_logps")
"""What training reads of a pair, beside what is asked."""

PREPARED = pa.schema(
    [
        ("id", pa.string()),
        ("pictures", pa.list_(pa.binary())),
        ("prompt_ids", pa.list_(pa.int32())),
        ("chosen_ids", pa.list_(pa.int32())),
        ("rejected_ids", pa.list_(pa.int32())),
        ("chosen_logps", pa.list_(pa.float32())),
        ("rejected_logps", pa.list_(pa.float32())),
        ("ref_chosen_logps", pa.float32()),
        ("ref_rejected_logps", pa.float32()),
    ]
)
"""One row a pair, with TRL's names: `prompt_ids` has the pictures expanded, `ref_*` are those of `references.total`."""

BATCH_ROWS = 256


@dataclass(frozen=True)
class Prepared:
    """What `prepare` wrote: number of rows, the rejected ones, and SHA-256 (hex) of all tokens and pictures."""

    rows: int
    rejected: tuple[Rejected, ...]
    digest: str

    def counts(self) -> dict[str, int]:
        reasons = Counter(f"rejected_{row.reason}" for row in self.rejected)
        return {"rows": self.rows, "rejected": len(self.rejected), **reasons}


def prepare(
    rows: Iterable[Mapping[str, Any]], family: Family, max_length: int, file: Path, ld_alpha: float | None = None
) -> Prepared:
    """Check and tokenise pairs and write them to `file` as an Arrow stream; memory stays bounded."""
    rejected: list[Rejected] = []
    digest = hashlib.sha256()
    count = 0
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, PREPARED) as writer:
        for batch in _batches(_accepted(rows, family, max_length, rejected, ld_alpha)):
            writer.write_batch(pa.RecordBatch.from_pylist(batch, PREPARED))
            for row in batch:
                digest.update(repr((row["prompt_ids"], row["chosen_ids"], row["rejected_ids"])).encode())
                for picture in row["pictures"]:
                    digest.update(hashlib.sha256(picture).digest())
            count += len(batch)
    return Prepared(rows=count, rejected=tuple(rejected), digest=digest.hexdigest())


def _accepted(
    rows: Iterable[Mapping[str, Any]],
    family: Family,
    max_length: int,
    rejected: list[Rejected],
    ld_alpha: float | None,
) -> Iterator[dict[str, Any]]:
    for row in rows:
        try:
            yield prepare_row(row, family, max_length, ld_alpha)
        except BadRow as error:
            rejected.append(Rejected(row["id"], None, error.reason, error.detail))


def prepare_row(
    row: Mapping[str, Any], family: Family, max_length: int, ld_alpha: float | None = None
) -> dict[str, Any]:
    """Return one row of `PREPARED` made of a row of PAIRS; raises BadRow where it cannot be trained on."""
    messages, pictures = asked_in(row)
    prompt_ids = family.expand(family.conversation_ids(messages), *map(family.picture, pictures))
    check_pair(
        prompt_tokens=len(prompt_ids),
        chosen=row["chosen_token_ids"],
        rejected=row["rejected_token_ids"],
        chosen_logps=row["chosen_logps"],
        rejected_logps=row["rejected_logps"],
        end_ids=family.eos_ids,
        banned_ids=family.banned_ids,
        max_length=max_length,
    )
    shorter = min(len(row["chosen_logps"]), len(row["rejected_logps"]))
    return {
        "id": row["id"],
        "pictures": pictures,
        "prompt_ids": prompt_ids,
        "chosen_ids": row["chosen_token_ids"],
        "rejected_ids": row["rejected_token_ids"],
        "chosen_logps": row["chosen_logps"],
        "rejected_logps": row["rejected_logps"],
        "ref_chosen_logps": total(row["chosen_logps"], shorter, ld_alpha),
        "ref_rejected_logps": total(row["rejected_logps"], shorter, ld_alpha),
    }


def _batches(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH_ROWS:
            yield batch
            batch = []
    if batch:
        yield batch
