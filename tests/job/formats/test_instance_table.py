from __future__ import annotations

import gzip
import json

import msgspec
import pytest

from job.errors import InputError
from job.formats.instance_table import InstanceRow, Rle, decode_part, encode_part, encode_rows
from job.run.instance_parts import pack_part

CAR = InstanceRow(
    json="a/b.json",
    image="a/b.JPG",
    width=4,
    height=2,
    orientation=6,
    class_name="car",
    prompt="car",
    query=17,
    score=0.8999999761581421,
    value=255,
    box=(0, 1, 4, 2),
    area=4,
    visible_area=3,
    rle=Rle((2, 4), "11100000"),
    camera="entry1",
    garage="cen005",
    timestamp_ms=1743414465802,
)
NEGATIVE = InstanceRow(json="a/c.json", image="a/c.jpg", width=4, height=2)


def test_a_row_has_every_field_under_its_name() -> None:
    assert json.loads(gzip.decompress(encode_part([CAR]))) == {
        "json": "a/b.json",
        "image": "a/b.JPG",
        "width": 4,
        "height": 2,
        "orientation": 6,
        "class": "car",
        "prompt": "car",
        "query": 17,
        "score": 0.8999999761581421,
        "value": 255,
        "box": [0, 1, 4, 2],
        "area": 4,
        "visible_area": 3,
        "rle": {"size": [2, 4], "counts": "11100000"},
        "parent": None,
        "camera": "entry1",
        "garage": "cen005",
        "timestamp_ms": 1743414465802,
        "candidate": None,
        "cut": False,
    }


def test_an_image_without_instances_is_a_row_without_a_class() -> None:
    row = json.loads(encode_rows([NEGATIVE]))
    given = {name for name, value in row.items() if value is not None}
    assert given == {"json", "image", "width", "height", "orientation", "cut"}


def test_rows_survive_a_part() -> None:
    assert decode_part(encode_part([CAR, NEGATIVE])) == [CAR, NEGATIVE]


def test_a_part_is_one_gzip_member_without_a_time() -> None:
    part = encode_part([CAR, NEGATIVE])
    assert part == pack_part([encode_rows([CAR]), encode_rows([NEGATIVE])])
    assert part[4:8] == bytes(4)
    assert part.count(b"\x1f\x8b\x08") == 1


def test_fields_of_later_versions_are_ignored() -> None:
    line = encode_rows([CAR]).replace(b'"json"', b'"new":[1],"json"')
    assert decode_part(pack_part([line])) == [CAR]


@pytest.mark.parametrize(
    "part",
    [
        b"",
        b"rows",
        encode_part([CAR])[:-9],
        encode_part([CAR]) + b"x",
        pack_part([b'{"json":1}\n']),
        pack_part([encode_rows([CAR]).replace(b'"value":255', b'"value":"255"')]),
        pack_part([encode_rows([CAR]).replace(b'"value":255', b'"value":256')]),
        pack_part([encode_rows([CAR]).replace(b'"class":"', b'"class":"\xff')]),
        encode_part([msgspec.structs.replace(CAR, width=CAR.width + 1)]),
        encode_part([msgspec.structs.replace(CAR, width=1 << 30, height=1 << 30, rle=None)]),
    ],
    ids=[
        *("empty", "not gzip", "cut", "with a tail", "without fields", "of other types"),
        *("a value beyond 255", "not UTF-8", "a mask of another raster", "a huge raster"),
    ],
)
def test_damaged_parts_are_refused(part: bytes) -> None:
    with pytest.raises(InputError, match="instance table"):
        decode_part(part)
