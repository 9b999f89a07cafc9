"""The one way into a workload: configuration in, manifest and termination message out, around every stage.

Imports nothing heavy until it is known that there is work to do, so that a finished stage is recognised in a second.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from feedback_workloads.contract import (
    RESULT_LIMIT_BYTES,
    STAGE_CONFIG,
    STAGE_NAMES,
    Artifact,
    BadInput,
    Disconnected,
    EvaluationConfig,
    ExitCode,
    Manifest,
    ShapesConfig,
    StageConfig,
    StageFailure,
    StageResult,
    Temporary,
    shard_uri,
)
from feedback_workloads.process.ending import Terminated, end_with_parent
from feedback_workloads.process.outcome import check_rejected
from feedback_workloads.process.progress import PORT_VARIABLE, Progress
from feedback_workloads.process.versions import versions

if TYPE_CHECKING:
    from feedback_workloads.process.outcome import Outcome
    from feedback_workloads.storage.artifacts import ArtifactStore

TERMINATION_LOG_VARIABLE = "FEEDBACK_TERMINATION_LOG"
SHARD_VARIABLE = "JOB_COMPLETION_INDEX"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one stage process to its end and return its exit code (see `ExitCode`)."""
    parser = argparse.ArgumentParser(prog="python -m feedback_workloads", description=__doc__)
    parser.add_argument("stage", help=", ".join(STAGE_NAMES))
    parser.add_argument("--config", type=Path, required=True, help="the stage's configuration, JSON")
    options = parser.parse_args(arguments)
    shard = int(os.environ.get(SHARD_VARIABLE, "0"))
    termination_log = Path(os.environ.get(TERMINATION_LOG_VARIABLE, "/dev/termination-log"))
    signal.signal(signal.SIGTERM, _terminate)
    end_with_parent()
    try:
        config = read_config(options.stage, options.config)
        result = _execute(config, shard)
    except Exception as error:
        failure, code = _failure(options.stage, shard, error)
        sys.stderr.write(f"{failure.stage}: {failure.message}\n")
        write_message(termination_log, failure)
        return code
    if result:
        gate = config.gate_metrics if isinstance(config, EvaluationConfig) else ()
        write_message(termination_log, result, gate)
    return ExitCode.DONE


def read_config(stage: str, file: Path) -> StageConfig | ShapesConfig:
    """Read and check the configuration of `stage`. Raises BadInput naming the file and each wrong field."""
    try:
        config = STAGE_CONFIG.validate_json(file.read_bytes())
    except OSError as error:
        raise BadInput(
            f"cannot read the configuration {file}: {error.strerror}; give --config an existing file"
        ) from error
    except ValidationError as error:
        details = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise BadInput(f"the configuration {file} is not valid: {details}") from error
    if config.stage != stage:
        raise BadInput(f"the configuration {file} is for stage {config.stage!r}, not {stage!r}; name that stage")
    return config


def _execute(config: StageConfig | ShapesConfig, shard: int) -> StageResult | None:
    from feedback_workloads.storage.artifacts import ArtifactStore

    progress = Progress(config.stage, shard)
    if port := os.environ.get(PORT_VARIABLE):
        progress.serve(int(port))
    store = ArtifactStore.from_environment()
    if isinstance(config, ShapesConfig):
        from feedback_workloads.shapes.build import run as build

        build(config, store, progress)
        return None
    # Nodes that train together work on one shard; the first of them publishes it and hands in the result.
    helps = shard >= config.shards
    output = shard_uri(config, 0 if helps else shard)
    found = store.find(output)
    if not found:
        with _turn(config, output, store, progress, helps=helps) as own:
            found = own.find(output)  # another process may have made it while this one waited for its turn
            if not found:
                return _make(config, shard, output, own, progress, helps=helps)
    manifest, artifact = found
    return None if helps else _result(config, shard, manifest, artifact, reused=True)


