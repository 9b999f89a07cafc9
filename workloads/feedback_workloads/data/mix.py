"""`feedback data mix`: a balanced sample of converted data sets for each iteration, free of duplicates and of
benchmarks' pictures."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feedback_workloads.contract import BadInput, Source
from feedback_workloads.data.benchmark_pictures import Avoided, avoided
from feedback_workloads.data.cards import Card, Origin
from feedback_workloads.data.fingerprints import Fingerprint, Fingerprints
from feedback_workloads.data.writing import CARD, REJECTED, DataSetWriter, check_empty
from feedback_workloads.rows.identity import row_seed
from feedback_workloads.rows.rejected import BadRow, Rejected
from feedback_workloads.rows.schemas import INSTRUCTIONS
from feedback_workloads.storage.artifacts import ArtifactStore
from feedback_workloads.storage.objects import join

INDEX_ROWS: Final = 8192
TITLE: Final = "A mix of instructions"


@dataclass(frozen=True)
class Wanted:
    """`rows` an iteration, for `iterations` of them, drawn by `seed`."""

    rows: int
    iterations: int
    seed: int


@dataclass(frozen=True)
class Index:
    """Every row of the data sets, without its picture: its draw, source, file and number in the file, ordered by draw.

    13 bytes a row in memory. `sources` are the names that `source` numbers; `origins` what the sources' cards say.
    """

    files: Sequence[Path]
    sources: Sequence[str]
    origins: Mapping[str, Origin]
    draw: np.ndarray[Any, np.dtype[np.uint64]]
    source: np.ndarray[Any, np.dtype[np.uint16]]
    file: np.ndarray[Any, np.dtype[np.uint16]]
    row: np.ndarray[Any, np.dtype[np.uint32]]


def mix(
    store: ArtifactStore, given: Sequence[str], to: str, wanted: Wanted, avoid: Mapping[str, str]
) -> dict[str, int]:
    """Write `iteration-1`, `iteration-2` and so on below the new folder `to`; return the counts.

    Each source gives as many rows as any other to each iteration; where one has no more, the others give the rest. No
    picture comes twice, in whatever iterations and sources, and none that a benchmark in `avoid` has. The same data
    sets, seed and numbers give the same rows. Raises BadInput where the data sets do not have enough.
    """
    check_empty(store, to)
    index = index_of(store, given, wanted.seed)
    selection = Selection(index, avoided(store, avoid))
    total = wanted.rows * wanted.iterations
    kept = selection.fill(total)
    if len(kept) < total:
        raise BadInput(
            f"the data sets have {len(kept)} rows with pictures of their own, fewer than {wanted.iterations} "
            f"iterations of {wanted.rows}; give more data sets, or ask for fewer rows"
        )
    config = {"from": list(given), **asdict(wanted), "avoid": dict(avoid)}
    notes = _notes(wanted, selection.avoided.counts)
    for number, places in enumerate(dealt(index, kept, wanted), 1):
        rows, about = rows_at(index, places, INSTRUCTIONS.names), Card(TITLE, _origins(index, places), notes)
        _write(store, join(to, f"iteration-{number}"), rows, {**config, "iteration": number}, about)
    counts = Counter({"rows": total, "rejected": len(selection.rejected)})
    counts.update(f"rejected_{row.reason}" for row in selection.rejected)
    folders = [f"iteration-{number}" for number in range(1, wanted.iterations + 1)]
    lines = "".join(json.dumps(asdict(row)) + "\n" for row in selection.rejected)
    store.put(lines.encode(), to, REJECTED)
    store.put(Card(TITLE, _origins(index, kept), notes, folders).text(counts).encode(), to, CARD)
    return dict(counts)


def index_of(store: ArtifactStore, given: Sequence[str], seed: int) -> Index:
    """Look through the data sets, each made by `feedback data convert`; BadInput where one is not, or is pairs."""
    files: list[Path] = []
    origins: dict[str, Origin] = {}
    sources: dict[str, int] = {}
    columns: list[tuple[Any, ...]] = []
    for uri in given:
        folder = store.download(Source(uri=uri))
        if (found := store.find(str(folder))) is None or "origins" not in found[0].config:
            raise BadInput(f"{uri} was not made by feedback data convert; convert it first")
        origins |= {one["name"]: Origin(**one) for one in found[0].config["origins"]}
        for file in sorted(folder.glob("part-*.parquet")):
            files.append(file)
            columns += _indexed(file, len(files) - 1, f"{uri}/{file.name}", seed, sources)
    draw, source, file_number, row = (np.concatenate(column) for column in zip(*columns, strict=True))
    order = np.argsort(draw, kind="stable")
    order = order[np.concatenate([[True], np.diff(draw[order]) != 0])]  # one id, one draw: given twice, taken once
    return Index(files, list(sources), origins, draw[order], source[order], file_number[order], row[order])


def _indexed(file: Path, number: int, name: str, seed: int, sources: dict[str, int]) -> Iterator[tuple[Any, ...]]:
    with pq.ParquetFile(file) as table:
        if missing := next((column for column in INSTRUCTIONS.names if column not in table.schema_arrow.names), None):
            raise BadInput(f"{name} has no column {missing!r}; only instructions can be mixed")
        at = 0
        for batch in table.iter_batches(INDEX_ROWS, columns=["id", "source"]):
            many = batch.num_rows
            draws = [row_seed(seed, id, -1) for id in batch["id"].to_pylist()]
            codes = [sources.setdefault(source, len(sources)) for source in batch["source"].to_pylist()]
            yield (
                np.array(draws, np.uint64),
                np.array(codes, np.uint16),
                np.full(many, number, np.uint16),
                np.arange(at, at + many, dtype=np.uint32),
            )
            at += many


class Selection:
    """Takes rows in the order of their draw, source by source, and leaves out pictures that were seen."""

    def __init__(self, index: Index, avoided: Avoided) -> None:
        self.avoided = avoided
        self.rejected: list[Rejected] = []
        self._index = index
        self._seen = Fingerprints()
        self._left = [np.flatnonzero(index.source == code) for code in range(len(index.sources))]
        self._kept: list[list[int]] = [[] for _ in index.sources]

    def fill(self, total: int) -> list[int]:
        """Places in the index of up to `total` rows, in the order of their draw, balanced over the sources."""
        while True:
            shares = share(total, [len(k) + len(left) for k, left in zip(self._kept, self._left, strict=True)])
            short = [max(0, wanted - len(kept)) for wanted, kept in zip(shares, self._kept, strict=True)]
            if not any(short):
                break
            batch = np.sort(np.concatenate([left[:many] for left, many in zip(self._left, short, strict=True)]))
            self._left = [left[many:] for left, many in zip(self._left, short, strict=True)]
            self._take(batch)
        # A source may have been asked for more before another turned out to have enough.
        return sorted(place for kept, many in zip(self._kept, shares, strict=True) for place in kept[:many])

    def _take(self, batch: np.ndarray[Any, np.dtype[np.int64]]) -> None:
        found = dict(self._looked_at(batch))
        for place in map(int, batch):
            id, path, fingerprint = found[place]
            try:
                self._check(path, fingerprint)
            except BadRow as bad:
                self.rejected.append(Rejected(id, None, bad.reason, bad.detail))
            else:
                assert isinstance(fingerprint, Fingerprint)
                self._seen.add(fingerprint, id)
                self._kept[self._index.source[place]].append(place)

    def _check(self, path: str | None, fingerprint: Fingerprint | BadRow) -> None:
        if isinstance(fingerprint, BadRow):
            raise fingerprint
        if benchmark := self.avoided.by_name(path) or self.avoided.by_look(fingerprint):
            raise BadRow("benchmark-picture", f"the benchmark {benchmark} has this picture")
        if other := self._seen.same(fingerprint):
            raise BadRow("same-picture", f"{other} has the same picture")
        if other := self._seen.near(fingerprint):
            raise BadRow("similar-picture", f"{other} has a picture that looks the same")

    def _looked_at(
        self, places: np.ndarray[Any, np.dtype[np.int64]]
    ) -> Iterator[tuple[int, tuple[str, str | None, Fingerprint | BadRow]]]:
        for place, row in rows_at(self._index, places, ["id", "image"]):
            try:
                fingerprint: Fingerprint | BadRow = Fingerprint.of(row["image"]["bytes"])
            except BadRow as bad:
                fingerprint = bad
            yield place, (row["id"], row["image"]["path"], fingerprint)


def share(total: int, available: Sequence[int]) -> list[int]:
    """As equal shares of `total` as what is available allows; the first ones get what does not divide."""
    shares = [0] * len(available)
    while left := min(total - sum(shares), sum(available) - sum(shares)):
        open_ones = [at for at, many in enumerate(available) if shares[at] < many]
        each, rest = divmod(left, len(open_ones))
        for number, at in enumerate(open_ones):
            shares[at] = min(available[at], shares[at] + (each or int(number < rest)))
    return shares


def dealt(index: Index, kept: Sequence[int], wanted: Wanted) -> list[list[int]]:
    """The rows of each iteration: the rows of a source go to one iteration after the other, like cards."""
    by_source = sorted(kept, key=lambda place: index.source[place])  # stable: by draw within a source
    return [by_source[number :: wanted.iterations] for number in range(wanted.iterations)]


def rows_at(
    index: Index, places: Sequence[int] | np.ndarray[Any, np.dtype[np.int64]], columns: Sequence[str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows at these places of the index, in the order of the files; a group of rows is in memory."""
    at = {(int(index.file[place]), int(index.row[place])): int(place) for place in places}
    wanted: dict[int, list[int]] = {}
    for file, row in sorted(at):
        wanted.setdefault(file, []).append(row)
    for file, rows in wanted.items():
        with pq.ParquetFile(index.files[file]) as table:
            end = 0
            for group in range(table.num_row_groups):
                start, end = end, end + table.metadata.row_group(group).num_rows
                taken = rows[bisect_left(rows, start) : bisect_left(rows, end)]
                if taken:
                    found = table.read_row_group(group, columns=list(columns))
                    values = found.take(pa.array([row - start for row in taken])).to_pylist()
                    yield from ((at[file, row], value) for row, value in zip(taken, values, strict=True))


