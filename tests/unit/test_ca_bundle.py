"""The variables that a pod gets with `caBundle` are those that S3, the hub and every other client heed."""

from __future__ import annotations

import ssl
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub.utils import close_session, get_session

from feedback_operator.api import PodOverrides
from feedback_operator.resources.pod import CA_FILE, CA_MOUNT, environment
from feedback_workloads.storage.s3 import S3Objects
from tests.loopback import serving
from tests.unit.stores import lead_to

TRUSTING = PodOverrides.model_validate({"caBundle": {"configMapKeyRef": {"name": "ca", "key": "ca.crt"}}})


@pytest.fixture
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A TLS server whose certificate nobody has signed but its owner, at the address that is given; all clients are
    led there. The folder has the certificate as the ConfigMap would."""
    certificate, key = tmp_path / CA_FILE, tmp_path / "key.pem"
    subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    made = (
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "1",
        *subject,
    )
    subprocess.run(["openssl", *made, "-keyout", key, "-out", certificate], check=True, capture_output=True)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_PUT = do_HEAD = do_GET  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    url = f"https://localhost:{server.server_port}"
    lead_to(url, monkeypatch)
    with serving(server):
        yield url


def trust(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the variables of a pod with the bundle, which is in `folder` here."""
    for variable in environment(TRUSTING):
        if variable["value"].startswith(CA_MOUNT):
            monkeypatch.setenv(variable["name"], variable["value"].replace(CA_MOUNT, str(folder)))


def s3(url: str) -> None:
    next(S3Objects().list("s3://bucket/folder"))


def plain(url: str) -> None:
    urllib.request.urlopen(url)


def the_hub(url: str) -> None:
    """By the hub's own client, of which a process keeps one."""
    close_session()
    get_session().get(url).raise_for_status()


@pytest.mark.parametrize("ask", [s3, plain, the_hub])
def test_clients_trust_the_bundle_and_nobody_else(
    private: str, ask: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the bundle each gets as far as the answer, 404."""
    with pytest.raises(Exception, match=r"certificate|CERTIFICATE"):
        ask(private)
    trust(tmp_path, monkeypatch)
    with pytest.raises(Exception, match=r"404|s3://bucket/folder") as told:
        ask(private)
    assert "certificate" not in str(told.value).lower()
