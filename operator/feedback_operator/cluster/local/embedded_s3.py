"""An S3 server on the loopback address, for one machine without one: SeaweedFS, which comes as a Python wheel.

Several processes may use the server of one folder at once: the first starts it, and it ends after the last (see
`s3_keeper`). Its data stays in the folder, as do its credentials, which nobody but the owner can read.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import secrets
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Final

import psutil

from feedback_operator.cluster.local import s3_keeper
from feedback_operator.cluster.local.ports import HOST, free_ports, is_free

BUCKET: Final = "feedback"
REGION: Final = "us-east-1"
START_SECONDS: Final = 60.0
START_ATTEMPTS: Final = 3
POLL_SECONDS: Final = 0.05
STOP_SECONDS: Final = s3_keeper.STOP_SECONDS + 5.0
SERVICES: Final = ("s3", "master", "volume", "filer", "admin")
GRPC_OFFSET: Final = 10_000
"""Each service also listens this far above its port; there too, systems give no port to clients."""


class EmbeddedS3Error(Exception):
    """The server cannot run here. The message is one sentence with the remedy."""


@dataclass(frozen=True)
class Server:
    """How a folder's server is reached; kept in the folder, so that users find each other and ports stay the same."""

    access_key: str
    secret_key: str
    ports: Mapping[str, int]

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": f"http://{HOST}:{self.ports['s3']}",
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "no_proxy": ",".join(filter(None, (os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), HOST))),
        }


class EmbeddedS3:
    """The S3 server of the folder `data`, with a bucket `feedback`, as a context.

    `environment` holds the AWS_* variables that lead to it. Raises EmbeddedS3Error where it cannot be started.
    """

    environment: Mapping[str, str]

    def __init__(self, data: Path) -> None:
        self._data = data.resolve()
        self._locks = ExitStack()
        self._users: IO[str]

    def __enter__(self) -> EmbeddedS3:
        self._data.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(self._data / "start.lock", fcntl.LOCK_EX), ExitStack() as locks:
            self._users = locks.enter_context(_locked(self._data / "users.lock", fcntl.LOCK_SH))
            locks.enter_context(_locked(self._data / "keeper.lock", fcntl.LOCK_SH))
            server = _running(self._data) or _start(self._data)
            self._locks = locks.pop_all()
        self.environment = server.environment
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _locked(self._data / "start.lock", fcntl.LOCK_EX):
            last = _only_user(self._users)
            self._locks.close()
            if last:  # the keeper stops the server now
                psutil.wait_procs(_processes(self._data), timeout=STOP_SECONDS)


def _running(data: Path) -> Server | None:
    """Return the folder's server if it runs and answers. One that does not is ended."""
    server, processes = _load(data), _processes(data)
    if server and processes and _ready(server):
        return server
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=STOP_SECONDS)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    return None


def _start(data: Path) -> Server:
    """Start the server and wait until it has its bucket. Tries other ports where one was taken meanwhile."""
    known, log = _load(data), data / "server.log"
    for _ in range(START_ATTEMPTS):
        ports = known.ports if known and all(map(is_free, known.ports.values())) else _choose_ports()
        known = Server(
            access_key=known.access_key if known else secrets.token_hex(10),
            secret_key=known.secret_key if known else secrets.token_hex(20),
            ports=ports,
        )
        _save(data, known)
        with log.open("wb") as output:
            keeper = subprocess.Popen(
                [sys.executable, "-I", s3_keeper.__file__, str(data / "keeper.lock"), *_command(data, ports)],
                cwd=data,
                env={
                    **{
                        name: value
                        for name, value in os.environ.items()
                        if not name.startswith(("AWS_", "S3_", "WEED_"))
                    },
                    "AWS_ACCESS_KEY_ID": known.access_key,
                    "AWS_SECRET_ACCESS_KEY": known.secret_key,
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a terminal's Ctrl-C is not for the server
            )
        deadline = time.monotonic() + START_SECONDS
        while keeper.poll() is None and time.monotonic() < deadline:
            if _ready(known):
                return known
            time.sleep(POLL_SECONDS)
        keeper.kill()
        keeper.wait()
        psutil.wait_procs(_processes(data), timeout=STOP_SECONDS)
    raise EmbeddedS3Error(f"the embedded S3 server does not start in {data}; its output is in {log}")


def _server_environment(server: Server) -> dict[str, str]:
    """Return this process's environment with nothing in it that configures SeaweedFS but the credentials."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "S3_", "WEED_"))}
    return {**ours, "AWS_ACCESS_KEY_ID": server.access_key, "AWS_SECRET_ACCESS_KEY": server.secret_key}


def _command(data: Path, ports: Mapping[str, int]) -> list[str]:
    return [
        _binary(),
        "mini",
        *(f"-{service}.port={port}" for service, port in ports.items()),
        f"-dir={data}",
        f"-ip={HOST}",
        f"-ip.bind={HOST}",
        f"-bucket={BUCKET}",
        "-s3.autoCreateBucket=false",  # a wrong bucket name is an error, as elsewhere
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-admin.ui=false",
        "-webdav=false",
        "-master.telemetry=false",
        "-master.volumePreallocate=false",
        # With the raft log of the last run, the master leads later, often after the first heartbeat of the disk, whose
        # next one is 5 seconds later. The disk knows all that the log does.
        "-master.resumeState=false",
    ]


def _binary() -> str:
    found = shutil.which("weed", path=sysconfig.get_path("scripts")) or shutil.which("weed")
    if found is None:
        raise EmbeddedS3Error(
            "there is no S3 server here: install feedback-operator[local], or set AWS_ENDPOINT_URL to use another one"
        )
    return found


def _processes(data: Path) -> list[psutil.Process]:
    """Return the server's processes of this folder, keeper first; the folder's name in their command tells them."""
    mark = f"-dir={data}"
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if mark in process.cmdline():
                found.append(process)
    return found


def _ready(server: Server) -> bool:
    """Whether the server takes objects: the bucket is there, the S3 port answers, and there are disks to write to."""
    status, topology = _get(server.ports["master"], "/dir/status")
    # The master knows its disks only some time after it answers.
    has_disk = status == http.HTTPStatus.OK and bool(json.loads(topology)["Topology"]["DataCenters"])
    bucket, _ = _get(server.ports["filer"], f"/buckets/{BUCKET}/")
    s3, _ = _get(server.ports["s3"], "/")  # unsigned, so the answer is no
    return has_disk and bucket == http.HTTPStatus.OK and s3 == http.HTTPStatus.FORBIDDEN


def _get(port: int, path: str) -> tuple[int, bytes]:
    """Return status and body; 0 where nothing answers."""
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def _choose_ports() -> dict[str, int]:
    candidates = (port for port in free_ports() if is_free(port + GRPC_OFFSET))
    return dict(zip(SERVICES, candidates, strict=False))


def _load(data: Path) -> Server | None:
    try:
        return Server(**json.loads((data / "server.json").read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise EmbeddedS3Error(
            f"{data / 'server.json'} is damaged: {error}; move it aside for new credentials"
        ) from error


def _save(data: Path, server: Server) -> None:
    part = data / "server.json.part"
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        json.dump(asdict(server), stream)
    part.replace(data / "server.json")


@contextmanager
def _locked(file: Path, mode: int) -> Iterator[IO[str]]:
    with file.open("w") as stream:
        fcntl.flock(stream, mode)
        yield stream


def _only_user(users: IO[str]) -> bool:
    """Whether no other process has a shared lock on `users`. The caller's lock is lost either way."""
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
