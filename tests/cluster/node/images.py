"""Images on the node without a registry: written here, or built by buildah, and imported into containerd."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.cluster.binaries import ROOT, directory
from tests.cluster.node import oci
from tests.cluster.node.places import Places
from tests.cluster.node.settings import PAUSE_IMAGE

REGISTRY: Final = "docker.io"
"""What an image's name means that names none."""
BASE_SCRIPT: Final = ROOT / "images/base"
BASE: Final = f"localhost/feedback-operator/base:{hashlib.sha256(BASE_SCRIPT.read_bytes()).hexdigest()[:12]}"
IMAGES: Final = (
    "feedback-operator/operator:0.1.0",
    "feedback-operator/train:0.1.0",
    "feedback-operator/generate:0.1.0-cpu",
)
FAST: Final = ("--compression-format", "zstd", "--compression-level", "1")
"""A quarter of the time that gzip takes."""
S3_SERVER: Final = "chrislusf/seaweedfs:4.40"
"""As examples/quickstart/s3.yaml names it."""


def import_programs(places: Places) -> None:
    """The images that need nothing built: what holds a pod open, DNS, and the S3 server."""
    binaries = directory(("coredns", "pause"))
    weed = shutil.which("weed", path=str(ROOT / ".venv/bin"))
    assert weed, "make .venv/.ready installs weed"
    for name, program in {
        PAUSE_IMAGE: binaries / "pause",
        f"{REGISTRY}/feedback-operator/coredns:test": binaries / "coredns",
        f"{REGISTRY}/{S3_SERVER}": Path(weed),
    }.items():
        file = places.root / f"{program.name}.tar"
        oci.archive(name, program, file)
        with file.open("rb") as archive:
            subprocess.run(_import(places), stdin=archive, check=True, capture_output=True)
        file.unlink()


@dataclass(frozen=True)
class Workshop:
    """Where images are built: buildah's storage, and a layout that containerd takes them from."""

    root: Path = ROOT / "build/images"

    @property
    def layout(self) -> Path:
        return self.root / "layout"

    @property
    def environment(self) -> Mapping[str, str]:
        """For buildah: everything below `root`, and no capability that root may lack."""
        storage = self.root / "storage.conf"
        temporary = self.root / "tmp"
        temporary.mkdir(parents=True, exist_ok=True)
        storage.write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{self.root}/storage"\nrunroot = "{self.root}/run"\n'
        )
        return {
            **os.environ,
            "CONTAINERS_STORAGE_CONF": str(storage),
            "TMPDIR": str(temporary),
            "BUILDAH_ISOLATION": "chroot",
            "BUILDAH_LAYERS": "true",
        }

    def build(self) -> None:
        """The operator's image and those of the stages, for a node without GPUs, from the sources as they are."""
        given = {**self.environment, "ENGINE": "buildah", "VARIANT": "cpu", "BASE": BASE}
        if subprocess.run(["buildah", "inspect", BASE], env=given, check=False, capture_output=True).returncode:
            subprocess.run([BASE_SCRIPT, BASE], env=given, check=True)
        subprocess.run([ROOT / "images/build", "operator", "train", "generate"], env=given, check=True)
        for name in IMAGES:
            push = ["buildah", "push", "--quiet", *FAST, f"localhost/{name}", f"oci:{self.layout}:{name}"]
            subprocess.run(push, env=given, check=True)

    def deliver(self, places: Places) -> None:
        """Import the images, but for layers that the node has already."""
        index = self._tidy()
        kept = places.root / "containerd/io.containerd.content.v1.content/blobs/sha256"
        with subprocess.Popen(_import(places), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as importing:
            assert importing.stdin
            with tarfile.open(fileobj=importing.stdin, mode="w|") as stream:
                for blob in sorted((self.layout / "blobs/sha256").iterdir()):
                    if not (kept / blob.name).exists():
                        stream.add(blob, f"blobs/sha256/{blob.name}")
                oci.add(stream, "index.json", json.dumps(index).encode())
                stream.add(self.layout / "oci-layout", "oci-layout")
        if importing.returncode:
            raise subprocess.CalledProcessError(importing.returncode, importing.args)

    def _tidy(self) -> dict[str, Any]:
        """Remove what older builds left in the layout; its index, with the names that containerd is to use."""
        index: dict[str, Any] = json.loads((self.layout / "index.json").read_text())
        named = [manifest for manifest in index["manifests"] if "annotations" in manifest]
        (self.layout / "index.json").write_text(json.dumps({**index, "manifests": named}))
        blobs = self.layout / "blobs/sha256"
        used = {manifest["digest"] for manifest in named}
        for digest in tuple(used):
            manifest = json.loads((blobs / digest.removeprefix("sha256:")).read_text())
            used |= {part["digest"] for part in (manifest["config"], *manifest["layers"])}
        for blob in blobs.iterdir():
            if f"sha256:{blob.name}" not in used:
                blob.unlink()
        for manifest in named:
            name = manifest["annotations"]["org.opencontainers.image.ref.name"]
            manifest["annotations"] = {oci.NAME_ANNOTATION: f"{REGISTRY}/{name}"}
        return {**index, "manifests": named}

    def clean(self) -> None:
        """Remove everything that was built."""
        if self.root.exists():
            subprocess.run(["buildah", "rm", "--all"], env=self.environment, check=True, capture_output=True)
            subprocess.run(
                ["buildah", "rmi", "--all", "--force"], env=self.environment, check=True, capture_output=True
            )
            shutil.rmtree(self.root)


def _import(places: Places) -> list[str]:
    return ["ctr", "--address", str(places.socket), "--namespace", "k8s.io", "images", "import", "-"]
