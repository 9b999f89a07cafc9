"""Builds the shapes world: two models, instructions and a benchmark, each an artifact of its own, from one seed.

What is published already is not built again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from copy import deepcopy
from io import BytesIO
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import Empty
from typing import TYPE_CHECKING, Any, Final, Literal

from feedback_workloads.contract import BadInput, FileEntry, Manifest, ShapesConfig, canonical_json
from feedback_workloads.shapes.world import Row, Split, png, rows
from feedback_workloads.storage.objects import Digest

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration

    from feedback_workloads.process.progress import Progress
    from feedback_workloads.shapes.courses import Course, Curriculum
    from feedback_workloads.shapes.part import Part
    from feedback_workloads.storage.artifacts import ArtifactStore

FORMAT_VERSION: Final = 6
"""Raise it when the same seed gives other artifacts."""

INSTRUCTIONS: Final = 800
"""Of one iteration; every artifact of instructions has others."""
ITERATIONS: Final = 4
SELECTION: Final = 200
REPORT: Final = 400
MODELS: Final = ("policy", "labeler")
LABELERS: Final = ("labeler-claims", "labeler-weak", "policy-labeler")
"""For ablations: one that was never asked about more than one claim, one that does not look closely, and a policy that
is its own."""
PROCESSES: Final = 2
"""How many learn as one. It is fixed, so that the same seed gives the same models wherever they are built."""
HUGGINGFACE: Final = b'{"info": {"features": {"image": {"_type": "Image"}}}}'
"""So that datasets.load_dataset decodes the pictures."""


def run(config: ShapesConfig, store: ArtifactStore, progress: Progress) -> None:
    """Publish models, instructions of each iteration and of all together, and the benchmark, below `config.output`.

    Raises BadInput where one of them is there from another seed or version, and where this seed's policy does not
    learn what it should.
    """
    names = (*MODELS, *(LABELERS if config.labelers else ()))
    missing = [name for name in (*names, *_instructions(), "benchmark") if not _is_there(config, store, name)]
    if asked := {name: part for name, part in _instructions().items() if name in missing}:
        questions = rows(config.seed, "instructions", INSTRUCTIONS * ITERATIONS)
        for name, part in asked.items():
            _publish_rows(config, store, name, questions[part])
    if "benchmark" in missing:
        splits: dict[Split, int] = {"selection": SELECTION, "report": REPORT}
        questions = [row for split, count in splits.items() for row in rows(config.seed, split, count)]
        _publish_rows(config, store, "benchmark", questions)
    if models := [name for name in names if name in missing]:
        with tempfile.TemporaryDirectory(prefix="shapes-") as folder:
            from feedback_workloads.shapes.courses import COURSES, SEEING, Curriculum

            curriculum = Curriculum(config.seed, SEEING, {name: COURSES[name] for name in models})
            train(curriculum, Path(folder), progress)
            progress.phase("publishing the models")
            for name in models:
                files = store.upload_folder(Path(folder) / name, f"{config.output}/{name}")
                _publish(config, store, name, files)


def _instructions() -> dict[str, slice]:
    """The artifacts of instructions, and which of a seed's instructions each holds."""
    parts = {f"instructions-{i + 1}": slice(i * INSTRUCTIONS, (i + 1) * INSTRUCTIONS) for i in range(1, ITERATIONS)}
    several = {"instructions-half": slice(ITERATIONS // 2 * INSTRUCTIONS), "instructions-all": slice(None)}
    return {"instructions": slice(INSTRUCTIONS), **parts, **several}


def train(curriculum: Curriculum, folder: Path, progress: Progress) -> None:
    """Train the models of a curriculum into `folder`/name, by PROCESSES that learn as one.

    Raises BadInput where a model does not pass its examination, RuntimeError where a process dies.
    """
    import torch

    from feedback_workloads.shapes.models import new_model
    from feedback_workloads.shapes.part import Meeting, Part

    spawn = torch.multiprocessing.get_context("spawn")
    parameters = sum(weight.numel() for weight in new_model(curriculum.seed).parameters())
    meeting = Meeting(torch.zeros(PROCESSES, parameters).share_memory_(), spawn.Barrier(PROCESSES))
    news: Any = spawn.Queue()
    parts = [Part(rank, PROCESSES, meeting) for rank in range(PROCESSES)]
    processes = [spawn.Process(target=learn_part, args=(part, curriculum, folder, news), daemon=True) for part in parts]
    progress.phase(f"training {' and '.join(curriculum.courses)}")
    progress.start(curriculum.steps)
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes) and not _died(processes):
        with suppress(Empty):
            _tell(progress, news.get(timeout=0.5))
    if dead := _died(processes):
        for process in processes:
            process.kill()  # the others wait for it
            process.join()
        raise RuntimeError(f"training of the shapes models ended with exit code {dead[0]}")
    with suppress(Empty):
        while True:
            _tell(progress, news.get_nowait())


def _tell(progress: Progress, news: tuple[Literal["done", "added"], int] | str) -> None:
    """Count steps; raise BadInput where the news is why a model cannot be had."""
    match news:
        case "done", steps:
            progress.advance(steps)
        case "added", steps:
            progress.extend(steps)
        case failing:
            raise BadInput(str(failing))


def _died(processes: Sequence[BaseProcess]) -> list[int]:
    """Exit codes of processes that did not end well."""
    return [process.exitcode for process in processes if process.exitcode]


def learn_part(part: Part, curriculum: Curriculum, folder: Path, news: Any) -> None:
    """Do one process's part of `train`. The first one tells of its steps in `news`, and saves the models."""
    import torch

    from feedback_workloads.shapes.learning import NotLearned, study
    from feedback_workloads.shapes.models import new_model, save

    def tell(item: object) -> None:
        if part.rank == 0:
            news.put(item)

    def learned(model: LlavaForConditionalGeneration, course: Course) -> LlavaForConditionalGeneration:
        study(
            model,
            course,
            curriculum.seed,
            lambda: tell(("done", 1)),
            prolonged=lambda steps: tell(("added", steps)),
            part=part,
        )
        return model

    torch.set_num_threads(1)
    try:
        model = learned(new_model(curriculum.seed), curriculum.seeing)
        for name, course in curriculum.courses.items():
            finished = learned(deepcopy(model), course)
            if part.rank == 0:
                save(finished, folder / name)
    except NotLearned as failing:
        tell(str(failing))


def write_rows(questions: Iterable[Row]) -> bytes:
    """A parquet file as Hugging Face `datasets` writes it: id, image, question, truth, split."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    image = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
    text = [pa.field(name, pa.string(), nullable=False) for name in ("question", "truth", "split")]
    schema = pa.schema([pa.field("id", pa.string(), nullable=False), pa.field("image", image), *text])
    data = [
        {
            "id": row.id,
            "image": {"bytes": png(row.scene), "path": f"{row.id}.png"},
            "question": row.question,
            "truth": row.scene.truth,
            "split": row.id.rpartition("-")[0],
        }
        for row in questions
    ]
    buffer = BytesIO()
    table = pa.Table.from_pylist(data, schema.with_metadata({b"huggingface": HUGGINGFACE}))
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _publish_rows(config: ShapesConfig, store: ArtifactStore, name: str, questions: Sequence[Row]) -> None:
    file = store.put(write_rows(questions), f"{config.output}/{name}", "data.parquet", rows=len(questions))
    _publish(config, store, name, (file,))


def _publish(config: ShapesConfig, store: ArtifactStore, name: str, files: Sequence[FileEntry]) -> None:
    identity = _identity(config, name)
    manifest = Manifest(
        stage="shapes",
        config=identity,
        config_hash=Digest.of(canonical_json(identity)).sha256,
        files=tuple(files),
        counts={"rows": sum(file.rows or 0 for file in files), "rejected": 0},
    )
    store.publish(f"{config.output}/{name}", manifest)


def _is_there(config: ShapesConfig, store: ArtifactStore, name: str) -> bool:
    uri = f"{config.output}/{name}"
    found = store.find(uri)
    if found and found[0].config != _identity(config, name):
        raise BadInput(
            f"{uri} was built from {found[0].config}, not from {_identity(config, name)}; "
            "build this seed into another folder (feedback shapes --to URI)"
        )
    return found is not None


def _identity(config: ShapesConfig, name: str) -> dict[str, Any]:
    return {"artifact": name, "seed": config.seed, "format_version": FORMAT_VERSION}
