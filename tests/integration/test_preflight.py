"""Models that could not do their part in a later stage are found before the first begins, and by `feedback check`."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from feedback_operator.cli.main import app
from feedback_workloads.contract import (
    BadInput,
    EngineConfig,
    ExitCode,
    LaterModel,
    SamplingConfig,
    Source,
    TrainedOn,
)
from feedback_workloads.models.families import family_of
from feedback_workloads.models.memory import served, size_of, trained
from feedback_workloads.rows.instructions import Instruction
from feedback_workloads.rows.rejected import Rejected
from feedback_workloads.shapes.build import write_rows
from feedback_workloads.shapes.world import rows
from feedback_workloads.stages.preflight import check_later, check_room, check_those_in_reach
from feedback_workloads.storage.artifacts import ArtifactStore
from tests.integration.models import byte_tokenizer, picture, tiny_llava
from tests.models.builders import qwen3_vl


def labeler(folder: Path, max_model_len: int | None = None) -> LaterModel:
    source = Source(uri=str(folder))
    return LaterModel(field="spec.labeling.model", capability="label", source=source, max_model_len=max_model_len)


def splitter(folder: Path) -> LaterModel:
    return LaterModel(field="spec.splitting.llm.model", capability="split", source=Source(uri=str(folder)))


def asked(wide: int) -> list[Instruction | Rejected]:
    return [Instruction.plain("a", picture(1, wide, 60), "What?"), Instruction.plain("b", b"?", "What?")]


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llava(tmp_path_factory.mktemp("models") / "llava")


@pytest.fixture
def text_model(tmp_path: Path) -> Path:
    """What says that a model is of text alone, and how it chats."""
    folder = tmp_path / "text"
    byte_tokenizer().save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    return folder


def test_models_that_can(llava: Path, text_model: Path) -> None:
    check_later(labeler(llava, max_model_len=512), llava, asked(80))
    check_later(splitter(text_model), text_model, asked(80))


def test_a_labeler_that_sees_nothing(text_model: Path) -> None:
    with pytest.raises(BadInput, match=r"is of type llama .*, which sees no pictures"):
        check_later(labeler(text_model), text_model, asked(80))


def test_a_labeler_whose_context_is_too_short(llava: Path) -> None:
    with pytest.raises(BadInput, match=r"spec\.labeling\.maxModelLen 32 is too short for .*; raise it to \d+ or leave"):
        check_later(labeler(llava, max_model_len=32), llava, asked(80))


def test_cards_that_are_too_small(llava: Path) -> None:
    """Of the kind that the first stage has, and of another, at which only the labeler's own pods can look."""
    same = labeler(llava).model_copy(update={"engine": EngineConfig()})
    check_later(same, llava, asked(80), card=2**30)
    with pytest.raises(BadInput, match=r"spec\.labeling\.model .* takes at least .* of a card .* or a quantized model"):
        check_later(same, llava, asked(80), card=2**16)
    check_later(labeler(llava), llava, asked(80), card=2**16)


def test_a_size_promises_no_more_than_an_engine_needs(llava: Path, tmp_path: Path) -> None:
    """vLLM reads no more than the tokenizer says, and layers with a window keep no more than that."""
    whole, folder = size_of(family_of(llava)), shutil.copytree(llava, tmp_path / "llava")
    said = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**said, "model_max_length": 64}))
    config = json.loads((folder / "config.json").read_text())
    text = {**config["text_config"], "model_type": "mistral", "sliding_window": 32}
    (folder / "config.json").write_text(json.dumps({**config, "text_config": text}))
    found = size_of(family_of(folder))
    assert whole is not None
    assert whole.kept > 0
    assert found == replace(whole, longest=64, kept=0)


def test_a_policy_on_cards_that_are_too_small(llava: Path) -> None:
    source, family = Source(uri=str(llava)), family_of(llava)
    given = SamplingConfig(output="out", model=source, instructions=source, trained_on=TrainedOn(zero_stage=0))
    size = size_of(family)
    assert size is not None
    enough = trained(size, TrainedOn(zero_stage=0), lora=False)
    assert sum(served(size, given.engine)) < 0.9 * enough, "a card that is too small for training alone"
    check_room(given, family, enough)
    with pytest.raises(BadInput, match=r"spec\.model .* to be trained on 1 with ZeRO-0"):
        check_room(given, family, enough - 1)
    check_room(given.model_copy(update={"trained_on": None}), family, enough - 1)
    with pytest.raises(BadInput, match=r"spec\.model .* for a sequence of 2048 tokens"):
        check_room(given, family, 2**16)
    check_room(given, family, None)


