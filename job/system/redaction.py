"""Removal of secrets from texts that are shown: user names with passwords in URLs, and signed queries."""

from __future__ import annotations

import re

HIDDEN = "***"
_USER = re.compile(r"(?<=://)[^/\s@'\"]*:[^/\s'\"]*@")
_QUERY = re.compile(
    r"(?i)([?&](?:x-amz-(?:signature|credential|security-token)|x-goog-(?:signature|credential)|signature|sig|token|"
    r"access_token|awsaccesskeyid|key|password)=)[^&\s'\"]+"
)


def redact(text: str) -> str:
    """The text without passwords in URLs and without values of signed queries.

    >>> redact("s3://me:secret@host/a and https://host/a?sig=abc&n=1")
    's3://***@host/a and https://host/a?sig=***&n=1'
    """
    if "://" not in text:
        return text
    return _QUERY.sub(rf"\1{HIDDEN}", _USER.sub(f"{HIDDEN}@", text))
