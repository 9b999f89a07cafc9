"""Objects on S3, through boto3. Credentials, endpoint, region and retries come from the standard AWS_* environment."""

from __future__ import annotations

import base64
import hashlib
import math
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import urlsplit

import boto3
import botocore.exceptions as errors
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from s3transfer.exceptions import RetriesExceededError

from feedback_workloads.contract import BadInput, Temporary
from feedback_workloads.objects import Absent, Digest, HashingReader, HashingWriter, Listed, naming

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

Result = TypeVar("Result")

CONNECTIONS = 32
SINGLE_REQUEST_BYTES = 8 << 20
"""Files up to this size move in one request; larger ones in parts, several at a time."""
PART_BYTES = 8 << 20
WRITE_BYTES = 1 << 20
"""A download is handed on to the disk in pieces of this size: fewer than boto3's own, which saves much of its time."""
PART_LIMIT = 10_000
"""S3 allows this many parts an upload."""
ROUNDS = 6
"""How often an action is done that fails in spite of boto3's own quick retries: about 15 seconds of waiting in all.
AWS_MAX_ATTEMPTS, where it is less, bounds these and those."""
LONGEST_WAIT_SECONDS = 20.0

CLIENT = Config(
    connect_timeout=10,
    read_timeout=60,
    tcp_keepalive=True,
    max_pool_connections=CONNECTIONS,
)

BROKEN_CONNECTIONS = (
    errors.HTTPClientError,
    errors.ConnectionError,
    errors.IncompleteReadError,
    errors.ChecksumError,
    errors.FlexibleChecksumError,
    RetriesExceededError,
    ConnectionError,
    TimeoutError,
)
THROTTLED = {"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequestsException"}
SLOW = {"RequestTimeout", "RequestTimeoutException", "OperationAborted", "ConditionalRequestConflict"}


class S3Objects:
    """The `Objects` protocol over one boto3 client, which threads share."""

    def __init__(self) -> None:
        self._client = connect()

    def read(self, uri: str) -> bytes:
        bucket, key = split(uri)

        def read() -> bytes:
            return self._client.get_object(Bucket=bucket, Key=key)["Body"].read()

        return patiently(uri, read)

    def write(self, uri: str, data: bytes) -> None:
        bucket, key = split(uri)

        def write() -> None:
            self._client.put_object(Bucket=bucket, Key=key, Body=data, ChecksumSHA256=_checksum(data))

        patiently(uri, write)

    def create(self, uri: str, data: bytes) -> bool:
        bucket, key = split(uri)
        checksum = _checksum(data)

        def create() -> bool:
            try:
                self._client.put_object(Bucket=bucket, Key=key, Body=data, ChecksumSHA256=checksum, IfNoneMatch="*")
            except errors.ClientError as error:
                match _status(error):
                    case 412:
                        return False
                    case 501:  # a server without conditional writes
                        return self._create_unless_read(uri, data)
                    case _:
                        raise
            return True

        return patiently(uri, create)

    def _create_unless_read(self, uri: str, data: bytes) -> bool:
        try:
            self.read(uri)
        except Absent:
            self.write(uri, data)
            return True
        return False

    def upload(self, file: Path, uri: str) -> Digest:
        size = file.stat().st_size
        if size <= SINGLE_REQUEST_BYTES:
            data = file.read_bytes()
            self.write(uri, data)
            return Digest.of(data)
        bucket, key = split(uri)

        def upload() -> Digest:
            with file.open("rb") as stream:
                reader = HashingReader(stream)
                self._client.upload_fileobj(cast(IO[bytes], reader), bucket, key, Config=_transfer(size))
            return reader.digest()

        return patiently(uri, upload)

    def download(self, uri: str, file: Path, size: int) -> Digest:
        if size <= SINGLE_REQUEST_BYTES:
            data = self.read(uri)
            with naming(file):
                file.write_bytes(data)
            return Digest.of(data)
        bucket, key = split(uri)

        def download() -> Digest:
            with naming(file), file.open("wb") as stream:
                writer = HashingWriter(stream)
                self._client.download_fileobj(bucket, key, cast(IO[bytes], writer), Config=_transfer(size))
            return writer.digest()

        return patiently(uri, download)

    def list(self, uri: str) -> Iterator[Listed]:
        bucket, prefix = split(uri.rstrip("/") + "/")

        def find() -> Sequence[Listed]:
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
            found = (one for page in pages for one in page.get("Contents", ()) if one["Key"] != prefix)
            return [Listed(one["Key"].removeprefix(prefix), one["Size"], one["ETag"]) for one in found]

        yield from patiently(uri, find)

    def delete(self, uri: str) -> None:
        bucket, key = split(uri)
        patiently(uri, lambda: self._client.delete_object(Bucket=bucket, Key=key))


