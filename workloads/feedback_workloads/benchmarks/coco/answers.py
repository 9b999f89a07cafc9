"""Answers about COCO's pictures, and what they name beside what is there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from feedback_workloads.benchmarks.coco.objects import Named
from feedback_workloads.benchmarks.official import Share
from feedback_workloads.rows.json_files import Row, read_rows

_NUMBER: Final = re.compile(r"(?:.*[/_])?(\d+)(?:\.(?:jpg|png))?")


@dataclass(frozen=True)
class Sentence:
    """The scorers' word for an answer about `picture`; `present` are the classes that are there."""

    picture: int
    text: str
    named: Named
    present: frozenset[str]

    @property
    def hallucinated(self) -> list[int]:
        """Which of the words that are named are of a class that is not there."""
        return [number for number, name in enumerate(self.named.classes) if name not in self.present]

    @property
    def covered(self) -> int:
        """How many classes of the picture are named."""
        return len(self.present.intersection(self.named.classes))

    def share(self, part: float, whole: float = 1) -> Share:
        """What this answer adds to a metric."""
        return Share(str(self.picture), part, whole)


def read_answers(file: Path) -> list[Row]:
    """The rows of a file of answers; of what a scorer saved (`sentences`) or the first paper had (`imgToEval`), too."""
    rows = read_rows(file)
    inside = next((name for name in ("sentences", "imgToEval") if name in rows[0].values), None)
    return rows[0].rows(inside) if inside else rows


def picture_of(row: Row) -> int:
    """COCO's number of a row's picture: an integer, or a name such as `COCO_val2014_000000002239.jpg`."""
    value = row.values.get("image_id", row.values.get("image"))
    if isinstance(value, str) and (number := _NUMBER.fullmatch(value)):
        return int(number[1])
    return row.integer("image_id", "image")
