"""What is converted: the annotated images of an output with the rows of their instances."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from job.formats.instance_table import InstanceRow


@dataclass(frozen=True)
class StoredImage:
    """One annotated image.

    Attributes:
        key: Key of its JSON.
        rows: Its rows, at least one; an image without instances has one row without a class.
        is_visible_only: Whether there were no table rows, so that the masks are the visible parts.
    """

    key: str
    rows: tuple[InstanceRow, ...]
    is_visible_only: bool = False


class ImageSource(Protocol):
    """An output; its images can be read more than once."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes that its runs considered, in order."""
        ...

    def images(self) -> Iterator[StoredImage]:
        """All annotated images, ascending by key."""
        ...
