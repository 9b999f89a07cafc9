"""Data sets as we write them: parts of parquet, the rejected rows, a card for people, and a manifest."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from feedback_workloads.contract import Artifact, BadInput, FileEntry, Manifest, canonical_json
from feedback_workloads.rows.rejected import Rejected
from feedback_workloads.storage.artifacts import ArtifactStore

PART_ROWS: Final = 20_000
PART_BYTES: Final = 64 << 20
"""Pictures of a part, which is in memory until it is written."""
GROUP_ROWS: Final = 32
"""Rows that are read together by who needs one of them."""
CARD: Final = "README.md"
REJECTED: Final = "_rejected.jsonl"
"""By the convention of Spark, a name that begins with `_` is no data."""


class DataSetWriter:
    """Writes one data set into the folder `uri`, which has to be empty, in memory that does not grow with it."""

    def __init__(self, store: ArtifactStore, uri: str, schema: pa.Schema, scratch: Path) -> None:
        """Raises BadInput where the folder has files already."""
        self._store, self._uri, self._schema = store, uri, schema
        check_empty(store, uri)
        self._rejected_file = scratch / REJECTED
        self._rejects: IO[str] = self._rejected_file.open("w", encoding="utf-8")
        self._rows: list[Mapping[str, Any]] = []
        self._bytes = 0
        self._files: list[FileEntry] = []
        self.counts: Counter[str] = Counter(rows=0, rejected=0)
        self.sources: Counter[str] = Counter()

    def write(self, row: Mapping[str, Any]) -> None:
        """Take one row of the schema."""
        self._rows.append(row)
        self._bytes += len(row["image"]["bytes"])
        self.counts["rows"] += 1
        self.sources[row["source"]] += 1
        if len(self._rows) >= PART_ROWS or self._bytes >= PART_BYTES:
            self._flush()

    def reject(self, row: Rejected) -> None:
        """Take note of a row that was left out."""
        self._rejects.write(json.dumps(asdict(row)) + "\n")
        self.counts.update(["rejected", f"rejected_{row.reason}"])

    def finish(self, stage: str, config: Mapping[str, Any], card: str) -> Artifact:
        """Write what is left, the card and the manifest, which makes the data set whole."""
        self._flush()
        self._rejects.close()
        if self.counts["rejected"]:
            self._files.append(self._store.upload(self._rejected_file, self._uri, REJECTED, self.counts["rejected"]))
        self._files.append(self._store.put(card.encode(), self._uri, CARD))
        manifest = Manifest(
            stage=stage,
            config=dict(config),
            config_hash=hashlib.sha256(canonical_json(dict(config))).hexdigest(),
            files=tuple(self._files),
            counts={**self.counts, **{f"source_{name}": many for name, many in sorted(self.sources.items())}},
        )
        return self._store.publish(self._uri, manifest)

    def _flush(self) -> None:
        if not self._rows:
            return
        sink = io.BytesIO()
        table = pa.Table.from_pylist(self._rows, self._schema)
        pq.write_table(table, sink, compression="zstd", row_group_size=GROUP_ROWS)
        name = f"part-{len(self._files):05d}.parquet"
        self._files.append(self._store.put(sink.getvalue(), self._uri, name, len(self._rows)))
        self._rows, self._bytes = [], 0


def check_empty(store: ArtifactStore, uri: str) -> None:
    """Raise BadInput where the folder has files already: two data sets in one folder would be read as one."""
    if (found := next(iter(store.objects(uri).list(uri)), None)) is not None:
        raise BadInput(f"{uri} has files already, {found.name} among them; name a new folder, or empty this one")
