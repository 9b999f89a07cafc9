"""Training: the loss is TRL's, and neither processes, ZeRO nor kills change what is learned."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from datasets import Dataset
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import DPOConfig, DPOTrainer
from trl.trainer import dpo_trainer

from feedback_operator.cluster.local.ports import free_ports
from feedback_workloads.contract import ExitCode, Source, StageFailure
from feedback_workloads.models.families import family_of
from feedback_workloads.models.pictures import load_picture
from feedback_workloads.models.precision import has_bfloat16
from feedback_workloads.training.batches.collator import PictureCollator
from feedback_workloads.training.batches.shared_prompt import take_pairs
from feedback_workloads.training.publishing.outbox import Outbox
from feedback_workloads.training.schedule import MicroBatches, Schedule
from feedback_workloads.training.trainer import PairTrainer
from tests.arithmetic import NoBfloat16
from tests.integration.models import picture, tiny_llava
from tests.integration.training_runs import Run, Study, study

TOLERANCE = 1e-5  # of losses and weights in float32; measured: 5e-7
STEPS = 12
CHECKPOINTS = (4, 8, 12)
LORA = {"rank": 4, "alpha": 8, "dropout": 0.1}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def plain(tiny: Study) -> Run:
    """One process without DeepSpeed: what all others are compared with."""
    return tiny.run("plain")


@pytest.fixture(scope="module")
def adapter(tiny: Study) -> Run:
    return tiny.run("adapter", lora=LORA)


def assert_same(found: Run, expect: Run) -> None:
    for name in ("loss", "grad_norm", "reward_margin", "chosen_logps"):
        values = [[line[name] for line in run.log] for run in (found, expect)]
        assert values[0] == pytest.approx(values[1], abs=TOLERANCE, rel=TOLERANCE), name
    assert [line["step"] for line in found.log] == list(range(1, STEPS + 1))
    assert found.manifest.artifacts.keys() == expect.manifest.artifacts.keys()
    for step in CHECKPOINTS:
        ours, theirs = found.weights(step), expect.weights(step)
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            torch.testing.assert_close(value, theirs[name], atol=TOLERANCE, rtol=0)


# ── the loss ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def conversation(number: int) -> dict[str, Any]:
    answers = [f"a block number {number}", f"{number} is no block at all"]
    return {
        "images": [load_picture(picture(number, 56, 56))],
        "prompt": [{"role": "user", "content": f"What is in picture {number}?"}],
        "chosen": [{"role": "assistant", "content": answers[0]}],
        "rejected": [{"role": "assistant", "content": answers[1]}],
    }


def as_pairs(batch: dict[str, torch.Tensor], images: list[Image.Image], encoded: list[bytes]) -> Dataset:
    """The rows that stock TRL's batch was made of, in our form."""
    rows = []
    half = len(images)
    for i in range(half):
        sides = {}
        for side, row in (("chosen", i), ("rejected", i + half)):
            ids = batch["input_ids"][row][batch["attention_mask"][row].bool()]
            completion = batch["completion_mask"][row][batch["attention_mask"][row].bool()].bool()
            sides[f"{side}_ids"] = ids[completion].tolist()
            sides["prompt_ids"] = ids[~completion].tolist()
        rows.append({**sides, "picture": encoded[i], "ref_chosen_logps": 0.0, "ref_rejected_logps": 0.0})
    return Dataset.from_list(rows)


