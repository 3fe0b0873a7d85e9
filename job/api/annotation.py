"""The typed values of the Python API: an annotated image and its instances."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from job.convert.formats.coco import coco_categories, coco_shape
from job.convert.labelled import upright_mask
from job.convert.masks import decode_mask, encode_mask
from job.errors import ConfigurationError, InputError
from job.formats.instance_table import Rle
from job.formats.overlay import OverlayLabel, draw_overlay
from job.postprocess.masks import Box, CroppedMask
from job.postprocess.orientation import turn_upright

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PREVIEW_SIDE = 1280
"""Longest side of the picture that a notebook shows, in pixels."""


@dataclass(frozen=True)
class Instance:
    """One object in one image. Positions are pixels of the raster as stored in the image file.

    Attributes:
        class_name: Its class.
        score: 0 to 1; None if the annotation has none.
        value: Its value in the painted mask, 1 to 255; None beyond 255 instances.
        prompt: Prompt that found it, if it is known.
        query: Query of the model that found it, if it is known.
        source: Its mask, cropped or encoded.
    """

    class_name: str
    score: float | None
    value: int | None
    prompt: str | None
    query: int | None
    source: CroppedMask | Rle = field(repr=False)

    @cached_property
    def cropped(self) -> CroppedMask:
        """Its mask, cropped to its box; decoded when it is first used."""
        return decode_mask(self.source) if isinstance(self.source, Rle) else self.source

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """Its whole mask, before smaller instances are painted over it: bool (H, W)."""
        full = np.zeros(self.cropped.size_hw, np.bool_)
        x0, y0, x1, y1 = self.box_xyxy
        full[y0:y1, x0:x1] = self.cropped.crop()
        return full

    @property
    def box_xyxy(self) -> Box:
        """Its tight box: first column and row, and one past the last."""
        return self.cropped.box_xyxy

    @property
    def area(self) -> int:
        """Pixels of its mask."""
        return self.cropped.area

    @property
    def rle(self) -> Rle:
        """Its mask as COCO stores it."""
        return self.source if isinstance(self.source, Rle) else encode_mask(self.source)


@dataclass(frozen=True)
class Annotation:
    """An annotated image. Positions are pixels of the raster as stored in the image file.

    Attributes:
        instances: In the order of the output.
        size_hw: Height and width of the raster as stored, in pixels.
        class_names: All classes that an instance can have, in order.
        key: Key of its JSON in an output; empty for an image that `Annotator` annotated.
        image_key: Key of its image in an output, or the name of its file.
        orientation: EXIF orientation of the image, 1 to 8.
        is_whole: Whether the masks are whole; else they are the parts that smaller instances do not cover.
        load_image: Reads the upright RGB image for pictures.
    """

    instances: tuple[Instance, ...]
    size_hw: tuple[int, int]
    class_names: tuple[str, ...]
    key: str = ""
    image_key: str = ""
    orientation: int = 1
    is_whole: bool = True
    load_image: Callable[[], Image.Image] | None = field(default=None, repr=False, compare=False)

    @cached_property
    def painted(self) -> NDArray[np.uint8]:
        """The mask of the NPZ: uint8 (H, W), the value of the instance at each pixel, 0 for background."""
        canvas = np.zeros(self.size_hw, np.uint8)
        valued = [(instance.value, instance) for instance in self.instances if instance.value is not None]
        for value, instance in sorted(valued, key=lambda pair: pair[0]):
            x0, y0, x1, y1 = instance.box_xyxy
            canvas[y0:y1, x0:x1][instance.cropped.crop()] = value
        return canvas

    def upright(self) -> Annotation:
        """The same with positions in the upright image, as libraries show it that apply the EXIF orientation."""
        instances = tuple(
            replace(instance, source=upright_mask(instance.cropped, self.orientation)) for instance in self.instances
        )
        height, width = self.size_hw
        size_hw = (width, height) if self.orientation >= 5 else (height, width)
        return replace(self, instances=instances, size_hw=size_hw, orientation=1)

    def to_supervision(self) -> Any:
        """The instances as `supervision.Detections`: xyxy, masks, confidences, class numbers and names.

        Raises:
            ConfigurationError: supervision is not installed.
        """
        try:
            import supervision
        except ModuleNotFoundError as exc:
            raise ConfigurationError(f"this needs {exc.name}, which is not installed: pip install supervision") from exc
        if not self.instances:
            return supervision.Detections.empty()
        scores = [1.0 if instance.score is None else instance.score for instance in self.instances]
        names = [instance.class_name for instance in self.instances]
        return supervision.Detections(
            xyxy=np.array([instance.box_xyxy for instance in self.instances], np.float32),
            mask=np.stack([instance.mask for instance in self.instances]),
            confidence=np.array(scores, np.float32),
            class_id=np.array([self._class_number(name) for name in names]),
            data={"class_name": np.array(names)},
        )

    def to_coco(self, image_id: int = 1) -> dict[str, Any]:
        """A COCO document with this image alone, as `convert --to coco` writes it; plain Python values."""
        height, width = self.size_hw
        annotations = [
            {"id": number, "image_id": image_id, "category_id": self._class_number(instance.class_name) + 1}
            | coco_shape(instance, {"size": list(instance.rle.size), "counts": instance.rle.counts})
            for number, instance in enumerate(self.instances, start=1)
        ]
        return {
            "images": [{"id": image_id, "file_name": self.image_key, "width": width, "height": height}],
            "annotations": annotations,
            "categories": coco_categories(self._all_classes),
        }

    def draw(self, side: int = _PREVIEW_SIDE) -> Image.Image:
        """Draw masks, classes and scores over the upright image: RGB, the longest side at most `side` pixels.

        Raises:
            ConfigurationError: The image is not available.
            InputError: It cannot be decoded.
        """
        if self.load_image is None:
            raise ConfigurationError(
                f"{self.image_key or 'this annotation'}: the image is not available, so nothing can be drawn over it"
            )
        image = self.load_image()
        mask = turn_upright(Image.fromarray(self.painted), self.orientation)
        image.thumbnail((side, side))
        labels = [
            OverlayLabel(instance.class_name, instance.score, instance.value)
            for instance in self.instances
            if instance.value is not None
        ]
        return draw_overlay(image, np.asarray(mask.resize(image.size, Image.Resampling.NEAREST)), labels)

    def _repr_png_(self) -> bytes | None:
        """What a notebook shows; None, so that it shows the text, if the image is not available."""
        try:
            picture = self.draw()
        except (ConfigurationError, InputError):
            return None
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        return buffer.getvalue()

    @property
    def _all_classes(self) -> tuple[str, ...]:
        """The classes, and those of instances that are not among them."""
        return tuple(dict.fromkeys((*self.class_names, *(instance.class_name for instance in self.instances))))

    def _class_number(self, name: str) -> int:
        return self._all_classes.index(name)
