"""The servers that integration tests use, too."""

from tests.integration.conftest import s3, s3_environment

__all__ = ["s3", "s3_environment"]
