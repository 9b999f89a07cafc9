"""The first LLaVA's layout, read as it is published: converted, it is the same model, and it is converted once."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Literal
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file, save_file

from feedback_workloads.contract import BadInput, Manifest, Source
from feedback_workloads.models import llava_llama, sources
from feedback_workloads.models.families import family_of
from feedback_workloads.models.llava import Llava
from feedback_workloads.storage.artifacts import ArtifactStore
from tests.integration.models import picture
from tests.models import original_llava as published
from tests.models.original_llava import IMAGE, SYSTEM, Original
from tests.models.reference import load

Kind = Literal["bin", "safetensors"]
QUESTION: Final = "Is there a red block? yes\nor no"
HASH: Final = "0123456789abcdef" * 4


def converted(original: Original, target: Path) -> Path:
    target.mkdir()
    llava_llama.convert(original.folder, original.folder.parent / "tower", target, "s3://b/model")
    return target


# ── it is the same model ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("kind", "unfrozen"),
    [
        pytest.param("bin", False, id="its tower lies elsewhere"),
        pytest.param("safetensors", False, id="a tower was saved with the rest, and counts for nothing"),
        pytest.param("safetensors", True, id="its own tower was trained"),
    ],
)
def test_it_computes_what_the_published_architecture_does(kind: Kind, unfrozen: bool, tmp_path: Path) -> None:
    original = published.write(tmp_path / "published", kind, unfrozen=unfrozen)
    family = family_of(converted(original, tmp_path / "converted"))
    assert type(family) is Llava
    assert family.capabilities >= {"sample", "label", "train", "share-prompts", "lora"}
    model = load(family.folder)
    prompt = family.prompt(QUESTION, picture(1, 120, 80))
    ids = published.prompt_ids(original.folder, f"{SYSTEM} USER: <image>\n{QUESTION} ASSISTANT:")
    assert [IMAGE if i == family.image_token_id else i for i in prompt.ids] == ids
    assert prompt.pictures[0].size == (120, 120), "padded, not cropped"
    pixels = family.features(*prompt.pictures)["pixel_values"]
    with torch.no_grad():
        expanded = torch.tensor([family.expand(prompt.ids, *prompt.pictures)])
        found = model(input_ids=expanded, pixel_values=pixels).logits[0]
        expect = published.logits(original, ids, pixels[0])
    assert len(expect) == prompt.length == len(ids) - 1 + 16
    assert expect.std() > 0.5, "a model that says the same whatever it is given shows nothing"
    torch.testing.assert_close(found[:, : original.sizes.vocab_size], expect, atol=2e-4, rtol=1e-4)


def test_weights_are_kept_bit_by_bit_and_new_rows_are_means(tmp_path: Path) -> None:
    original = published.write(tmp_path / "published", "bin", torch.bfloat16)
    folder = converted(original, tmp_path / "converted")
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    files = {file: load_file(folder / file) for file in set(index.values())}
    assert len(files) == 3, "the two of the checkpoint, and the tower's"
    found = {name: weight for file in files.values() for name, weight in file.items()}
    assert {name: file for file, weights in files.items() for name in weights} == index
    rows = {}
    for name, weight in {**original.language, **original.tower}.items():
        new = llava_llama.renamed(name)
        if new is None:
            assert name.endswith(("inv_freq", "position_ids"))
            continue
        mine, theirs = found.pop(new), weight.to(torch.bfloat16)
        assert torch.equal(mine[: len(theirs)], theirs), name
        if len(mine) > len(theirs):
            rows[name] = len(mine)
            mean = theirs.float().mean(0).to(torch.bfloat16)
            assert torch.equal(mine[len(theirs) :], mean.expand(len(mine) - len(theirs), -1)), name
    assert not found
    size = original.sizes.vocab_size
    assert rows == dict.fromkeys(("model.embed_tokens.weight", "lm_head.weight"), 64 * math.ceil((size + 2) / 64))
    tokenizer = family_of(folder).tokenizer
    assert tokenizer.convert_tokens_to_ids(["<image>", "<pad>"]) == [size, size + 1]
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (size + 1, 1, 2)
    config = json.loads((folder / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert config["text_config"]["vocab_size"] == rows["lm_head.weight"]


def test_names_and_shapes_are_those_of_the_published_7b(tmp_path: Path) -> None:
    """By rule, and the rule by the size of the whole: 32 layers of `inv_freq` in float32, all else in float16.

    What is made of it has as many parameters as llava-hf/llava-1.5-7b-hf, 7,063,427,072, of which its users tell.
    """
    sizes, clip = published.PUBLISHED_LLAMA, published.PUBLISHED_CLIP
    language, tower = published.language_shapes(sizes, clip.hidden_size), published.tower_shapes(clip)
    width = {name: 4 if name.endswith("inv_freq") else 2 for name in language}
    assert sum(math.prod(shape) * width[name] for name, shape in language.items()) == published.PUBLISHED_BYTES
    published.write_tower(tmp_path / "tower", published.TINY_CLIP)
    published.write_tokenizer(tmp_path, sizes.vocab_size)
    vision = {**json.loads((tmp_path / "tower" / "config.json").read_text())["vision_config"], **vars(clip)}
    tokenizer = llava_llama._tokenizer(tmp_path, "model")
    config = llava_llama._config(published.settings(sizes, "openai/clip-vit-large-patch14-336"), vision, tokenizer)
    found = llava_llama.shapes(config)
    expect = {new: shape for name, shape in {**language, **tower}.items() if (new := llava_llama.renamed(name))}
    for name in llava_llama.VOCABULARY:
        assert expect[name] == (32000, 4096)
        expect[name] = (32064, 4096)
    assert found == expect
    assert sum(map(math.prod, found.values())) == 7_063_427_072
    assert len([name for name in found if name.startswith("vision_tower.")]) == 391


@pytest.mark.parametrize(
    ("said", "expect"),
    [
        pytest.param([("user", "What?")], "USER: <image>\nWhat? ASSISTANT:", id="one turn"),
        pytest.param(
            [("user", "What?"), ("assistant", "A cat."), ("user", "Sure?")],
            "USER: <image>\nWhat? ASSISTANT: A cat.</s>USER: Sure? ASSISTANT:",
            id="three turns",
        ),
    ],
)
def test_the_chat_is_vicunas(said: list[tuple[str, str]], expect: str, tmp_path: Path) -> None:
    folder = converted(published.write(tmp_path / "published", "safetensors"), tmp_path / "converted")
    processor = family_of(folder).processor
    messages = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in said]
    messages[0]["content"].append({"type": "image"})  # type: ignore[attr-defined]
    chat = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert chat == f"{SYSTEM} {expect}"
    plain = [{"role": "system", "content": "Be brief."}, *({"role": role, "content": text} for role, text in said)]
    chat = processor.apply_chat_template(plain, add_generation_prompt=True, tokenize=False)
    assert chat == f"Be brief. {expect.replace('<image>' + chr(10), '')}"


# ── what cannot be converted ─────────────────────────────────────────────────────────────────────────────────────────


def set_in(file: str, **values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**config, **values}))

    return change


def without(file: str) -> Callable[[Path], None]:
    return lambda folder: (folder / file).unlink()


def without_weight(folder: Path) -> None:
    file = folder / "original" / "model-00001-of-00002.safetensors"
    weights = load_file(file)
    del weights["model.norm.weight"]
    save_file(weights, file)


def cut(folder: Path) -> None:
    file = folder / "original" / "model-00002-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


CONFIG: Final = "original/config.json"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        pytest.param(
            set_in(CONFIG, mm_projector_type="linear"), "has mm_projector_type 'linear'", id="LLaVA of before"
        ),
        pytest.param(set_in(CONFIG, image_aspect_ratio="anyres"), "has image_aspect_ratio 'anyres'", id="LLaVA-NeXT"),
        pytest.param(set_in(CONFIG, mm_use_im_start_end=True), "has mm_use_im_start_end True", id="marked pictures"),
        pytest.param(
            set_in(CONFIG, num_hidden_layers=3), "9 of the weights of s3://b/model .* None and", id="more layers"
        ),
        pytest.param(set_in(CONFIG, intermediate_size=96), "6 of the weights .* of shape", id="narrower layers"),
        pytest.param(without_weight, r"1 of the weights .* language_model\.model\.norm\.weight", id="no norm"),
        pytest.param(
            without("original/model-00002-of-00002.safetensors"), "has no file model-00002-of", id="a file less"
        ),
        pytest.param(cut, "cannot be read", id="half a file"),
        pytest.param(without("original/tokenizer.model"), "has no tokenizer.model", id="no tokenizer"),
        pytest.param(set_in("tower/config.json", model_type="siglip"), "is of type siglip, not CLIP's", id="SigLIP"),
        pytest.param(without("tower/config.json"), "is of type None", id="no tower"),
        pytest.param(without("tower/pytorch_model.bin"), "has no weights", id="a tower without weights"),
        pytest.param(without("tower/preprocessor_config.json"), "preprocessor_config.json", id="without pictures"),
    ],
)
def test_refused_before_anything_is_written(spoil: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    original = published.write(tmp_path / "published", "safetensors")
    spoil(tmp_path / "published")
    with pytest.raises(BadInput, match=words):
        converted(original, tmp_path / "converted")
    assert not list((tmp_path / "converted").iterdir())


@pytest.mark.parametrize(
    ("name", "uri"),
    [
        ("openai/clip-vit-large-patch14-336", "hf://openai/clip-vit-large-patch14-336"),
        ("/models/clip", "/models/clip"),
        ("s3://b/clip", "s3://b/clip"),
    ],
)
def test_a_tower_is_named_as_people_name_models(name: str, uri: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"mm_vision_tower": name}))
    assert llava_llama.tower_uri(tmp_path) == uri


@pytest.mark.parametrize(
    ("config", "original"),
    [
        ({"model_type": "llava_llama", "mm_vision_tower": "a/b"}, True),
        ({"model_type": "llava", "mm_vision_tower": "a/b"}, True),
        ({"model_type": "llava", "vision_config": {}}, False),
        ({"model_type": "llava_qwen", "mm_vision_tower": "a/b"}, False),
    ],
)
def test_recognised(config: dict[str, Any], original: bool) -> None:
    assert llava_llama.is_original(config) == original


# ── it is converted once ─────────────────────────────────────────────────────────────────────────────────────────────


class Counted:
    """Conversions that really happened."""

    def __init__(self) -> None:
        self.number = 0

    def __call__(self, *given: Any, **named: Any) -> None:
        self.number += 1
        convert(*given, **named)


convert = llava_llama.convert


@pytest.fixture
def conversions() -> Any:
    with patch.object(llava_llama, "convert", Counted()) as counted:
        yield counted


def test_whoever_is_first_converts_it_for_all(conversions: Counted, tmp_path: Path) -> None:
    """Of many pods each with a cache of its own; a stage, its shards, and a server of a checkpoint."""
    original = published.write(tmp_path / "published", "safetensors")
    source, root = Source(uri=str(original.folder)), tmp_path / "artifacts"
    near = [f"{root}/sampling/{HASH}", f"{root}/labeling/{HASH[::-1]}", f"{root}/training/{HASH}/checkpoint-000002"]

    def fetch(number: int) -> Path:
        store = ArtifactStore(tmp_path / f"cache-{number}")
        return sources.fetch(store, source, near[number % len(near)], lambda _: None)

    with ThreadPoolExecutor(6) as pool:
        folders = set(pool.map(fetch, range(6)))
    assert conversions.number == 1
    (folder,) = folders
    assert folder.parent.parent == root / "models"
    manifest = Manifest.model_validate_json((folder / "manifest.json").read_bytes())
    assert manifest.config["source"]["uri"] == source.uri
    assert {file.name for file in manifest.files} == {file.name for file in folder.iterdir()} - {"manifest.json"}
    (original.folder / "config.json").touch()
    os.utime(original.folder / "config.json", ns=(1, 1))
    assert fetch(0) != folder, "other files are another model"
    assert conversions.number == 2


def test_beside_no_artifacts_it_is_kept_on_this_machine(conversions: Counted, tmp_path: Path) -> None:
    source = Source(uri=str(published.write(tmp_path / "published", "bin").folder))
    store = ArtifactStore(tmp_path / "cache")
    folders = {sources.fetch(store, source, "hf://openbmb/RLAIF-V-7B", lambda _: None) for _ in range(2)}
    assert conversions.number == 1
    assert folders.pop().is_relative_to(tmp_path / "cache" / "models")


def test_other_models_are_what_they_are(conversions: Counted, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llava", "vision_config": {}}))
    said: list[str] = []
    store = ArtifactStore(tmp_path / "cache")
    assert sources.fetch(store, Source(uri=str(folder)), f"{tmp_path}/sampling/{HASH}", said.append) == folder
    assert (conversions.number, said) == (0, [])
    assert not (tmp_path / "models").exists()
