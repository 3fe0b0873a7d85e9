from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image

from job.formats.file_type import describe, unsupported_jpeg


def encoded(kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (9, 99, 199)).save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg_with_frame(code: int, bits: int = 8) -> bytes:
    """A JPEG whose frame header declares another coding process or precision."""
    data = bytearray(encoded("JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 1], data[at + 4] = code, bits
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        pytest.param(encoded("TIFF"), "TIFF or a camera's raw format", id="TIFF"),
        pytest.param(encoded("TIFF", big_tiff=True), "BigTIFF", id="BigTIFF"),
        pytest.param(encoded("AVIF"), "AVIF", id="AVIF"),
        pytest.param(encoded("JPEG2000"), "JPEG 2000", id="JPEG 2000"),
        pytest.param(encoded("PPM"), "a Netpbm image", id="PPM"),
        pytest.param(encoded("PDF"), "PDF", id="PDF"),
        pytest.param(encoded("EPS"), "PostScript", id="EPS"),
        pytest.param(encoded("ICO"), "a Windows icon", id="icon"),
        pytest.param(b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", "HEIC", id="HEIC"),
        pytest.param(b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00", "a video (MP4 or QuickTime)", id="MP4"),
        pytest.param(b"RIFF\x00\x00\x00\x00AVI LIST", "a RIFF file of type AVI", id="AVI"),
        pytest.param(bytes(128) + b"DICM\x02\x00", "DICOM", id="DICOM"),
        pytest.param(jpeg_with_frame(0xC1, bits=12), "a 12-bit JPEG", id="12-bit JPEG"),
        pytest.param(jpeg_with_frame(0xC9), "a JPEG with arithmetic coding", id="arithmetic JPEG"),
        pytest.param(jpeg_with_frame(0xC3), "a lossless JPEG", id="lossless JPEG"),
        pytest.param(jpeg_with_frame(0xC5), "a hierarchical JPEG", id="hierarchical JPEG"),
        pytest.param(
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
            "a Git LFS pointer (git lfs pull fetches the file)",
            id="Git LFS",
        ),
        pytest.param(b"\n<!DOCTYPE html><html><body>403</body></html>", "an HTML page", id="HTML"),
        pytest.param(b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "SVG", id="SVG"),
        pytest.param(b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML", id="XML"),
        pytest.param(b'{"image": {}}', "JSON", id="JSON"),
        pytest.param("größer".encode(), "text", id="text"),
        pytest.param(("x" + "ä" * 1000).encode(), "text", id="text whose character is cut"),
        pytest.param(b"", "an empty file", id="empty"),
        pytest.param(bytes(1000), "a file of zero bytes only", id="zeros"),
        pytest.param(b"\x89\x01\x02", "a file that begins with the bytes 89 01 02", id="unknown"),
    ],
)
def test_a_file_is_named_by_its_first_bytes(data: bytes, name: str) -> None:
    assert describe(data) == name


@pytest.mark.parametrize(
    "data",
    [encoded("JPEG"), encoded("JPEG", progressive=True), encoded("PNG"), encoded("JPEG")[:30], b"\xff\xd8", b""],
    ids=["baseline", "progressive", "PNG", "cut off", "marker only", "empty"],
)
def test_decodable_files_are_no_unsupported_jpegs(data: bytes) -> None:
    assert unsupported_jpeg(data) is None
