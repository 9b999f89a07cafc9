"""OmniLMM's first layout, read as it is published: converted, it is the same model, in every process of vLLM."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from feedback_workloads.contract import BadInput, ExitCode, LaterModel, SamplingConfig, Source
from feedback_workloads.models.families import family_of
from feedback_workloads.models.omnilmm import conversion
from feedback_workloads.models.omnilmm.family import OmniLMM, register_in_transformers, register_in_vllm
from feedback_workloads.models.sources import described, fetch
from feedback_workloads.stages import preflight
from feedback_workloads.storage.artifacts import CACHE_VARIABLE, ArtifactStore
from tests.models import original_omnilmm as published
from tests.models.original_omnilmm import SYSTEM, Original
from tests.models.reference import load

QUESTION: Final = "Is there a red block? yes\nor no"
ROOT: Final = Path(__file__).parents[2]


def converted(original: Original, target: Path) -> Path:
    target.mkdir()
    conversion.convert(original.folder, target, "s3://b/model")
    return target


def painted(width: int, height: int) -> bytes:
    """A picture in which no two neighbours are alike, so that it shows how it is made smaller."""
    shades = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    stream = BytesIO()
    Image.fromarray(shades).save(stream, "PNG")
    return stream.getvalue()


# ── it is the same model ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("saved_tokens", [True, False], ids=["its tokens were saved", "its code adds its tokens"])
def test_it_computes_what_the_published_architecture_does(saved_tokens: bool, tmp_path: Path) -> None:
    original = published.write(tmp_path / "published", saved_tokens=saved_tokens)
    family = family_of(converted(original, tmp_path / "converted"))
    assert type(family) is OmniLMM
    assert family.capabilities >= {"sample", "label", "train", "share-prompts", "lora"}
    prompt = family.prompt(QUESTION, painted(120, 80))
    ids = published.prompt_ids(original, published.chat(QUESTION))
    assert list(prompt.ids) == ids
    pixels = family.features(*prompt.pictures)["pixel_values"]
    shade = 1 / 255 / 0.26  # torchvision and Pillow round the mean of some pixels to neighbouring shades
    theirs = published.pixels(prompt.pictures[0], published.SIDE)
    torch.testing.assert_close(pixels[0], theirs, atol=1.01 * shade, rtol=0)
    model = load(family.folder)
    with torch.no_grad():
        expanded = torch.tensor([family.expand(prompt.ids, *prompt.pictures)])
        found = model(input_ids=expanded, pixel_values=pixels).logits[0]
        expect = published.logits(original, ids, pixels[0])
        blank = published.logits(original, ids, torch.zeros_like(pixels[0]))
    assert len(expect) == prompt.length == len(ids) - 1 + published.QUERIES
    assert expect.std() > 0.5, "a model that says the same whatever it is given shows nothing"
    assert (expect - blank)[-1].abs().max() > 0.1, "nor does one that sees nothing"
    torch.testing.assert_close(found, expect, atol=2e-4, rtol=1e-4)


def test_places_on_a_picture_are_sines_of_columns_and_rows() -> None:
    """By hand, for a grid of two by two: column 1 and row 0 at the second place."""
    found = published.places(4, 8)
    sine, cosine, slow = math.sin(1), math.cos(1), 1 / 10000**0.5
    one = [sine, math.sin(slow), cosine, math.cos(slow)]
    torch.testing.assert_close(found[1], torch.tensor([*one, 0, 0, 1, 1]))
    torch.testing.assert_close(found[2], torch.tensor([0, 0, 1, 1, *one]))


def test_weights_are_kept_bit_by_bit(tmp_path: Path) -> None:
    original = published.write(tmp_path / "published", torch.bfloat16)
    folder = converted(original, tmp_path / "converted")
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    files = {file: load_file(folder / file) for file in set(index.values())}
    assert {name: file for file, weights in files.items() for name in weights} == index
    found = {name: weight for file in files.values() for name, weight in file.items()}
    for name, weight in original.weights.items():
        assert torch.equal(found.pop(str(conversion.renamed(name))), weight.to(torch.bfloat16)), name
    assert not found
    config = json.loads((folder / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert config["text_config"]["sliding_window"] is None
    assert config["text_config"]["max_position_embeddings"] == 4096, "its window, within which all is seen"


def test_names_and_shapes_are_those_of_the_published_12b(tmp_path: Path) -> None:
    """By the rule that the published code gives: 63 blocks of 1,792 numbers, 64 queries, and Mistral-7B."""
    register_in_transformers()
    from feedback_workloads.models.omnilmm.network import Eva02Config

    sizes = published.PUBLISHED
    expect = {str(conversion.renamed(name)): shape for name, shape in published.shapes(sizes).items()}
    assert len(expect) == len(published.shapes(sizes))
    tower = conversion._tower(expect, sizes.side, "model")
    assert tower.to_dict() == Eva02Config().to_dict(), "what the tower is unless it is told otherwise"
    tokenizer = conversion._tokenizer(published.write(tmp_path / "published").folder, 32009, "model")
    config = conversion._config(published.settings(sizes), tower, tokenizer)
    assert (config.projector_heads, config.image_seq_length) == (32, 64)
    assert conversion.shapes(config) == expect
    parameters = {part: sum(map(math.prod, named(part, expect))) for part in ("vision_tower", "multi_modal_projector")}
    assert parameters == {"vision_tower": 4_280_795_904, "multi_modal_projector": 91_791_360}
    assert sum(map(math.prod, expect.values())) == 11_614_393_088


def named(part: str, shapes: Mapping[str, tuple[int, ...]]) -> list[tuple[int, ...]]:
    return [shape for name, shape in shapes.items() if name.startswith(f"model.{part}.")]


@pytest.mark.parametrize(
    ("said", "expect"),
    [
        pytest.param(
            [("user", "What?")],
            "<|user|>\n<im_start><im_patch><im_end>\nWhat?</s>\n<|assistant|>\n",
            id="one turn",
        ),
        pytest.param(
            [("user", "What?"), ("assistant", "A cat."), ("user", "Sure?")],
            "<|user|>\n<im_start><im_patch><im_end>\nWhat?</s>\n<|assistant|>\nA cat.</s>\n<|user|>\nSure?</s>\n"
            "<|assistant|>\n",
            id="three turns",
        ),
    ],
)
def test_the_chat_is_zephyrs(said: list[tuple[str, str]], expect: str, tmp_path: Path) -> None:
    processor = family_of(converted(published.write(tmp_path / "published"), tmp_path / "converted")).processor
    messages = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in said]
    messages[0]["content"].append({"type": "image"})  # type: ignore[attr-defined]
    chat = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert chat == f"<|system|>\n{SYSTEM}</s>\n{expect}"
    plain = [{"role": "system", "content": "Be brief."}, *({"role": role, "content": text} for role, text in said)]
    chat = processor.apply_chat_template(plain, add_generation_prompt=True, tokenize=False)
    assert chat == f"<|system|>\nBe brief.</s>\n{expect.replace('<im_start><im_patch><im_end>' + chr(10), '')}"


# ── what cannot be converted ─────────────────────────────────────────────────────────────────────────────────────────


def set_in_config(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **values}))

    return change


def without(name: str) -> Callable[[Path], None]:
    """Take out a file, or all weights whose names begin so."""

    def change(folder: Path) -> None:
        if (folder / name).exists():
            (folder / name).unlink()
            return
        for file in folder.glob("*.safetensors"):
            save_file({key: value for key, value in load_file(file).items() if not key.startswith(name)}, file)

    return change


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        pytest.param(set_in_config(mm_use_im_start_end=False), "has mm_use_im_start_end False", id="bare pictures"),
        pytest.param(set_in_config(num_query=None), "has num_query None", id="no number of queries"),
        pytest.param(set_in_config(num_query=0), "has num_query 0, and not a number above 0", id="no queries at all"),
        pytest.param(set_in_config(num_query=6), "has num_query 6 and image_size 56", id="no square of queries"),
        pytest.param(set_in_config(num_query=9), "has num_query 9 and image_size 56", id="a square that divides not"),
        pytest.param(set_in_config(image_size=60), "has image_size 60, and its tower patches of 14", id="half a patch"),
        pytest.param(set_in_config(hidden_size=192), "has hidden_size 192", id="half a head"),
        pytest.param(set_in_config(num_query=16), "2 of the weights .* of shape", id="more queries"),
        pytest.param(
            set_in_config(num_hidden_layers=3), "9 of the weights of s3://b/model .* None and", id="more layers"
        ),
        pytest.param(set_in_config(vocab_size=300), "as token 3.., and the model has 300 of them", id="fewer tokens"),
        pytest.param(without("model.vision_tower."), "so its tower was kept elsewhere", id="no tower"),
        pytest.param(without("model.vision_tower.blocks.0.norm2."), "2 of the weights .* None and not", id="no norm"),
        pytest.param(without("model.resampler.query"), "1 of the weights .*projector.query", id="no queries"),
        pytest.param(without("model-00002-of-00002.safetensors"), "has no file model-00002-of", id="a file less"),
        pytest.param(without("tokenizer.model"), "has no tokenizer.model", id="no tokenizer"),
    ],
)
def test_refused_before_anything_is_written(spoil: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    original = published.write(tmp_path / "published")
    spoil(original.folder)
    with pytest.raises(BadInput, match=words):
        converted(original, tmp_path / "converted")
    assert not list((tmp_path / "converted").iterdir())


@pytest.mark.parametrize(
    ("config", "original"),
    [
        ({"model_type": "omnilmm"}, True),
        ({"model_type": "feedback_omnilmm", "vision_config": {}}, False),
        ({"model_type": "mistral"}, False),
        ({}, False),
    ],
)
def test_recognised(config: dict[str, Any], original: bool, tmp_path: Path) -> None:
    assert not conversion.recognises(tmp_path), "an empty folder"
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert conversion.recognises(tmp_path) == original


def test_it_is_converted_once_and_looked_at_before(tmp_path: Path) -> None:
    original = published.write(tmp_path / "published")
    store, source, said = ArtifactStore(tmp_path / "cache"), Source(uri=str(original.folder)), list[str]()
    near = f"{tmp_path}/sampling/{'0' * 64}"
    assert described(store, source) is None
    first, second = (fetch(store, source, near, said.append) for _ in range(2))
    assert (first == second, said) == (True, ["converting the model"])
    assert described(store, Source(uri=str(first))) == first
    set_in_config(mm_use_im_start_end=False)(original.folder)
    with pytest.raises(BadInput, match="mm_use_im_start_end False"):
        described(store, source)


def test_all_models_are_looked_at_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `feedback validate --models` starts: as it is published, and as whoever trained it names it."""
    original = published.write(tmp_path / "published")
    trained = converted(original, tmp_path / "converted")
    (tmp_path / "instructions").mkdir()
    (tmp_path / "instructions" / "a.png").write_bytes(painted(120, 80))
    row = {"id": "1", "image": "a.png", "question": QUESTION}
    (tmp_path / "instructions" / "train.jsonl").write_text(json.dumps(row) + "\n")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))

    def looked_at(model: Path, labeler: Path) -> tuple[int, str]:
        config = SamplingConfig(
            output=f"{tmp_path}/samples",
            model=Source(uri=str(model)),
            instructions=Source(uri=f"{tmp_path}/instructions"),
            lora=True,
            later_models=(
                LaterModel(field="spec.labeling.model", capability="label", source=Source(uri=str(labeler))),
            ),
        )
        (tmp_path / "config.json").write_text(config.model_dump_json())
        code = preflight.main(["--config", str(tmp_path / "config.json")])
        return code, "".join(capsys.readouterr())

    for model, labeler in ((original.folder, trained), (trained, original.folder)):
        expect = f"spec.model {model} can be trained\nspec.labeling.model {labeler} can label\n"
        assert looked_at(model, labeler) == (ExitCode.DONE, expect)
    set_in_config(mm_use_im_start_end=False)(original.folder)
    code, said = looked_at(trained, original.folder)
    assert (code, "has mm_use_im_start_end False" in said) == (ExitCode.BAD_INPUT, True)


