from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageFile

from job.errors import InputError
from job.formats.image_decode import _to_8_bits, decode_for_model, decode_upright, read_header
from job.formats.image_resize import resize_to_square
from job.formats.jpeg_scan import decode_whole
from tests import reference

ANY_SIZE = 1 << 40
RED, GREEN = (200, 40, 30), (30, 180, 60)


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def exif(orientation: int, tag_type: int = 3, count: int = 1) -> bytes:
    """EXIF of one tag, by default one short integer."""
    entry = struct.pack("<HHHII", 1, 0x0112, tag_type, count, orientation)
    return b"Exif\x00\x00II*\x00\x08\x00\x00\x00" + entry + bytes(4)


def picture() -> Image.Image:
    """48 x 32, red with a green corner at the top left."""
    image = Image.new("RGB", (48, 32), RED)
    image.paste(GREEN, (0, 0, 16, 16))
    return image


NOISE = encoded(Image.effect_noise((300, 200), 90).convert("RGB"))


def png_of_size(width: int, height: int) -> bytes:
    """A PNG that declares a size and holds no pixels."""
    data = encoded(Image.new("RGB", (1, 1)), "PNG")
    header = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


# --- orientation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_stored_raster_is_decoded_upright(orientation: int) -> None:
    stored = np.stack([reference.turn_back(plane, orientation) for plane in np.asarray(picture()).transpose(2, 0, 1)])
    data = encoded(Image.fromarray(stored.transpose(1, 2, 0)), exif=exif(orientation), quality=95, subsampling=0)
    header = read_header(data, ANY_SIZE)
    assert header.orientation == orientation
    assert header.size_hw == stored.shape[1:]
    assert header.upright_size_hw == (32, 48)
    upright = decode_upright(data)
    assert upright.size == (48, 32)
    assert np.abs(np.asarray(upright).astype(int) - np.asarray(picture()).astype(int)).max() < 12


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param({}, id="no EXIF"),
        pytest.param({"exif": exif(0)}, id="0"),
        pytest.param({"exif": exif(9)}, id="9"),
        pytest.param({"exif": exif(ord("6"), tag_type=2, count=2)}, id="a text"),
        pytest.param({"exif": exif(6, tag_type=7)}, id="bytes"),
        pytest.param({"exif": exif(6, tag_type=99)}, id="a type that does not exist"),
        pytest.param({"exif": b"Exif\x00\x00"}, id="empty EXIF"),
        pytest.param({"exif": b"Exif\x00\x00garbage, garbage"}, id="garbage as EXIF"),
        pytest.param({"exif": b"Exif\x00\x00" + bytes(200), "dpi": (300, 300)}, id="zeros and a density"),
        pytest.param({"exif": b"Exif\x00\x00removed by a tool", "dpi": (300, 300)}, id="text and a density"),
        pytest.param({"exif": b"Exif\x00\x00II*\x00", "dpi": (300, 300)}, id="cut off, and a density"),
        pytest.param({"exif": b"Exif\x00\x00II+\x00\x08" + bytes(99), "dpi": (300, 300)}, id="BigTIFF and a density"),
    ],
)
def test_an_absent_or_invalid_orientation_counts_as_upright(extra: dict[str, Any]) -> None:
    data = encoded(picture(), **extra)
    header = read_header(data, ANY_SIZE)
    assert (header.orientation, header.size_hw, header.upright_size_hw) == (1, (32, 48), (32, 48))
    assert decode_upright(data).size == (48, 32)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data", "ignore:Truncated File Read", "ignore:Tag data larger")
@pytest.mark.parametrize("length", [14, 16, 20, 26])
def test_truncated_exif_counts_as_absent(length: int) -> None:
    data = encoded(picture(), exif=exif(6)[:length])
    assert read_header(data, ANY_SIZE).orientation == 1
    assert decode_upright(data).size == (48, 32)


