"""Objects on S3, through boto3. Credentials, endpoint, region and retries come from the standard AWS_* environment."""

from __future__ import annotations

import base64
import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import boto3
import botocore.exceptions as errors
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

from feedback_workloads.contract import BadInput
from feedback_workloads.storage.download import download_in_ranges
from feedback_workloads.storage.errors import line, patiently, split, status_of
from feedback_workloads.storage.objects import Absent, Digest, HashingReader, Listed, Version, naming

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CONNECTIONS = 32
SINGLE_REQUEST_BYTES = 8 << 20
"""Files up to this size move in one request; larger ones in parts, several at a time."""
PART_BYTES = 8 << 20
PART_LIMIT = 10_000
"""S3 allows this many parts an upload."""
CLIENT = Config(
    connect_timeout=10,
    read_timeout=60,
    tcp_keepalive=True,
    max_pool_connections=CONNECTIONS,
)


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
            self._client.put_object(Bucket=bucket, Key=key, Body=data, **self._checksum(data))

        patiently(uri, write)

    def _checksum(self, data: bytes) -> Any:
        """The SHA-256 that the server is to check, as S3 wants it; none for a store that knows no checksums."""
        config: Any = self._client.meta.config  # its stubs lack this option
        if config.request_checksum_calculation == "when_required":
            return {}
        return {"ChecksumSHA256": base64.b64encode(hashlib.sha256(data).digest()).decode()}

    def create(self, uri: str, data: bytes) -> bool:
        return self._write_if(uri, data, None)

    def version(self, uri: str) -> Version:
        bucket, key = split(uri)

        def read() -> Version:
            found = self._client.get_object(Bucket=bucket, Key=key)
            return Version(found["Body"].read(), found["ETag"])

        return patiently(uri, read)

    def replace(self, uri: str, data: bytes, tag: str) -> bool:
        return self._write_if(uri, data, tag)

    def heeds_conditions(self, uri: str) -> bool:
        """Some servers know no conditions, and some pass over them: ask for what must be refused."""
        bucket, key = split(uri)
        data = self.read(uri)
        checksum = self._checksum(data)

        def write() -> bool:
            try:
                self._client.put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*", **checksum)
            except errors.ClientError as error:
                if status_of(error) in (412, 501):
                    return status_of(error) == 412
                raise
            return False

        return patiently(uri, write)

    def _write_if(self, uri: str, data: bytes, tag: str | None) -> bool:
        """Write where the version `tag` is there (None: where nothing is); return whether it was."""
        bucket, key = split(uri)
        checksum = self._checksum(data)

        def write() -> bool:
            condition: Any = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
            try:
                self._client.put_object(Bucket=bucket, Key=key, Body=data, **checksum, **condition)
            except errors.ClientError as error:
                match status_of(error):
                    case 412:
                        return False
                    case 404 if tag is not None:
                        return False
                    case 501:  # a server without conditional writes
                        return self._write_if_read(uri, data, tag)
                    case _:
                        raise
            return True

        return patiently(uri, write)

    def _write_if_read(self, uri: str, data: bytes, tag: str | None) -> bool:
        try:
            found = self.version(uri).tag
        except Absent:
            found = None
        if found == tag:
            self.write(uri, data)
        return found == tag

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
        if size > SINGLE_REQUEST_BYTES:
            return download_in_ranges(self._client, uri, file)
        data = self.read(uri)
        with naming(file):
            file.write_bytes(data)
        return Digest.of(data)

    def list(self, uri: str) -> Iterator[Listed]:
        bucket, prefix = split(uri.rstrip("/") + "/")

        def find() -> Sequence[Listed]:
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
            # A console's "folder" is an empty object whose key ends in "/".
            found = (one for page in pages for one in page.get("Contents", ()) if not one["Key"].endswith("/"))
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
        # boto3 itself knows AWS_DEFAULT_REGION alone; in the other SDKs AWS_REGION goes before it.
        session = boto3.Session(region_name=os.environ.get("AWS_REGION") or None)
        return session.client("s3", config=CLIENT.merge(Config(retries=retries)))
    except (ValueError, errors.BotoCoreError) as error:
        raise BadInput(
            f"the AWS_* variables do not make an S3 client ({line(error)}); "
            "mend them: AWS_ENDPOINT_URL, for one, is a URL such as https://s3.example.com"
        ) from error


def _transfer(size: int) -> TransferConfig:
    return TransferConfig(
        multipart_threshold=SINGLE_REQUEST_BYTES,
        multipart_chunksize=max(PART_BYTES, math.ceil(size / PART_LIMIT)),
    )
