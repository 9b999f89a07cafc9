"""The entry point: configurations read, failures said in one sentence, messages that fit."""

from __future__ import annotations

import errno
import json
import sys
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

import pytest
from pydantic import ValidationError

from feedback_workloads.contract import (
    RESULT_LIMIT_BYTES,
    Artifact,
    BadInput,
    Disconnected,
    PairingConfig,
    Ranking,
    RankingChoice,
    SamplingConfig,
    Source,
    StageResult,
    Temporary,
    TrainingConfig,
    shard_uri,
)
from feedback_workloads.process.outcome import Outcome
from feedback_workloads.stages import entry
from feedback_workloads.storage.lease import Lease
from feedback_workloads.storage.objects import FileObjects

CONFIG = SamplingConfig(output="s3://b/o", model=Source(uri="s3://b/m"), instructions=Source(uri="s3://b/i"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param('{"stage": "sampling"}', "sampling.output: Field required", id="missing field"),
        pytest.param('{"stage": "dreams"}', "is not valid", id="unknown stage"),
        pytest.param("{", "is not valid", id="not JSON"),
        pytest.param(CONFIG.model_dump_json().replace("sampling", "pairing", 1), "is not valid", id="other fields"),
    ],
)
def test_a_wrong_configuration_is_named(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(text)
    with pytest.raises(BadInput, match=message):
        entry.read_config("sampling", file)


def test_a_missing_configuration_and_another_stage(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="No such file"):
        entry.read_config("sampling", tmp_path / "none")
    file = tmp_path / "config.json"
    file.write_text(CONFIG.model_dump_json())
    with pytest.raises(BadInput, match="is for stage 'sampling', not 'pairing'"):
        entry.read_config("pairing", file)


@pytest.mark.parametrize("metric", [float("nan"), float("inf")])
def test_a_metric_that_is_no_number_fails_the_stage(metric: float) -> None:
    """JSON has no such number: it would reach the operator as a result that cannot be read."""
    with pytest.raises(ValidationError, match="recall"):
        entry._manifest(CONFIG, Outcome(files=(), counts={"rows": 1, "rejected": 0}, metrics={"recall": metric}))


@pytest.mark.parametrize(
    ("error", "reason", "code"),
    [
        (BadInput("the bucket b does not exist; make it"), "BadInput", 2),
        (Disconnected("the 2 nodes did not meet"), "Communication", 75),
        (Temporary("the server is away; try later"), "Temporary", 75),
        (OSError(errno.ENOSPC, "No space left on device", "/data/x"), "DiskFull", 75),
        (ZeroDivisionError("division by zero"), "Internal", 1),
    ],
)
def test_failures_become_messages_and_exit_codes(error: Exception, reason: str, code: int) -> None:
    failure, exit_code = entry._failure("sampling", 3, error)
    assert (failure.reason, failure.shard, exit_code) == (reason, 3, code)


@pytest.mark.parametrize(("rejected", "allowed"), [(0, True), (5, True), (6, False), (100, False)])
def test_too_many_rejected_rows_fail_the_stage(rejected: int, allowed: bool) -> None:
    counts = {"rows": 100 - rejected, "rejected": rejected, "rejected_undecodable-picture": rejected}
    if allowed:
        entry.check_rejected(CONFIG, counts)
        return
    with pytest.raises(BadInput, match=f"{rejected} of 100 rows were rejected .{rejected} undecodable-picture."):
        entry.check_rejected(CONFIG, counts)


@pytest.mark.parametrize(("rejected", "allowed"), [(50, True), (51, False)])
def test_rows_to_come_are_hoped_to_be_good(rejected: int, allowed: bool) -> None:
    """Of 1,000 rows that there can be, 5% may be rejected, however many are there so far."""
    counts = {"rows": 0, "rejected": rejected, "rejected_neither-yes-nor-no": rejected}
    with nullcontext() if allowed else pytest.raises(BadInput, match="51 of 1000 rows were rejected"):
        entry.check_rejected(CONFIG, counts, most=1000)


def test_good_rows_that_a_bad_labeler_could_not_judge_are_not_to_be_mended() -> None:
    counts = {"rows": 0, "rejected": 9, "rejected_neither-yes-nor-no": 8, "rejected_prompt-too-long": 1}
    with pytest.raises(
        BadInput, match=r"8 neither-yes-nor-no.*; name a labeler that begins its answers with yes or no"
    ):
        entry.check_rejected(CONFIG, counts)


def test_a_large_result_is_cut_to_what_kubernetes_keeps(tmp_path: Path) -> None:
    result = StageResult(
        stage="evaluation",
        shard=0,
        manifest=Artifact(uri="s3://b/x", sha256="a" * 64),
        counts={"rows": 1, "rejected": 0},
        metrics={f"metric-{i}": i / 7 for i in range(500)},
        ranked=RankingChoice(n=2, ranking=Ranking(rule="Regularised", weight=0.3)),
        reused=False,
    )
    file = tmp_path / "message"
    entry.write_message(file, result)
    text = file.read_text()
    assert len(text.encode()) <= RESULT_LIMIT_BYTES
    kept = StageResult.model_validate_json(text)
    assert kept.manifest == result.manifest
    assert kept.ranked == result.ranked  # what the endpoint ranks is no metric that may go
    assert kept.metrics.items() <= result.metrics.items()
    assert kept.metrics


def test_what_a_gate_may_read_is_cut_last(tmp_path: Path) -> None:
    """In whatever order they come: a manifest that is found has sorted them."""
    names = [f"{prefix}.rate-{i:02}" for i in range(10) for prefix in ("aligned", "selection.aligned")]
    deciding = [f"selection.ratio.rate-{i:02}{end}" for i in range(10) for end in (".low", ".high")]
    metrics = {name: i / 7 for i, name in enumerate(deciding)}
    metrics |= {f"{name}{end}": i / 7 for i, name in enumerate(names) for end in (".low", ".high", "")}
    metrics |= {f"longer-so-that-not-all-of-them-fit.{i:02}.low": i / 7 for i in range(60)}
    result = StageResult(
        stage="evaluation",
        shard=0,
        manifest=Artifact(uri="s3://b/x", sha256="a" * 64),
        counts={"rows": 1, "rejected": 0},
        metrics=dict(sorted(metrics.items())),
        reused=True,
    )
    file = tmp_path / "message"
    entry.write_message(file, result)
    kept = StageResult.model_validate_json(file.read_text()).metrics
    assert {*names, *deciding} <= kept.keys() < metrics.keys()


def test_infrastructure_does_not_change_the_address_and_everything_else_does() -> None:
    base = CONFIG.content_hash()
    same = CONFIG.model_copy(
        update={"output": "s3://elsewhere", "engine": CONFIG.engine.model_copy(update={"max_num_seqs": 8})}
    )
    assert same.content_hash() == base
    for change in ({"seed": 1}, {"candidates": 3}, {"shards": 2}, {"model": Source(uri="s3://b/other")}):
        assert CONFIG.model_copy(update=change).content_hash() != base


def test_a_manifest_is_canonical() -> None:
    config = PairingConfig(output="x", samples=(), claims=(), verdicts=(), instructions=Source(uri="s3://b/i"))
    manifest = entry._manifest(
        config, Outcome(files=(), counts={"rows": 0, "rejected": 0}, metrics={"b": 1.0, "a": 0.5})
    )
    text = manifest.encode().decode()
    assert json.loads(text)["config_hash"] == config.content_hash()
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))


