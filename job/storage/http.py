"""Requests to a web server, such as one that holds a model; read-only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import ClientError, ClientResponseError, ClientTimeout

from job.errors import ConfigurationError, ObjectRefusedError, UsageError
from job.storage.generic import FsspecDriver
from job.storage.listing.pages import DirListing
from job.storage.retry import RefusedError, TransientError
from job.storage.store import Fetched, StoredObject

CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 10, 30
"""Longest wait for a connection, and for the next bytes on it."""

_UNAUTHORIZED, _BEYOND_END, _NOT_IMPLEMENTED = 401, 416, 501
_RETRIED = {408, 425, 429}


class HttpDriver(FsspecDriver):
    """See `job.storage.object_store.Driver`. Uses the proxies and the .netrc of the environment."""

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        """See `FsspecDriver`."""
        timeout = ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=READ_TIMEOUT_S)
        client = {"trust_env": True, "timeout": timeout, **options.pop("client_kwargs", {})}
        super().__init__(url, {**options, "client_kwargs": client})

    def list_dir(self, prefix: str, after: str) -> DirListing:
        """See `Driver.list_dir`: the links of a page.

        Raises:
            ConfigurationError: The server refuses the page.
        """
        try:
            with self._mapped_errors(prefix):
                return super().list_dir(prefix, after)
        except ObjectRefusedError as exc:
            raise ConfigurationError(f"{exc}. Give the URL with user and password, or both in a .netrc file") from exc

    def stat(self, key: str) -> StoredObject | None:
        """See `Driver.stat`."""
        with self._mapped_errors(key):
            return super().stat(key)

    def fetch(self, key: str) -> Fetched:
        """See `Driver.fetch`."""
        with self._mapped_errors(key):
            return super().fetch(key)

    def fetch_range(self, key: str, start: int, length: int) -> bytes:
        """See `Driver.fetch_range`.

        Raises:
            ConfigurationError: The server ignores range requests.
        """
        try:
            with self._mapped_errors(key):
                data = super().fetch_range(key, start, length)
        except _BeyondEndError:
            return b""
        if len(data) > length:
            raise ConfigurationError(f"{self.url}/{key}: the server does not support range requests: use one that does")
        return data

    def put(self, key: str, data: bytes) -> None:
        """Unsupported.

        Raises:
            UsageError: Always.
        """
        raise UsageError(f"{self.url}: a web server is read-only: give a folder or a bucket")

    @contextmanager
    def _mapped_errors(self, key: str) -> Iterator[None]:
        try:
            yield
        except ClientResponseError as exc:
            raise _error_of(exc.status, f"{exc.status} {exc.message}", f"{self.url}/{key}") from exc
        except ClientError as exc:
            raise TransientError(f"{type(exc).__name__}: {exc}") from exc


class _BeyondEndError(Exception):
    """A range begins behind the end of its file."""


def _error_of(status: int, message: str, url: str) -> Exception:
    """The error of an answer; the retry layer names the URL of those that it retries."""
    if status == _BEYOND_END:
        return _BeyondEndError(message)
    if status == _UNAUTHORIZED:
        return RefusedError(message)
    if (status >= 500 and status != _NOT_IMPLEMENTED) or status in _RETRIED:
        return TransientError(message)
    return ObjectRefusedError(f"{url}: {message}")
