"""The protocol of a format: what is written for one image, and what is written at the end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

from job.convert.destination import Destination
from job.convert.labelled import LabelledImage

if TYPE_CHECKING:
    from job.convert.splitting import Side

Task = Literal["segment", "detect"]


@dataclass(frozen=True)
class Encoded:
    """What one image adds.

    Attributes:
        files: Objects to write, by key.
        parts: Bytes to append to growing files, by name.
        rows: Rows to append, for a format that is not text.
        joined: Instances whose parts were joined to one outline.
    """

    files: Mapping[str, bytes] = field(default_factory=dict)
    parts: Mapping[str, bytes] = field(default_factory=dict)
    rows: tuple[Mapping[str, object], ...] = ()
    joined: int = 0


class Format(Protocol):
    """One format. `encode` is called by several threads, the other methods by one, in the order of the images."""

    def image_key(self, image: LabelledImage) -> str:
        """The key of the image in the destination, where it is copied or linked."""
        ...

    def encode(self, image: LabelledImage) -> Encoded:
        """What an image adds; writes nothing.

        Raises:
            InputError: The format cannot hold this image.
        """
        ...

    def add(self, encoded: Encoded) -> None:
        """Append what an image adds; its files are written already."""
        ...

    def finish(self) -> None:
        """Write what holds all images."""
        ...


class Categories:
    """Classes as written, numbered in order from 0."""

    def __init__(self, names: Iterable[str]) -> None:
        self._index = {name: number for number, name in enumerate(dict.fromkeys(names))}

    def register(self, image: LabelledImage) -> None:
        """Number the classes of an image that are new; images are registered in their order."""
        for instance in image.instances:
            self._index.setdefault(instance.class_name, len(self._index))

    def index(self, name: str) -> int:
        """The number of a registered class."""
        return self._index[name]

    @property
    def names(self) -> tuple[str, ...]:
        """All classes, by number."""
        return tuple(self._index)


@dataclass(frozen=True, kw_only=True)
class FormatOptions:
    """The options of the formats.

    Attributes:
        destination: Where they write.
        categories: The classes.
        colours: Colours of classes, `#rrggbb`; for those that have one.
        sides: Sides of the split; one empty side without a split.
        model_id: Name of the model that annotated.
        images_url: Path or URL of the folder of the images, without a slash at its end.
        places_images: Whether images are copied or linked into the destination.
        polygons: coco, labelme: polygons instead of run lengths or bitmaps.
        results: coco: also write the form of results.
        task: yolo: outlines or boxes.
        image_url_prefix: label-studio: what precedes the key of an image in its URL.
    """

    destination: Destination
    categories: Categories
    colours: Mapping[str, str] = field(default_factory=dict)
    sides: tuple[Side, ...] = ("",)
    model_id: str = ""
    images_url: str = ""
    places_images: bool = False
    polygons: bool = False
    results: bool = False
    task: Task = "segment"
    image_url_prefix: str | None = None


def to_json(value: object) -> bytes:
    """Encode compactly."""
    return msgspec.json.encode(value)


class JsonArrays:
    """JSON arrays that grow item by item and are written into one document at the end."""

    def __init__(self, destination: Destination) -> None:
        self._destination = destination
        self._begun: set[str] = set()

    def add(self, name: str, items: bytes) -> None:
        """Append items, separated by commas, to an array."""
        if items:
            self._destination.append(name, (b",\n" if name in self._begun else b"\n") + items)
            self._begun.add(name)

    def parts(self, name: str) -> tuple[bytes | str, ...]:
        """The array, for `Destination.put_parts`."""
        return (b"[", name, b"\n]") if name in self._begun else (b"[]",)


def list_of(values: Iterable[object]) -> bytes:
    """Items of an array, encoded and separated by commas; to append with `JsonArrays.add`."""
    return b",\n".join(to_json(value) for value in values)