def test_of_nodes_that_train_together_the_first_alone_publishes_and_hands_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []

    def run(config: TrainingConfig, shard: int, *_: object) -> Outcome:
        ran.append(shard)
        return Outcome(files=(), counts={"rows": 1, "rejected": 0})

    stage = ModuleType("training")
    stage.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "feedback_workloads.stages.training", stage)
    config = TrainingConfig(output=str(tmp_path / "policy"), pairs=(), model=Source(uri="s3://b/m"), nodes=2)
    (tmp_path / "config.json").write_text(config.model_dump_json())

    def node(number: int) -> str:
        message = tmp_path / f"message-{number}"
        monkeypatch.setenv("JOB_COMPLETION_INDEX", str(number))
        monkeypatch.setenv("FEEDBACK_TERMINATION_LOG", str(message))
        assert entry.main(["training", "--config", str(tmp_path / "config.json")]) == 0
        return message.read_text() if message.exists() else ""

    def manifests() -> list[str]:
        return [file.parent.name for file in (tmp_path / "policy").rglob("manifest.json")]

    output = shard_uri(config, 0)
    Path(output).mkdir(parents=True)
    first = Lease(FileObjects(), output, "")
    assert first.take(lambda _: None)
    first.release()
    assert node(1) == ""
    assert manifests() == []
    assert not StageResult.model_validate_json(node(0)).reused
    assert manifests() == ["shard-00000-of-00001"]
    assert ran == [1, 0]
    assert node(1) == ""  # started again after all is done, it does not wait for the others
    assert StageResult.model_validate_json(node(0)).reused
    assert ran == [1, 0]