def connect() -> S3Client:
    """Make a client; nothing is sent yet. Raises BadInput where the AWS_* variables make no sense."""
    # Only where nothing else is asked for: AWS_RETRY_MODE would give way to it.
    retries: Any = {} if "AWS_RETRY_MODE" in os.environ else {"mode": "standard"}
    try:
        return boto3.Session().client("s3", config=CLIENT.merge(Config(retries=retries)))
    except (ValueError, errors.BotoCoreError) as error:
        raise BadInput(
            f"the AWS_* variables do not make an S3 client ({_line(error)}); "
            "mend them: AWS_ENDPOINT_URL, for one, is a URL such as https://s3.example.com"
        ) from error


def split(uri: str) -> tuple[str, str]:
    """Return bucket and key of `s3://bucket/key`."""
    parts = urlsplit(uri)
    bucket, key = parts.netloc, uri.removeprefix(f"s3://{parts.netloc}").lstrip("/")
    if parts.scheme != "s3" or not bucket or not key.strip("/"):
        raise BadInput(f"the URI {uri} names no bucket and prefix; give s3://bucket/prefix")
    return bucket, key


def _checksum(data: bytes) -> str:
    """Return the SHA-256 that the server is to check, as S3 wants it."""
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def patiently(uri: str, action: Callable[[], Result]) -> Result:
    """Do `action`, anew after a pause where it fails in a way that may pass. Errors come as `sentences` says.

    boto3 itself tries each request a few times within a second or two, but not the reading of an answer's body, and
    hardly when many requests fail at once.
    """
    rounds = min(ROUNDS, int(os.environ.get("AWS_MAX_ATTEMPTS", ROUNDS)))
    for done in range(1, rounds):
        try:
            with sentences(uri):
                return action()
        except Temporary:
            time.sleep(random.uniform(0, min(2 ** (done - 1), LONGEST_WAIT_SECONDS)))
    with sentences(uri):
        return action()


def _transfer(size: int) -> TransferConfig:
    return TransferConfig(
        multipart_threshold=SINGLE_REQUEST_BYTES,
        multipart_chunksize=max(PART_BYTES, math.ceil(size / PART_LIMIT)),
        io_chunksize=WRITE_BYTES,
    )


@contextmanager
def sentences(uri: str) -> Iterator[None]:
    """Turn boto3's errors into Absent, or into BadInput or Temporary with one sentence about `uri`."""
    try:
        yield
    except errors.ClientError as error:
        raise _translated(uri, error) from error
    except (errors.NoCredentialsError, errors.PartialCredentialsError) as error:
        raise BadInput(
            f"there are no S3 credentials for {uri}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from error
    except errors.SSLError as error:
        raise BadInput(
            f"the S3 server's certificate is not trusted for {uri} ({_line(error)}); "
            "set AWS_CA_BUNDLE or mend AWS_ENDPOINT_URL"
        ) from error
    except errors.ParamValidationError as error:
        raise BadInput(f"the URI {uri} is not valid ({_line(error)}); give s3://bucket/prefix") from error
    except BROKEN_CONNECTIONS as error:
        raise Temporary(
            f"the S3 server cannot be reached for {uri} after several attempts ({_line(error)}); "
            "check AWS_ENDPOINT_URL and that the server is up"
        ) from error
    except errors.CredentialRetrievalError as error:
        raise Temporary(
            f"the S3 credentials for {uri} cannot be had now ({_line(error)}); check the service that gives them"
        ) from error
    except errors.BotoCoreError as error:
        raise BadInput(f"S3 cannot be used for {uri} ({_line(error)}); mend the AWS_* variables") from error


def _translated(uri: str, error: errors.ClientError) -> Exception:
    code, status = error.response["Error"].get("Code", ""), _status(error)
    bucket, _ = split(uri)
    if code == "NoSuchBucket":
        return BadInput(f"the bucket {bucket} of {uri} does not exist; create it or mend the URI")
    if status == 404:
        return Absent(uri)
    if status >= 500 or status == 429 or code in THROTTLED | SLOW:
        return Temporary(
            f"the S3 server failed on {uri} after several attempts ({code}, HTTP {status}); try again later"
        )
    if code in {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidClientTokenId"}:
        return BadInput(
            f"the S3 server does not accept the credentials for {uri} ({code}); "
            "mend AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if status in {401, 403}:
        return BadInput(
            f"the credentials give no access to {uri} ({code}); "
            f"allow s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket on the bucket {bucket}"
        )
    return BadInput(f"the S3 server refused {uri} ({code}, HTTP {status}: {_line(error)}); mend the URI or the server")


def _status(error: errors.ClientError) -> int:
    return int(error.response["ResponseMetadata"]["HTTPStatusCode"])


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