def test_exif_behind_the_pixels_of_a_png_is_ignored() -> None:
    """The header is read without decoding, so header and pixels both ignore EXIF behind the pixels."""
    data = encoded(picture(), "PNG")
    chunk = b"eXIf" + exif(6).removeprefix(b"Exif\x00\x00")
    framed = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    before, behind = data[:33] + framed + data[33:], data[:-12] + framed + data[-12:]
    for file, size_hw in ((before, (48, 32)), (behind, (32, 48))):
        assert read_header(file, ANY_SIZE).upright_size_hw == size_hw
        assert decode_upright(file).size == size_hw[::-1]


def test_header_and_pixels_agree_on_an_orientation_that_only_xmp_gives() -> None:
    data = encoded(picture(), xmp=b'<rdf:Description tiff:Orientation="6"/>')
    header = read_header(data, ANY_SIZE)
    assert header.upright_size_hw == decode_upright(data).size[::-1]


@pytest.mark.parametrize(
    "damaged",
    [pytest.param({}, id="no EXIF"), pytest.param({"exif": b"Exif\x00\x00" + bytes(200)}, id="EXIF of zeros")],
)
@pytest.mark.parametrize("density", [{}, {"dpi": (300, 300)}], ids=["no density", "density"])
def test_xmp_gives_the_orientation_where_exif_gives_none(damaged: dict[str, Any], density: dict[str, Any]) -> None:
    data = encoded(picture(), xmp=b'<rdf:Description tiff:Orientation="6"/>', **damaged, **density)
    assert read_header(data, ANY_SIZE).orientation == 6
    assert decode_upright(data).size == (32, 48)


# --- kinds of files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "colour"),
    [
        pytest.param(encoded(picture()), RED, id="RGB"),
        pytest.param(encoded(picture().convert("L")), (86, 86, 86), id="greyscale"),
        pytest.param(encoded(picture().convert("CMYK")), RED, id="CMYK"),
        pytest.param(encoded(picture(), progressive=True), RED, id="progressive"),
        pytest.param(
            encoded(picture(), "MPO", save_all=True, append_images=[Image.new("RGB", (48, 32))]), RED, id="two pictures"
        ),
        pytest.param(encoded(picture(), "PNG"), RED, id="PNG named .jpg"),
        pytest.param(encoded(picture().quantize(4), "PNG"), RED, id="palette"),
        pytest.param(encoded(picture().convert("RGBA"), "PNG"), RED, id="with transparency"),
        pytest.param(encoded(Image.new("1", (48, 32), 1), "PNG"), (255, 255, 255), id="1 bit"),
        pytest.param(encoded(picture(), "WEBP", quality=95), RED, id="WebP"),
        pytest.param(encoded(picture(), "BMP"), RED, id="BMP"),
        pytest.param(encoded(picture().quantize(4), "GIF"), RED, id="GIF"),
        pytest.param(encoded(picture()) + b"trailing bytes", RED, id="something behind it"),
    ],
)
def test_every_format_and_mode_becomes_rgb(data: bytes, colour: tuple[int, int, int]) -> None:
    header, image = read_header(data, ANY_SIZE), decode_upright(data)
    assert header.size_hw == (32, 48)
    assert (image.mode, image.size) == ("RGB", (48, 32))
    near = np.asarray(image)[28, 44].astype(int)
    assert np.abs(near - colour).max() <= 8


@pytest.mark.parametrize("read", [lambda data: read_header(data, ANY_SIZE), decode_upright], ids=["header", "pixels"])
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xff", id="one byte"),
        pytest.param(b"hello", id="text"),
        pytest.param(b"<html><body>403</body></html>", id="page of an error"),
        pytest.param(bytes(1000), id="zeros"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n", id="PostScript"),
        pytest.param(encoded(picture(), "TIFF"), id="TIFF"),
        pytest.param(b"%PDF-1.4\n", id="PDF"),
    ],
)
def test_other_files_are_rejected(data: bytes, read: Callable[[bytes], Any]) -> None:
    with pytest.raises(InputError, match="image is not in a format that can be read"):
        read(data)


