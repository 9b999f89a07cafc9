"""Builds the shapes world: two models, instructions and a benchmark, each an artifact of its own, from one seed.

What is published already is not built again. The two models learn side by side, each in a process of its own.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from queue import Empty
from typing import TYPE_CHECKING, Any, Final

from feedback_workloads.contract import BadInput, FileEntry, Manifest, ShapesConfig, canonical_json
from feedback_workloads.objects import Digest
from feedback_workloads.shapes.world import Row, Split, png, rows

if TYPE_CHECKING:
    from feedback_workloads.artifacts import ArtifactStore
    from feedback_workloads.progress import Progress

FORMAT_VERSION: Final = 2
"""Raise it when the same seed gives other artifacts."""

INSTRUCTIONS: Final = 400
SELECTION: Final = 200
REPORT: Final = 400
MODELS: Final = ("policy", "labeler")
HUGGINGFACE: Final = b'{"info": {"features": {"image": {"_type": "Image"}}}}'
"""So that datasets.load_dataset decodes the pictures."""


def run(config: ShapesConfig, store: ArtifactStore, progress: Progress) -> None:
    """Publish `policy`, `labeler`, `instructions` and `benchmark` below `config.output`.

    Raises BadInput where one of them is there from another seed or version.
    """
    missing = [name for name in (*MODELS, "instructions", "benchmark") if not _is_there(config, store, name)]
    if "instructions" in missing:
        _publish_rows(config, store, "instructions", rows(config.seed, "instructions", INSTRUCTIONS))
    if "benchmark" in missing:
        splits: dict[Split, int] = {"selection": SELECTION, "report": REPORT}
        questions = [row for split, count in splits.items() for row in rows(config.seed, split, count)]
        _publish_rows(config, store, "benchmark", questions)
    if models := [name for name in MODELS if name in missing]:
        with tempfile.TemporaryDirectory(prefix="shapes-") as folder:
            train(models, config.seed, Path(folder), progress)
            progress.phase("publishing the models")
            for name in models:
                files = store.upload_folder(Path(folder) / name, f"{config.output}/{name}")
                _publish(config, store, name, files)


def train(models: Sequence[str], seed: int, folder: Path, progress: Progress) -> None:
    """Train the named models side by side into `folder`/name. Raises RuntimeError where a process of theirs dies."""
    spawn = multiprocessing.get_context("spawn")
    steps: Any = spawn.Queue()
    processes = [
        spawn.Process(target=learn_alone, args=(name, seed, folder / name, steps), daemon=True) for name in models
    ]
    progress.phase(f"training {' and '.join(models)}")
    for process in processes:
        process.start()
    total = done = 0
    while any(process.is_alive() for process in processes):
        try:
            announced = steps.get(timeout=0.5)
        except Empty:
            continue
        total, done = total + announced, done + (announced == 0)
        progress.start(total, done)
    if dead := [process.exitcode for process in processes if process.exitcode]:
        raise RuntimeError(f"training of the shapes models ended with exit code {dead[0]}")


def learn_alone(name: str, seed: int, folder: Path, steps: Any) -> None:
    """Train one model on one thread: first to see, then what makes it a policy or a labeler. Runs in its own process.

    `steps` receives the number of steps to come, and then a 0 for each that is done.
    """
    import torch

    from feedback_workloads.shapes.models import CARELESSNESS, COMPARING, SEEING, learn, new_model, save

    torch.set_num_threads(1)
    courses = (SEEING, CARELESSNESS if name == "policy" else COMPARING)
    steps.put(sum(course.steps for course in courses))
    model = new_model(seed)
    for course in courses:
        learn(model, course, seed, lambda: steps.put(0))
    save(model, folder)


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
            "build this seed into another folder (feedback shapes --to URI), or delete that one"
        )
    return found is not None


def _identity(config: ShapesConfig, name: str) -> dict[str, Any]:
    return {"artifact": name, "seed": config.seed, "format_version": FORMAT_VERSION}
