"""training: DPO from the pairs, with checkpoints stored while training goes on."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from feedback_workloads.contract import TRAINING_LOG_NAME, BadInput, FileEntry, TrainingConfig
from feedback_workloads.models.families import check_trainable, family_of
from feedback_workloads.models.family import Family
from feedback_workloads.models.sources import fetch
from feedback_workloads.process.outcome import Outcome, check_rejected
from feedback_workloads.process.progress import Progress
from feedback_workloads.rows.schemas import REJECTED
from feedback_workloads.storage.artifacts import ArtifactStore
from feedback_workloads.storage.objects import digest_of
from feedback_workloads.training.batches.dataset import COLUMNS, Prepared, prepare
from feedback_workloads.training.publishing.outbox import Outbox
from feedback_workloads.training.publishing.publisher import Follower, Publisher
from feedback_workloads.training.publishing.training_storage import TrainingStorage
from feedback_workloads.training.schedule import Schedule, accumulation_steps
from feedback_workloads.training.worker import choose_accelerator

REJECTED_FILE = "rejected-00000.parquet"
REPORTED = ("loss", "reward_margin", "accuracy")


def run(config: TrainingConfig, shard: int, store: ArtifactStore, progress: Progress) -> Outcome:
    """Train the policy. With several nodes, `shard` is this node's number, and node 0 alone has a result to publish.

    The outcome's artifacts are the checkpoints, `checkpoint-000120` and so on, in the order of their steps; its files
    are the training log (see `training_log.COLUMNS`) and the rejected rows.
    """
    choose_accelerator()
    accumulation_steps(config, config.nodes * config.processes_per_node)  # a batch that does not divide ends it here
    storage = TrainingStorage(store, config, node=shard)
    with tempfile.TemporaryDirectory(prefix="feedback-training-") as folder:
        work = Path(folder)
        progress.phase("preparing the pairs")
        family = family_of(fetch(store, config.model, config.output, progress.phase), config.model)
        check_trainable(family, config.model.uri, lora=config.lora is not None)
        prepared = _prepare(config, family, store, work)
        progress.count("rejected", len(prepared.rejected))
        schedule = Schedule.of(config, prepared.rows)
        key = _references_key(config, family.folder, prepared)
        log = _train(storage, family.folder, work, schedule=schedule, references_key=key, progress=progress)
        if shard > 0:
            return Outcome(files=(), counts=prepared.counts())
        checkpoints = storage.checkpoints(schedule.checkpoint_steps)
        found = storage.references(key)
        return Outcome(
            files=_store_files(store, storage.uri, log, prepared),
            counts={**prepared.counts(), "steps": schedule.steps, "checkpoints": len(checkpoints)},
            metrics={**(found[1] if found else {}), **_last_epoch(log, schedule)},
            artifacts=checkpoints,
        )


def _prepare(config: TrainingConfig, family: Family, store: ArtifactStore, work: Path) -> Prepared:
    """Check and tokenise the pairs; raises BadInput where too many are rejected, before any training."""
    from feedback_workloads.training.worker import PAIRS_FILE

    rows = store.pairs(config.pairs, COLUMNS)
    prepared = prepare(rows, family, config.max_length, work / PAIRS_FILE, config.loss.ld_alpha)
    check_rejected(config, prepared.counts())
    if prepared.rows == 0:
        places = ", ".join(ref.uri for ref in config.pairs)
        raise BadInput(f"there are no pairs to train on in {places}; sample more instructions or more candidates")
    return prepared


def _train(
    storage: TrainingStorage, model: Path, work: Path, *, schedule: Schedule, references_key: str, progress: Progress
) -> Path:
    """Train from the newest stored state to the last step; return the file of the whole training log."""
    from feedback_workloads.training import launch
    from feedback_workloads.training.training_log import write_log_of_state
    from feedback_workloads.training.worker import TrainingRun

    log, resume = work / TRAINING_LOG_NAME, work / "resume"
    state = storage.newest_state(schedule.checkpoint_steps)
    done = state.step if state else 0
    if state:
        storage.fetch_state(state, resume)
    progress.start(schedule.steps, done)
    if done == schedule.steps:
        write_log_of_state(resume, log)
        return log
    progress.phase("taking steps")
    known = storage.references(references_key)
    outbox = Outbox(work)
    outbox.create()
    job = TrainingRun(
        config=storage.config,
        model=model,
        work=work,
        rows=schedule.rows,
        references=known[0] if known else None,
        resume=resume if state else None,
    )
    with (
        Follower(log, progress, schedule.global_batch, done),
        Publisher(storage, outbox, references_key),
    ):
        launch.run(job, storage.node)
    return log


def _references_key(config: TrainingConfig, model: Path, prepared: Prepared) -> str:
    """SHA-256 (hex) of the weights and the pairs: what reference log-probabilities depend on."""
    if config.model.sha256:
        weights = [config.model.sha256]
    else:
        weights = [digest_of(file).sha256 for file in sorted(model.glob("*.safetensors"))]
    rounded = ["rounded"] if config.rounded else []
    return hashlib.sha256(" ".join([*weights, *rounded, prepared.digest]).encode()).hexdigest()


def _store_files(store: ArtifactStore, uri: str, log: Path, prepared: Prepared) -> tuple[FileEntry, ...]:
    lines = len(log.read_bytes().splitlines())
    files = [store.upload(log, uri, log.name, rows=lines)]
    if prepared.rejected:
        rejected = pa.Table.from_pylist([asdict(row) for row in prepared.rejected], REJECTED)
        sink = pa.BufferOutputStream()
        pq.write_table(rejected, sink)
        files.append(store.put(sink.getvalue().to_pybytes(), uri, REJECTED_FILE, rows=rejected.num_rows))
    return tuple(files)


def _last_epoch(log: Path, schedule: Schedule) -> dict[str, float]:
    """Means over the last epoch's steps, as `train_loss` and so on."""
    lines: Sequence[Mapping[str, Any]] = [json.loads(line) for line in log.read_bytes().splitlines()]
    last = lines[-schedule.steps_per_epoch :]
    return {f"train_{name}": sum(line[name] for line in last) / len(last) for name in REPORTED}
