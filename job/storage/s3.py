"""Single requests to S3 and to S3-compatible servers, through s3fs.

s3fs supplies credentials, endpoints, regions and connections. Its retries, its listing cache and its recursive
listings are not used: `_call_s3` makes one request. tests/job/storage/test_private_calls.py checks
the private names of s3fs that are used here.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar

import botocore
from aiohttp import ClientError as HttpClientError
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
)
from s3fs import S3FileSystem

from job.errors import (
    AnnotateError,
    ConfigurationError,
    CredentialsRefusedError,
    ObjectMissingError,
    ObjectRefusedError,
    UsageError,
)
from job.redaction import has_secret, public_url
from job.storage.listing.pages import LAST_CHARACTER, DirListing, Page
from job.storage.retry import RefusedError, RejectedError
from job.storage.s3_credentials import with_credentials
from job.storage.s3_errors import BeyondEndError, ExistsError, NotImplementedByServerError, to_error
from job.storage.s3_session import new_session
from job.storage.store import PRIVATE_FOLDER, Fetched, StoredObject

logger = logging.getLogger(__name__)

CONNECTIONS = 64
CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 10, 30
"""Longest wait for a connection, and for the next bytes on it."""

_USER_AGENT = f"sam3-annotate botocore/{botocore.__version__}"
"""botocore puts its own together twice a request, which takes a twentieth of a request's core time."""
Options = Mapping[str, Any]
_T = TypeVar("_T")


