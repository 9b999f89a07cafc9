"""`feedback data inspect`: what is in a data set, read once from its start to its end."""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from feedback_workloads.contract import Manifest, Source
from feedback_workloads.data.pairs import read_pairs
from feedback_workloads.models.pictures import FORMATS
from feedback_workloads.report.data_page import Example, render
from feedback_workloads.rows.identity import row_seed
from feedback_workloads.rows.instructions import Instruction, read_instructions
from feedback_workloads.rows.rejected import Rejected
from feedback_workloads.storage.artifacts import ArtifactStore, ForeignManifest
from feedback_workloads.storage.objects import join

EXAMPLES: Final = 24
PAGE: Final = "data.html"
QUANTILES: Final = {"5%": 0.05, "median": 0.5, "95%": 0.95}


@dataclass(frozen=True)
class Item:
    """A row as it is shown: its pictures, and its texts by what they are."""

    id: str
    images: Sequence[bytes]
    texts: Mapping[str, str]


class Summary:
    """What is counted of a data set; memory grows by some bytes a row, for what is seen twice."""

    def __init__(self) -> None:
        self.rows = 0
        self.rejected: Counter[str] = Counter()
        self.formats: Counter[str] = Counter()
        self.splits: Counter[str] = Counter()
        self.sides: Counter[int] = Counter()
        self.words: dict[str, Counter[int]] = {}
        self._pictures: set[bytes] = set()
        self._questions: set[bytes] = set()
        self._examples: list[tuple[int, str, Item]] = []

    def add(self, item: Item) -> None:
        """Take in a row."""
        self.rows += 1
        self._questions.add(_digest(item.texts["question"].encode()))
        for image in item.images:
            self._pictures.add(_digest(image))
            kind, side = _look(image)
            self.formats[kind] += 1
            if side:
                self.sides[side] += 1
        for name, text in item.texts.items():
            self.words.setdefault(name, Counter())[len(text.split())] += 1
        chance = -row_seed(0, item.id, -1)
        heapq.heappush(self._examples, (chance, item.id, item))
        if len(self._examples) > EXAMPLES:
            heapq.heappop(self._examples)

    def numbers(self, manifest: Manifest | None) -> dict[str, str]:
        """What is told, by name; `manifest` says more of a data set that we made."""
        told = {
            "rows": f"{self.rows:,}",
            "different pictures": f"{len(self._pictures):,}",
            "different questions": f"{len(self._questions):,}",
        }
        told |= {f"pictures, {name}": f"{many:,}" for name, many in self.formats.most_common()}
        told |= {"longest side, pixels": quantiles(self.sides)} if self.sides else {}
        told |= {f"words of {name}": quantiles(counted) for name, counted in self.words.items()}
        told |= {f"split {name}": f"{many:,}" for name, many in sorted(self.splits.items())}
        told |= {f"left out, {reason}": f"{many:,}" for reason, many in self.rejected.most_common()}
        for name, many in sorted(manifest.counts.items()) if manifest else ():
            kind, _, what = name.partition("_")
            if kind in {"source", "rejected"} and what:
                told["from " + what if kind == "source" else f"left out when it was made, {what}"] = f"{many:,}"
        return told

    def examples(self) -> list[Item]:
        """Some rows, the same ones each time, ordered by id."""
        return sorted((item for _, _, item in self._examples), key=lambda item: item.id)


def inspect(store: ArtifactStore, uri: str, out: str | None) -> dict[str, str]:
    """Read the data set at `uri`, instructions or pairs; write a page into the folder `out`; return what is told.

    Raises BadInput where it is neither.
    """
    folder = store.download(Source(uri=uri))
    summary = Summary()
    for item in _items(folder, uri, summary):
        summary.add(item)
    numbers = summary.numbers(_manifest(store, folder))
    if out is not None:
        examples = [Example(item.id, item.images, item.texts) for item in summary.examples()]
        store.objects(out).write(join(out, PAGE), render(uri, numbers, examples).encode())
    return numbers


def quantiles(counted: Mapping[int, int]) -> str:
    """`5% 3, median 9, 95% 17` of numbers, each of which was counted."""
    total = sum(counted.values())
    found: list[str] = []
    for name, share in QUANTILES.items():
        left = share * (total - 1)
        for number in sorted(counted):
            left -= counted[number]
            if left < 0:
                found.append(f"{name} {number}")
                break
    return ", ".join(found)


def _items(folder: Path, uri: str, summary: Summary) -> Iterator[Item]:
    if _has_pairs(folder):
        for pair in read_pairs(folder, uri):
            yield Item(
                pair.id, pair.images, {"question": pair.question, "chosen": pair.chosen, "rejected": pair.rejected}
            )
        return
    for row in read_instructions(folder, uri):
        if isinstance(row, Rejected):
            summary.rejected[row.reason] += 1
        else:
            yield _instruction(row, summary)


def _instruction(row: Instruction, summary: Summary) -> Item:
    if row.split is not None:
        summary.splits[row.split] += 1
    return Item(row.id, row.images, {"question": row.question, **({"truth": row.truth} if row.truth else {})})


def _has_pairs(folder: Path) -> bool:
    part = next(iter(sorted(folder.rglob("part-*.parquet"))), None)
    try:
        return part is not None and {"chosen", "rejected"} <= set(pq.read_schema(part).names)
    except (pa.ArrowException, OSError):
        return False  # the reader of instructions says what is wrong with it


def _manifest(store: ArtifactStore, folder: Path) -> Manifest | None:
    try:
        found = store.find(str(folder))
    except ForeignManifest:
        return None
    return found[0] if found else None


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=8).digest()


def _look(data: bytes) -> tuple[str, int | None]:
    """Format and longest side of a picture, by its head."""
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as picture:
            return str(picture.format), max(picture.size)
    except Exception:  # of as many kinds as there are kinds of damage
        return "undecodable", None
