"""All formats by the name that `--to` takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from job.convert.formats.base import Format, FormatOptions
from job.convert.formats.coco import Coco
from job.convert.formats.cvat import Cvat
from job.convert.formats.label_studio import LabelStudio
from job.convert.formats.labelme import Labelme
from job.convert.formats.parquet import Parquet
from job.convert.formats.yolo import Yolo

FormatName = Literal["coco", "yolo", "label-studio", "cvat", "labelme", "parquet"]

FORMATS: Mapping[FormatName, Callable[[FormatOptions], Format]] = {
    "coco": Coco,
    "yolo": Yolo,
    "label-studio": LabelStudio,
    "cvat": Cvat,
    "labelme": Labelme,
    "parquet": Parquet,
}
