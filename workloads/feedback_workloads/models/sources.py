"""Models as people name them, as folders that transformers and vLLM load.

What is published in the layout of the first LLaVA is converted once, into an artifact that every later stage, trainer
and server reads in its place.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path
from typing import Any, Final

from feedback_workloads.contract import Artifact, Manifest, Source, canonical_json
from feedback_workloads.models import llava_llama
from feedback_workloads.process.versions import versions
from feedback_workloads.storage import lease
from feedback_workloads.storage.artifacts import ArtifactStore
from feedback_workloads.storage.objects import Digest, join

ADDRESS: Final = re.compile(r"^(?P<root>.+?)/[a-z]+/[0-9a-f]{64}(/.*)?$")
"""`<spec.artifacts.uri>/<stage>/<hash>`, and what lies below."""

CONVERTED: Final = "models"
"""Folder of converted models, beside those of stages."""


def fetch(store: ArtifactStore, source: Source, near: str, say: Callable[[str], None]) -> Path:
    """Return a local folder with the model that `source` names, or with what it was converted into.

    Conversions lie with the artifacts that `near` is one of, `<root>/models/<hash>/model`, where whoever is first makes
    them while others wait; `near` anything else, in this machine's cache. Of a model that is converted already, the
    original is not downloaded. `say` is told what goes on. Raises as `ArtifactStore` does, and BadInput for a model of
    that layout that cannot be converted.
    """
    folder = _address(store, source, near)
    model = join(folder, "model")
    if found := store.find(model):
        return store.download(found[1])
    original = store.download(source)
    if not llava_llama.recognises(original):
        return original
    with lease.held(store, folder, say) as own:
        found = own.find(model)  # another process may have made it while this one waited for its turn
        made = found[1] if found else _convert(own, source, original, model, say)
    return store.download(made)


def _convert(store: ArtifactStore, source: Source, original: Path, model: str, say: Callable[[str], None]) -> Artifact:
    say("converting the model")
    tower = store.download(Source(uri=llava_llama.tower_uri(original)))
    with tempfile.TemporaryDirectory(prefix="feedback-model-") as work:
        llava_llama.convert(original, tower, Path(work), source.uri)
        files = store.upload_folder(Path(work), model)
    identity = _identity(store, source)
    manifest = Manifest(
        stage=CONVERTED,
        config=identity,
        config_hash=Digest.of(canonical_json(identity)).sha256,
        files=files,
        counts={"rows": 0, "rejected": 0},
        versions=versions(),
    )
    return store.publish(model, manifest)


def _address(store: ArtifactStore, source: Source, near: str) -> str:
    address = ADDRESS.match(near)
    root = address["root"] if address else str(store.cache)
    return f"{root}/{CONVERTED}/{Digest.of(canonical_json(_identity(store, source))).sha256}"


def _identity(store: ArtifactStore, source: Source) -> dict[str, Any]:
    """What a conversion is made from: the digest or revision that is asked for, or the files as they are listed."""
    listed = []
    if source.sha256 is None and not source.uri.startswith("hf://"):
        listed = [list(astuple(file)) for file in store.objects(source.uri).list(source.uri)]
    return {
        "layout": llava_llama.TYPES[0],
        "format_version": llava_llama.FORMAT_VERSION,
        "source": source.model_dump(mode="json"),
        "files": listed,
    }
