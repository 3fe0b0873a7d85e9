"""Check whether the entropy-coded data of a JPEG are whole, by libjpeg's own warnings.

libjpeg replaces missing data by grey or repeated blocks and only emits a warning, which Pillow hides. simplejpeg
reports it. Both hold libjpeg-turbo and decode the same pixels, so a colour JPEG without a warning is decoded once, by
simplejpeg (`decode_whole`). The pixels of any other file come from Pillow, and `check_scans` decodes a JPEG a second
time, greyscale and at 1/8 of the size: that decodes every Huffman code and skips most of the inverse DCT.

libjpeg-turbo returns the first warning only. If that is another one, or if simplejpeg does not support the file, the
file is decoded twice with Pillow, the second time with bytes inserted at the end of every entropy-coded segment. The
decoder skips the inserted bytes after a whole segment and decodes them as pixels after one that ends early.
"""

from __future__ import annotations

import hashlib
import io
import re
from typing import TYPE_CHECKING

import simplejpeg
from PIL import Image

from job.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_START = b"\xff\xd8"
_MARKER = re.compile(rb"\xff+[\x01-\xfe]", re.DOTALL)
"""In entropy-coded data 0xFF 0x00 is a data byte (ITU-T T.81, B.1.1.5)."""
_EOI, _SOS = 0xD9, 0xDA
_RESTARTS = range(0xD0, 0xD8)
_WITHOUT_LENGTH = {0x01, *_RESTARTS}
_PADDING = bytes((73 * i + 41) % 251 for i in range(512))
_ROWS = 256


def decode_whole(data: bytes) -> NDArray[np.uint8] | None:
    """Decode a colour JPEG, if libjpeg has nothing to warn of.

    Returns:
        uint8 (H, W, 3), RGB, as stored: the pixels that Pillow decodes. None if the file is another one or is damaged.
    """
    if not data.startswith(_START):
        return None
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False)
    except ValueError:
        return None
    return pixels


def check_scans(data: bytes) -> str | None:
    """Check an image file that Pillow has decoded; anything but a JPEG passes.

    Returns:
        libjpeg's first warning, if the data are damaged in another way than by an early end; None if they are whole.

    Raises:
        InputError: A scan ends early, or no end-of-image marker follows it.
    """
    if not data.startswith(_START):
        return None
    try:
        simplejpeg.decode_jpeg(data, "GRAY", min_height=1, min_width=1, min_factor=8)
    except ValueError as exc:
        warning = str(exc)
    else:
        return None
    if "premature end" in warning.lower() or _ends_early(data):
        raise InputError(
            "image is truncated: the data of its JPEG scan end early, so part of the picture is missing. "
            "Restore the file from its source"
        )
    return warning if warning.startswith("Corrupt JPEG data") else None


def _ends_early(data: bytes) -> bool:
    """Whether Pillow's decoder lacks data at the end of an entropy-coded segment."""
    padded = _pad_segments(data)
    try:
        return padded is None or _pixel_digest(data) != _pixel_digest(padded)
    except OSError:
        return True


def _pad_segments(data: bytes) -> bytes | None:
    """Insert bytes at the end of every entropy-coded segment, and one more segment at the end of every scan.

    Returns:
        None if a restart marker or the end-of-image marker is missing.
    """
    parts: list[bytes] = []
    start, at, restarts, is_entropy_coded = 0, len(_START), 0, False
    while (marker := _MARKER.search(data, at)) is not None:
        code, at = data[marker.end() - 1], marker.end()
        is_restart = is_entropy_coded and code in _RESTARTS
        if is_restart and code != _RESTARTS[restarts % 8]:
            return None
        if is_entropy_coded:
            more = b"" if is_restart else bytes((0xFF, _RESTARTS[restarts % 8])) + _PADDING
            parts += [data[start : marker.start()], _PADDING, more]
            start = marker.start()
        if code == _EOI:
            return b"".join([*parts, data[start:]])
        if code not in _WITHOUT_LENGTH:
            at += int.from_bytes(data[at : at + 2], "big")
        restarts = restarts + 1 if is_restart else 0
        is_entropy_coded = is_restart or code == _SOS
    return None


def _pixel_digest(data: bytes) -> bytes:
    digest = hashlib.sha256()
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        image.load()
        for top in range(0, image.height, _ROWS):
            digest.update(image.crop((0, top, image.width, min(top + _ROWS, image.height))).tobytes())
    return digest.digest()
