"""Name what a file is by its first bytes, for the reason of an image that is not decoded.

The signatures are those of the formats' specifications; the frame types of JPEG are those of ITU-T T.81, table B.1.
"""

from __future__ import annotations

import codecs

READABLE = "JPEG (8-bit, Huffman-coded), PNG, WebP, BMP and GIF"
_SIGNATURES = (
    (b"II*\x00", "TIFF or a camera's raw format"),
    (b"MM\x00*", "TIFF or a camera's raw format"),
    (b"II+\x00", "BigTIFF"),
    (b"MM\x00+", "BigTIFF"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"8BPS", "a Photoshop document"),
    (b"%PDF", "PDF"),
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"v/1\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"DDS ", "DirectDraw Surface"),
    (b"qoif", "QOI"),
    (b"SIMPLE  =", "FITS"),
    (b"\x00\x00\x01\x00", "a Windows icon"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"\x1a\x45\xdf\xa3", "a Matroska or WebM video"),
    (b"version https://git-lfs.github.com/spec/", "a Git LFS pointer (git lfs pull fetches the file)"),
)
_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIC"),
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    b"crx ": "a camera's raw format (CR3)",
}
"""Major brands of ISO base media files (ISO/IEC 14496-12, 4.3)."""
_NETPBM = {b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"P7", b"PF", b"Pf"}
_MARKUP = ((b"<!doctype html", "an HTML page"), (b"<html", "an HTML page"), (b"<svg", "SVG"))
_BASELINE_FRAMES = {0xC0, 0xC1, 0xC2}
_NOT_FRAMES = {0xC4, 0xC8, 0xCC}
_ARITHMETIC_FRAMES = range(0xC9, 0xD0)
_LOSSLESS_FRAMES = {0xC3, 0xC7, 0xCB, 0xCF}
_SHOWN_BYTES = 8


def describe(data: bytes) -> str:
    """Name the format of a file that Pillow does not open, as in `TIFF or a camera's raw format`."""
    if not data:
        return "an empty file"
    if not data.strip(b"\x00"):
        return "a file of zero bytes only"
    named = next((name for signature, name in _SIGNATURES if data.startswith(signature)), None)
    return named or _container(data) or unsupported_jpeg(data) or _text(data) or _unknown(data)


def unsupported_jpeg(data: bytes) -> str | None:
    """Name the coding of a JPEG that libjpeg cannot decode into 8 bits; None for every other file."""
    at = 2
    while data.startswith(b"\xff\xd8") and data[at : at + 1] == b"\xff" and at + 5 < len(data):
        code = data[at + 1]
        if 0xC0 <= code <= 0xCF and code not in _NOT_FRAMES:
            return _frame(code, bits=data[at + 4])
        at += 1 if code == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _frame(code: int, bits: int) -> str | None:
    if code in _LOSSLESS_FRAMES:
        return "a lossless JPEG"
    if code in _ARITHMETIC_FRAMES:
        return "a JPEG with arithmetic coding"
    if code not in _BASELINE_FRAMES:
        return "a hierarchical JPEG"
    return f"a {bits}-bit JPEG" if bits != 8 else None


def _container(data: bytes) -> str | None:
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12], "a video (MP4 or QuickTime)")
    if data.startswith(b"RIFF"):
        return f"a RIFF file of type {data[8:12].decode('ascii', 'replace').strip()}"
    if data[128:132] == b"DICM":
        return "DICOM"
    return "a Netpbm image" if data[:2] in _NETPBM and data[2:3].isspace() else None


def _text(data: bytes) -> str | None:
    start = data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for tag, name in _MARKUP:
        if start.startswith(tag) or (start.startswith(b"<?xml") and tag in start):
            return name
    if start.startswith(b"<?xml"):
        return "XML"
    if start.startswith((b"{", b"[")):
        return "JSON"
    is_text = all(byte >= 0x20 or byte in b"\t\n\r" for byte in start) and b"\x7f" not in start
    return "text" if is_text and _is_utf8(start) else None


def _is_utf8(start: bytes) -> bool:
    try:
        codecs.utf_8_decode(start, "strict", False)  # not final: the last character may be cut off
    except UnicodeDecodeError:
        return False
    return True


def _unknown(data: bytes) -> str:
    return f"a file that begins with the bytes {data[:_SHOWN_BYTES].hex(' ')}"
