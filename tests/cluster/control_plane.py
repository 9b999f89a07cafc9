"""etcd, kube-apiserver, kube-controller-manager, kube-scheduler and KWOK on loopback, in a folder of their own."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import secrets
import signal
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from feedback_operator.cluster.local.ports import free_ports
from tests.cluster.binaries import directory

GARBAGE: Final = "400"
"""Memory is to be had, processor time is not: collect garbage when there is five times as much as is used."""
READY_SECONDS: Final = 120.0
END_SECONDS: Final = 20.0
LOOK_SECONDS: Final = 0.05
NODE_ANNOTATION: Final = "kwok.x-k8s.io/node"
NODE_STAGES: Final = Path(__file__).parent / "node_stages.yaml"
LOOPBACK: Final = "127.0.0.1"
REAL_NODE: Final = "node"
"""Name of the one node that is real, where there is one."""
KUBELET: Final = f"system:node:{REAL_NODE}"
KUBE_PROXY: Final = "system:kube-proxy"

USERS: Final = {
    "admin": "system:masters",
    "system:kube-controller-manager": "system:masters",
    "system:kube-scheduler": "system:masters",
    "kwok": "system:masters",
    KUBELET: "system:nodes",
    KUBE_PROXY: "system:node-proxier",
}
"""Who has a token from the start, and in which group. Everybody else asks the API server for one."""


@dataclass(frozen=True)
class Options:
    """How a control plane differs from the plain one."""

    stages: Path = NODE_STAGES
    """KWOK's Stage resources: what happens to nodes and pods by itself."""
    audit: Literal["Request", "Metadata"] = "Request"
    """How much the audit log has of each write: with or without its body."""
    address: str = LOOPBACK
    """Where the API server is; pods reach it only if this is not loopback."""


