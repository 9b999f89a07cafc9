"""What a manifest says of a model beyond its files: it reaches every prompt and every picture, or is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import torch

from feedback_workloads.contract import BadInput, EngineConfig, LaterModel, Model, canonical_json
from feedback_workloads.engine import Engine
from feedback_workloads.engine.arguments import engine_arguments
from feedback_workloads.models.families import check, check_trainable, family_of
from feedback_workloads.models.family import Family
from feedback_workloads.stages.preflight import check_later
from feedback_workloads.training.batches.collator import PictureCollator
from feedback_workloads.training.batches.dataset import prepare_row
from tests.integration.models import CHAT_TEMPLATE, byte_tokenizer, picture, tiny_llava
from tests.models.builders import internvl, llava_next, qwen2_5_vl
from tests.models.reference import load

WIDE: Final = picture(1, 160, 120)
QUESTION: Final = "what is it?"
SYSTEM: Final = "You name what is there, and nothing else."
SHORT: Final = CHAT_TEMPLATE.replace("ASSISTANT:", "A:")
REFUSING: Final = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('there is no role system') }}{% endif %}"
    + CHAT_TEMPLATE
)
LEAVING_OUT: Final = CHAT_TEMPLATE.replace(
    "{% for message in messages %}", "{% for message in messages if message['role'] != 'system' %}"
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Tiny models by the name of their family, made once."""
    root, builders = tmp_path_factory.mktemp("models"), {"llava": tiny_llava, "qwen": qwen2_5_vl, "internvl": internvl}
    builders["llava_next"] = llava_next

    def folder(name: str) -> Path:
        made = root / name
        return made if made.exists() else builders[name](made)

    return folder


