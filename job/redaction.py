"""Removal of secrets from texts that are shown or stored: passwords in URLs, and values of signed queries.

This is the lowest module of `job`, so that every error can use it.
"""

from __future__ import annotations

import re

HIDDEN = "***"
_PASSWORD = re.compile(r"(:/{1,2})[^/\s@:'\"\[]*:(?!\d+[/?#])[^\s'\"]*@")
"""A user with a password, up to the last `@` of the text without spaces: keys of S3 contain slashes. A port is none. A
URL that was taken for a path has lost a slash."""
_WEB_USER = re.compile(r"(?i)(https?:/{1,2})[^/\s@:'\"\[]+@")
"""A user without a password is a token on the web; elsewhere it may be the container of `abfs://container@account`."""
_QUERY = re.compile(
    r"(?i)([?&][^=&?\s'\"#]*(?:signature|credential|token|secret|passw|api.?key|access.?key)[^=&?\s'\"#]*=|"
    r"[?&](?:sig|key|auth|authorization|code|policy|key-pair-id)=)[^&\s'\"]+"
)


def redact(text: str) -> str:
    """The text without passwords in URLs and without values of signed queries.

    >>> redact("s3://me:secret@host/a and https://host/a?sig=abc&n=1")
    's3://***@host/a and https://host/a?sig=***&n=1'
    """
    if ":/" in text:
        text = _WEB_USER.sub(rf"\1{HIDDEN}@", _PASSWORD.sub(rf"\1{HIDDEN}@", text))
    return _QUERY.sub(rf"\1{HIDDEN}", text) if "=" in text else text


def public_url(url: str) -> str:
    """A URL that may be stored: without its user and password, and without values of a signed query.

    >>> public_url("https://me:secret@host/a?sig=abc")
    'https://host/a?sig=***'
    """
    return redact(url).replace(f"://{HIDDEN}@", "://")


def has_secret(url: str) -> bool:
    """Whether a URL holds a password or a signed query."""
    return redact(url) != url
