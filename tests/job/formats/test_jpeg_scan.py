"""JPEGs whose scans end early are rejected; whole JPEGs of every kind pass."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from job.errors import InputError
from job.formats import jpeg_scan
from job.formats.image_decode import decode_upright
from job.formats.jpeg_scan import check_scans

EOI = b"\xff\xd9"
CUTS = [0.05 * i for i in range(1, 20)] + [0.998]


def texture() -> Image.Image:
    """320 x 240 with detail everywhere, so that every part of the file holds pixels."""
    noise = np.random.default_rng(7).integers(0, 60, (240, 320, 3))
    slope = np.add.outer(np.arange(240), np.arange(320))[..., None] // 4
    return Image.fromarray((noise + slope).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def with_thumbnail() -> bytes:
    """EXIF that holds a whole JPEG of its own."""
    exif = Image.Exif()
    exif[0x010E] = encoded(texture().resize((64, 48))).decode("latin-1")
    return encoded(texture(), exif=exif)


def with_odd_sampling() -> bytes:
    """All components sampled 3 x 1: TurboJPEG does not support the file, libjpeg does."""
    data = bytearray(encoded(texture().resize((312, 240)), keep_rgb=True))  # one Huffman table for all components
    frame = data.index(b"\xff\xc0")
    for component in range(3):
        data[frame + 11 + 3 * component] = 0x31
    return bytes(data)


WHOLE = {
    "4:2:0": encoded(texture(), subsampling=2),
    "4:4:4": encoded(texture(), subsampling=0, quality=95),
    "optimized": encoded(texture(), optimize=True),
    "progressive": encoded(texture(), progressive=True),
    "restart markers": encoded(texture(), restart_marker_rows=1),
    "restart markers by blocks": encoded(texture(), restart_marker_blocks=5),
    "progressive with restart markers": encoded(texture(), progressive=True, restart_marker_rows=1),
    "greyscale": encoded(texture().convert("L")),
    "CMYK": encoded(texture().convert("CMYK")),
    "RGB": encoded(texture(), keep_rgb=True),
    "MPO": encoded(texture(), "MPO", save_all=True, append_images=[texture()]),
    "thumbnail": with_thumbnail(),
    "sampling that TurboJPEG does not support": with_odd_sampling(),
    "one pixel": encoded(texture().resize((1, 1))),
}


@pytest.mark.parametrize(
    "behind", [b"", b"\x00" * 3000, random.Random(1).randbytes(3000), WHOLE["4:2:0"]], ids=range(4)
)
@pytest.mark.parametrize("data", WHOLE.values(), ids=WHOLE)
def test_a_whole_jpeg_passes_whatever_follows_it(data: bytes, behind: bytes) -> None:
    assert check_scans(data + behind) is None
    assert not jpeg_scan._ends_early(data + behind)


@pytest.mark.parametrize(
    "tail",
    [
        pytest.param(lambda missing: EOI, id="end marker"),
        pytest.param(lambda missing: bytes(missing), id="zeros"),
        pytest.param(lambda missing: random.Random(missing).randbytes(missing), id="random bytes"),
    ],
)
@pytest.mark.parametrize("name", [name for name in WHOLE if name not in {"MPO", "one pixel"}])
def test_a_scan_that_ends_early_fails(name: str, tail: Callable[[int], bytes]) -> None:
    data = WHOLE[name]
    start = data.rindex(b"\xff\xda", 0, len(data) // 2) + 20
    for share in CUTS:
        end = start + int(share * (len(data) - 2 - start))
        damaged = data[:end] + tail(len(data) - end)
        with pytest.raises(InputError, match=r"image is truncated|image cannot be decoded"):
            decode_and_check(damaged)


def decode_and_check(data: bytes) -> str | None:
    decode_upright(data)
    return check_scans(data)


@pytest.mark.parametrize("name", ["4:2:0", "progressive", "restart markers", "CMYK"])
def test_pillow_alone_accepts_what_ends_early(name: str) -> None:
    """The reason for the check: without it half a picture is annotated."""
    data = WHOLE[name]
    assert decode_upright(data[: len(data) // 2] + EOI).mode == "RGB"


def test_a_missing_restart_interval_fails() -> None:
    data = WHOLE["restart markers"]
    first, second = data.index(b"\xff\xd1"), data.index(b"\xff\xd2")
    damaged = data[:first] + data[second:]
    assert decode_upright(damaged).size == (320, 240)
    with pytest.raises(InputError, match="image is truncated"):
        check_scans(damaged)


def test_an_early_end_behind_another_warning_fails() -> None:
    """libjpeg-turbo returns the first warning only."""
    data = WHOLE["restart markers"]
    at = data.index(b"\xff\xd0")
    padded = data[:at] + bytes(9) + data[at : len(data) // 2] + EOI
    assert "extraneous bytes" in str(first_warning(padded))
    with pytest.raises(InputError, match="image is truncated"):
        check_scans(padded)


def test_damage_that_leaves_no_pixel_missing_is_a_warning() -> None:
    data = WHOLE["4:2:0"][:-2] + bytes(9) + EOI
    assert "extraneous bytes before marker 0xd9" in str(check_scans(data))


def first_warning(data: bytes) -> str | None:
    try:
        jpeg_scan.simplejpeg.decode_jpeg(data, "GRAY")
    except ValueError as exc:
        return str(exc)
    return None


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "GIF"])
def test_other_formats_pass(kind: str) -> None:
    assert check_scans(encoded(texture(), kind)) is None
