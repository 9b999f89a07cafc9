"""Where the S3 client turns to, by the AWS_* variables; what it sends, and what is made of what a store answers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from feedback_workloads.contract import BadInput, Temporary
from feedback_workloads.storage.objects import Absent
from feedback_workloads.storage.refusals import REFUSALS
from feedback_workloads.storage.s3 import S3Objects, connect
from tests.loopback import serving
from tests.unit.stores import lead_to

PROFILE = "[default]\nregion = eu-west-3\n"


@pytest.mark.parametrize(
    ("environment", "region", "endpoint"),
    [
        pytest.param({}, "us-east-1", "https://s3.amazonaws.com", id="none"),
        pytest.param(
            {"AWS_REGION": "eu-west-1"}, "eu-west-1", "https://s3.eu-west-1.amazonaws.com", id="as documented"
        ),
        pytest.param({"AWS_REGION": "cn-north-1"}, "cn-north-1", "https://s3.cn-north-1.amazonaws.com.cn", id="aws-cn"),
        pytest.param(
            {"AWS_REGION": "us-gov-west-1"}, "us-gov-west-1", "https://s3.us-gov-west-1.amazonaws.com", id="aws-us-gov"
        ),
        pytest.param(
            {"AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "eu-west-2"},
            "eu-west-1",
            "https://s3.eu-west-1.amazonaws.com",
            id="it goes before boto3's own",
        ),
        pytest.param(
            {"AWS_REGION": "eu-west-1", "AWS_CONFIG_FILE": "profile"},
            "eu-west-1",
            "https://s3.eu-west-1.amazonaws.com",
            id="it goes before the profile's",
        ),
        pytest.param(
            {"AWS_DEFAULT_REGION": "eu-west-2"},
            "eu-west-2",
            "https://s3.eu-west-2.amazonaws.com",
            id="boto3's own alone",
        ),
        pytest.param(
            {"AWS_REGION": "", "AWS_CONFIG_FILE": "profile"},
            "eu-west-3",
            "https://s3.eu-west-3.amazonaws.com",
            id="empty is none",
        ),
        pytest.param(
            {"AWS_REGION": "garage", "AWS_ENDPOINT_URL": "http://garage:3900"},
            "garage",
            "http://garage:3900",
            id="a server of one's own signs with it",
        ),
    ],
)
def test_the_region_that_pods_are_given_is_not_ignored(
    environment: dict[str, str], region: str, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    (tmp_path / "profile").write_text(PROFILE)
    monkeypatch.chdir(tmp_path)
    for name, value in {"AWS_CONFIG_FILE": "none", "AWS_EC2_METADATA_DISABLED": "true", **environment}.items():
        monkeypatch.setenv(name, value)
    client = connect()
    assert (client.meta.region_name, client.meta.endpoint_url) == (region, endpoint)


# ── what a store answers ─────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Store:
    """A server that answers every request alike, and remembers the headers that it was sent."""

    status: int = 200
    code: str = ""
    headers: list[dict[str, str]] = field(default_factory=list)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store on this machine that the AWS_* variables lead to; nothing is tried again."""
    given = Store()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            given.headers.append({name.lower(): value for name, value in self.headers.items()})
            body = f"<Error><Code>{given.code}</Code></Error>".encode() if given.code else b""
            self.send_response(given.status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with serving(server):
        lead_to(f"http://127.0.0.1:{server.server_port}", monkeypatch)
        yield given


@pytest.mark.parametrize(
    ("status", "code", "kind", "words"),
    [
        pytest.param(400, "ExpiredToken", Temporary, "new AWS_SESSION_TOKEN", id="token expired"),
        pytest.param(403, "ExpiredTokenException", Temporary, "new AWS_SESSION_TOKEN", id="token expired, by STS"),
        pytest.param(400, "InvalidToken", BadInput, "mend AWS_SESSION_TOKEN", id="no token"),
        pytest.param(403, "RequestTimeTooSkewed", Temporary, "clock", id="clock"),
        pytest.param(403, "InvalidAccessKeyId", BadInput, "mend AWS_ACCESS_KEY_ID", id="key"),
        pytest.param(403, "SignatureDoesNotMatch", BadInput, "mend AWS_ACCESS_KEY_ID", id="secret"),
        pytest.param(403, "AccessDenied", BadInput, "allow s3:GetObject", id="rights"),
        pytest.param(403, "AllAccessDisabled", BadInput, "may not use S3", id="account"),
        pytest.param(403, "QuotaExceeded", BadInput, "raise its quota", id="quota, of Ceph"),
        pytest.param(400, "XMinioAdminBucketQuotaExceeded", BadInput, "raise its quota", id="quota, of MinIO"),
        pytest.param(507, "XMinioStorageFull", BadInput, "make room", id="disk, of MinIO"),
        pytest.param(403, "InvalidObjectState", BadInput, "restore it", id="archived"),
        pytest.param(400, "KMS.DisabledException", BadInput, "kms:Decrypt", id="key of encryption"),
        pytest.param(400, "AuthorizationHeaderMalformed", BadInput, "set AWS_REGION", id="region"),
        pytest.param(400, "KeyTooLongError", BadInput, "shorten the prefix", id="length"),
        pytest.param(400, "EntityTooLarge", BadInput, "raise its limit", id="size"),
        pytest.param(501, "NotImplemented", BadInput, "AWS_REQUEST_CHECKSUM_CALCULATION=when_required", id="header"),
        pytest.param(405, "MethodNotAllowed", BadInput, "mend AWS_ENDPOINT_URL", id="a console"),
        pytest.param(400, "BadDigest", Temporary, "did not arrive", id="damaged on the way"),
        pytest.param(404, "NoSuchUpload", Temporary, "was aborted", id="upload aborted"),
        pytest.param(404, "NoSuchBucket", BadInput, "create it", id="bucket"),
        pytest.param(404, "NoSuchKey", Absent, "", id="nothing there"),
        pytest.param(409, "OperationAborted", Temporary, "too busy", id="busy"),
        pytest.param(503, "SlowDown", Temporary, "too busy", id="throttled"),
        pytest.param(500, "InternalError", Temporary, "failed on", id="broken"),
        pytest.param(507, "SomethingOfItsOwn", Temporary, "SomethingOfItsOwn, HTTP 507", id="broken in its own way"),
        pytest.param(400, "SomethingOfItsOwn", BadInput, "SomethingOfItsOwn, HTTP 400", id="refused in its own way"),
    ],
)
def test_each_refusal_is_told_for_what_it_is(
    store: Store, status: int, code: str, kind: type[Exception], words: str
) -> None:
    store.status, store.code = status, code
    with pytest.raises(kind) as told:
        S3Objects().write("s3://bucket/key", b"data")
    assert "s3://bucket/key" in str(told.value)
    assert words in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("code", REFUSALS)
def test_a_refusal_names_what_and_where(code: str) -> None:
    told = str(REFUSALS[code].of("s3://bucket/key", "bucket", code))
    assert "s3://bucket/key" in told
    assert "{" not in told


@pytest.mark.parametrize(
    ("environment", "sent"),
    [
        pytest.param({}, True, id="as it is"),
        pytest.param({"AWS_REQUEST_CHECKSUM_CALCULATION": "when_required"}, False, id="a store that knows none"),
    ],
)
def test_a_store_that_knows_no_checksums_is_sent_none(
    store: Store, environment: dict[str, str], sent: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    objects = S3Objects()
    objects.write("s3://bucket/key", b"data")
    objects.create("s3://bucket/key", b"data")
    objects.replace("s3://bucket/key", b"data", "tag")
    (tmp_path / "file").write_bytes(b"data")
    objects.upload(tmp_path / "file", "s3://bucket/key")
    assert len(store.headers) == 4
    for headers in store.headers:
        assert any(name.startswith(("x-amz-checksum", "x-amz-sdk-checksum")) for name in headers) == sent
