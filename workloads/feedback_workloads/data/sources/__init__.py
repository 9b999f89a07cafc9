"""One file a family of public data sets, and the table of them all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from feedback_workloads.contract import BadInput
from feedback_workloads.data.drafts import Published
from feedback_workloads.data.sources import (
    benchmarks,
    coco,
    conversations,
    landmarks,
    movienet,
    preferences,
    table,
    textvqa,
    vqa,
)

SOURCES: Final[Mapping[str, Published]] = {
    "coco": coco.COCO,
    "sharegpt4v": conversations.SHAREGPT4V,
    "llava": conversations.LLAVA,
    "movienet": movienet.MOVIENET,
    "landmarks": landmarks.LANDMARKS,
    "vqa-v2": vqa.VQA_V2,
    "ok-vqa": vqa.OK_VQA,
    "textvqa": textvqa.TEXTVQA,
    "rlhf-v": preferences.RLHF_V,
    "rlaif-v": preferences.RLAIF_V,
    "table": table.TABLE,
    "pairs-table": table.PAIRS_TABLE,
    "chair": benchmarks.CHAIR,
    "pope": benchmarks.POPE,
    "amber": benchmarks.AMBER,
    "mmstar": benchmarks.MMSTAR,
}
"""What `feedback data convert` knows, by name."""


def source(name: str) -> Published:
    """The source of that name; BadInput where there is none."""
    if name not in SOURCES:
        raise BadInput(f"there is no source {name!r}; give one of {', '.join(SOURCES)}")
    return SOURCES[name]
