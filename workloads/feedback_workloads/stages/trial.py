"""Tries out what the pods of stages would use: the store of artifacts, models, data, the hub, shared memory.

`python -m feedback_workloads.stages.trial JSON`, with a `TrialOrder`, leaves a `TrialReport` as termination message.
`feedback doctor` runs it in a pod that is like those of the stages.
"""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from feedback_workloads.contract import (
    RESULT_LIMIT_BYTES,
    BadInput,
    Look,
    Source,
    Temporary,
    TrialOrder,
    TrialReport,
)
from feedback_workloads.stages.entry import TERMINATION_LOG_VARIABLE
from feedback_workloads.storage.artifacts import ArtifactStore
from feedback_workloads.storage.objects import Absent, Objects, join

Result = TypeVar("Result")

HUB: Final = "https://huggingface.co"
HUB_SECONDS: Final = 20
SHARED_MEMORY: Final = Path("/dev/shm")
SENTENCE_LIMITS: Final = (600, 300, 150, 60)
"""Of each sentence, in characters; the first with which all of them fit into a termination message."""
FEW_ATTEMPTS: Final = "2"
"""A person waits for the answer; a stage is more patient."""
FIRST, SECOND = b"first", b"second"


def tried(order: TrialOrder, store: ArtifactStore) -> TrialReport:
    """Try all of it; whatever is wrong is in the report."""
    space = os.statvfs(SHARED_MEMORY)
    return TrialReport(looks=tuple(_looks(order, store)), shared_memory_bytes=space.f_blocks * space.f_frsize)


def _looks(order: TrialOrder, store: ArtifactStore) -> Iterator[Look]:
    if order.artifacts:
        folder = join(order.artifacts, f"doctor/{uuid.uuid4().hex}")
        problem = _problem(partial(use, store.objects(folder), folder))
        yield Look(what=f"artifacts {order.artifacts}", problem=problem)
        if not problem:
            told = _problem(partial(compare, store.objects(folder), folder))
            yield Look(what=f"conditional writes to {order.artifacts}", problem=told, severe=False)
    for model in order.models:
        problem, size = _tried(partial(_look_at, store, model))
        yield Look(what=f"model {model.uri}", problem=problem, bytes=size or 0)
    for data in order.data:
        yield Look(what=f"data {data.uri}", problem=_problem(partial(store.size, data)))
    if order.hub:
        yield Look(what="hub", problem=_problem(_hub_answers), severe=False)


def use(objects: Objects, folder: str) -> None:
    """Write below `folder`, read, list and delete, as stages do. Raises BadInput or Temporary where one cannot be."""
    uri = join(folder, "trial")
    objects.write(uri, FIRST)
    try:
        if objects.read(uri) != FIRST:
            raise BadInput(f"{uri} was read otherwise than it was written; use another store")
        if [one.name for one in objects.list(folder)] != ["trial"]:
            raise BadInput(f"{folder} does not list what was written to it; use a store that lists at once")
    finally:
        objects.delete(uri)
    try:
        objects.read(uri)
    except Absent:
        return
    raise BadInput(f"{uri} is still there after it was deleted; allow s3:DeleteObject")


def compare(objects: Objects, folder: str) -> None:
    """Raises BadInput where the store passes over the conditions of a write, by which trainings keep apart."""
    uri = join(folder, "condition")
    try:
        heeded = objects.create(uri, FIRST) and not objects.create(uri, SECOND) and objects.heeds_conditions(uri)
    finally:
        objects.delete(uri)
    if not heeded:
        raise BadInput(
            "the store knows no conditional writes (If-None-Match), so two trainings of one address may begin "
            "together; use a newer version of the store, or run one training of an address at a time"
        )


def _look_at(store: ArtifactStore, model: Source) -> int:
    """Bytes of the model, once its files without weights were read: of a gated one, the list alone is open to all."""
    store.download(model, weights=False)
    return store.size(model)


def _hub_answers() -> None:
    hub = os.environ.get("HF_ENDPOINT") or HUB
    try:
        with urllib.request.urlopen(f"{hub}/api/models?limit=1", timeout=HUB_SECONDS):
            pass
    except (urllib.error.URLError, OSError) as error:
        raise Temporary(
            f"the hub {hub} does not answer ({' '.join(str(error).split())}); let the pods reach it, set HTTPS_PROXY "
            "or HF_ENDPOINT, or put models on S3"
        ) from error


def _problem(attempt: Callable[[], object]) -> str:
    """What is wrong in a sentence; empty where nothing is."""
    return _tried(attempt)[0]


def _tried(attempt: Callable[[], Result]) -> tuple[str, Result | None]:
    """What is wrong in a sentence, or what came of it."""
    try:
        return "", attempt()
    except Absent as error:
        return f"there is no {error}; check the URI", None
    except (BadInput, Temporary, OSError) as error:
        return " ".join(str(error).split()), None


def fitted(report: TrialReport) -> str:
    """The report as JSON that fits into a termination message."""
    for limit in SENTENCE_LIMITS:
        looks = tuple(look.model_copy(update={"problem": look.problem[:limit]}) for look in report.looks)
        text = report.model_copy(update={"looks": looks}).model_dump_json()
        if len(text.encode()) <= RESULT_LIMIT_BYTES:
            return text
    wrong = tuple(look for look in looks if look.problem)[:10]
    return report.model_copy(update={"looks": wrong}).model_dump_json()


def main(arguments: Sequence[str] | None = None) -> int:
    """Try what the order says, and leave the report; 0 whatever it says."""
    [text] = sys.argv[1:] if arguments is None else arguments
    os.environ.setdefault("AWS_MAX_ATTEMPTS", FEW_ATTEMPTS)
    report = fitted(tried(TrialOrder.model_validate_json(text), ArtifactStore.from_environment()))
    Path(os.environ.get(TERMINATION_LOG_VARIABLE, "/dev/termination-log")).write_text(report)
    sys.stdout.write(report + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
