"""Models as people name them, as folders that transformers and vLLM load.

What is published in a layout of its own is converted once, and an adapter is merged once, into an artifact that every
later stage, trainer and server reads in its place.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import astuple
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

from feedback_workloads.contract import Artifact, BadInput, Manifest, Model, Source, canonical_json
from feedback_workloads.models import adapters, llava_llama
from feedback_workloads.models.family import Config
from feedback_workloads.models.omnilmm import conversion as omnilmm
from feedback_workloads.process.versions import versions
from feedback_workloads.storage import lease
from feedback_workloads.storage.artifacts import ArtifactStore
from feedback_workloads.storage.objects import Digest, join

ADDRESS: Final = re.compile(r"^(?P<root>.+?)/[a-z]+/[0-9a-f]{64}(/.*)?$")
"""`<spec.artifacts.uri>/<stage>/<hash>`, and what lies below."""

FORMAT_VERSION: Final = 1
"""Raise it when other files are made of the same model."""


class Layout(Protocol):
    """A module that makes models in the layout of their first publication ones that transformers and vLLM load."""

    def recognises(self, folder: Path) -> bool:
        """Whether the model in `folder` is of this layout."""
        ...

    def check_kind(self, config: Config, uri: str) -> None:
        """Raise BadInput where a model of this config.json cannot be converted; `uri` is its name for people."""
        ...

    def converter(self, folder: Path, download: Callable[[str], Path], uri: str) -> Callable[[Path], None]:
        """What writes the model in `folder` to another; `download` has the folder of whatever else it is made of.

        It raises BadInput for what cannot be converted, before anything is written.
        """
        ...


LAYOUTS: Final[tuple[Layout, ...]] = (llava_llama, omnilmm)

MADE: Final = "models"
"""Folder of models that were made of others, beside those of stages."""


def fetch(store: ArtifactStore, source: Source, near: str, say: Callable[[str], None], *, merged: bool = True) -> Path:
    """Return a local folder with the model that `source` names, or with what was made of it.

    An adapter is merged into its base, unless `merged` is false: then it stays one. What is made lies with the
    artifacts that `near` is one of, as `<root>/models/<hash>/model`, where whoever is first makes it while others wait;
    `near` anything else, in this machine's cache. Of what is made already, the original is not downloaded. `say` is
    told what goes on. Raises as `ArtifactStore` does, and BadInput for what cannot be converted or merged.
    """
    identity = _identity(store, source)
    folder = join(root_of(store, near), f"{MADE}/{_digest(identity)}")
    model = join(folder, "model")
    if merged and (found := store.find(model)):
        return store.download(found[1])
    original = store.download(source)
    if layout := _layout(original):
        write = layout.converter(original, lambda uri: store.download(Source(uri=uri)), source.uri)
        said = "converting the model"
    elif merged and adapters.recognises(original):
        other = fetch(store, base_of(store, source, original), near, say)
        said, write = "merging the adapter", partial(adapters.merge, other, original)
    else:
        return original
    with lease.held(store, folder, say) as own:
        found = own.find(model)  # another process may have made it while this one waited for its turn
        if found is None:
            say(said)
        made = found[1] if found else _publish(own, identity, model, write)
    return store.download(made)


def described(store: ArtifactStore, source: Source) -> Path | None:
    """A folder that says which model `source` will be, without its weights: of an adapter, that of its base.

    None of a model of one of `LAYOUTS`, which has such a folder once it is converted; raises BadInput where it will not
    be.
    """
    folder = store.download(source, weights=False)
    if adapters.recognises(folder):
        return described(store, base_of(store, source, folder))
    if layout := _layout(folder):
        layout.check_kind(json.loads((folder / "config.json").read_text()), source.uri)
        return None
    return folder


def _layout(folder: Path) -> Layout | None:
    """The layout of its own that the model in `folder` is of, if any."""
    return next((layout for layout in LAYOUTS if layout.recognises(folder)), None)


def base_of(store: ArtifactStore, source: Source, adapter: Path) -> Source:
    """The model that an adapter belongs to: what it was trained from here, or what it names."""
    try:
        trained = store.manifest(source).config.get("model")
    except BadInput:  # it is nobody's artifact
        trained = None
    return Model.model_validate(trained) if trained else Source(uri=adapters.base_uri(adapter))


def _publish(store: ArtifactStore, identity: Mapping[str, Any], model: str, write: Callable[[Path], None]) -> Artifact:
    """Have the model written, and publish it."""
    with tempfile.TemporaryDirectory(prefix="feedback-model-") as work:
        write(Path(work))
        files = store.upload_folder(Path(work), model)
    manifest = Manifest(
        stage=MADE,
        config=dict(identity),
        config_hash=_digest(identity),
        files=files,
        counts={"rows": 0, "rejected": 0},
        versions=versions(),
    )
    return store.publish(model, manifest)


def root_of(store: ArtifactStore, near: str) -> str:
    """`spec.artifacts.uri`, where `near` is an artifact below it; else this machine's cache."""
    address = ADDRESS.match(near)
    return address["root"] if address else str(store.cache)


def _digest(identity: Mapping[str, Any]) -> str:
    return Digest.of(canonical_json(identity)).sha256


def _identity(store: ArtifactStore, source: Source) -> dict[str, Any]:
    """What a model is made from: the digest or revision that is asked for, or the files as they are listed."""
    listed = []
    if source.sha256 is None and not source.uri.startswith("hf://"):
        listed = [list(astuple(file)) for file in store.objects(source.uri).list(source.uri)]
    return {
        "format_version": FORMAT_VERSION,
        "source": source.model_dump(mode="json", include=set(Source.model_fields)),
        "files": listed,
    }
