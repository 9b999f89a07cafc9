"""Where the S3 client turns to, by the AWS_* variables."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from feedback_workloads.storage.s3 import connect

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
