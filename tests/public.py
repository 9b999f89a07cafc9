"""Public files of answers and truth: samples in this repository, and more of them beside it."""

from __future__ import annotations

import gzip
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from feedback_workloads.benchmarks.coco.answers import read_answers
from feedback_workloads.benchmarks.english.tagging import Tagger
from feedback_workloads.benchmarks.english.tokens import tokens

ROOT: Final = Path(__file__).parents[1]
SAMPLES: Final = ROOT / "tests/data/benchmarks"
PUBLIC: Final = Path(os.environ.get("FEEDBACK_PUBLIC_DATA", ROOT.parent / "shared/public"))


def public(name: str) -> Path:
    """A file or folder of public data that is too large for this repository; without it the test says what it needs."""
    path = PUBLIC / name
    if not path.exists():
        pytest.fail(
            f"{path} is not there; this test needs the files that docs/benchmarks.md lists, in ../shared/public beside "
            "the repository or in the folder that FEEDBACK_PUBLIC_DATA names"
        )
    return path


def recorded(answers: Path) -> Tagger:
    """The parts of speech that NLTK's tagger gave for a public file of answers; its weights cannot be copied here.

    Of any other text it raises KeyError, and so it does where words are split otherwise than they were then.
    """
    words = [tokens(row.text("caption").lower()) for row in read_answers(answers)]
    name = f"{answers.parent.name}.{answers.name.split('.json')[0]}.txt.gz"
    lines = gzip.decompress((SAMPLES / "chair/parts" / name).read_bytes()).decode().splitlines()
    parts = {tuple(split): line for split, line in zip(words, lines, strict=True)}

    def tagger(texts: Sequence[Sequence[str]]) -> list[str]:
        return [parts[tuple(split)] for split in texts]

    return tagger
