"""How many answers a minute public benchmarks judge, on one core: `python -m benchmarks.data`.

Each is timed from the file of answers to the numbers, in time of the processor, since the machine may be shared; tables
and weights are loaded before, which takes a process a second, once. Answers are those of LLaVA-1.5-7B by three
decodings, 97 tokens on average (tests/data/benchmarks); what a judge would list of them are their nouns. What needs
NLTK's tagger is left out where its weights are not installed.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Final

from rich.console import Console

from benchmarks.__main__ import table
from benchmarks.table import Ratio
from feedback_workloads.benchmarks import OfficialName, official
from feedback_workloads.benchmarks.coco.answers import picture_of, read_answers
from feedback_workloads.benchmarks.english.words import nouns
from feedback_workloads.benchmarks.official import chosen
from feedback_workloads.contract import BadInput
from tests.public import SAMPLES, recorded

OUTPUT: Final = Path("build/bench-data.json")
LONG: Final = (
    "cca-llava/llava-v1.5-7b_coco_chair_long_ans.jsonl.gz",
    "cca-llava/cca-llava-1.5-7b_coco_chair_long_ans.jsonl.gz",
    "deco/regular_chair.json.gz",
)
ANSWERS: Final = 12_000
DESCRIPTIONS: Final = 1_004
"""As many as AMBER has."""
GOAL: Final = 100_000
"""Answers a minute."""


@dataclass(frozen=True)
class Answer:
    """An answer about a picture, and its nouns."""

    picture: int
    text: str
    nouns: tuple[str, ...]


def answers() -> list[Answer]:
    found: list[Answer] = []
    for name in LONG:
        file = SAMPLES / "chair" / name
        rows = read_answers(file)
        texts = [row.text("caption").lower() for row in rows]
        found += [
            Answer(picture_of(row), row.text("caption"), tuple(named))
            for row, named in zip(rows, nouns(texts, recorded(file)), strict=True)
        ]
    return found


def main() -> int:
    """Print the ratios to the goal and keep them; 1 where it was missed."""
    said = answers()
    coco = SAMPLES / "chair/truth_pos.tsv.gz"
    many = list(islice(cycle(said), ANSWERS))
    named = [{"image_id": one.picture, "caption": one.text, "extract_objs": one.nouns} for one in many]
    described = [{"id": number, "response": one.text} for number, one in enumerate(said[:DESCRIPTIONS], 1)]
    ratios: list[Ratio] = []
    for rule in ("noun", "singularize", "pos"):
        ratios += measured(f"CHAIR, words={rule}", "chair", named, coco, words=rule)
    ratios += measured("Object HalBench, replayed", "object-halbench", named, coco, phrases="wordnet")
    ratios += measured("AMBER, descriptions", "amber", described, SAMPLES / "amber")
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(json.dumps([asdict(ratio) for ratio in ratios], indent=1) + "\n")
    Console(width=110).print(table(ratios))
    return 0 if all(ratio.met() for ratio in ratios) else 1


def measured(title: str, name: OfficialName, rows: Sequence[object], truth: Path, **options: str) -> list[Ratio]:
    """Answers a minute of one benchmark; none, and the reason, where it cannot be run here."""
    judge = official(name)
    with tempfile.TemporaryDirectory() as scratch:
        few, all_of_them = Path(scratch) / "few.json", Path(scratch) / "all.json"
        few.write_text(json.dumps(rows[:1]))
        all_of_them.write_text(json.dumps(rows))
        try:
            judge.score(few, truth, chosen(judge.options, options))
        except BadInput as missing:
            print(f"{title}: left out: {missing}", file=sys.stderr)
            return []
        began = time.process_time()
        judge.score(all_of_them, truth, chosen(judge.options, options))
        a_minute = 60 * len(rows) / (time.process_time() - began)
    return [Ratio(f"{title}, answers a minute", a_minute, GOAL, a_minute / GOAL, ">= 1")]


if __name__ == "__main__":
    raise SystemExit(main())
