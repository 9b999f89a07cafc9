"""What can go wrong with S3, in sentences; and patience with what may pass."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar
from urllib.parse import urlsplit

import botocore.exceptions as errors
from s3transfer.exceptions import RetriesExceededError

from feedback_workloads.contract import BadInput, Temporary
from feedback_workloads.storage.objects import Absent
from feedback_workloads.storage.refusals import REFUSALS

Result = TypeVar("Result")

ROUNDS = 6
"""How often an action is done that fails in spite of boto3's own quick retries: about 15 seconds of waiting in all.
AWS_MAX_ATTEMPTS, where it is less, bounds these and those."""
LONGEST_WAIT_SECONDS = 20.0

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


def split(uri: str) -> tuple[str, str]:
    """Return bucket and key of `s3://bucket/key`."""
    parts = urlsplit(uri)
    bucket, key = parts.netloc, uri.removeprefix(f"s3://{parts.netloc}").lstrip("/")
    if parts.scheme != "s3" or not bucket or not key.strip("/"):
        raise BadInput(f"the URI {uri} names no bucket and prefix; give s3://bucket/prefix")
    return bucket, key


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
            f"the S3 server's certificate is not trusted for {uri} ({line(error)}); "
            "set AWS_CA_BUNDLE or mend AWS_ENDPOINT_URL"
        ) from error
    except errors.ParamValidationError as error:
        raise BadInput(f"the URI {uri} is not valid ({line(error)}); give s3://bucket/prefix") from error
    except BROKEN_CONNECTIONS as error:
        raise Temporary(
            f"the S3 server cannot be reached for {uri} after several attempts ({line(error)}); "
            "check AWS_ENDPOINT_URL and that the server is up"
        ) from error
    except errors.CredentialRetrievalError as error:
        raise Temporary(
            f"the S3 credentials for {uri} cannot be had now ({line(error)}); check the service that gives them"
        ) from error
    except errors.BotoCoreError as error:
        raise BadInput(f"S3 cannot be used for {uri} ({line(error)}); mend the AWS_* variables") from error


def _translated(uri: str, error: errors.ClientError) -> Exception:
    code, status = error.response["Error"].get("Code", ""), status_of(error)
    bucket, _ = split(uri)
    if refusal := REFUSALS.get(code):
        return refusal.of(uri, bucket, code)
    found: Exception
    match status:
        case 404:
            found = Absent(uri)
        case 412:
            found = Temporary(f"{uri} was changed while it was read; try again")
        case _ if status >= 500 or status == 429:
            found = Temporary(
                f"the S3 server failed on {uri} after several attempts ({code}, HTTP {status}); try again later"
            )
        case 401 | 403:
            found = BadInput(
                f"the credentials give no access to {uri} ({code}); "
                f"allow s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket on the bucket {bucket}"
            )
        case _:
            found = BadInput(
                f"the S3 server refused {uri} ({code}, HTTP {status}: {line(error)}); mend the URI or the server"
            )
    return found


def status_of(error: errors.ClientError) -> int:
    return int(error.response["ResponseMetadata"]["HTTPStatusCode"])


def line(error: BaseException) -> str:
    return " ".join(str(error).split())