class Program:
    """A process that writes to a log. It ends with this one, however this one ends."""

    def __init__(self, command: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None) -> None:
        self.name = Path(command[0]).name
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [str(word) for word in command],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_end_with_parent,  # noqa: PLW1509 one system call, of a library loaded before
            )

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Look until it is ready. Raises RuntimeError with the end of its log where it ends, or time does, before."""
        deadline = time.monotonic() + READY_SECONDS
        while not ready():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} is not ready after {READY_SECONDS:.0f} s:\n{self.tail()}")
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self.process.wait(LOOK_SECONDS)
                raise RuntimeError(f"{self.name} ended with code {code}:\n{self.tail()}")

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]

    def end(self) -> None:
        """SIGTERM, then SIGKILL; returns when the process is gone."""
        self.process.terminate()
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class ControlPlane:
    """A whole control plane, as a context manager. `kubeconfig` is the administrator's."""

    def __init__(self, folder: Path, options: Options = Options()) -> None:
        self.folder = folder
        self.options = options
        self.tokens = {user: secrets.token_hex(16) for user in USERS}
        self._programs: list[Program] = []

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    @property
    def kubeconfig(self) -> Path:
        return self.kubeconfig_for("admin", self.tokens["admin"])

    def kubeconfig_for(self, user: str, token: str, *, server: str | None = None, namespace: str = "default") -> Path:
        """A kubeconfig that shows this token, to the API server or to the proxy `server` in front of it."""
        cluster: dict[str, str] = {"server": server or self.url}
        if server is None:
            cluster["certificate-authority"] = str(self.certificate)
        named = user.replace(":", "-") + (f"-{server.rpartition(':')[2]}" if server else "")
        file = self.folder / "kubeconfigs" / f"{named}-{namespace}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "tests", "cluster": cluster}],
                    "users": [{"name": user, "user": {"token": token}}],
                    "contexts": [
                        {"name": "tests", "context": {"cluster": "tests", "user": user, "namespace": namespace}}
                    ],
                    "current-context": "tests",
                }
            )
        )
        return file

    @property
    def certificate(self) -> Path:
        """The API server's own certificate with the authority that signed it."""
        return self.folder / "certificates/apiserver.crt"

    @property
    def audit_log(self) -> Path:
        """One JSON event a line for each request of everybody but the control plane itself."""
        return self.folder / "audit.log"

    def pids(self) -> dict[str, int]:
        """Process of each program by its name, to measure it."""
        return {program.name: program.process.pid for program in self._programs}

    def _start(self) -> None:
        binaries = directory()
        etcd_port, peer_port, api_port, manager_port, scheduler_port, kwok_port = islice(free_ports(), 6)
        self.url = f"https://{self.options.address}:{api_port}"
        self._write_files()
        etcd = self._run(
            [
                binaries / "etcd",
                f"--data-dir={self.folder / 'etcd'}",
                f"--listen-client-urls=http://127.0.0.1:{etcd_port}",
                f"--advertise-client-urls=http://127.0.0.1:{etcd_port}",
                f"--listen-peer-urls=http://127.0.0.1:{peer_port}",
                f"--initial-advertise-peer-urls=http://127.0.0.1:{peer_port}",
                f"--initial-cluster=default=http://127.0.0.1:{peer_port}",
                "--unsafe-no-fsync",
                "--quota-backend-bytes=8589934592",
                "--log-level=warn",
            ]
        )
        etcd.wait_until(lambda: self._answers(f"http://127.0.0.1:{etcd_port}/readyz"))
        apiserver = self._run([binaries / "kube-apiserver", *self._apiserver_flags(etcd_port, api_port)])
        apiserver.wait_until(lambda: self._answers(f"{self.url}/readyz"))
        manager = self._run(
            [
                binaries / "kube-controller-manager",
                f"--kubeconfig={self._user_kubeconfig('system:kube-controller-manager')}",
                f"--service-account-private-key-file={self.folder / 'service-accounts.key'}",
                f"--root-ca-file={self.certificate}",
                f"--cert-dir={self.folder / 'manager'}",
                f"--secure-port={manager_port}",
                "--bind-address=127.0.0.1",
                "--leader-elect=false",
                "--node-monitor-grace-period=1h",
                "--kube-api-qps=2000",
                "--kube-api-burst=4000",
                "--concurrent-job-syncs=20",
                "--horizontal-pod-autoscaler-sync-period=1s",
                "--concurrent-gc-syncs=40",
            ]
        )
        scheduler = self._run(
            [
                binaries / "kube-scheduler",
                f"--kubeconfig={self._user_kubeconfig('system:kube-scheduler')}",
                f"--cert-dir={self.folder / 'scheduler'}",
                f"--secure-port={scheduler_port}",
                "--bind-address=127.0.0.1",
                "--leader-elect=false",
                "--kube-api-qps=2000",
                "--kube-api-burst=4000",
            ]
        )
        kwok = self._run(
            [
                binaries / "kwok",
                f"--kubeconfig={self._user_kubeconfig('kwok')}",
                f"--manage-nodes-with-annotation-selector={NODE_ANNOTATION}=fake",
                f"--config={self.options.stages}",
                f"--server-address=127.0.0.1:{kwok_port}",
                "--node-lease-duration-seconds=0",
            ]
        )
        manager.wait_until(lambda: self._answers(f"https://127.0.0.1:{manager_port}/healthz"))
        scheduler.wait_until(lambda: self._answers(f"https://127.0.0.1:{scheduler_port}/readyz"))
        kwok.wait_until(lambda: self._answers(f"http://127.0.0.1:{kwok_port}/healthz"))

    def _apiserver_flags(self, etcd_port: int, port: int) -> list[str]:
        return [
            f"--etcd-servers=http://127.0.0.1:{etcd_port}",
            f"--bind-address={self.options.address}",
            f"--advertise-address={self.options.address}",
            "--kubelet-preferred-address-types=InternalIP",
            # Pods have no way to loopback, so the Service `kubernetes` has no endpoints then.
            f"--endpoint-reconciler-type={'none' if self.options.address == LOOPBACK else 'lease'}",
            f"--secure-port={port}",
            f"--cert-dir={self.certificate.parent}",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.folder / 'service-accounts.pub'}",
            f"--service-account-signing-key-file={self.folder / 'service-accounts.key'}",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            "--authorization-mode=Node,RBAC",
            # A lost node's pods are evicted at once, not after five minutes.
            "--default-not-ready-toleration-seconds=1",
            "--default-unreachable-toleration-seconds=1",
            f"--audit-policy-file={self.folder / 'audit-policy.json'}",
            f"--audit-log-path={self.audit_log}",
        ]

    def _write_files(self) -> None:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        (self.folder / "service-accounts.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        (self.folder / "service-accounts.pub").write_bytes(
            key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
        lines = [f'{self.tokens[user]},{user},{user},"{group}"' for user, group in USERS.items()]
        (self.folder / "tokens.csv").write_text("\n".join(lines) + "\n")
        (self.folder / "audit-policy.json").write_text(json.dumps(audit_policy(self.options.audit)))

    def _user_kubeconfig(self, user: str) -> Path:
        return self.kubeconfig_for(user, self.tokens[user])

    def _run(self, command: Sequence[str | Path]) -> Program:
        program = Program(command, self.folder / f"{Path(command[0]).name}.log", {**os.environ, "GOGC": GARBAGE})
        self._programs.append(program)
        return program

    def _answers(self, url: str) -> bool:
        """Whether a health endpoint says yes; health says nothing secret, so certificates are not checked."""
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {self.tokens['admin']}"})
        try:
            with urllib.request.urlopen(request, timeout=5, context=_UNVERIFIED) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _end(self) -> None:
        for program in reversed(self._programs):
            program.end()
        self._programs.clear()


def audit_policy(writes: Literal["Request", "Metadata"]) -> dict[str, Any]:
    """Everything that users other than the control plane and the administrator ask for."""
    return {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [
            {"level": "None", "userGroups": ["system:masters", "system:nodes", "system:node-proxier"]},
            {"level": writes, "verbs": ["create", "update", "patch", "delete", "deletecollection"]},
            {"level": "Metadata"},
        ],
    }


def node(name: str, **capacity: str) -> dict[str, Any]:
    """A node that KWOK keeps ready and that has room for thousands of pods."""
    room = {"cpu": "100000", "memory": "1000Ti", "pods": "100000", "ephemeral-storage": "1000Ti", **capacity}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {NODE_ANNOTATION: "fake"},
            "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"},
        },
        "status": {"capacity": room, "allocatable": room},
    }


def _end_with_parent() -> None:
    """In the child: have the kernel end it when its parent ends (Linux: prctl(2), PR_SET_PDEATHSIG)."""
    _LIBC.prctl(1, signal.SIGKILL)


_LIBC: Final = ctypes.CDLL(None)
_UNVERIFIED: Final = ssl._create_unverified_context()
