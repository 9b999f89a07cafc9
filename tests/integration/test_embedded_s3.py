"""The embedded S3 server: kept data, shared use, and nothing left behind however its users end."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
import psutil
import pytest

from feedback_operator.cluster.local.embedded_s3 import BUCKET, EmbeddedS3, EmbeddedS3Error

USER = """
import sys
from pathlib import Path
from feedback_operator.cluster.local.embedded_s3 import EmbeddedS3
with EmbeddedS3(Path(sys.argv[1])) as server:
    print(server.environment["AWS_ENDPOINT_URL"], flush=True)
    sys.stdin.readline()
"""


@contextmanager
def user(data: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another process that uses the folder's server until it is told to stop; and the server's URL."""
    command = [sys.executable, "-c", USER, str(data)]
    # Leaving the block closes its input, which ends it.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()


def leave(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait() == 0


def put(server: EmbeddedS3, key: str, data: bytes) -> None:
    client(server).put_object(Bucket=BUCKET, Key=key, Body=data)


def get(server: EmbeddedS3, key: str) -> bytes:
    return client(server).get_object(Bucket=BUCKET, Key=key)["Body"].read()


def client(server: EmbeddedS3):
    environment = server.environment
    return boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region_name=environment["AWS_REGION"],
    )


def processes(data: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if f"-dir={data}" in process.cmdline():
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_until_gone(data: Path) -> None:
    _, alive = psutil.wait_procs(processes(data), timeout=30)
    assert alive == []


def test_data_stays_and_processes_go(tmp_path: Path) -> None:
    with EmbeddedS3(tmp_path) as server:
        put(server, "kept", b"data")
        assert len(processes(tmp_path)) == 2, "the server and its keeper"
    assert processes(tmp_path) == []
    with EmbeddedS3(tmp_path) as again:
        assert get(again, "kept") == b"data"
        assert again.environment == server.environment, "its address and credentials stay too"


def test_it_starts_within_seconds(tmp_path: Path) -> None:
    began = time.monotonic()
    with EmbeddedS3(tmp_path) as server:
        put(server, "first", b"data")
    assert time.monotonic() - began < 30


def test_only_its_credentials_open_it(tmp_path: Path) -> None:
    with EmbeddedS3(tmp_path) as server:
        put(server, "secret", b"data")
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"{server.environment['AWS_ENDPOINT_URL']}/{BUCKET}/secret")
        listening = {
            connection.laddr.ip
            for process in processes(tmp_path)
            for connection in process.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        }
        assert listening == {"127.0.0.1"}
        assert stat.S_IMODE((tmp_path / "server.json").stat().st_mode) == 0o600


def test_users_share_the_server_until_the_last_one_leaves(tmp_path: Path) -> None:
    with user(tmp_path) as (first, url):
        with EmbeddedS3(tmp_path) as server:
            assert server.environment["AWS_ENDPOINT_URL"] == url
            leave(first)
            put(server, "after the first user left", b"data")
        assert processes(tmp_path) == []


def test_users_that_start_together_get_one_server(tmp_path: Path) -> None:
    with user(tmp_path) as (_, one), user(tmp_path) as (_, other):
        assert one == other
        assert len(processes(tmp_path)) == 2
    wait_until_gone(tmp_path)


def test_a_killed_user_leaves_no_server(tmp_path: Path) -> None:
    with user(tmp_path) as (process, _):
        process.kill()
        process.wait()
        wait_until_gone(tmp_path)
    with EmbeddedS3(tmp_path) as server:
        put(server, "again", b"data")


def test_a_killed_user_takes_nothing_from_the_others(tmp_path: Path) -> None:
    with user(tmp_path) as (process, _), EmbeddedS3(tmp_path) as server:
        process.kill()
        process.wait()
        put(server, "still there", b"data")
    assert processes(tmp_path) == []


def test_a_killed_keeper_takes_the_server_with_it(tmp_path: Path) -> None:
    with EmbeddedS3(tmp_path) as server:
        put(server, "kept", b"data")
        keeper = next(process for process in processes(tmp_path) if "s3_keeper" in " ".join(process.cmdline()))
        keeper.kill()
        wait_until_gone(tmp_path)
    with EmbeddedS3(tmp_path) as again:
        assert get(again, "kept") == b"data"


def test_everything_killed_at_once(tmp_path: Path) -> None:
    with user(tmp_path) as (process, _), EmbeddedS3(tmp_path) as server:
        put(server, "kept", b"data")
        for one in (psutil.Process(process.pid), *processes(tmp_path)):
            os.kill(one.pid, signal.SIGKILL)
        wait_until_gone(tmp_path)
        with EmbeddedS3(tmp_path) as again:
            assert get(again, "kept") == b"data"


def test_a_server_that_hangs_is_replaced(tmp_path: Path) -> None:
    with user(tmp_path) as (process, _):
        for one in processes(tmp_path):
            one.suspend()
        process.kill()
        process.wait()
        with EmbeddedS3(tmp_path) as server:
            put(server, "works", b"data")


def test_taken_ports_are_given_up(tmp_path: Path) -> None:
    with EmbeddedS3(tmp_path) as server:
        put(server, "kept", b"data")
    port = int(server.environment["AWS_ENDPOINT_URL"].rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)), EmbeddedS3(tmp_path) as again:
        assert again.environment["AWS_ENDPOINT_URL"] != server.environment["AWS_ENDPOINT_URL"]
        assert get(again, "kept") == b"data"


def test_a_server_that_cannot_start_is_an_error_with_its_log(tmp_path: Path) -> None:
    (tmp_path / "filerldb2").write_text("not a folder")
    with (
        pytest.raises(EmbeddedS3Error, match=r"does not start in .*; its output is in .*server.log"),
        EmbeddedS3(tmp_path),
    ):
        pass
    assert processes(tmp_path) == []


def test_damaged_credentials_are_named(tmp_path: Path) -> None:
    (tmp_path / "server.json").write_text(json.dumps({"access_key": "x"}))
    with pytest.raises(EmbeddedS3Error, match=r"server.json is damaged.*move it aside"), EmbeddedS3(tmp_path):
        pass