class S3Driver:
    """See `job.storage.object_store.PagedDriver`."""

    def __init__(self, url: str, options: Options, reread: Callable[[], Options] | None = None) -> None:
        """Create a client; sends nothing to the store.

        Args:
            url: `s3://bucket/folder`.
            options: Keyword arguments of `s3fs.S3FileSystem`.
            reread: Returns them as they are now; called after a refusal, for credentials that have been replaced.

        Raises:
            UsageError: The URL has keys, no bucket or an invalid one, or a profile or setting does not exist.
            CredentialsRefusedError: There are no credentials.
            TypeError: s3fs does not accept an option.
            ValueError: s3fs does not accept a value.
        """
        self._bucket, _, folder = url.partition("://")[2].strip("/").partition("/")
        if has_secret(url):
            raise UsageError(
                f"{public_url(url)}: a URL of S3 holds no keys: give them by AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, a profile, or storage options"
            )
        if not self._bucket:
            raise UsageError(f"{url}: no bucket; give s3://bucket/folder")
        self._prefix = f"{folder}/" if folder else ""
        self._reread = reread or (lambda: options)
        self._renewal = threading.Lock()
        self._account = with_credentials(options)
        self._fs = self._open(self._account)

    def _open(self, account: Options) -> S3FileSystem:
        options = dict(account)
        config = {
            "max_pool_connections": CONNECTIONS,
            "connect_timeout": CONNECT_TIMEOUT_S,
            "read_timeout": READ_TIMEOUT_S,
            "user_agent": _USER_AGENT,
            **options.pop("config_kwargs", {}),
            "retries": {"mode": "standard", "total_max_attempts": 1},
        }
        fs = S3FileSystem(**options, config_kwargs=config, use_listings_cache=False, skip_instance_cache=True)
        fs.retries = 1
        try:
            fs.session = fs.session or new_session(**fs.kwargs)
            asyncio.run_coroutine_threadsafe(self._connect(fs), fs.loop).result()
        except NoCredentialsError as exc:
            raise CredentialsRefusedError(
                f"{self.url}: no credentials found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, "
                'or give storage options ({"anon": true} for a public bucket)'
            ) from exc
        except CredentialRetrievalError:
            pass  # a provider is out of reach: the first request asks it again, and is retried
        except BotoCoreError as exc:
            raise UsageError(f"{self.url}: {exc}") from exc
        return fs

    def _renew(self) -> None:
        """Take the options that are now in the files, if they have changed and are whole."""
        with self._renewal, suppress(AnnotateError, TypeError, ValueError):
            account = with_credentials(self._reread())
            if account != self._account:
                self._fs, self._account = self._open(account), account
                logger.info("%s: the credentials have been replaced", self.url)

    @property
    def url(self) -> str:
        """`s3://bucket/folder`."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def exists(self) -> bool:
        """Whether the bucket exists."""
        try:
            self._call("list_objects_v2", MaxKeys=1, Prefix=self._prefix)
        except UsageError:
            return False
        return True

    def page(self, prefix: str, after: str) -> Page:
        """See `PagedDriver.page`: one request, and one more after each empty page."""
        answer = self._list(prefix, after)
        while not answer.get("Contents") and answer["IsTruncated"]:
            answer = self._list(prefix, after, ContinuationToken=answer["NextContinuationToken"])
        return Page(self._objects(answer), is_last=not answer["IsTruncated"])

    def page_of_token(self, prefix: str, token: str) -> Page:
        """See `PagedDriver.page_of_token`: one request."""
        answer = self._list(prefix, "", **({"ContinuationToken": token} if token else {}))
        return Page(
            self._objects(answer), is_last=not answer["IsTruncated"], token=answer.get("NextContinuationToken", "")
        )

    def list_dir(self, prefix: str, after: str) -> DirListing:
        """See `Driver.list_dir`: one request."""
        answer = self._list(prefix, after, Delimiter="/")
        objects = self._objects(answer)
        listed = [entry["Prefix"].removeprefix(self._prefix) for entry in answer.get("CommonPrefixes", [])]
        next_key = None
        if answer["IsTruncated"]:
            ends = [f"{folder}{LAST_CHARACTER}" for folder in listed[-1:]] + [item.key for item in objects[-1:]]
            next_key = max(ends, key=str.encode)
        return DirListing(objects, tuple(folder.removeprefix(prefix).rstrip("/") for folder in listed), next_key)

    def fetch(self, key: str) -> Fetched:
        """See `Driver.fetch`."""
        data, etag = self._run(self._get(Key=self._prefix + key), key)
        return Fetched(data, source=self, key=f"{self._bucket}/{self._prefix}{key}", etag=etag)

    def fetch_range(self, key: str, start: int, length: int) -> bytes:
        """See `Driver.fetch_range`."""
        wanted = f"bytes={start}-{start + length - 1}"
        try:
            return self._run(self._get(Key=self._prefix + key, Range=wanted), key)[0]
        except BeyondEndError:
            return b""

    def stat(self, key: str) -> StoredObject | None:
        """See `Driver.stat`."""
        try:
            answer = self._call("head_object", key, Key=self._prefix + key)
        except ObjectMissingError:
            return None
        return StoredObject(key, answer["ContentLength"], answer["LastModified"].timestamp())

    def put(self, key: str, data: bytes) -> None:
        """See `Driver.put`."""
        self._write("put_object", key, Body=data)

    def put_file(self, key: str, path: Path) -> None:
        """See `Driver.put_file`; a large one by a multipart upload."""
        try:
            self._run(self._fs._put_file(str(path), f"{self._bucket}/{self._prefix}{key}"), key)
        except ObjectRefusedError as exc:
            raise self._refused(exc, key) from exc

    def create(self, key: str, data: bytes) -> bool:
        """See `Driver.create`; `If-None-Match: *` (RFC 9110, 13.1.2)."""
        try:
            self._write("put_object", key, Body=data, IfNoneMatch="*")
        except ExistsError:
            return False
        except NotImplementedByServerError as exc:
            raise ConfigurationError(
                f"{exc}. A run needs PutObject with `If-None-Match: *`, which creates an object exclusively"
            ) from exc
        return True

    def copy(self, key: str, fetched: Fetched) -> bool:
        """See `Driver.copy`; only with the credentials of the original, and only if its etag is unchanged."""
        if not (isinstance(fetched.source, S3Driver) and fetched.source._account == self._account):
            return False
        bucket, _, original = fetched.key.partition("/")
        try:
            self._call(
                "copy_object",
                key,
                Key=self._prefix + key,
                CopySource={"Bucket": bucket, "Key": original},
                CopySourceIfMatch=fetched.etag,
            )
        except (
            ExistsError,
            NotImplementedByServerError,
            RejectedError,
            ObjectMissingError,
            ObjectRefusedError,
            UsageError,
        ):
            return False
        return True

    def delete(self, key: str) -> None:
        """See `Driver.delete`."""
        self._write("delete_object", key)

    def now_s(self) -> float:
        """The `Date` of a response, in whole seconds like every time of S3."""
        answer = self._call("list_objects_v2", MaxKeys=1, Prefix=f"{self._prefix}{PRIVATE_FOLDER}/")
        return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"]).timestamp()

    def _list(self, prefix: str, after: str, **more: str) -> dict[str, Any]:
        if after:
            more["StartAfter"] = self._prefix + after
        return self._call("list_objects_v2", Prefix=self._prefix + prefix, **more)

    def _objects(self, answer: dict[str, Any]) -> tuple[StoredObject, ...]:
        start = len(self._prefix)
        return tuple(
            StoredObject(entry["Key"][start:], entry["Size"], entry["LastModified"].timestamp())
            for entry in answer.get("Contents", [])
        )

    def _write(self, method: str, key: str, **arguments: Any) -> None:
        """Map a refused write to refused credentials: the object is not the cause."""
        try:
            self._call(method, key, Key=self._prefix + key, **arguments)
        except ObjectRefusedError as exc:
            raise self._refused(exc, key) from exc

    def _call(self, method: str, key: str | None = None, **arguments: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._run(self._fs._call_s3(method, Bucket=self._bucket, **arguments), key)
        return answer

    async def _get(self, **arguments: str) -> tuple[bytes, str]:
        answer = await self._fs._call_s3("get_object", Bucket=self._bucket, **arguments)
        async with answer["Body"] as body:
            return await body.read(), answer["ETag"]

    async def _connect(self, fs: S3FileSystem) -> None:
        """Look for credentials once: a client that found none never asks again. Signing a URL needs no request."""
        client = await fs.set_session()
        await client.generate_presigned_url("head_bucket", Params={"Bucket": self._bucket})

    def _run(self, request: Coroutine[Any, Any, _T], key: str | None) -> _T:
        """Make a request from any thread and map its errors."""
        try:
            return asyncio.run_coroutine_threadsafe(request, self._fs.loop).result()
        except (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError) as exc:
            self._renew()
            raise RefusedError(str(exc)) from exc
        except (OSError, BotoCoreError, ClientError, HttpClientError) as exc:
            error = to_error(exc, self._named(key), is_of_bucket=key is None)
            if isinstance(error, RefusedError):
                self._renew()
            raise error from exc

    def _refused(self, exc: ObjectRefusedError, key: str) -> RefusedError:
        """A refused write; `Retry` names the object, so the message does not."""
        self._renew()
        return RefusedError(str(exc).removeprefix(f"{self._named(key)}: "))

    def _named(self, key: str | None) -> str:
        return self.url if key is None else f"{self.url}/{key}"