def test_the_reason_names_the_file_and_the_formats_that_can_be_read() -> None:
    with pytest.raises(InputError) as refusal:
        decode_upright(encoded(picture(), "TIFF"))
    assert str(refusal.value) == (
        "image is not in a format that can be read: it is TIFF or a camera's raw format. "
        "JPEG (8-bit, Huffman-coded), PNG, WebP, BMP and GIF can be read"
    )


# --- samples of more than 8 bits ---------------------------------------------------------------------------------


def test_16_bit_greyscale_keeps_its_high_byte() -> None:
    samples = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256)
    grey = np.asarray(decode_upright(encoded(Image.fromarray(samples), "PNG")))
    assert (grey == (samples >> 8).astype(np.uint8)[..., None]).all()


def test_16_bit_greyscale_is_turned_upright() -> None:
    samples = np.arange(24, dtype=np.uint16).reshape(4, 6) << 10
    upright = decode_upright(encoded(Image.fromarray(samples), "PNG", exif=exif(6)))
    assert (np.asarray(upright)[..., 0] == np.rot90(samples >> 8, -1)).all()


def test_32_bit_integers_span_16_bits() -> None:
    samples = np.array([[0, 255, 256, 65_535]], np.int32)
    assert np.asarray(_to_8_bits(Image.fromarray(samples))).tolist() == [[0, 0, 1, 255]]


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        pytest.param(np.array([[0, 65_536]], np.int32), "samples from 0 to 65536, allowed are 0 to 65535", id="I"),
        pytest.param(np.array([[-1, 5]], np.int32), "samples from -1 to 5", id="negative"),
        pytest.param(np.array([[0.5]], np.float32), "floating-point samples", id="F"),
    ],
)
def test_samples_without_a_known_range_are_rejected_and_not_clipped(samples: NDArray[Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        _to_8_bits(Image.fromarray(samples))


@pytest.mark.parametrize("kept", [10, 100, 400, 620], ids="{} bytes".format)
def test_an_image_truncated_in_its_header_is_rejected(kept: int) -> None:
    with pytest.raises(InputError, match="image cannot be decoded"):
        read_header(NOISE[:kept], ANY_SIZE)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_an_image_truncated_in_its_pixels_has_a_header_and_is_rejected(share: float) -> None:
    data = NOISE[: int(len(NOISE) * share)]
    assert read_header(data, ANY_SIZE).size_hw == (200, 300)
    with pytest.raises(InputError, match="image cannot be decoded: image file is truncated"):
        decode_upright(data)
    with pytest.raises(InputError, match="image cannot be decoded: image file is truncated"):
        decode_for_model(data, 64)


@pytest.mark.parametrize("at", [8, 20, 45, -20], ids="byte {}".format)
def test_a_damaged_png_is_rejected(at: int) -> None:
    data = bytearray(encoded(picture(), "PNG"))
    data[at] ^= 0xFF
    with pytest.raises(InputError, match="image"):
        decode_upright(bytes(data))


# --- size --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "said"),
    [
        pytest.param(png_of_size(200_000, 100_000), "200000 x 100000", id="declared only"),
        pytest.param(NOISE[:1000], "300 x 200", id="pixels cut off"),
        pytest.param(NOISE, "300 x 200", id="whole"),
    ],
)
def test_a_large_image_is_rejected_by_its_header(data: bytes, said: str) -> None:
    with pytest.raises(InputError, match=f"image has {said} pixels, allowed are 59999: raise --max_image_pixels"):
        read_header(data, max_pixels=59_999)


def test_an_image_of_exactly_the_limit_is_accepted() -> None:
    assert read_header(NOISE, max_pixels=60_000).size_hw == (200, 300)


def test_pillows_own_limit_is_disabled() -> None:
    assert read_header(png_of_size(60_000, 60_000), ANY_SIZE).size_hw == (60_000, 60_000)


@pytest.mark.parametrize(
    ("image", "orientation", "rasters"),
    [
        pytest.param(picture(), 1, 1, id="RGB"),
        pytest.param(picture(), 6, 2, id="RGB, turned"),
        pytest.param(picture().convert("CMYK"), 1, 2, id="converted"),
        pytest.param(picture().convert("CMYK"), 3, 3, id="converted and turned"),
    ],
)
def test_memory_is_estimated_from_the_rasters_held_at_once(image: Image.Image, orientation: int, rasters: int) -> None:
    header = read_header(encoded(image, exif=exif(orientation)), ANY_SIZE)
    assert header.decode_bytes >= rasters * 4 * 48 * 32


# --- for the model -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", [1, 6])
def test_the_model_input_is_a_square_of_the_upright_image(orientation: int) -> None:
    planes = np.asarray(picture()).transpose(2, 0, 1)
    stored = np.stack([reference.turn_back(plane, orientation) for plane in planes], axis=2)
    square = decode_for_model(encoded(Image.fromarray(stored), "PNG", exif=exif(orientation)), 24).pixels
    assert (square.shape, square.dtype) == ((24, 24, 3), np.uint8)
    assert tuple(square[2, 2]) == GREEN
    assert tuple(square[21, 2]) == tuple(square[2, 21]) == tuple(square[21, 21]) == RED


@pytest.mark.parametrize("size_hw", [(1, 1), (3, 100), (100, 3), (17, 33), (241, 320)], ids=str)
@pytest.mark.parametrize("sampling", ["444", "422", "420", "440", "411"])
@pytest.mark.parametrize("progressive", [False, True], ids=["baseline", "progressive"])
def test_a_whole_jpeg_is_decoded_once_to_the_pixels_of_pillow(
    size_hw: tuple[int, int], sampling: str, progressive: bool
) -> None:
    data = simplejpeg.encode_jpeg(detailed(size_hw), 85, "RGB", sampling)
    if progressive:
        with Image.open(io.BytesIO(data)) as image:
            data = encoded(image, "JPEG", progressive=True, quality="keep")
    assert np.array_equal(decode_whole(data), np.asarray(decode_upright(data)))


def detailed(size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Slopes with noise, so that the colours of neighbouring pixels differ."""
    height, width = size_hw
    slope = np.add.outer(np.arange(height), 2 * np.arange(width))[..., None] * (1, 2, 3) // 4 % 200
    return (slope + np.random.default_rng(5).integers(0, 56, (height, width, 3))).astype(np.uint8)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_model_input_is_that_of_the_upright_pillow_image(mode: str, orientation: int) -> None:
    image = Image.fromarray(detailed((90, 70))).convert(mode)
    data = encoded(image, "JPEG", exif=exif(orientation), quality=90)
    found = decode_for_model(data, 56)
    assert found.damage is None
    assert np.array_equal(found.pixels, resize_to_square(decode_upright(data), 56))


def test_a_jpeg_stored_as_rgb_has_the_pixels_of_pillow() -> None:
    data = encoded(Image.fromarray(detailed((90, 70))), "JPEG", keep_rgb=True)
    assert np.array_equal(decode_whole(data), np.asarray(decode_upright(data)))


def test_pillow_is_not_asked_for_the_pixels_of_a_whole_jpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(Image.fromarray(detailed((90, 70))), "JPEG")
    expected = decode_for_model(data, 56).pixels
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)
    assert np.array_equal(decode_for_model(data, 56).pixels, expected)


def test_a_jpeg_with_a_warning_has_the_pixels_of_pillow_and_the_warning() -> None:
    data = encoded(Image.fromarray(detailed((90, 70))), "JPEG")[:-2] + bytes(9) + b"\xff\xd9"
    found = decode_for_model(data, 56)
    assert "extraneous bytes" in str(found.damage)
    assert np.array_equal(found.pixels, resize_to_square(decode_upright(data), 56))


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 500), (500, 1), (67, 4500), (4500, 67), (300, 257)], ids=str)
def test_an_array_of_any_layout_is_resized_as_the_image(size_hw: tuple[int, int]) -> None:
    pixels = detailed(size_hw)
    expected = resize_to_square(Image.fromarray(pixels), 56)
    turned = np.asfortranarray(pixels[::-1, ::-1])[::-1, ::-1]
    assert np.array_equal(resize_to_square(pixels, 56), expected)
    assert np.array_equal(resize_to_square(turned, 56), expected)