def gradients(model: torch.nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    loss.backward()
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


def no_hash(_: torch.nn.Module) -> str:
    raise AssertionError("all weights are hashed before training, and nothing uses the hash")


def test_loss_and_gradients_are_those_of_stock_trl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stock TRL with a second model as the reference, against cached sums and one row for both sides."""
    monkeypatch.setattr(dpo_trainer, "hash_module", no_hash)
    policy, reference = tiny_llava(tmp_path / "policy", seed=0), tiny_llava(tmp_path / "reference", seed=1)
    processor = AutoProcessor.from_pretrained(policy)
    conversations = [conversation(i) for i in range(4)]
    settings: dict[str, Any] = {
        "output_dir": str(tmp_path / "out"), "report_to": [], "bf16": False, "use_cpu": True, "max_length": None,
        "gradient_checkpointing": False, "remove_unused_columns": False, "beta": 1.0,
    }  # fmt: skip
    stock = DPOTrainer(
        model=AutoModelForImageTextToText.from_pretrained(policy, dtype=torch.float32),
        ref_model=AutoModelForImageTextToText.from_pretrained(reference, dtype=torch.float32),
        args=DPOConfig(**settings),
        train_dataset=Dataset.from_list(conversations),
        processing_class=processor,
    )
    stock.model.model.vision_tower.requires_grad_(False)
    batch = stock.data_collator([dict(row) for row in conversations])
    expect = stock.compute_loss(stock.model, batch)

    encoded = [picture(i, 56, 56) for i in range(4)]
    rows = as_pairs(batch, [row["images"][0] for row in conversations], encoded)
    collator = PictureCollator(pad_token_id=processor.tokenizer.pad_token_id, family=family_of(policy))

    def trainer(model: Path) -> PairTrainer:
        loaded = AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32)
        family_of(model).freeze(loaded)
        take_pairs(loaded, family_of(model), max_length=2048)
        return PairTrainer(
            model=loaded,
            args=DPOConfig(**settings, precompute_ref_log_probs=True),
            train_dataset=rows,
            processing_class=processor,
            data_collator=collator,
            batches=MicroBatches(Schedule(rows=4, epochs=1, global_batch=4, checkpoints=1, seed=0), 4, 0, 1),
            outbox=Outbox(tmp_path),
            family=family_of(model),
            base_uri="policy",
        )

    with trainer(reference).scoring(pairs_at_once=3) as score:
        sums = [(sum(chosen), sum(rejected)) for chosen, rejected in score(rows)]
    cached = [
        {**row, "ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
        for row, (chosen, rejected) in zip(rows, sums, strict=True)
    ]
    ours = trainer(policy)
    assert ours.ref_model is None
    found = ours.compute_loss(ours.model, ours._prepare_inputs(collator(cached)))

    assert abs(expect.item() - 0.6931) > 0.01, "the reference is another model, so the loss says something"
    assert found.item() == pytest.approx(expect.item(), abs=1e-4)
    theirs = gradients(stock.model, expect)
    own = gradients(ours.model, found)
    assert own.keys() == theirs.keys()
    assert not any("vision_tower" in name for name in own)
    assert any("multi_modal_projector" in name for name in own)
    for name, value in own.items():
        torch.testing.assert_close(value, theirs[name], atol=1e-4, rtol=1e-3)


# ── processes and ZeRO ───────────────────────────────────────────────────────────────────────────────────────────────


def test_plain(plain: Run, tiny: Study) -> None:
    """Everything that the stage leaves: checkpoints in order, each whole, and what was measured."""
    manifest = plain.manifest
    assert list(manifest.artifacts) == [f"checkpoint-{step:06d}" for step in CHECKPOINTS]
    assert manifest.counts == {"rows": 16, "rejected": 0, "steps": STEPS, "checkpoints": 3}
    assert manifest.metrics["references_recomputed"] == 0
    assert manifest.metrics["parity_max_difference"] < 1e-4
    assert {entry.name for entry in manifest.files} == {"training.jsonl"}
    assert plain.log[-1]["loss"] < plain.log[0]["loss"]
    first = plain.weights(4)
    assert any(not torch.equal(value, plain.weights(8)[name]) for name, value in first.items())
    base = AutoModelForImageTextToText.from_pretrained(tiny.model, dtype=torch.float32)
    trained = AutoModelForImageTextToText.from_pretrained(
        plain.folder / "checkpoint-000012", dtype=torch.float32
    ).state_dict()
    changed = {name for name, value in base.state_dict().items() if not torch.equal(value, trained[name])}
    assert not any("vision_tower" in name for name in changed)
    assert any("multi_modal_projector" in name for name in changed)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"per_device_batch_size": 4, "gradient_checkpointing": True}, id="no accumulation, recomputed"),
        pytest.param({"zero_stage": 2}, id="ZeRO-2"),
        pytest.param({"zero_stage": 2, "processes_per_node": 2}, id="ZeRO-2, two processes"),
    ],
)
def test_same_losses_however_the_work_is_spread(
    changes: dict[str, Any], tiny: Study, plain: Run, request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.id.replace(" ", "-").replace(",", "")
    assert_same(tiny.run(name, **changes), plain)
    assert not tiny.compiled.exists(), "an image has no compiler"


def test_two_nodes(tiny: Study, plain: Run) -> None:
    """Two machines meet at MASTER_ADDR; the second one has nothing to publish but its part of the states."""
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(next(free_ports()))}
    runs = [tiny.start("nodes", {**meeting, "JOB_COMPLETION_INDEX": str(node)}, nodes=2) for node in (0, 1)]
    try:
        for run in runs:
            assert run.wait() == ExitCode.DONE, run.output
    finally:
        for run in runs:
            run.process.kill()  # one waits long for the other
    assert_same(runs[0], plain)


def test_what_happens_at_exit_ends_no_training(tiny: Study, plain: Run, tmp_path: Path) -> None:
    """The threads of a process group can abort a process that shuts down after its last step."""
    worker = "feedback_workloads.training.worker"
    (tmp_path / "sitecustomize.py").write_text(
        f"import atexit, os, sys\nif {worker!r} in sys.orig_argv:\n    atexit.register(os.abort)\n"
    )
    run = tiny.start("aborting", {"PYTHONPATH": str(tmp_path)}, processes_per_node=2)
    assert run.wait() == ExitCode.DONE, run.output
    assert_same(run, plain)


# ── references ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "changes", [{}, {"zero_stage": 3, "processes_per_node": 2}], ids=["one process", "ZeRO-3, two processes"]
)
def test_references_that_do_not_hold_are_recomputed(changes: dict[str, Any], tmp_path: Path, plain: Run) -> None:
    run = study(tmp_path, shift=0.15).run("shifted", **changes)
    assert run.manifest.metrics["references_recomputed"] == 1
    assert run.manifest.metrics["parity_mean_difference"] == pytest.approx(0.15, abs=1e-4)
    assert_same(run, plain)


@pytest.mark.parametrize(
    "changes", [{}, {"processes_per_node": 2, "reference": "recomputed"}], ids=["one process", "two processes"]
)
def test_a_policy_that_the_sampler_computes_otherwise_is_never_trained(changes: dict[str, Any], tmp_path: Path) -> None:
    """Recomputed references would train it well, and best-of-N would rank with the sampler's engine all the same."""
    far = study(tmp_path, shift=0.5)
    assert far.attempt("far", **changes) == ExitCode.BAD_INPUT
    failure = StageFailure.model_validate_json((far.root / "far.result").read_text())
    assert (failure.reason, failure.message.count("\n")) == ("BadInput", 0)
    assert "are 0.5 nats a token" in failure.message
    assert "more than spec.training.parityLimit 0.2" in failure.message
    assert list(far.root.glob("far/**/*.safetensors")) == []


# ── kills ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def stored(name: str) -> Callable[[Run], bool]:
    return lambda run: any(run.folder.glob(f"{name}/manifest.json"))


@pytest.mark.parametrize(
    ("moment", "changes"),
    [
        pytest.param(stored("checkpoint-000004"), {}, id="checkpoint stored, its state perhaps not"),
        pytest.param(stored("state/000004-*"), {}, id="first state stored"),
        pytest.param(stored("state/000008-*"), {"zero_stage": 2, "processes_per_node": 2}, id="ZeRO-2, two processes"),
    ],
)
def test_resumed_equals_uninterrupted(
    moment: Callable[[Run], bool], changes: dict[str, Any], tiny: Study, plain: Run, request: pytest.FixtureRequest
) -> None:
    name = "".join(c if c.isalnum() else "-" for c in request.node.callspec.id)
    killed = tiny.start(name, **changes)
    killed.wait_until(moment)
    children = psutil.Process(killed.process.pid).children(recursive=True)
    killed.process.kill()
    assert killed.wait() == -signal.SIGKILL
    assert not psutil.wait_procs(children, timeout=20)[1], "a training process outlived its parent"
    assert not (killed.folder / "manifest.json").exists()
    assert_same(tiny.run(name, **changes), plain)


def test_on_a_processor_auto_computes_nothing_in_bfloat16(tiny: Study, plain: Run) -> None:
    with NoBfloat16():
        run = tiny.run("auto", precision="auto")
    assert_same(run, plain)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="plain"),
        pytest.param({"zero_stage": 2}, id="ZeRO-2", marks=pytest.mark.long),
        pytest.param({"lora": LORA}, id="LoRA", marks=pytest.mark.long),
    ],
)
@pytest.mark.skipif(not has_bfloat16(), reason="this processor has no bfloat16, and would emulate it for minutes")
def test_bfloat16_learns_what_float32_does(
    changes: dict[str, Any], tiny: Study, plain: Run, adapter: Run, request: pytest.FixtureRequest
) -> None:
    """What GPUs train in, and float32 weights with it: without these, small steps would be lost. Killed and resumed."""
    name = f"bfloat16-{request.node.callspec.id}"
    killed = tiny.start(name, precision="bfloat16", **changes)
    killed.wait_until(stored("state/000004-*"))
    killed.process.kill()
    killed.wait()
    run = tiny.start(name, precision="bfloat16", **changes)
    assert run.wait() == ExitCode.DONE, run.output
    expect = adapter if "lora" in changes else plain
    losses, others = ([line["loss"] for line in one.log] for one in (run, expect))
    assert losses == pytest.approx(others, abs=5e-3)
    whole = {value.dtype for value in run.weights(12).values()}
    assert whole == {torch.float32 if "lora" in changes else torch.bfloat16}