@pytest.fixture
def text_model(tmp_path: Path) -> Path:
    byte_tokenizer().save_pretrained(tmp_path / "text")
    (tmp_path / "text" / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    return tmp_path / "text"


def said_of(folder: Path, **said: Any) -> Family:
    return family_of(folder, Model(uri=str(folder), **said))


def text(family: Family, ids: list[int]) -> str:
    return str(family.tokenizer.decode(ids))


# ── the contract ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_model_of_which_nothing_is_said_has_the_json_of_its_source() -> None:
    """And so every address that it had before anything could be said."""
    expect = b'{"revision":null,"sha256":null,"uri":"s3://b/m"}'
    assert canonical_json(Model(uri="s3://b/m").model_dump(mode="json")) == expect
    said = Model(uri="s3://b/m", system_prompt="s", processor_kwargs={"size": {"longest_edge": 9}})
    assert said.model_dump(exclude={"uri", "revision", "sha256"}) == {
        "system_prompt": "s",
        "processor_kwargs": {"size": {"longest_edge": 9}},
    }
    assert Model.model_validate_json(said.model_dump_json()) == said


# ── what is asked ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_chat_begins_with_the_system_prompt(folders: Callable[[str], Path], text_model: Path) -> None:
    family = said_of(folders("llava"), system_prompt=SYSTEM)
    for purpose in ("answer", "verdict"):
        asked = text(family, family.prompt_ids(QUESTION, purpose))  # type: ignore[arg-type]
        assert asked == f"<s>SYSTEM: {SYSTEM} USER: <image>\n{QUESTION} ASSISTANT:"
    splitter = said_of(text_model, system_prompt=SYSTEM)
    assert text(splitter, list(splitter.text_prompt("List.").ids)) == f"<s>SYSTEM: {SYSTEM} USER: List. ASSISTANT:"


def test_a_chat_keeps_the_system_prompt_that_it_brings(folders: Callable[[str], Path]) -> None:
    """As a request to the server may."""
    family = said_of(folders("llava"), system_prompt=SYSTEM)
    ids = family.chat_ids([family.message("Be brief.", "system"), family.message("Hello")])
    assert text(family, ids) == "<s>SYSTEM: Be brief. USER: Hello ASSISTANT:"


def test_a_template_takes_the_place_of_the_models_own(folders: Callable[[str], Path], text_model: Path) -> None:
    family = said_of(folders("llava"), chat_template=SHORT)
    assert text(family, family.prompt_ids(QUESTION)).endswith("A:")
    (text_model / "chat_template.jinja").unlink()
    with pytest.raises(BadInput, match=r"has no chat template; .* or give a chatTemplate"):
        said_of(text_model).text_prompt("List.")
    splitter = said_of(text_model, chat_template=SHORT)
    check(splitter, "split", "s3://b/m")
    assert text(splitter, list(splitter.text_prompt("List.").ids)) == "<s>USER: List. A:"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        pytest.param({"chat_template": "{% for %}"}, "chatTemplate of .* cannot be used: .*; mend it", id="no Jinja"),
        pytest.param(
            {"chat_template": "{{ messages[0]['role'] }}"}, "does not write the model's picture token '<image>'",
            id="a template without a picture",
        ),
        pytest.param(
            {"system_prompt": SYSTEM, "chat_template": LEAVING_OUT},
            f"leaves out the systemPrompt '{SYSTEM}'; leave it",
            id="a template that has no role system",
        ),
        pytest.param(
            {"system_prompt": SYSTEM, "chat_template": REFUSING}, "refuses the systemPrompt .there is no role system.;",
            id="a template that refuses the role system",
        ),
        pytest.param({"system_prompt": "an <image>"}, "spells the model's picture token", id="a picture in words"),
        pytest.param(
            {"processor_kwargs": {"max_pixel": 9}}, "has max_pixel, which CLIPImageProcessor.* does not know and would",
            id="a setting that no processor knows",
        ),
        pytest.param({"processor_kwargs": {"device": "cpu"}}, "has device, which", id="what is not of a picture"),
        pytest.param({"processor_kwargs": {"size": "large"}}, "refuses it: .*; mend it", id="a value that it refuses"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_anything_is_computed(
    said: dict[str, Any], words: str, folders: Callable[[str], Path]
) -> None:
    source = Model(uri=str(folders("llava")), **said)
    later = LaterModel(field="spec.labeling.model", capability="label", source=source)
    for refused in (
        lambda: check_trainable(family_of(folders("llava"), source), source.uri, lora=True),
        lambda: check(family_of(folders("llava"), source), "sample", source.uri),
        lambda: check_later(later, folders("llava"), []),
    ):
        with pytest.raises(BadInput, match=words):
            refused()


# ── pictures ─────────────────────────────────────────────────────────────────────────────────────────────────────────

SMALLER: Final = {
    "qwen": {"max_pixels": 56 * 56},
    "internvl": {"max_patches": 2},
    "llava_next": {"do_normalize": False},
}
"""A setting of each processor: two that make fewer tokens, one that makes other features."""


@pytest.mark.parametrize("name", SMALLER)
def test_settings_of_the_processor_reach_tokens_and_features(name: str, folders: Callable[[str], Path]) -> None:
    """And those of a model leave the next one of its family as it is, in the same process."""
    folder = folders(name)
    plain = said_of(folder)
    before, features = plain.prompt(QUESTION, WIDE).length, plain.features(plain.picture(WIDE))
    family = said_of(folder, processor_kwargs=SMALLER[name])
    check_trainable(family, str(folder), lora=False)
    theirs = family.processor(
        text=family.processor.image_token, images=[family.picture(WIDE)], add_special_tokens=False, return_tensors="pt",
        **SMALLER[name],
    )  # fmt: skip
    prompt = family.prompt(QUESTION, WIDE)
    assert prompt.shown[0].tokens == len(theirs["input_ids"][0])
    assert (prompt.length < before) == (name != "llava_next")
    for field, value in family.features(family.picture(WIDE)).items():
        assert torch.equal(value, theirs[field])
    assert not torch.equal(theirs["pixel_values"], features["pixel_values"])
    assert said_of(folder).prompt(QUESTION, WIDE).length == before
    row = {
        "id": "1", "image": {"bytes": WIDE}, "question": QUESTION, "chosen_token_ids": [31, min(family.eos_ids)],
        "rejected_token_ids": [32, min(family.eos_ids)], "chosen_logps": [0.0, 0.0], "rejected_logps": [0.0, 0.0],
    }  # fmt: skip
    made = prepare_row(row, family, 2048)
    assert len(made["prompt_ids"]) == prompt.length
    batch = PictureCollator(pad_token_id=family.pad_id, family=family)([made])
    assert torch.equal(batch["pixel_values"], theirs["pixel_values"])


def test_a_picture_that_is_not_cropped_is_not_padded(folders: Callable[[str], Path]) -> None:
    family = said_of(folders("llava"), processor_kwargs={"do_center_crop": False, "size": {"height": 56, "width": 56}})
    assert family.picture(WIDE).size == (160, 120)


@pytest.mark.parametrize("name", ["qwen", pytest.param("internvl", marks=pytest.mark.long)])
def test_vllm_computes_what_transformers_does_with_them(name: str, folders: Callable[[str], Path]) -> None:
    """The log-probabilities of yes and no, under a system prompt, a template and settings of the processor."""
    template = family_of(folders(name)).processor.chat_template.replace("assistant\n", "assistant:\n")
    said = {"system_prompt": SYSTEM, "chat_template": template, "processor_kwargs": SMALLER[name]}
    family = said_of(folders(name), **said)
    prompt = family.prompt(QUESTION, WIDE, "verdict")
    with Engine.load(family, EngineConfig(max_model_len=512, max_num_seqs=4)) as engine:
        ((_, verdict),) = engine.yes_no([(0, prompt)])
    assert verdict.prompt_tokens == prompt.length
    ids = torch.tensor([family.expand(prompt.ids, family.picture(WIDE))])
    network, features = load(folders(name)), family.features(family.picture(WIDE))
    types = (ids == family.image_token_id).int()
    more = {"mm_token_type_ids": types} if name == "qwen" else {}
    with torch.no_grad():
        whole = (
            network(input_ids=ids, attention_mask=torch.ones_like(ids), **features, **more).logits[0, -1].softmax(-1)
        )
    assert verdict.p_yes == pytest.approx(whole[list(family.word_ids("yes"))].sum().item(), abs=1e-5)
    assert verdict.p_no == pytest.approx(whole[list(family.word_ids("no"))].sum().item(), abs=1e-5)


# ── quantized weights ────────────────────────────────────────────────────────────────────────────────────────────────


def quantized(folder: Path, to: Path, method: str = "awq") -> Path:
    """A copy whose config.json says that its weights are."""
    made = shutil.copytree(folder, to)
    config = json.loads((made / "config.json").read_text())
    (made / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": method}}))
    return made


def test_a_quantized_model_labels_and_is_not_trained(folders: Callable[[str], Path], tmp_path: Path) -> None:
    folder = quantized(folders("llava"), tmp_path / "awq")
    check(said_of(folder), "label", "s3://b/m")
    with pytest.raises(BadInput, match=r"the policy s3://b/m is quantized \(awq\), and rounded weights cannot be"):
        check_trainable(said_of(folder), "s3://b/m", lora=True)
    with pytest.raises(BadInput, match=r"quantization is FP8, and .* is quantized already \(awq\); leave it out"):
        check(said_of(folder, quantization="fp8"), "label", "s3://b/m")


def test_weights_are_rounded_on_a_gpu_alone(folders: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    family = said_of(folders("llava"), quantization="fp8")
    check(family, "label", "s3://b/m")
    with pytest.raises(BadInput, match=r"quantization FP8 of .* takes a GPU: .*; leave it out, or give the pods a GPU"):
        Engine.load(family, EngineConfig())
    from vllm.platforms import current_platform

    monkeypatch.setattr(type(current_platform), "is_cpu", lambda self: False)
    assert engine_arguments(family, EngineConfig(), "bfloat16")["quantization"] == "fp8"
    assert "quantization" not in engine_arguments(said_of(folders("llava")), EngineConfig(), "bfloat16")


# ── code that comes with a model ─────────────────────────────────────────────────────────────────────────────────────

CONFIGURATION: Final = """
from transformers import LlamaConfig


class NewConfig(LlamaConfig):
    model_type = "a-new-one"
"""


def with_code(folder: Path, module: str = "configuration_new") -> Path:
    """A text model whose type transformers does not know, with the code that does."""
    byte_tokenizer().save_pretrained(folder)
    made = {"model_type": "a-new-one", "auto_map": {"AutoConfig": f"{module}.NewConfig"}}
    (folder / "config.json").write_text(json.dumps({**made, "architectures": ["LlamaForCausalLM"]}))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                **json.loads((folder / "tokenizer_config.json").read_text()),
                "tokenizer_class": "NewTokenizer",
                "auto_map": {"AutoTokenizer": [None, "tokenization_new.NewTokenizer"]},
            }
        )
    )
    (folder / "configuration_new.py").write_text(CONFIGURATION)
    (folder / "tokenization_new.py").write_text(
        "from transformers import PreTrainedTokenizerFast\n\n\nclass NewTokenizer(PreTrainedTokenizerFast):\n    pass\n"
    )
    return folder


def test_code_runs_where_the_manifest_says_so_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = with_code(tmp_path / "model")
    trusting = said_of(folder, trust_remote_code=True)
    check(trusting, "split", "s3://b/m")
    assert type(trusting.tokenizer).__name__ == "NewTokenizer"
    assert trusting.engine_arguments()["trust_remote_code"]
    assert "trust_remote_code" not in said_of(folder).engine_arguments()


def test_a_part_that_is_code_says_so_where_it_cannot_be_loaded(tmp_path: Path) -> None:
    folder = with_code(tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(BadInput, match="has no tokenizer; it is code that comes with the model, and is not run"):
        said_of(folder).text_prompt("List.")


def test_code_of_another_repository_is_pinned_by_nothing(tmp_path: Path) -> None:
    folder = with_code(tmp_path / "model", "owner/other--configuration_new")
    with pytest.raises(BadInput, match=r"its code owner/other--configuration_new.NewConfig lies in another repository"):
        said_of(folder, trust_remote_code=True)
    said_of(folder)
