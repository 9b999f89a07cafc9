"""One training process: `python -m feedback_workloads.training.worker JOB` below torchrun, or `train(job)` alone."""

from __future__ import annotations

import ctypes
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from feedback_workloads.contract import TRAINING_LOG_NAME, BadInput, ExitCode, Frozen, Temporary, TrainingConfig
from feedback_workloads.models.precision import resolved
from feedback_workloads.training import references
from feedback_workloads.training.interruption import Interruption
from feedback_workloads.training.publishing.outbox import REFERENCES, Outbox
from feedback_workloads.training.schedule import MicroBatches, Schedule, accumulation_steps
from feedback_workloads.training.training_log import LogFile

if TYPE_CHECKING:
    from feedback_workloads.training.trainer import PairTrainer

MAX_GRAD_NORM = 1.0
PAIRS_FILE = "pairs.arrow"
FAILURE_FILE = "failure.json"
LAUNCHER_VARIABLE = "FEEDBACK_LAUNCHER_PID"
LOST = re.compile(r"gloo|NCCL|ProcessGroup|connection (closed|reset) by peer", re.IGNORECASE)
SCORED_AT_ONCE = 4
"""Pairs in a forward pass without gradients, for each one in a training step."""


class TrainingRun(Frozen):
    """What all processes of one training run are given. `work` is a folder on the local disk that holds the pairs."""

    config: TrainingConfig
    model: Path
    work: Path
    rows: int
    references: Path | None = None
    """Folder of what `references.save` wrote in an earlier run."""
    resume: Path | None = None
    """Folder of the training state to go on from."""


class WorkerFailure(Frozen):
    """Why a training process ended, left in the job's folder for the process that started it."""

    kind: Literal["BadInput", "Temporary", "Disconnected"]
    message: str


def choose_accelerator() -> None:
    """Set what torch and DeepSpeed read once, when they come to life; what is set already stays."""
    # Full training of 7B parameters leaves gaps of 25 GB between the blocks of memory if blocks cannot grow.
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    import torch

    if not torch.cuda.is_available():  # DeepSpeed would look for a GPU and complain
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def train(job: TrainingRun) -> None:
    """Train from the job's pairs to its last step, or until asked to end, handing checkpoints to the job's outbox.

    Raises BadInput where the configuration does not fit the processes or the device's memory.
    """
    import torch

    config, trainer = job.config, make_trainer(job)
    found = references.References.load(job.references) if job.references else _find_references(trainer, config)
    trainer.train_dataset = found.apply(trainer.train_dataset)
    if not job.references and trainer.is_world_process_zero():
        outbox = Outbox(job.work)
        found.save(outbox.folder(0, REFERENCES))
        outbox.hand_over(0)
    try:
        trainer.train(resume_from_checkpoint=str(job.resume) if job.resume else None)
    except torch.OutOfMemoryError as error:
        raise BadInput(
            f"the device ran out of memory at step {trainer.state.global_step} of {trainer.state.max_steps}; lower "
            f"spec.training.perDeviceBatchSize {config.per_device_batch_size}, raise spec.training.zeroStage "
            f"{config.zero_stage}, or train a LoRA by spec.training.lora"
        ) from error


def make_trainer(job: TrainingRun) -> PairTrainer:
    """Load the policy and the pairs. The process group has to be there already where DeepSpeed is asked for."""
    import torch
    from datasets import Dataset
    from transformers import PrinterCallback
    from transformers.utils import logging as transformers_logging
    from trl.trainer.utils import disable_dropout_in_model

    from feedback_workloads.models.families import family_of
    from feedback_workloads.training import policy_model
    from feedback_workloads.training.batches.collator import PictureCollator
    from feedback_workloads.training.batches.shared_prompt import take_pairs
    from feedback_workloads.training.trainer import CheckpointAt, EndWhenAsked, EndWhenDiverged, PairTrainer

    config, cuda = job.config, torch.cuda.is_available()
    bfloat16 = resolved(config.precision, on_gpu=cuda) == "bfloat16"
    schedule = Schedule.of(config, job.rows)
    world = config.nodes * config.processes_per_node
    arguments = _arguments(job, schedule, accumulation_steps(config, world), bfloat16=bfloat16, cuda=cuda)
    if config.zero_stage:
        import deepspeed

        # It would be compiled now, which takes a compiler; and a process killed meanwhile leaves a lock behind.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        # Loading under ZeRO-3 asks DeepSpeed for the world's size before anything else has told it.
        deepspeed.init_distributed(auto_mpi_discovery=False)
        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)

    transformers_logging.disable_progress_bar()
    # Mixed precision keeps float32 weights of what is trained: DeepSpeed makes them itself, and peft an adapter's.
    half = bfloat16 and (config.zero_stage or config.lora)
    family = family_of(job.model, config.model)
    dtype, device = torch.bfloat16 if half else torch.float32, arguments.device
    model = policy_model.load(family, dtype, nf4_on=device if config.rounded else None)
    disable_dropout_in_model(model)
    take_pairs(model, family, config.max_length)
    trainer = PairTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_file(str(job.work / PAIRS_FILE)),
        processing_class=family.processor,
        data_collator=PictureCollator(
            pad_token_id=family.pad_id,
            family=family,
            crop_seed=config.seed if config.loss.has("Conditional") else None,
        ),
        peft_config=policy_model.lora_config(family, model, config.lora) if config.lora else None,
        callbacks=[
            EndWhenDiverged(),
            CheckpointAt(schedule.checkpoint_steps),
            EndWhenAsked(Interruption(job.work)),
            LogFile(job.work / TRAINING_LOG_NAME),
        ],
        batches=MicroBatches(schedule, config.per_device_batch_size, arguments.process_index, world),
        outbox=Outbox(job.work),
        family=family,
        base_uri=config.model.uri,
        loss=config.loss,
    )
    trainer.remove_callback(PrinterCallback)  # the log file says it all
    if config.rounded:
        policy_model.keep_whole(trainer.model)
    return trainer


