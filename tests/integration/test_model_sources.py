"""A model in another layout, on a real S3 server: converted there by the first who needs it, and read by all others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from feedback_workloads.contract import Source
from feedback_workloads.models.families import family_of
from feedback_workloads.models.llava import Llava
from feedback_workloads.models.sources import fetch
from feedback_workloads.storage.artifacts import ArtifactStore
from tests.models import original_llava as published

from .conftest import S3

HASH: Final = "0123456789abcdef" * 4


def test_nobody_downloads_the_original_again(s3: S3, tmp_path: Path) -> None:
    """A pod that samples, and a server of a checkpoint elsewhere; the tower lies on S3, too."""
    original = published.write(tmp_path / "published", "bin").folder
    config = json.loads((original / "config.json").read_text())
    (original / "config.json").write_text(json.dumps({**config, "mm_vision_tower": f"{s3.uri}/tower"}))
    for folder in (original, original.parent / "tower"):
        s3.store.upload_folder(folder, f"{s3.uri}/{folder.name}")
    source, said = Source(uri=f"{s3.uri}/original"), list[str]()
    near = [f"{s3.uri}/artifacts/sampling/{HASH}", f"{s3.uri}/artifacts/training/{HASH}/checkpoint-000002"]
    stores = [ArtifactStore(tmp_path / name) for name in ("pod", "server")]
    pod, server = (fetch(store, source, uri, said.append) for store, uri in zip(stores, near, strict=True))
    assert said == ["converting the model"]
    assert type(family_of(server)) is Llava
    assert {file.name: file.read_bytes() for file in pod.iterdir()} == {
        file.name: file.read_bytes() for file in server.iterdir()
    }
    kept = {store.cache: {file.name for file in store.cache.iterdir() if file.is_dir()} for store in stores}
    assert kept[stores[1].cache] == {server.name}
    assert len(kept[stores[0].cache]) == 3, "original, tower, and what became of them"