# ── every process of vLLM ────────────────────────────────────────────────────────────────────────────────────────────

ASK: Final = """
import sys
from pathlib import Path
from feedback_workloads.contract import EngineConfig
from feedback_workloads.engine import Engine
from feedback_workloads.models.families import family_of

if __name__ == "__main__":
    family = family_of(Path(sys.argv[1]))
    prompt = family.prompt("Is there a red block?", Path(sys.argv[2]).read_bytes())
    with Engine.load(family, EngineConfig(max_model_len=256, max_num_seqs=2)) as engine:
        ((_, found),) = engine.yes_no([(0, prompt)])
    print("found", found.p_yes, found.p_no)
"""


def plugins() -> dict[str, str]:
    """What the installed package tells vLLM to call in each of its processes."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found: dict[str, str] = project["entry-points"]["vllm.general_plugins"]
    return found


def test_the_package_tells_vllm_of_it() -> None:
    loaded = [EntryPoint(name, value, "vllm.general_plugins").load() for name, value in plugins().items()]
    assert register_in_vllm in loaded


@pytest.mark.long
def test_an_engine_in_a_process_of_its_own_knows_it_by_the_entry_point(tmp_path: Path) -> None:
    """As beside a GPU: vLLM is told by the installed package."""
    installed = tmp_path / "site" / "ours-1.0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: ours\nVersion: 1.0\n")
    lines = ["[vllm.general_plugins]", *(f"{name} = {value}" for name, value in plugins().items())]
    (installed / "entry_points.txt").write_text("\n".join(lines))
    model = converted(published.write(tmp_path / "published"), tmp_path / "model")
    (tmp_path / "a.png").write_bytes(painted(120, 80))
    (tmp_path / "ask.py").write_text(ASK)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(installed.parent), *filter(None, sys.path)]),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    }
    command = [sys.executable, str(tmp_path / "ask.py"), str(model), str(tmp_path / "a.png")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    family = family_of(model)
    prompt = family.prompt("Is there a red block?", painted(120, 80))
    with torch.no_grad():
        given = {"input_ids": torch.tensor([family.expand(prompt.ids, *prompt.pictures)])}
        chances = load(model)(**given, **family.features(*prompt.pictures)).logits[0, -1].softmax(-1)
    expect = [chances[list(family.word_ids(word))].sum().item() for word in ("yes", "no")]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("found ")]
    assert list(map(float, line.split()[1:])) == pytest.approx(expect, abs=1e-5)
