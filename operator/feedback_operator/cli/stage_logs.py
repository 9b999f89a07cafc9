"""The logs of all shards of a stage, each line with its shard before it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Final

from feedback_operator.api import FeedbackIteration, StageStatus
from feedback_operator.cli.cluster_errors import ClusterError
from feedback_operator.cli.remote import Remote, StagePod
from feedback_operator.stages import stages_of

LOOK_SECONDS: Final = 1.0


def read(remote: Remote, name: str, stage: str) -> Iterator[str]:
    """What the pods of the stage's latest Job wrote so far, shard after shard. Raises ClusterError."""
    job = _job_of(remote.iteration(name), stage)
    pods = remote.pods(job)
    if not pods:
        raise ClusterError(
            f"Job {job} of stage {stage} has no pods any more; feedback status {name} says what they left"
        )
    for pod in pods:
        if pod.begun:
            yield from _prefixed(stage, pod, remote.log(pod, follow=False))
        else:
            yield f"{stage}/{pod.shard}: has no log yet: {pod.waits_for}"


def follow(remote: Remote, name: str, stage: str) -> Iterator[str]:
    """Lines as they are written, until the stage ends; pods that come later, such as retries, are followed, too."""
    lines: queue.SimpleQueue[str | ClusterError] = queue.SimpleQueue()
    readers: dict[str, threading.Thread] = {}
    while True:
        iteration = remote.iteration(name)
        for pod in remote.pods(_job_of(iteration, stage)):
            if pod.begun and pod.name not in readers:
                readers[pod.name] = _reader(remote, stage, pod, lines.put)
        yield from _drained(lines)
        ended = iteration.looked_at and _stage_of(iteration, stage).state in ("Done", "Failed")
        if ended and not any(map(threading.Thread.is_alive, readers.values())):
            yield from _drained(lines)
            return
        yield from _next_within(LOOK_SECONDS, lines)


def _reader(remote: Remote, stage: str, pod: StagePod, put: Callable[[str | ClusterError], None]) -> threading.Thread:
    """A thread that hands on a pod's log to its end, and an error in its place."""

    def run() -> None:
        try:
            for line in _prefixed(stage, pod, remote.log(pod, follow=True)):
                put(line)
        except ClusterError as error:
            put(error)

    thread = threading.Thread(target=run, daemon=True, name=f"log of {pod.name}")
    thread.start()
    return thread


def _next_within(seconds: float, lines: queue.SimpleQueue[str | ClusterError]) -> Iterator[str]:
    """The next line, if one comes in this time."""
    try:
        yield _line(lines.get(timeout=seconds))
    except queue.Empty:
        return


def _drained(lines: queue.SimpleQueue[str | ClusterError]) -> Iterator[str]:
    while not lines.empty():
        yield _line(lines.get())


def _line(item: str | ClusterError) -> str:
    if isinstance(item, ClusterError):
        raise item
    return item


def _prefixed(stage: str, pod: StagePod, lines: Iterator[str]) -> Iterator[str]:
    return (f"{stage}/{pod.shard}: {line}" for line in lines)


def _stage_of(iteration: FeedbackIteration, stage: str) -> StageStatus:
    names = [one.name for one in stages_of(iteration.spec)]
    if stage not in names:
        raise ClusterError(f"there is no stage {stage}; the stages are {', '.join(names)}")
    found = next((one for one in iteration.status.stages if one.name == stage), None)
    return found or StageStatus(name=stage, state="Waiting", message="the operator has not looked at it yet")


def _job_of(iteration: FeedbackIteration, stage: str) -> str:
    """Name of the stage's latest Job. Raises ClusterError where there was none yet."""
    found = _stage_of(iteration, stage)
    if not found.job:
        raise ClusterError(
            f"stage {stage} of {iteration.metadata.name} has not begun: {found.message or 'it is not its turn'}"
        )
    return found.job