@contextmanager
def _turn(
    config: StageConfig, output: str, store: ArtifactStore, progress: Progress, *, helps: bool
) -> Iterator[ArtifactStore]:
    """Wait until this process may work on the folder `output`; give the store to do it with."""
    from feedback_workloads.storage import lease

    if not config.ALONE:
        yield store
    elif helps:
        lease.follow(store, output, lambda: store.find(output) is not None, progress.phase)
        yield store
    else:
        with lease.held(store, output, progress.phase) as own:
            yield own


def _make(
    config: StageConfig, shard: int, output: str, store: ArtifactStore, progress: Progress, *, helps: bool
) -> StageResult | None:
    """Run the stage and publish what it made; a node that helps has nothing to publish."""
    # Stages are modules of their names: stages/sampling.py is the stage "sampling".
    stage = importlib.import_module(f"feedback_workloads.stages.{config.stage}")
    try:
        outcome: Outcome = stage.run(config, shard, store, progress)
    finally:
        if (account := progress.account()).here or account.before:
            sys.stderr.write(f"{config.stage}: {account}\n")
    if helps:
        return None
    check_rejected(config, outcome.counts)
    manifest = _manifest(config, outcome)
    return _result(config, shard, manifest, store.publish(output, manifest), reused=False)


def _manifest(config: StageConfig, outcome: Outcome) -> Manifest:
    return Manifest(
        stage=config.stage,
        config=config.content(),
        config_hash=config.content_hash(),
        files=outcome.files,
        counts=outcome.counts,
        metrics=outcome.metrics,
        versions=versions(),
        artifacts=outcome.artifacts,
        ranked=outcome.ranked,
    )


def _result(config: StageConfig, shard: int, manifest: Manifest, artifact: Artifact, *, reused: bool) -> StageResult:
    return StageResult(
        stage=config.stage,
        shard=shard,
        manifest=artifact,
        counts=manifest.counts,
        metrics=manifest.metrics,
        aligned=manifest.artifacts.get("aligned"),
        ranked=manifest.ranked,
        reused=reused,
    )


def _failure(stage: str, shard: int, error: Exception) -> tuple[StageFailure, int]:
    """Say what went wrong in one sentence; only what we did not foresee shows its traceback."""

    def failure(reason: str, message: str, code: int) -> tuple[StageFailure, int]:
        return StageFailure(stage=stage, shard=shard, reason=reason, message=message[:2000]), code

    match error:
        case BadInput():
            return failure("BadInput", str(error), ExitCode.BAD_INPUT)
        case Disconnected():
            return failure("Communication", str(error), ExitCode.TEMPORARY)
        case Temporary():
            return failure("Temporary", str(error), ExitCode.TEMPORARY)
        case OSError(errno=errno.ENOSPC):
            where = error.filename or "the working directory"
            message = f"no space left on the disk that holds {where}; free some, or give the stage a larger volume"
            return failure("DiskFull", message, ExitCode.TEMPORARY)
        case _:
            traceback.print_exc()
            return failure("Internal", f"{type(error).__name__}: {error}", 1)


def write_message(file: Path, message: StageResult | StageFailure, gate: Sequence[str] = ()) -> None:
    """Leave the termination message; where it would be cut, metrics go first, since the manifest has them.

    Of these go first what the `gate` does not read of other benchmarks than the first, then the ends of the report
    split's intervals; what is of the first one's selection split, and what the gate reads, last.
    """
    data: dict[str, Any] = message.model_dump(mode="json", exclude_defaults=True)
    if metrics := data.get("metrics"):
        data["metrics"] = {name: metrics[name] for name in sorted(metrics, key=partial(_dispensable, gate))}
    text = message.model_dump_json()
    while len(text.encode()) > RESULT_LIMIT_BYTES and data.get("metrics"):
        data["metrics"].popitem()
        text = type(message).model_validate(data).model_dump_json()
    file.write_text(text)


def _dispensable(gate: Sequence[str], metric: str) -> int:
    if metric in gate:
        return 0
    if "/" in metric:
        return 4
    return 1 if metric.startswith("selection.") else 2 + metric.endswith((".low", ".high"))


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise Terminated
