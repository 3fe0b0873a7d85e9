"""The protocol of storage: what a run needs of a folder or a bucket (job.storage.open opens one).

A store is a folder of objects under relative keys with `/` between their parts (UTF-8, ordered by bytes). Every
write is atomic, and `create` is exclusive: a run depends on these two guarantees only (see
docs/concepts/architecture.md, "Why nothing is lost").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from job.errors import (
    ConfigurationError,
    CredentialsRefusedError,
    ObjectError,
    ObjectMissingError,
    ReadOnlyStorageError,
)
from job.storage.keys import GROUP_SUFFIXES

PRIVATE_FOLDER = "_sam3"

Guard = Callable[[], None]
"""Called before every try of a write; raises if the object must not be written any more."""


FolderTest = Callable[[str], bool]
"""Takes the key of a folder, with a slash at its end."""


def no_folder(key: str) -> bool:
    """False for every folder."""
    return False


UNKNOWN_SIZE = -1


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One line of a listing: relative key, size in bytes, time of the last change by the store's clock.

    The size is `UNKNOWN_SIZE` where a listing has none: in a web server's page of links. `fault` tells why size and
    time are unknown (both are 0): a symbolic link to a JSON that leads nowhere or to itself, or a file whose status the
    device cannot read.
    """

    key: str
    size: int
    modified_s: float
    fault: Literal["", "broken_link", "no_status"] = ""


@dataclass(frozen=True)
class Fetched:
    """An object that was read.

    Attributes:
        data: Its bytes.
        source: The driver that read it, or None if the storage cannot copy it server-side.
        key: Bucket and key of the object, with a slash between them.
        etag: Entity tag of these bytes (RFC 9110, 8.8.3).
    """

    data: bytes
    source: object = None
    key: str = ""
    etag: str = ""


class Store(Protocol):
    """A folder of objects. Thread-safe.

    Every method raises `StorageError` if the storage is out of reach for longer than requests are retried.
    """

    @property
    def url(self) -> str:
        """Absolute path or URL of the folder, without a slash at its end."""
        ...

    def exists(self) -> bool:
        """Whether the folder (of an object store: the bucket) exists."""
        ...

    def list(
        self, prefix: str = "", skip: str | None = None, after: str = "", is_optional: FolderTest = no_folder
    ) -> Iterator[StoredObject]:
        """All objects in the folder `prefix`, ascending, without those in folder `skip` and those up to key `after`.

        A folder that this user may not list is left out if `is_optional` says so.

        Raises:
            ConfigurationError: This user may not list another folder.
        """
        ...

    def list_dirs(self, prefix: str) -> tuple[str, ...]:
        """Names of the folders directly in `prefix`, ascending; none when it does not exist."""
        ...

    def existing_suffixes(self, stem: str, among: Sequence[str] = GROUP_SUFFIXES) -> frozenset[str]:
        """Those suffixes that make a key of an existing object with the stem; each begins with a dot."""
        ...

    def read(self, key: str) -> bytes:
        """The bytes of an object.

        Raises:
            ObjectMissingError: There is no such object.
            ObjectRefusedError: This user may not read it.
        """
        ...

    def fetch(self, key: str) -> Fetched:
        """An object for `copy_from`; raises as `read` does."""
        ...

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """At most `length` bytes of an object from byte `start`, fewer at its end; raises as `read` does."""
        ...

    def stat(self, key: str) -> StoredObject | None:
        """Size and time of an object, or None if there is no such object."""
        ...

    def put(self, key: str, data: bytes, guard: Guard | None = None) -> None:
        """Write an object atomically; replaces an earlier one.

        Raises:
            StorageError: Out of reach, or no space left.
            ObjectRefusedError: This user may not write there.
        """
        ...

    def put_file(self, key: str, path: Path) -> None:
        """Write an object from a local file, which may be too large for memory."""
        ...

    def copy_from(self, key: str, fetched: Fetched, guard: Guard | None = None) -> None:
        """Write an object that was read from this or another store; by a server-side copy if possible."""
        ...

    def create(self, key: str, data: bytes) -> bool:
        """Write an object atomically if the key is free.

        Returns:
            Whether the stored object has these bytes.
        """
        ...

    def delete(self, key: str) -> None:
        """Remove an object; a missing one is no error."""
        ...

    def flush(self) -> None:
        """Make every write so far durable: it survives a power cut."""
        ...

    def now_s(self) -> float:
        """The clock of the store, comparable with `StoredObject.modified_s`."""
        ...

    def close(self) -> None:
        """Remove the temporary files of this process."""
        ...


def read_if_there(store: Store, key: str) -> bytes | None:
    """The bytes of an object, or None if there is no such object."""
    try:
        return store.read(key)
    except ObjectMissingError:
        return None


@contextmanager
def first_writes(store: Store) -> Iterator[None]:
    """Map a refusal of the first writes to an output: every process would see the same.

    Raises:
        ConfigurationError: The store refuses writes.
    """
    try:
        yield
    except (ObjectError, ReadOnlyStorageError) as exc:
        raise ConfigurationError(
            f"output {store.url} cannot be written ({exc}): give another folder, or permission to write to it"
        ) from exc


@contextmanager
def refusals_are_configuration(*, is_planner: bool) -> Iterator[None]:
    """Map refused credentials of a planner: every process would see the same.

    Raises:
        ConfigurationError: The storage has refused every request, and this process plans.
    """
    try:
        yield
    except CredentialsRefusedError as exc:
        if not is_planner:
            raise
        raise ConfigurationError(str(exc)) from exc
