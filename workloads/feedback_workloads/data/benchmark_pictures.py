"""Pictures of benchmarks, which nothing may be trained on that they are to measure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from feedback_workloads.contract import BadInput
from feedback_workloads.data.drafts import embedded
from feedback_workloads.data.fingerprints import Fingerprint, Fingerprints
from feedback_workloads.data.records import TABLES, records
from feedback_workloads.data.trees import Tree, open_tree
from feedback_workloads.rows.picture_texts import picture_in
from feedback_workloads.rows.rejected import BadRow
from feedback_workloads.storage.artifacts import ArtifactStore

PICTURES: Final = tuple(
    f"*.{kind}" for kind in ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "JPG", "PNG")
)

_COCO: Final = re.compile(r"(?:.*[/_])?(\d{12})(?:\.(?:jpg|png))?")


@dataclass
class Avoided:
    """Pictures by what they look like, and those of COCO by their number; each with the benchmark that has it."""

    fingerprints: Fingerprints = field(default_factory=Fingerprints)
    numbers: dict[int, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def by_name(self, path: str | None) -> str | None:
        """The benchmark that has the picture of COCO that is called so."""
        number = coco_number(path)
        return None if number is None else self.numbers.get(number)

    def by_look(self, fingerprint: Fingerprint) -> str | None:
        """The benchmark that has this picture."""
        return self.fingerprints.same(fingerprint) or self.fingerprints.near(fingerprint)


def avoided(store: ArtifactStore, given: Mapping[str, str]) -> Avoided:
    """The pictures of benchmarks, by name and URI of what has them.

    That is pictures themselves, in folders, archives, or tables with a column `image`; or tables and question files
    that name pictures of COCO (POPE's, for one), whose numbers are the same in all data sets that are made of it.
    Raises BadInput where a URI has neither.
    """
    found = Avoided()
    for name, uri in given.items():
        with TemporaryDirectory(prefix="feedback-avoid-") as scratch:
            tree = open_tree(store, [uri], Path(scratch))
            found.counts[name] = sum(_add(found, name, picture) for picture in _pictures(tree))
        if not found.counts[name]:
            raise BadInput(
                f"{uri} has no picture of {name}: neither a picture file, nor a table that has or names some"
            )
    return found


def coco_number(path: object) -> int | None:
    """COCO's number of a picture that is called `COCO_val2014_000000000042.jpg` or `000000000042.jpg`."""
    matched = _COCO.fullmatch(path) if isinstance(path, str) and len(path) < 256 else None
    return int(matched[1]) if matched else None


def _add(found: Avoided, name: str, picture: bytes | int) -> bool:
    """Take in a picture, or a number of COCO; whether it could be."""
    if isinstance(picture, int):
        found.numbers.setdefault(picture, name)
        return True
    try:
        found.fingerprints.add(Fingerprint.of(picture), name)
    except BadRow:
        return False
    return True


def _pictures(tree: Tree) -> Iterator[bytes | int]:
    for file in tree.find(*PICTURES):
        if (number := coco_number(file)) is not None:
            yield number
        with suppress(BadRow):
            yield tree.picture(file)
    for _, row in records(tree, tree.find(*TABLES, "*.json.gz", "*.jsonl.gz")):
        if not isinstance(row, BadRow):
            yield from _of_row(tree, row)


def _of_row(tree: Tree, row: Mapping[str, Any]) -> Sequence[bytes | int]:
    """What a row has of its picture: its pixels, or its number."""
    image = row.get("image")
    if isinstance(image, dict | bytes) or (isinstance(image, str) and picture_in(image)):
        try:
            return [embedded(tree, image)()]
        except BadRow:
            return []
    names = (image, row.get("image_id"))
    number = next((found for name in names if (found := coco_number(name)) is not None), row.get("image_id"))
    return [number] if isinstance(number, int) and not isinstance(number, bool) else []