def test_trained_and_not_published(tiny: Study, plain: Run) -> None:
    """What a kill between the last checkpoint and the manifest leaves is all but the manifest."""
    manifest = tiny.run("unpublished").folder / "manifest.json"
    before = manifest.read_bytes()
    manifest.unlink()
    assert_same(tiny.run("unpublished"), plain)
    assert manifest.read_bytes() == before


def test_resumed_adapter_with_dropout_equals_uninterrupted(tiny: Study, adapter: Run) -> None:
    """Dropout draws random numbers, so that their state has to come back as well."""
    killed = tiny.start("adapter-killed", lora=LORA)
    killed.wait_until(stored("state/000004-*"))
    killed.process.kill()
    killed.wait()
    assert_same(tiny.run("adapter-killed", lora=LORA), adapter)


def test_terminated_in_two_processes(tiny: Study) -> None:
    """SIGTERM ends all processes with 143, and what is complete was stored."""
    run = tiny.start("terminated", processes_per_node=2)
    run.wait_until(stored("checkpoint-000004"))
    children = psutil.Process(run.process.pid).children(recursive=True)
    run.process.terminate()
    assert run.wait() == ExitCode.TERMINATED, run.output
    assert not psutil.wait_procs(children, timeout=1)[1]
    assert stored("state/000004-*")(run)


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"global_batch_size": 4, "processes_per_node": 3}, "globalBatchSize 4", id="batch"),
        pytest.param({"max_length": 60}, "too-long", id="rows too long"),
        pytest.param({"learning_rate": 1e30}, "lower spec.training.learningRate 1e+30", id="diverged"),
    ],
)
def test_errors_are_one_sentence(
    changes: dict[str, Any], words: str, tiny: Study, request: pytest.FixtureRequest, capfd: pytest.CaptureFixture[str]
) -> None:
    name = request.node.callspec.id.replace(" ", "-")
    assert tiny.attempt(name, **changes) == ExitCode.BAD_INPUT
    failure = StageFailure.model_validate_json((tiny.root / f"{name}.result").read_text())
    assert words in failure.message
    assert "Traceback" not in capfd.readouterr().err


def test_a_policy_of_another_layout_ends_by_its_name(tiny: Study, tmp_path: Path) -> None:
    """Whoever has samples of it from before: it would end within the model, as Internal."""
    config = {"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert tiny.attempt("gemma", model=Source(uri=str(tmp_path))) == ExitCode.BAD_INPUT
    failure = StageFailure.model_validate_json((tiny.root / "gemma.result").read_text())
    assert f"{tmp_path} is of type gemma3 (Gemma3ForConditionalGeneration)" in failure.message