def _write(
    store: ArtifactStore, uri: str, rows: Iterator[tuple[int, dict[str, Any]]], config: Mapping[str, Any], about: Card
) -> None:
    with TemporaryDirectory(prefix="feedback-mix-") as scratch:
        writer = DataSetWriter(store, uri, INSTRUCTIONS, Path(scratch))
        for _, row in rows:
            writer.write(row)
        origins = [vars(origin) for origin in about.origins]
        writer.finish("mix", {**config, "origins": origins}, about.text(writer.counts))


def _origins(index: Index, places: Sequence[int]) -> list[Origin]:
    counted = Counter(index.sources[index.source[place]] for place in places)
    return [Origin(**{**vars(index.origins[name]), "rows": counted[name]}) for name in index.sources if counted[name]]


def _notes(wanted: Wanted, avoided: Mapping[str, int]) -> list[str]:
    notes = [
        f"Drawn by `feedback data mix`: {wanted.rows:,} rows an iteration, {wanted.iterations} iterations, "
        f"seed {wanted.seed}. No picture comes twice in them, neither the same file nor one that looks the same."
    ]
    if avoided:
        named = ", ".join(f"{name} ({many:,})" for name, many in avoided.items())
        notes.append(f"No picture is one of these benchmarks': {named}.")
    return notes
