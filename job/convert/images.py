"""Copies of images, or links to them, beside what is converted."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from job.convert.destination import Destination
from job.errors import ConfigurationError, ObjectError, UsageError
from job.storage.open import protocol_of
from job.storage.store import Store

logger = logging.getLogger(__name__)

ImageMode = Literal["copy", "link", "none"]


def check_links(urls: Iterable[str]) -> None:
    """Check that links are possible, without a request.

    Raises:
        UsageError: One of the places is no local folder.
    """
    remote = [url for url in urls if protocol_of(url) not in {"file", "local"}]
    if remote:
        raise UsageError(f"--images link: {remote[0]} is no local folder: use --images copy")


class ImagePlacer:
    """Places the images of a data set; they are those of the output, else those of the input."""

    def __init__(self, mode: ImageMode, sources: Sequence[Store], destination: Destination) -> None:
        """Check that the mode is possible.

        Args:
            mode: Copy, link or none.
            sources: Stores that may hold the images, in order.
            destination: Where they go.

        Raises:
            UsageError: Links are not possible.
        """
        self._mode = mode
        self._sources = sources
        self._destination = destination
        if mode == "link":
            check_links(store.url for store in (destination.store, *sources))

    def place(self, image: str, key: str) -> bool:
        """Place an image at a key of the destination.

        Returns:
            Whether the image exists; True without a check if images are not placed.
        """
        if self._mode == "none":
            return True
        placed = self._link(image, key) if self._mode == "link" else self._copy(image, key)
        if not placed:
            logger.warning("%s: the image is not in %s", image, " or ".join(store.url for store in self._sources))
        return placed

    def _copy(self, image: str, key: str) -> bool:
        for store in self._sources:
            try:
                fetched = store.fetch(image)
            except ObjectError:
                continue
            self._destination.copy_from(key, fetched)
            return True
        return False

    def _link(self, image: str, key: str) -> bool:
        for store in self._sources:
            path = Path(store.url) / image
            if not path.is_file():
                continue
            link = Path(self._destination.store.url) / key
            try:
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(path.resolve())
            except OSError as exc:
                raise ConfigurationError(f"{link} cannot be created ({exc.strerror}): use --images copy") from exc
            return True
        return False
