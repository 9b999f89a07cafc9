"""Our preprocessing beside that of each family's own processor: the same picture, the same number of tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from transformers import (
    GotOcr2ImageProcessor,
    InternVLProcessor,
    InternVLVideoProcessor,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from feedback_workloads.models.families import family_of
from feedback_workloads.models.family import Family
from feedback_workloads.models.llava import new_processor
from feedback_workloads.models.pictures import load_picture
from feedback_workloads.rows.rejected import BadRow
from tests.integration.models import (
    PATCH,
    byte_tokenizer,
    llava_next_processor,
    picture,
    siglip_processor,
)
from tests.models.builders import internvl_tokenizer, qwen_tokenizer

SIDE: Final = 336
SIZES: Final = ((640, 480), (1000, 333), (333, 1000), (400, 400), (1920, 1080), (17, 5))


def llava() -> Any:
    return new_processor(byte_tokenizer(), SIDE, PATCH)


def llava_next() -> Any:
    return llava_next_processor(byte_tokenizer(), SIDE)


def llava_with_siglip() -> Any:
    return siglip_processor(byte_tokenizer(), SIDE)


def qwen2_5_vl() -> Any:
    return Qwen2_5_VLProcessor(Qwen2VLImageProcessor(), qwen_tokenizer(), Qwen2VLVideoProcessor())


def qwen3_vl() -> Any:
    images = Qwen2VLImageProcessor(patch_size=16, size={"shortest_edge": 65536, "longest_edge": 16777216})
    return Qwen3VLProcessor(images, qwen_tokenizer(), Qwen3VLVideoProcessor())


def internvl() -> Any:
    images = GotOcr2ImageProcessor(size={"height": 448, "width": 448}, crop_to_patches=True, max_patches=12)
    return InternVLProcessor(images, internvl_tokenizer(), InternVLVideoProcessor())


FAMILIES: Final[dict[str, tuple[str, Callable[[], Any]]]] = {
    "LLaVA-1.5": ("llava", llava),
    "LLaVA with SigLIP": ("llava", llava_with_siglip),
    "LLaVA-NeXT": ("llava_next", llava_next),
    "Qwen2.5-VL": ("qwen2_5_vl", qwen2_5_vl),
    "Qwen3-VL": ("qwen3_vl", qwen3_vl),
    "InternVL": ("internvl", internvl),
}
"""Type in config.json, and a processor of the published sizes."""


def saved(folder: Path, kind: str, processor: Any) -> Family:
    """A model of which nothing is there but its processor and its type."""
    processor.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    return family_of(folder)


@pytest.fixture(scope="module", params=FAMILIES.values(), ids=FAMILIES)
def ours(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    kind, processor = request.param
    return saved(tmp_path_factory.mktemp("processor"), kind, processor())


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_picture_has_as_many_tokens_as_its_family_makes_of_it(ours: Family, size: tuple[int, int]) -> None:
    """Counted from its size alone, for the length of every prompt is asked."""
    seen = ours.picture(picture(1, *size))
    theirs = ours.processor(text=ours.processor.image_token, images=[seen], add_special_tokens=False)["input_ids"][0]
    assert ours.image_tokens(seen) == len(theirs)
    assert ours.expand([7, ours.image_token_id, 8], seen) == [7, *theirs, 8]


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


@pytest.mark.parametrize("name", ["Qwen2.5-VL", "Qwen3-VL"])
def test_a_strip_that_the_processor_refuses_is_a_bad_row(name: str, tmp_path: Path) -> None:
    kind, processor = FAMILIES[name]
    with pytest.raises(BadRow) as refused:
        saved(tmp_path, kind, processor()).prompt("What is it?", picture(1, 2010, 10))
    assert refused.value.reason == "picture-refused"
    assert "2010 x 10 pixels: absolute aspect ratio must be smaller than 200" in refused.value.detail
