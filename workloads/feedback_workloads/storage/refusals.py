"""What S3 and its look-alikes refuse by name, each with what it means and what helps.

Names of errors: the S3 API's list of error codes, MinIO's (`XMinio…`) and Ceph's additions to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from feedback_workloads.contract import BadInput, Temporary


@dataclass(frozen=True)
class Refusal:
    """The kind of error, and its sentence, in which {uri}, {bucket} and {code} are filled in."""

    error: type[BadInput | Temporary]
    sentence: str

    def of(self, uri: str, bucket: str, code: str) -> BadInput | Temporary:
        return self.error(self.sentence.format(uri=uri, bucket=bucket, code=code))


_BY_REFUSAL: Final[Mapping[Refusal, tuple[str, ...]]] = {
    Refusal(BadInput, "the bucket {bucket} of {uri} does not exist; create it or mend the URI"): ("NoSuchBucket",),
    Refusal(BadInput, "the bucket {bucket} of {uri} has no valid name ({code}); give s3://bucket/prefix"): (
        "InvalidBucketName",
    ),
    Refusal(BadInput, "the name {uri} is too long for the S3 server ({code}); shorten the prefix"): (
        "KeyTooLongError",
    ),
    Refusal(
        BadInput,
        "the bucket {bucket} of {uri} is of another region than was asked ({code}); set AWS_REGION to its region, "
        "or AWS_ENDPOINT_URL to its address",
    ): (
        "PermanentRedirect",
        "TemporaryRedirect",
        "301",
        "307",
        "AuthorizationHeaderMalformed",
        "IllegalLocationConstraintException",
    ),
    Refusal(
        BadInput,
        "the S3 server does not accept the credentials for {uri} ({code}); mend AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY; or, if they are right, set AWS_REQUEST_CHECKSUM_CALCULATION=when_required",
    ): ("SignatureDoesNotMatch",),
    Refusal(
        BadInput,
        "the S3 server does not accept the credentials for {uri} ({code}); "
        "mend AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    ): ("InvalidAccessKeyId", "InvalidClientTokenId", "InvalidSecurity"),
    Refusal(
        BadInput,
        "the S3 server does not accept the session token for {uri} ({code}); mend AWS_SESSION_TOKEN, "
        "which belongs to one AWS_ACCESS_KEY_ID",
    ): ("InvalidToken",),
    Refusal(
        Temporary,
        "the session token for {uri} has expired ({code}); put a new AWS_SESSION_TOKEN with its keys into the Secret, "
        "which the next pod reads, or give the pods an identity whose tokens renew themselves",
    ): ("ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"),
    Refusal(
        Temporary, "the clock of this machine is too far from that of the S3 server of {uri} ({code}); set it, by NTP"
    ): ("RequestTimeTooSkewed",),
    Refusal(BadInput, "the account of {uri} may not use S3 ({code}); clear that with whoever runs the store"): (
        "AccountProblem",
        "AllAccessDisabled",
        "NotSignedUp",
        "UserSuspended",
    ),
    Refusal(BadInput, "the object {uri} is archived ({code}); restore it to a class that can be read at once"): (
        "InvalidObjectState",
    ),
    Refusal(
        BadInput,
        "the key that encrypts the bucket {bucket} of {uri} cannot be used ({code}); enable it, and allow "
        "kms:Decrypt and kms:GenerateDataKey on it",
    ): (
        "KMS.DisabledException",
        "KMS.InvalidKeyUsageException",
        "KMS.KMSInvalidStateException",
        "KMS.NotFoundException",
        "KMSKeyDisabledException",
    ),
    Refusal(BadInput, "the bucket {bucket} of {uri} is full ({code}); make room, or raise its quota"): (
        "QuotaExceeded",
        "InsufficientCapacity",
        "XMinioAdminBucketQuotaExceeded",
        "XMinioStorageFull",
    ),
    Refusal(
        BadInput, "the S3 server takes no file as large as {uri} ({code}); raise its limit, or use another server"
    ): ("EntityTooLarge",),
    Refusal(
        BadInput,
        "the S3 server does not know a header or a call that was used for {uri} ({code}); where it is that of "
        "checksums, set AWS_REQUEST_CHECKSUM_CALCULATION=when_required, else use a newer server",
    ): ("NotImplemented", "XNotImplemented"),
    Refusal(
        BadInput,
        "what answers for {uri} is not the S3 API ({code}); mend AWS_ENDPOINT_URL: a console has another address",
    ): ("MethodNotAllowed", "405"),
    Refusal(
        Temporary,
        "{uri} did not arrive at the S3 server as it was sent ({code}), after several attempts; try again later",
    ): ("BadDigest", "IncompleteBody", "InvalidDigest", "InvalidPart", "XAmzContentSHA256Mismatch"),
    Refusal(
        Temporary,
        "the upload of {uri} was aborted at the S3 server ({code}); try again, and let no rule of the bucket "
        "abort uploads within hours",
    ): ("NoSuchUpload",),
    Refusal(Temporary, "{uri} was changed while it was read ({code}); try again"): (
        "InvalidRange",
        "PreconditionFailed",
    ),
    Refusal(Temporary, "the S3 server was too busy for {uri} after several attempts ({code}); try again later"): (
        "SlowDown",
        "SlowDownRead",
        "SlowDownWrite",
        "Throttling",
        "ThrottlingException",
        "RequestLimitExceeded",
        "TooManyRequestsException",
        "TooManyRequests",
        "RequestTimeout",
        "RequestTimeoutException",
        "OperationAborted",
        "ConditionalRequestConflict",
        "KMS.ThrottlingException",
    ),
}
REFUSALS: Final[Mapping[str, Refusal]] = {code: refusal for refusal, codes in _BY_REFUSAL.items() for code in codes}
"""By the name of the error."""
