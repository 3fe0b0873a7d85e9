"""The border to storage: what a run needs of a folder or a bucket (job.storage.open opens one).

A store is a folder of whole objects under relative keys with `/` between their parts (UTF-8, ordered byte by
byte). An object appears whole or not at all, and `create` makes it exclusively: those two are all that a run
needs to survive anything (see docs/concepts/architecture.md, "Why nothing is lost").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from job.errors import ConfigurationError, CredentialsRefusedError, ObjectError, ObjectMissingError

PRIVATE_FOLDER = "_sam3"

Guard = Callable[[], None]
"""Called before every try of a write; raises when the object must not be written any more."""


FolderTest = Callable[[str], bool]
"""Takes the key of a folder, with a slash at its end."""


def no_folder(key: str) -> bool:
    """False for every folder."""
    return False


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One line of a listing: relative key, size in bytes, time of the last change by the store's clock.

    `fault` tells why size and time are unknown (both are 0): a symbolic link to a JSON that leads nowhere or to
    itself, or a file whose status the device cannot read.
    """

    key: str
    size: int
    modified_s: float
    fault: Literal["", "broken_link", "no_status"] = ""


@dataclass(frozen=True)
class Fetched:
    """A whole object that was read.

    Attributes:
        data: Its bytes.
        source: The driver that read it, or None if the storage cannot copy it server-side.
        key: Bucket and key of the object.
        etag: Entity tag of exactly these bytes (RFC 9110, 8.8.3).
    """

    data: bytes
    source: object = None
    key: str = ""
    etag: str = ""


class Store(Protocol):
    """A folder of whole objects. Safe to use from several threads.

    Every method raises `StorageError` when the storage is out of reach for longer than it is tried again.
    """

    @property
    def url(self) -> str:
        """Where it is, as a person would write it."""
        ...

    def exists(self) -> bool:
        """Whether the folder (of an object store: the bucket) is there."""
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

    def existing_suffixes(self, stem: str) -> frozenset[str]:
        """Suffixes (see job.storage.keys) of the objects whose key is the stem and such a suffix."""
        ...

    def read(self, key: str) -> bytes:
        """The whole object.

        Raises:
            ObjectMissingError: There is none.
            ObjectRefusedError: This user may not read it.
        """
        ...

    def fetch(self, key: str) -> Fetched:
        """The whole object, as `copy_from` takes it; raises as `read` does."""
        ...

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """At most `length` bytes of an object from byte `start` on; fewer where it ends. Raises as `read` does."""
        ...

    def stat(self, key: str) -> StoredObject | None:
        """Size and time of an object, or None when there is none."""
        ...

    def put(self, key: str, data: bytes, guard: Guard | None = None) -> None:
        """Store an object whole, in place of an earlier one.

        Raises:
            StorageError: Out of reach, or no space left.
            ObjectRefusedError: This user may not write there.
        """
        ...

    def put_file(self, key: str, path: Path) -> None:
        """Store a file of this machine, which may be too large for memory."""
        ...

    def copy_from(self, key: str, fetched: Fetched, guard: Guard | None = None) -> None:
        """Store what was read from this or another store; where both are one storage, by a copy inside of it."""
        ...

    def create(self, key: str, data: bytes) -> bool:
        """Store an object whole only if there is none of that key.

        Returns:
            Whether the object that is there now is this one.
        """
        ...

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""
        ...

    def flush(self) -> None:
        """Make sure that everything put so far survives a power cut."""
        ...

    def now_s(self) -> float:
        """The store's own clock, comparable with `StoredObject.modified_s`."""
        ...

    def close(self) -> None:
        """Remove what only this user of the store needed."""
        ...


def read_if_there(store: Store, key: str) -> bytes | None:
    """The whole object, or None when there is none."""
    try:
        return store.read(key)
    except ObjectMissingError:
        return None


@contextmanager
def first_writes(store: Store) -> Iterator[None]:
    """Around the first writes to an output: where they are refused, every process would see the same.

    Raises:
        ConfigurationError: The store refuses to be written to.
    """
    try:
        yield
    except ObjectError as exc:
        raise ConfigurationError(
            f"output {store.url} cannot be written ({exc}): give another folder, or the right to write to it"
        ) from exc


@contextmanager
def refusals_are_configuration(*, is_planner: bool) -> Iterator[None]:
    """Where storage refuses the planner from the start, every other process would see the same.

    Raises:
        ConfigurationError: Storage has refused this user from the start, and this process is to plan.
    """
    try:
        yield
    except CredentialsRefusedError as exc:
        if not is_planner:
            raise
        raise ConfigurationError(str(exc)) from exc
