"""Parquet: one row an instance, one row an image without instances. pyarrow (extra `tables`) writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from job.convert.formats.base import Encoded, FormatOptions
from job.convert.labelled import LabelledImage, LabelledInstance

if TYPE_CHECKING:
    from pyarrow import parquet

_FILE = "instances.parquet"
_ROWS_A_GROUP = 20_000


class Parquet:
    """`instances.parquet`; boxes and masks are those of the raster as stored."""

    def __init__(self, options: FormatOptions) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        self._options = options
        self._path = options.destination.path(_FILE)
        self._schema = pa.schema(_fields())
        with options.destination.scratch_writes():
            self._writer: parquet.ParquetWriter = parquet.ParquetWriter(self._path, self._schema, compression="zstd")
        self._rows: list[Mapping[str, object]] = []

    def image_key(self, image: LabelledImage) -> str:
        """See `Format`."""
        return f"images/{image.image}"

    def encode(self, image: LabelledImage) -> Encoded:
        """See `Format`."""
        of_image = _image_columns(image)
        rows = [of_image | _instance_columns(instance, image) for instance in image.instances]
        return Encoded(rows=tuple(rows) or (of_image,))

    def add(self, encoded: Encoded) -> None:
        """See `Format`."""
        self._rows += encoded.rows
        if len(self._rows) >= _ROWS_A_GROUP:
            self._write()

    def finish(self) -> None:
        """See `Format`."""
        self._write()
        with self._options.destination.scratch_writes():
            self._writer.close()
        self._options.destination.put_path(_FILE, self._path)

    def _write(self) -> None:
        import pyarrow as pa

        if self._rows:
            table = pa.Table.from_pylist(self._rows, schema=self._schema)
            with self._options.destination.scratch_writes():
                self._writer.write_table(table)
        self._rows = []


def _fields() -> list[tuple[str, object]]:
    import pyarrow as pa

    counts = pa.struct([("size", pa.list_(pa.int32())), ("counts", pa.string())])
    return [
        ("json", pa.string()),
        ("image", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("orientation", pa.int8()),
        ("split", pa.string()),
        ("camera", pa.string()),
        ("garage", pa.string()),
        ("timestamp_ms", pa.int64()),
        ("class", pa.string()),
        ("prompt", pa.string()),
        ("query", pa.int32()),
        ("score", pa.float32()),
        ("value", pa.int16()),
        ("parent", pa.int16()),
        ("box", pa.list_(pa.int32())),
        ("area", pa.int64()),
        ("visible_area", pa.int64()),
        ("is_whole", pa.bool_()),
        ("rle", counts),
    ]


def _image_columns(image: LabelledImage) -> dict[str, object]:
    height, width = image.size_hw
    return {
        "json": image.key,
        "image": image.image,
        "width": width,
        "height": height,
        "orientation": image.orientation,
        "split": image.side or None,
        "camera": image.fields.camera,
        "garage": image.fields.garage,
        "timestamp_ms": image.fields.timestamp_ms,
    }


def _instance_columns(instance: LabelledInstance, image: LabelledImage) -> dict[str, object]:
    row, rle = instance.row, instance.rle
    return {
        "class": instance.class_name,
        "prompt": row.prompt,
        "query": row.query,
        "score": row.score,
        "value": row.value,
        "parent": row.parent,
        "box": list(instance.box_xyxy),
        "area": instance.area,
        "visible_area": row.visible_area,
        "is_whole": instance.visible is None and not image.is_visible_only,
        "rle": {"size": list(rle.size), "counts": rle.counts},
    }
