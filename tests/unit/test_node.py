"""The pure parts of the tests' node."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.node import oci, prerequisites


def test_an_archive_is_what_the_image_specification_wants(tmp_path: Path) -> None:
    program = tmp_path / "weed"
    program.write_bytes(b"\x7fELF program")
    oci.archive("docker.io/owner/name:1", program, tmp_path / "image.tar")
    with tarfile.open(tmp_path / "image.tar") as archive:
        files = {entry.name: read(archive, entry) for entry in archive}
    blobs = {name.removeprefix("blobs/sha256/"): data for name, data in files.items() if name.startswith("blobs")}
    assert all(hashlib.sha256(data).hexdigest() == name for name, data in blobs.items())

    def follow(reference: dict[str, Any]) -> bytes:
        data = blobs[reference["digest"].removeprefix("sha256:")]
        assert len(data) == reference["size"]
        return data

    [named] = json.loads(files["index.json"])["manifests"]
    assert named["annotations"] == {oci.NAME_ANNOTATION: "docker.io/owner/name:1"}
    manifest = json.loads(follow(named))
    config = json.loads(follow(manifest["config"]))
    [layer] = manifest["layers"]
    assert config["rootfs"]["diff_ids"] == [layer["digest"]]
    assert config["config"]["Entrypoint"] == ["/weed"]
    with tarfile.open(fileobj=io.BytesIO(follow(layer))) as content:
        [entry] = content
        assert (entry.name, entry.mode, read(content, entry)) == ("weed", 0o755, b"\x7fELF program")


def read(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(entry)
    assert file
    return file.read()


@pytest.mark.parametrize(
    ("lacks", "sentence"),
    [
        pytest.param({"platform.system": lambda: "Darwin"}, "a node needs Linux, and this is Darwin", id="system"),
        pytest.param({"os.geteuid": lambda: 1000}, "a node needs root, and this is user 1000", id="user"),
        pytest.param({"missing_packages": lambda: ["runc"]}, "run `make cluster-packages`, or install runc", id="runc"),
        pytest.param({"_free_gb": lambda _: 3}, "has 3 GB free and the node with its images takes 30 GB", id="disk"),
        pytest.param({"_kernel_has": lambda name: name != "overlay"}, "the kernel lacks overlayfs", id="kernel"),
    ],
)
def test_what_is_missing_is_said_in_one_sentence(
    lacks: dict[str, Any], sentence: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = {
        "platform.system": lambda: "Linux",
        "os.geteuid": lambda: 0,
        "missing_packages": list,
        "_free_gb": lambda _: 100,
        "_kernel_has": lambda _: True,
        "LINK": ("no-such-link", "no-such-link"),
    }
    for name, value in {**whole, **lacks}.items():
        monkeypatch.setattr(f"{prerequisites.__name__}.{name}", value)
    [said] = prerequisites.lacking(tmp_path)
    assert sentence in said
