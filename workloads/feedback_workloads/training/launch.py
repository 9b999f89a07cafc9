"""Starts the training processes of this machine and waits for them; none of them outlives this one."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from feedback_workloads.contract import BadInput, Disconnected, ExitCode, Temporary, TrainingConfig
from feedback_workloads.training.interruption import Interruption, ending_after_a_step
from feedback_workloads.training.worker import FAILURE_FILE, LAUNCHER_VARIABLE, TrainingRun, WorkerFailure, alone, train

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

JOB_FILE = "job.json"
MEETING_SECONDS = 900
RAISED = {"BadInput": BadInput, "Temporary": Temporary, "Disconnected": Disconnected}


def run(job: TrainingRun, node: int) -> None:
    """Train with all processes that `job.config` asks for on this machine, which is number `node`.

    A single process trains in this one. Several are started as torchrun does, and meet those of other machines at
    MASTER_ADDR:MASTER_PORT. Raises what they raised: BadInput, Temporary or Disconnected; RuntimeError where one was
    killed; Terminated after SIGTERM, here or on another machine, when the state after the step is handed over.
    """
    with ending_after_a_step(Interruption(job.work)):
        _run(job, node)


def _run(job: TrainingRun, node: int) -> None:
    config = job.config
    if config.nodes * config.processes_per_node == 1:
        with alone(job.work / "meeting") if config.zero_stage else contextlib.nullcontext():
            train(job)
        return
    file = job.work / JOB_FILE
    file.write_text(job.model_dump_json())
    with _signals_restored():
        _start_and_wait(config, node, file)


def _start_and_wait(config: TrainingConfig, node: int, job_file: Path) -> None:
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    several = config.nodes > 1
    launch = LaunchConfig(
        min_nodes=config.nodes,
        max_nodes=config.nodes,
        nproc_per_node=config.processes_per_node,
        run_id=config.content_hash()[:16],
        rdzv_backend="static" if several else "c10d",
        rdzv_endpoint=_meeting_point() if several else "127.0.0.1:0",
        rdzv_configs={"rank": node, "timeout": MEETING_SECONDS} if several else {},
        local_addr=None if several else "127.0.0.1",
        max_restarts=0,  # the stage is retried as a whole
        signals_to_handle="SIGINT,SIGHUP,SIGQUIT",  # SIGTERM is ours: the processes learn of it from a file
        logs_specs=DefaultLogsSpecs(log_dir=str(job_file.parent / "launcher")),
    )
    os.environ[LAUNCHER_VARIABLE] = str(os.getpid())
    try:
        elastic_launch(launch, sys.executable)("-m", "feedback_workloads.training.worker", str(job_file))
    except SignalException as error:
        raise SystemExit(int(ExitCode.TERMINATED)) from error
    except ChildFailedError as error:
        raise _failure(job_file.parent, error) from error
    except (RendezvousError, DistError) as error:
        place = launch.rdzv_endpoint
        raise Disconnected(f"the {config.nodes} nodes did not meet at {place}: {error}; run the stage again") from error


def _failure(work: Path, error: ChildFailedError) -> Exception:
    """What the failed process said, or how it ended where it could say nothing."""
    try:
        failure = WorkerFailure.model_validate_json((work / FAILURE_FILE).read_bytes())
    except FileNotFoundError:
        rank, first = error.get_first_failure()
        how = f"was killed by signal {-first.exitcode}" if first.exitcode < 0 else f"ended with code {first.exitcode}"
        return RuntimeError(f"training process {rank} {how}; its last words are in the log above")
    return RAISED[failure.kind](failure.message)


def _meeting_point() -> str:
    try:
        return f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    except KeyError as error:
        raise BadInput(
            f"training on several nodes needs the environment variable {error}; set it on all nodes"
        ) from error


@contextmanager
def _signals_restored() -> Iterator[None]:
    """The launcher takes signals over, to pass them on to its processes; give them back afterwards."""
    numbers = (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