def test_a_labeler_without_the_word(llava: Path, tmp_path: Path) -> None:
    """A vocabulary in which yes is two tokens: the probability of the first says nothing of the word."""
    folder = shutil.copytree(llava, tmp_path / "llava")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    bpe = tokenizer["model"]
    bpe["vocab"] = {token: number for token, number in bpe["vocab"].items() if token.lstrip("Ġ").lower() != "yes"}
    bpe["merges"] = [pair for pair in bpe["merges"] if "".join(pair).lstrip("Ġ").lower() != "yes"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(BadInput, match=r"no token that is 'yes' alone, so p\(yes\) cannot be read"):
        check_later(labeler(folder), folder, asked(80))


def test_a_splitter_that_cannot_chat(text_model: Path) -> None:
    (text_model / "chat_template.jinja").unlink()
    with pytest.raises(BadInput, match="has no chat template"):
        check_later(splitter(text_model), text_model, asked(80))


def test_what_only_a_later_stage_may_read_is_left_to_it(
    tmp_path: Path, text_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Credentials are a section's own: a labeler out of reach of sampling's pods may be within that of labeling's."""
    (tmp_path / "instructions").mkdir()
    source = Source(uri=str(tmp_path / "instructions"))
    elsewhere = labeler(tmp_path / "elsewhere")
    given = SamplingConfig(output="out", model=source, instructions=source, later_models=(elsewhere,))
    check_those_in_reach(given, ArtifactStore(tmp_path / "cache"), 0, None, pictures=1)
    assert "spec.labeling.model was not looked at: there is no folder" in capsys.readouterr().err


# ── feedback check --models ──────────────────────────────────────────────────────────────────────────────────────────


def manifest(folder: Path, policy: dict[str, Any], labels: Path, name: str = "first") -> dict[str, Any]:
    return {
        "apiVersion": "feedback.rlaif.dev/v1alpha1",
        "kind": "FeedbackIteration",
        "metadata": {"name": name},
        "spec": {
            "model": policy,
            "instructions": {"uri": str(folder / "instructions")},
            "artifacts": {"uri": str(folder / "artifacts")},
            "labeling": {"model": {"uri": str(labels)}},
            "evaluation": {"benchmarks": [{"name": "x", "type": "shapes", "uri": str(folder / "benchmark")}]},
        },
    }


def checked(folder: Path, *manifests: dict[str, Any]) -> int:
    """Exit code of the command on a chain of manifests, with two instructions where there are none yet."""
    if not (folder / "instructions").exists():
        (folder / "instructions").mkdir()
        (folder / "instructions" / "rows.parquet").write_bytes(write_rows(rows(7, "report", 2)))
    (folder / "run.yaml").write_text(yaml.safe_dump_all(manifests))
    return CliRunner().invoke(app, ["check", str(folder / "run.yaml"), "--models", "--state", str(folder)]).exit_code


def test_all_models_of_a_chain(llava: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A child's policy is not there yet; it is of its parent's family."""
    first = manifest(tmp_path, {"uri": str(llava)}, llava)
    second = manifest(tmp_path, {"from": {"iteration": "first"}}, llava, "second")
    assert checked(tmp_path, first, second) == ExitCode.DONE
    assert capfd.readouterr().out.splitlines() == 2 * [
        f"spec.model {llava} can be trained",
        f"spec.labeling.model {llava} can label",
    ]


def test_a_model_that_cannot(llava: Path, text_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert checked(tmp_path, manifest(tmp_path, {"uri": str(llava)}, text_model)) == ExitCode.BAD_INPUT
    told = capfd.readouterr()
    assert told.out.splitlines() == [f"spec.model {llava} can be trained"]
    assert "which sees no pictures; name a multimodal model" in told.err.splitlines()[-1]


def test_a_model_that_is_evaluated_alone(llava: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    alone = manifest(tmp_path, {"uri": str(llava)}, llava)
    spec = {name: value for name, value in alone["spec"].items() if name in ("model", "artifacts", "evaluation")}
    assert checked(tmp_path, {**alone, "spec": {**spec, "only": "Evaluation"}}) == ExitCode.DONE
    assert capfd.readouterr().out.splitlines() == [f"spec.model {llava} can sample"]


def test_more_pictures_than_a_model_takes(llava: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Behind rows that it takes; said of the policy, and of a labeler."""
    (tmp_path / "instructions").mkdir()
    for name in ("a", "b"):
        (tmp_path / "instructions" / f"{name}.png").write_bytes(picture(1))
    plain = [{"id": str(number), "image": "a.png", "question": "What?"} for number in range(100)]
    lines = [*plain, {"id": "two", "images": ["a.png", "b.png"], "question": "Which?"}]
    (tmp_path / "instructions" / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert checked(tmp_path, manifest(tmp_path, {"uri": str(llava)}, llava)) == ExitCode.BAD_INPUT
    told = capfd.readouterr().err.splitlines()[-1]
    assert told.startswith(f"check: a row of the data has 2 pictures, and spec.model {llava} is of type llava, ")
    assert "which takes one alone; give rows of one picture, or a model of type qwen2_5_vl or qwen3_vl or" in told

    several = qwen3_vl(tmp_path / "qwen")
    with pytest.raises(BadInput, match=r"and spec\.labeling\.model .* is of type llava, which takes one alone"):
        check_later(labeler(llava), llava, asked(80), pictures=2)
    check_later(labeler(several), several, asked(80), pictures=2)


def test_a_model_that_is_not_there(llava: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert checked(tmp_path, manifest(tmp_path, {"uri": str(llava)}, tmp_path / "none")) == ExitCode.BAD_INPUT
    assert capfd.readouterr().err.splitlines()[-1].startswith(f"check: there is no folder {tmp_path}/none; ")
