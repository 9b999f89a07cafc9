"""Servers that integration tests share."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from feedback_operator.cluster.local.embedded_s3 import BUCKET, EmbeddedS3
from feedback_workloads.storage.artifacts import CACHE_VARIABLE, ArtifactStore

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


@dataclass(frozen=True)
class S3:
    """A folder on a real S3 server that is this test's own. The AWS_* variables lead to the server during the test."""

    uri: str
    cache: Path
    environment: Mapping[str, str]
    """AWS_* and FEEDBACK_CACHE, for the environment of a subprocess."""

    @property
    def store(self) -> ArtifactStore:
        """A new store on the test's own cache."""
        return ArtifactStore(self.cache)

    @property
    def client(self) -> S3Client:
        from feedback_workloads.storage.s3 import connect

        return connect()

    def key(self, name: str) -> dict[str, str]:
        """Bucket and key of a file below the folder, as boto3's arguments."""
        return {"Bucket": BUCKET, "Key": f"{self.uri.removeprefix(f's3://{BUCKET}/')}/{name}"}


@pytest.fixture(scope="session")
def s3_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """The AWS_* variables of an S3 server that runs for the whole session."""
    with EmbeddedS3(tmp_path_factory.mktemp("s3")) as server:
        yield server.environment


@pytest.fixture
def s3(
    s3_environment: Mapping[str, str],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> S3:
    environment = {**s3_environment, CACHE_VARIABLE: str(tmp_path / "cache")}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    test = re.sub(r"[^\w.-]+", "-", request.node.name)
    return S3(f"s3://{BUCKET}/tests/{request.node.path.stem}/{test}", tmp_path / "cache", environment)
