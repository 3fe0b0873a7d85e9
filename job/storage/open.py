"""Opens a folder or a bucket by its path or URL."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from fsspec.core import strip_protocol
from fsspec.utils import get_protocol

from job.errors import UsageError
from job.storage.local.store import LocalStore
from job.storage.object_store import Driver, ObjectStore
from job.storage.store import Store

_EXTRA_OF_PROTOCOL = {
    "s3": "s3fs (pip install 'sam3-annotate[s3]')",
    "s3a": "s3fs (pip install 'sam3-annotate[s3]')",
    "http": "aiohttp (pip install 'sam3-annotate[s3]')",
    "https": "aiohttp (pip install 'sam3-annotate[s3]')",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
}


@dataclass(frozen=True)
class Address:
    """URL and options of a store; can be pickled for another process.

    Attributes:
        url: Path or URL.
        options: Storage options. They may contain secrets, so `repr` leaves them out.
        options_file: File of these options, which is read again when the store refuses them; None if there is none.
    """

    url: str
    options: dict[str, Any] = field(default_factory=dict, repr=False)
    options_file: str | None = None

    @classmethod
    def with_file(cls, url: str, options_file: str | None) -> Address:
        """The address of a folder with storage options in a file; see `read_storage_options`."""
        return cls(url, read_storage_options(options_file), options_file)

    def open(self, process_id: str) -> Store:
        """See `open_store`."""
        return open_store(self.url, process_id, self.options, self.options_file)


def open_store(
    url: str, process_id: str, options: Mapping[str, Any] | None = None, options_file: str | None = None
) -> Store:
    """Open a folder by path or URL.

    Args:
        url: Path of a local folder, or a URL for which fsspec has a driver.
        process_id: Unique name of this process, and of its folder of temporary files.
        options: Storage options of the fsspec driver. Its environment variables supply the rest.
        options_file: File with these options; S3 reads it again after a refusal.

    Raises:
        UsageError: There is no driver for the protocol, or the driver does not accept the options.
    """
    url, protocol = normalize_url(url), protocol_of(url)
    if protocol in {"file", "local"}:
        return LocalStore(Path(strip_protocol(url)), process_id)
    return ObjectStore(_open_driver(url, protocol, dict(options or {}), options_file), process_id)


def normalize_url(url: str) -> str:
    """The URL with its scheme in lower case (RFC 3986, 3.1); a path is returned unchanged.

    >>> normalize_url("S3://Bucket/Folder")
    's3://Bucket/Folder'
    """
    scheme, separator, rest = url.partition("://")
    return scheme.lower() + separator + rest if separator else url


def protocol_of(url: str) -> str:
    """The scheme of a URL in lower case, `file` for a path."""
    return str(get_protocol(normalize_url(url)))


def locate_file(path: str, like: Address) -> tuple[Address, str]:
    """Split the path or URL of a file into the address of its folder and its name; the name of a folder is empty.

    Args:
        path: Path or URL. The query of a web URL is part of the name; in any other path `?` is a character.
        like: On the same kind of storage, the folder is opened with the options of this address.
    """
    is_web = protocol_of(path) in {"http", "https"}
    head, mark, query = path.partition("?") if is_web else (path, "", "")
    folder, slash, name = head.rpartition("/")
    options = like.options if protocol_of(path) == protocol_of(like.url) else {}
    return Address(folder + slash if slash else ".", options), name and name + mark + query


def read_storage_options(path: str | None) -> dict[str, Any]:
    """Options of an fsspec driver from a JSON file, none for None.

    Raises:
        UsageError: The file does not exist, or is not a JSON object.
    """
    if path is None:
        return {}
    try:
        options = json.loads(Path(path).read_bytes())
    except (OSError, ValueError) as exc:
        raise UsageError(f"storage options {path}: {exc}. Give a file with one JSON object of fsspec options") from exc
    if not isinstance(options, dict):
        raise UsageError(f'storage options {path}: not a JSON object, such as {{"key": …, "secret": …}}')
    return options


def _open_driver(url: str, protocol: str, options: dict[str, Any], options_file: str | None) -> Driver:
    """Import a driver only when it is needed: s3fs alone takes 0.5 s."""
    try:
        if protocol in {"s3", "s3a"}:
            from job.storage.s3 import S3Driver

            return S3Driver(url, options, partial(read_storage_options, options_file) if options_file else None)
        if protocol in {"http", "https"}:
            from job.storage.http import HttpDriver

            return HttpDriver(url, options)
        from job.storage.generic import FsspecDriver

        return FsspecDriver(url, options)
    except ImportError as exc:
        package = _EXTRA_OF_PROTOCOL.get(protocol, "the fsspec driver of this protocol")
        raise UsageError(f"{url}: storage of kind {protocol!r} needs {package}, which is not installed") from exc
    except (TypeError, ValueError, KeyError) as exc:
        raise UsageError(f"{url}: cannot be opened with these storage options: {exc}") from exc


def new_process_id() -> str:
    """A random name of a process: 12 hexadecimal digits."""
    return secrets.token_hex(6)
