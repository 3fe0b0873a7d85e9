"""Valid inputs of every target, from which fuzzing starts."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
from PIL import Image

from job.formats.instance_table import InstanceRow, Rle, encode_rows
from job.formats.mask_npz import to_npz
from job.formats.rle import encode_rle
from job.model.artifact import MANIFEST_NAME
from job.postprocess.masks import crop_mask
from job.rules.rules import rules_of_prompts
from job.run.spec import RunEnd
from tests.fakes import DEMO_ARTIFACT, spec_of

_DOCUMENT = (
    '{"image": {"dimensions": {"width": 40, "height": 3e1}, "timestamp_ms": -1}, "source": {"camera": "\\ud800é"},'
    ' "annotation": {"segmentation": [{"annotator": {"model_id": "%s", "annotator_type": "Model"}, "labels":'
    ' {"annotation_format": "all_masks_on_single_array", "path": "a.npz", "properties": {"car": [255]},'
    ' "confidences": {"car": [0.123]}}, "review": %s}]}, "n": [1.50, -0, 1E400, true, null, "\\u0000"]}'
)
_ROW = InstanceRow(json="a.json", image="a.jpg", width=4, height=3)
_CLASSES = (
    "classes:\n- name: car\n  prompts: [car, 'parked car']\n  min_score: 0.5\n  colour: '#d55e00'\n- name: person\n"
    "passengers: {occupant: person, container: car, name: rider}\noverlap: {max_iou: 0.5, keep: best, across: class}\n"
)


def _documents() -> list[bytes]:
    ours, other = _DOCUMENT % ("SAM3", "null"), _DOCUMENT % ("other", '{"by": "x"}')
    texts = [ours, other, f"{ours}\0{other}", f"{other}\0{ours}", "\ufeff{}", "[]", '{"a": NaN}', '{"a":1,"a":2}']
    return [text.encode() for text in texts] + [b'{"a":' + b"[" * 600, b"\xff\xfe{\x00}\x00"]


def _images() -> list[bytes]:
    grey = np.arange(24 * 16, dtype=np.uint16).reshape(16, 24)
    images = {mode: Image.new(mode, (24, 16), 3) for mode in ("RGB", "L", "CMYK")}
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = [
        ("JPEG", images["RGB"], {"exif": exif}),
        ("JPEG", images["CMYK"], {}),
        ("JPEG", images["L"], {"progressive": True}),
        ("PNG", images["RGB"], {"exif": exif}),
        ("PNG", Image.fromarray(grey), {}),
        ("PNG", images["L"].convert("P"), {}),
        ("WEBP", images["RGB"], {}),
        ("BMP", images["RGB"], {}),
        ("GIF", images["L"], {}),
        ("TIFF", images["RGB"], {}),
    ]
    return [_saved(image, kind, options) for kind, image, options in kinds]


def _saved(image: Image.Image, kind: str, options: dict[str, object]) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _rows() -> list[bytes]:
    instance = InstanceRow(
        json="a.json", image="a.jpg", width=4, height=3, class_name="car", prompt="car", query=1, score=0.5, value=255,
        box=(0, 0, 2, 1), area=2, visible_area=2, rle=Rle((3, 4), _counts("##..", "....", "....")), camera="e",
        timestamp_ms=1,
    )  # fmt: skip
    return [encode_rows([_ROW]), encode_rows([instance, instance])]


def _counts(*rows: str) -> str:
    """Counts of a drawn mask."""
    drawn = np.array([[pixel == "#" for pixel in row] for row in rows])
    mask = crop_mask(drawn, (0, 0), drawn.shape)
    assert mask is not None
    return encode_rle(mask, drawn.shape)


def _rles() -> list[bytes]:
    """Height and width, each less 1, then counts."""
    drawings = [("....", ".##.", ".#.#"), ("#" * 24,) * 16, ("." * 200, "." * 100 + "#" + "." * 99) * 40]
    valid = [bytes([len(rows) - 1, len(rows[0]) - 1]) + _counts(*rows).encode() for rows in drawings]
    return [*valid, b"\x02\x03<", b"\x02\x0322222", b"\xff\xffPPo1"]


def _run_files() -> list[bytes]:
    return [
        b'{"row":"start","attempt":"a"}\n{"row":"leave","attempt":"a"}\n',
        b'{"row":"intent","json":"b","attempt":"a"}\n',
        b'{"row":"result","json":"a.json","result":"annotated","scores":{"car":[0.5]},"seconds":{"read":0.1}}\n',
        b'{"json":"a.json","image":"a.jpg","prior":false}\n',
        msgspec.json.encode(spec_of(Path("in"), classes=rules_of_prompts(["car", "person"], 0.4))),
        msgspec.json.encode(RunEnd(outcome="succeeded", by="x", inputs_listed=1)),
    ]


_SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "json_merge": _documents,
    "image": _images,
    "manifest": lambda: [msgspec.json.encode(msgspec.json.decode((DEMO_ARTIFACT / MANIFEST_NAME).read_bytes()))],
    "instance_rows": _rows,
    "instance_part": lambda: [gzip.compress(rows) for rows in _rows()],
    "rle": _rles,
    "mask_npz": lambda: [to_npz(np.full((4, 6), 7, np.uint8))],
    "key_list": lambda: [
        b"a.json\n./b/c.json\r\n",
        b"key\0key,IsLatest\nin/a.json,true\nin/b.json,false\n",
        b'1\0"b","in/a%20.json","v","true","false"\n',
        gzip.compress(b"a.json\n"),
    ],
    "classes": lambda: [_CLASSES.encode(), b"classes: [name: car]\n", b"classes: &a [*a]\n"],
    "run_files": _run_files,
}


def seeds_of(target: str) -> list[bytes]:
    """The valid and nearly valid inputs of a target."""
    return _SEEDS[target]()
