"""Training: neither processes, ZeRO nor kills change what is learned."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from transformers import AutoModelForImageTextToText

from feedback_operator.cluster.local.ports import free_ports
from feedback_workloads.contract import ExitCode, Loss, LossTerm, Source, StageFailure
from feedback_workloads.models.precision import has_bfloat16
from feedback_workloads.training.publishing.training_storage import State
from tests.arithmetic import NoBfloat16
from tests.integration.training_runs import Run, Study, study

TOLERANCE = 1e-5  # of losses and weights in float32; measured: 5e-7
STEPS = 12
CHECKPOINTS = (4, 8, 12)
LORA = {"rank": 4, "alpha": 8, "dropout": 0.1}
FOUR_BITS = {"rank": 4, "alpha": 8, "dropout": 0.0, "quantization": "nf4"}
MIXED = Loss(terms=tuple(LossTerm(type=kind) for kind in ("Sigmoid", "SFT", "Conditional", "Anchored")), anchor=0.1)
"""All terms that are not TRL's beside one that is."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def plain(tiny: Study) -> Run:
    """One process without DeepSpeed: what all others are compared with."""
    return tiny.run("plain")


@pytest.fixture(scope="module")
def mixed(tiny: Study) -> Run:
    return tiny.run("mixed", loss=MIXED)


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


@pytest.fixture(scope="module")
def rounded(tiny: Study) -> Run:
    return tiny.run("rounded", lora=FOUR_BITS, parity_limit=10.0)


@pytest.mark.long
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"per_device_batch_size": 4, "gradient_checkpointing": True}, id="no accumulation, recomputed"),
        pytest.param({"zero_stage": 2}, id="ZeRO-2"),
        pytest.param({"zero_stage": 2, "processes_per_node": 2}, id="ZeRO-2, two processes"),
    ],
)
def test_same_adapter_over_four_bits_however_the_work_is_spread(
    changes: dict[str, Any], tiny: Study, rounded: Run, request: pytest.FixtureRequest
) -> None:
    name = "rounded-" + "".join(c if c.isalnum() else "-" for c in request.node.callspec.id)
    run = tiny.start(name, lora=FOUR_BITS, parity_limit=10.0, **changes)
    assert run.wait() == ExitCode.DONE, run.output
    assert_same(run, rounded)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"per_device_batch_size": 4, "gradient_checkpointing": True}, id="no accumulation, recomputed"),
        pytest.param({"zero_stage": 3, "processes_per_node": 2}, id="ZeRO-3, two processes"),
    ],
)
def test_same_losses_of_a_mixture_however_the_work_is_spread(
    changes: dict[str, Any], tiny: Study, mixed: Run, request: pytest.FixtureRequest
) -> None:
    """Pieces of pictures and their references are their pairs' own, and SFT is no mean over what a device holds."""
    name = "mixed-" + request.node.callspec.id.replace(" ", "-").replace(",", "")
    assert_same(tiny.run(name, loss=MIXED, **changes), mixed)


def test_a_mixture_starts_from_the_policy_before_alignment(mixed: Run, plain: Run) -> None:
    """There rewards are 0, whichever the loss: what is logged of them means what it means without a mixture."""
    assert mixed.manifest.metrics["references_recomputed"] == 1
    first, alone = mixed.log[0], plain.log[0]
    for name in ("reward_margin", "chosen_reward", "rejected_reward"):
        assert first[name] == pytest.approx(0, abs=1e-4), name
    for name in ("chosen_logps", "rejected_logps"):
        assert first[name] == pytest.approx(alone[name], abs=1e-4), name
    assert mixed.log[-1]["reward_margin"] > 0.01
    assert mixed.log[-1]["chosen_logps"] > plain.log[-1]["chosen_logps"], "SFT and the anchor hold chosen answers up"


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
        pytest.param(
            stored("state/000008-*"),
            {"zero_stage": 2, "processes_per_node": 2},
            id="ZeRO-2, two processes",
            marks=pytest.mark.long,
        ),
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


@pytest.mark.parametrize(
    ("changes", "like"),
    [
        pytest.param({}, "plain", id="one process"),
        pytest.param({"zero_stage": 2, "processes_per_node": 2}, "plain", id="ZeRO-2, two processes"),
        pytest.param({"lora": LORA}, "adapter", id="dropout in the middle of an epoch"),
    ],
)
def test_terminated_it_goes_on_from_the_step_that_it_was_at(
    changes: dict[str, Any],
    like: str,
    tiny: Study,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """SIGTERM between two checkpoints: it ends with 143 after its step, whose state is stored, and nothing is lost."""
    expect: Run = request.getfixturevalue(like)
    name = "terminated-" + "".join(c if c.isalnum() else "-" for c in request.node.callspec.id)
    run = tiny.start(name, {"TMPDIR": str(tmp_path)}, **changes)
    run.wait_until(lambda _: steps_taken(tmp_path) > CHECKPOINTS[0])
    children = psutil.Process(run.process.pid).children(recursive=True)
    run.process.terminate()
    assert run.wait() == ExitCode.TERMINATED, run.output
    assert not psutil.wait_procs(children, timeout=1)[1]
    (state,) = (State.named(file.parent.name) for file in run.folder.glob("state/*/manifest.json"))
    assert CHECKPOINTS[0] < state.step < STEPS
    assert_same(tiny.run(name, **changes), expect)
    assert f"{STEPS - state.step} of {STEPS} done here, {state.step} before" in capfd.readouterr().err


def steps_taken(folder: Path) -> int:
    """Of a training process whose temporary folder this is."""
    return sum(len(log.read_text().splitlines()) for log in folder.glob("*/training.jsonl"))


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