def _arguments(job: TrainingRun, schedule: Schedule, accumulation: int, *, bfloat16: bool, cuda: bool) -> Any:
    from trl import DPOConfig

    from feedback_workloads.training.deepspeed import zero_config
    from feedback_workloads.training.losses import trl_settings

    config = job.config
    zero = None
    if config.zero_stage:
        zero = zero_config(
            config.zero_stage,
            bfloat16=bfloat16,
            per_device_batch=config.per_device_batch_size,
            accumulation=accumulation,
            world=config.nodes * config.processes_per_node,
            max_grad_norm=MAX_GRAD_NORM,
        )
    return DPOConfig(
        output_dir=str(job.work / "trainer"),
        seed=config.seed,
        beta=config.beta,
        **trl_settings(config.loss),
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=config.warmup_ratio,  # below 1 it is a share of all steps
        weight_decay=config.weight_decay,
        max_grad_norm=MAX_GRAD_NORM,
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.per_device_batch_size,
        gradient_accumulation_steps=accumulation,
        gradient_checkpointing=config.gradient_checkpointing,
        bf16=bfloat16,
        deepspeed=zero,
        # Without a GPU this is what makes processes find each other: else each believes to be alone.
        use_cpu=not cuda,
        ddp_find_unused_parameters=False,  # there are none: every batch has pictures, and the tower is frozen
        precompute_ref_log_probs=True,  # they are in the data; no second model is built
        disable_dropout=False,  # the model's was switched off already, and an adapter's is wanted
        max_length=None,  # longer rows were rejected; nothing is cut
        remove_unused_columns=False,
        save_strategy="no",  # our callback says when
        save_on_each_node=config.nodes > 1,
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to=[],
        disable_tqdm=True,
        dataloader_num_workers=2 if cuda else 0,
        dataloader_pin_memory=cuda,
    )


def _find_references(trainer: Any, config: TrainingConfig) -> references.References:
    """Measure parity on a few rows, and score all rows with the base model where the sampler's values do not hold.

    A conditional loss needs values that no sampler has, and an adapter over rounded weights those of the rounded model;
    all come from the same forward passes then. Raises BadInput where the sampler's are beyond `parity_limit`.
    """
    from accelerate.utils import broadcast_object_list, gather_object

    dataset, rank, world = trainer.train_dataset, trainer.args.process_index, trainer.args.world_size
    parity = None
    recompute = config.reference == "recomputed" or config.loss.has("Conditional") or config.rounded
    with trainer.scoring(SCORED_AT_ONCE * config.per_device_batch_size) as score:
        if config.parity_rows:
            rows = dataset.select(references.spread(len(dataset), config.parity_rows))
            found = [references.compare(rows, score(rows), config.beta)]
            broadcast_object_list(found)  # rounding may differ between processes, what follows from it must not
            parity = found[0]
            parity.check(config.parity_limit, rounded=config.rounded)
            recompute = recompute or not parity.holds(config.parity_tolerance)
        if not recompute:
            return references.References.of(parity, None)
        share = references.share_of(rank, world, len(dataset))
        scored = zip(share, score(dataset.select(share)), strict=True)
        sums = dict(gather_object([(row, references.totals(scores, config.loss.ld_alpha)) for row, scores in scored]))
    return references.References.of(parity, [sums[row] for row in range(len(dataset))])


@contextmanager
def alone(store: Path) -> Iterator[None]:
    """A process group of this process alone, as torchrun would have made it, but without a port to agree on."""
    import torch

    world = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    os.environ.update(world)
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    torch.distributed.init_process_group(backend, init_method=f"file://{store}", rank=0, world_size=1)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()
        for name in world:
            del os.environ[name]


def _die_with_launcher() -> None:
    """Ask the kernel to kill this process when the one that started it dies, however it dies (Linux)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != int(os.environ[LAUNCHER_VARIABLE]):
        sys.exit(ExitCode.TERMINATED)


def main() -> int:
    _die_with_launcher()
    job = TrainingRun.model_validate_json(Path(sys.argv[1]).read_bytes())
    try:
        train(job)
    except (BadInput, Temporary) as error:
        failure = WorkerFailure(kind="BadInput" if isinstance(error, BadInput) else "Temporary", message=str(error))
        (job.work / FAILURE_FILE).write_text(failure.model_dump_json())
        return ExitCode.BAD_INPUT
    except Exception as error:
        if not is_disconnection(error):
            raise
        traceback.print_exc()
        failure = WorkerFailure(kind="Disconnected", message=f"{type(error).__name__}: {error}"[:1000])
        # Where another process of this machine said why, this one has only lost it.
        with suppress(FileExistsError), (job.work / FAILURE_FILE).open("x") as file:
            file.write(failure.model_dump_json())
        return ExitCode.TEMPORARY
    return ExitCode.DONE


def is_disconnection(error: Exception) -> bool:
    """Whether processes that train together lost each other; gloo says so in words alone."""
    from torch.distributed import DistError

    return isinstance(error, DistError) or (isinstance(error, RuntimeError) and bool(LOST.search(str(error))))


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # All is done and handed over. The interpreter's own end would race with gloo's threads, and now and then abort.
    os._exit(code)
