"""Errors of S3 and of S3-compatible servers, as the errors of this project.

They are distinguished by code and HTTP status ("Amazon S3 API Reference", Error responses).
"""

from __future__ import annotations

from botocore.exceptions import ClientError

from job.errors import (
    ConfigurationError,
    ObjectMissingError,
    ObjectRefusedError,
    UnstorableObjectError,
    UsageError,
)
from job.storage.retry import RefusedError, RejectedError, ThrottledError, TransientError

_MISSING = {"NoSuchKey", "404", "NoSuchVersion"}
_WRONG_BUCKET = {
    "NoSuchBucket", "InvalidBucketName", "PermanentRedirect", "301", "IllegalLocationConstraintException",
}  # fmt: skip
_CREDENTIALS = {
    "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired",
    "RequestTimeTooSkewed", "AuthorizationHeaderMalformed", "InvalidClientTokenId", "InvalidSecurity",
    "RequestExpired", "UnauthorizedAccess", "Unauthorized", "401",
}  # fmt: skip
_OBJECT_REFUSED = {"AccessDenied", "403", "InvalidObjectState", "AllAccessDisabled", "KMS.DisabledException"}
_EXISTS = {"PreconditionFailed", "412"}
_BEYOND_END = {"InvalidRange", "416"}
_NOT_IMPLEMENTED = {"NotImplemented", "501", "MethodNotAllowed", "405"}
_UNSTORABLE = {
    "KeyTooLongError", "EntityTooLarge", "XMinioInvalidObjectName", "XMinioParentIsObject",
    "XMinioObjectExistsAsDirectory",
}  # fmt: skip
_RETRIED_STATUSES = {408, 409, 425, 429, 499}
_RETRIED = {
    "RequestTimeout", "BadDigest", "IncompleteBody", "PriorRequestNotComplete", "RequestLimitExceeded",
    "BandwidthLimitExceeded", "SlowDown", "TooManyRequests", "NoSuchUpload", "InvalidPart", "InvalidPartOrder",
}  # fmt: skip
"""Codes with a status of 4xx after which a retry may succeed."""
_THROTTLED = {"SlowDown", "TooManyRequests", "RequestLimitExceeded", "BandwidthLimitExceeded", "429"}
_CHECKSUM = {"XAmzContentSHA256Mismatch", "MissingContentLength"}
_CHECKSUM_WORDS = ("checksum", "trailer", "aws-chunked")


class ExistsError(Exception):
    """A precondition of the request does not hold."""


class BeyondEndError(Exception):
    """A range begins behind the end of its object."""


class NotImplementedByServerError(ConfigurationError):
    """The server does not support the request, so no worker can use it."""


def to_error(exc: BaseException, where: str, *, is_of_bucket: bool) -> Exception:
    """The error to raise instead of a foreign one.

    Args:
        exc: Of s3fs, botocore or aiohttp; s3fs hides the `ClientError` in its cause.
        where: URL of the object or of the folder.
        is_of_bucket: Whether the request is of the bucket as a whole, such as a listing.
    """
    cause = exc if isinstance(exc, ClientError) else exc.__cause__
    if not isinstance(cause, ClientError):
        return TransientError(f"{type(exc).__name__}: {exc}")
    return _of_answer(cause, where, is_of_bucket) or _of_request(cause, where)


def _of_answer(cause: ClientError, where: str, is_of_bucket: bool) -> Exception | None:
    """The error of a request that is valid, None for any other."""
    code, message = _code_of(cause), _message_of(cause)
    if code in _WRONG_BUCKET or (code in _MISSING and is_of_bucket):
        return UsageError(f"{where}: {message}. Give a bucket that exists, in the region it is in")
    if code in _MISSING:
        return ObjectMissingError(f"{where}: no such object")
    if code in _CREDENTIALS or (code in _OBJECT_REFUSED and is_of_bucket):
        return RefusedError(message)
    if code in _OBJECT_REFUSED or _has_a_key_of_its_own(cause):
        return ObjectRefusedError(f"{where}: {message}")
    if code in _BEYOND_END:
        return BeyondEndError(message)
    return ExistsError(message) if code in _EXISTS else None


def _of_request(cause: ClientError, where: str) -> Exception:
    """The error of a request that the server fails or does not accept."""
    code, message = _code_of(cause), _message_of(cause)
    if code in _UNSTORABLE:
        return UnstorableObjectError(f"{where}: {message}")
    if code in _NOT_IMPLEMENTED:
        return NotImplementedByServerError(
            f"{where}: {message}. The server does not support this {cause.operation_name} request: "
            f"use an S3 server that does, such as AWS S3 or MinIO{_checksum_hint(cause)}"
        )
    if _is_rejection(cause):
        return RejectedError(f"{message}{_checksum_hint(cause)}")
    return ThrottledError(message) if _is_throttling(cause) else TransientError(message)


def _code_of(cause: ClientError) -> str:
    return str(cause.response["Error"].get("Code", ""))


def _message_of(cause: ClientError) -> str:
    return f"{_code_of(cause)}: {cause.response['Error'].get('Message', '').rstrip('.')}"


def _has_a_key_of_its_own(cause: ClientError) -> bool:
    """An object that is encrypted with a key of its writer (SSE-C) cannot be read without that key."""
    return (
        _code_of(cause) == "InvalidRequest"
        and cause.operation_name == "GetObject"
        and "encryption" in _message_of(cause).lower()
    )


def _is_rejection(cause: ClientError) -> bool:
    """Whether the server rejects the request for what it is; an answer without a code may be of a proxy."""
    code, status = _code_of(cause), cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    is_named = bool(code) and not code.isdigit()
    is_retried = status in _RETRIED_STATUSES or code in _RETRIED or "throttl" in code.lower()
    return 400 <= status < 500 and is_named and not is_retried


def _is_throttling(cause: ClientError) -> bool:
    """Whether the server asks for fewer requests (503 Slow Down, 429)."""
    code, status = _code_of(cause), cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return code in _THROTTLED or status == 429 or "throttl" in code.lower()


def _checksum_hint(cause: ClientError) -> str:
    """Current clients send checksums by default, which some servers do not accept."""
    text = _message_of(cause).lower()
    if "header is required" in text:
        return ". Set AWS_REQUEST_CHECKSUM_CALCULATION=when_supported"
    if _code_of(cause) in _CHECKSUM or any(word in text for word in _CHECKSUM_WORDS):
        return ". If the server does not accept checksums, set AWS_REQUEST_CHECKSUM_CALCULATION=when_required"
    return ""
