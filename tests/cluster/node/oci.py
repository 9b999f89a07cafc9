"""An image of one statically linked program, written without any tool: https://github.com/opencontainers/image-spec."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any, Final

MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
CONFIG: Final = "application/vnd.oci.image.config.v1+json"
LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
NAME_ANNOTATION: Final = "io.containerd.image.name"


def archive(name: str, program: Path, file: Path) -> None:
    """Write an OCI archive of an image `name` that has the program at its root and nothing else."""
    with tarfile.open(file, "w") as into:

        def blob(data: bytes, media_type: str) -> dict[str, Any]:
            digest = hashlib.sha256(data).hexdigest()
            add(into, f"blobs/sha256/{digest}", data)
            return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

        layer = blob(_layer(program.name, program.read_bytes()), LAYER)
        settings = {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": [f"/{program.name}"], "Env": ["PATH=/"], "User": "65532:65532"},
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
        }
        config = blob(_json(settings), CONFIG)
        manifest = blob(
            _json({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]}), MANIFEST
        )
        named = {**manifest, "annotations": {NAME_ANNOTATION: name}}
        add(into, "index.json", _json({"schemaVersion": 2, "manifests": [named]}))
        add(into, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))


def _layer(name: str, program: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        add(layer, name, program, mode=0o755)
    return buffer.getvalue()


def add(archive: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644) -> None:
    """Put a file into an archive."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    archive.addfile(entry, io.BytesIO(data))


def _json(data: dict[str, Any]) -> bytes:
    return json.dumps(data, sort_keys=True).encode()
