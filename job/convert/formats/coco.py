"""COCO: one JSON of images, annotations and categories; `--results` also writes the form of results."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from job.convert.formats.base import Encoded, FormatOptions, JsonArrays, list_of, to_json
from job.convert.labelled import LabelledImage, LabelledInstance
from job.convert.outlines import outlines
from job.postprocess.masks import Box

_INFO = {"description": "Annotations of sam3-annotate", "version": "1.0"}


class Coco:
    """`instances.json`, or `train.json` and `val.json`; masks are those of the raster as stored."""

    def __init__(self, options: FormatOptions) -> None:
        self._options = options
        self._arrays = JsonArrays(options.destination)

    def image_key(self, image: LabelledImage) -> str:
        """See `Format`."""
        return f"images/{image.image}"

    def encode(self, image: LabelledImage) -> Encoded:
        """See `Format`."""
        name = image.side or "instances"
        height, width = image.size_hw
        entry = {"id": image.number, "file_name": image.image, "width": width, "height": height}
        annotations = [
            self._annotation(instance, image, image.first_instance + number)
            for number, instance in enumerate(image.instances)
        ]
        parts = {f"{name}.images": to_json(entry), f"{name}.annotations": list_of(annotations)}
        if self._options.results:
            parts[f"{name}.results"] = list_of(map(_result, annotations))
        return Encoded(parts=parts)

    def add(self, encoded: Encoded) -> None:
        """See `Format`."""
        for name, items in encoded.parts.items():
            self._arrays.add(name, items)

    def finish(self) -> None:
        """See `Format`."""
        categories = coco_categories(self._options.categories.names)
        for side in self._options.sides:
            name = side or "instances"
            parts = [
                b'{"info":' + to_json(_INFO) + b',"licenses":[],"categories":' + to_json(categories) + b',\n"images":',
                *self._arrays.parts(f"{name}.images"),
                b',\n"annotations":',
                *self._arrays.parts(f"{name}.annotations"),
                b"}\n",
            ]
            self._options.destination.put_parts(f"{name}.json", parts)
            if self._options.results:
                parts = [*self._arrays.parts(f"{name}.results"), b"\n"]
                self._options.destination.put_parts(f"{side}_results.json" if side else "results.json", parts)

    def _annotation(self, instance: LabelledInstance, image: LabelledImage, number: int) -> dict[str, Any]:
        return {
            "id": number,
            "image_id": image.number,
            "category_id": self._options.categories.index(instance.class_name) + 1,
        } | coco_shape(instance, self._segmentation(instance))

    def _segmentation(self, instance: LabelledInstance) -> Any:
        if self._options.polygons:
            return [part.ravel().tolist() for part in outlines(instance.mask)]
        return instance.rle


class _Shape(Protocol):
    @property
    def box_xyxy(self) -> Box: ...

    @property
    def area(self) -> int: ...

    @property
    def score(self) -> float | None: ...


def coco_categories(names: Iterable[str]) -> list[dict[str, Any]]:
    """The categories of a document, numbered from 1."""
    return [{"id": number, "name": name, "supercategory": ""} for number, name in enumerate(names, start=1)]


def coco_shape(instance: _Shape, segmentation: object) -> dict[str, Any]:
    """The fields of an annotation that do not depend on the document."""
    x0, y0, x1, y1 = instance.box_xyxy
    return {
        "segmentation": segmentation,
        "area": instance.area,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "iscrowd": 0,
        "score": instance.score,
    }


def _result(annotation: dict[str, Any]) -> dict[str, Any]:
    """A detection as pycocotools' `loadRes` reads it; without a score it counts as certain."""
    names = ("image_id", "category_id", "segmentation", "bbox")
    score = annotation["score"]
    return {name: annotation[name] for name in names} | {"score": 1.0 if score is None else score}
