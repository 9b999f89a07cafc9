"""Our preprocessing beside that of each family's own processor: the same picture, the same number of tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import torch

from feedback_workloads.models.families import family_of
from feedback_workloads.models.family import Family
from feedback_workloads.models.llava import new_processor
from feedback_workloads.models.pictures import load_picture
from tests.integration.models import (
    PATCH,
    byte_tokenizer,
    llava_next_processor,
    picture,
    siglip_processor,
)

SIDE: Final = 336
SIZES: Final = ((640, 480), (1000, 333), (333, 1000), (400, 400))


def llava() -> Any:
    return new_processor(byte_tokenizer(), SIDE, PATCH)


def llava_next() -> Any:
    return llava_next_processor(byte_tokenizer(), SIDE)


def llava_with_siglip() -> Any:
    return siglip_processor(byte_tokenizer(), SIDE)


FAMILIES: Final[dict[str, tuple[str, Callable[[], Any]]]] = {
    "LLaVA-1.5": ("llava", llava),
    "LLaVA-NeXT": ("llava_next", llava_next),
    "LLaVA with SigLIP": ("llava", llava_with_siglip),
}
"""Type in config.json, and processor."""


def saved(folder: Path, kind: str, processor: Any) -> Family:
    """A model of which nothing is there but its processor and its type."""
    processor.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": kind, "vision_config": {}}))
    return family_of(folder)


@pytest.fixture(scope="module", params=FAMILIES.values(), ids=FAMILIES)
def ours(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    kind, processor = request.param
    return saved(tmp_path_factory.mktemp("processor"), kind, processor())


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_picture_has_as_many_tokens_as_its_family_makes_of_it(ours: Family, size: tuple[int, int]) -> None:
    seen = ours.picture(picture(1, *size))
    theirs = ours.processor(text="<image>", images=[seen], add_special_tokens=False)["input_ids"][0]
    assert ours.image_tokens(seen) == theirs.count(ours.image_token_id) == len(theirs)


@pytest.mark.parametrize(("size", "tokens"), [((640, 480), 2340), ((1000, 333), 2328)], ids=str)
def test_a_picture_is_never_padded_before_it_is_cut_into_tiles(
    tmp_path: Path, size: tuple[int, int], tokens: int
) -> None:
    """Padded, it would be laid on another grid of tiles, half of them blank, and have 2,928 tokens."""
    theirs = llava_next_processor(byte_tokenizer(), SIDE)
    grid = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]  # that of llava-v1.6
    assert theirs.image_processor.image_grid_pinpoints == grid
    ours, data = saved(tmp_path, "llava_next", theirs), picture(1, *size)
    assert ours.image_tokens(ours.picture(data)) == tokens
    expected = theirs.image_processor(images=[load_picture(data)], return_tensors="pt")["pixel_values"]
    assert torch.equal(ours.features(ours.picture(data))["pixel_values"], expected)


def test_a_template_without_that_switch_is_not_told_of_it(ours: Family, caplog: pytest.LogCaptureFixture) -> None:
    """Transformers would warn at every prompt."""
    ours.prompt_ids("Is it red?")
    assert caplog.records == []


def test_nothing_at_the_edge_of_a_picture_is_cropped_away(tmp_path: Path) -> None:
    """LLaVA-1.5 alone is shown a padded picture: its processor would cut off the ends of a long one."""
    ours = saved(tmp_path, "llava", llava())
    assert ours.picture(picture(1, 1000, 333)).size == (1000, 1000)
