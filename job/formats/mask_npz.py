"""The mask file: a compressed NPZ with the single key `mask`; equal masks give equal bytes."""

from __future__ import annotations

import hashlib
import io
import lzma
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

import numpy as np

from job.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MASK_NAME = "mask"
_LEVEL = 6
"""Z_RLE does the same at each level above 0."""
_WINDOW_BITS = -zlib.MAX_WBITS
"""Negative: a raw deflate stream, as a ZIP holds."""
_MEMORY_LEVEL = 9
_EARLIEST_DATE = 1 << 5 | 1
"""1980-01-01, the earliest that a ZIP can hold; the real time would make the bytes of equal masks differ."""
_VERSION, _UNIX, _DEFLATED, _READABLE = 20, 3 << 8, 8, 0o600 << 16


def to_npz(mask: NDArray[np.uint8]) -> bytes:
    """Encode a mask.

    Runs of equal bytes are the only matches that zlib looks for (Z_RLE): a painted mask of 1920 x 1080 takes 3 ms
    instead of 7 and becomes smaller. zipfile cannot choose that, so the container is written here.

    Args:
        mask: uint8 (H, W), less than 4 GiB.

    Returns:
        A file that `numpy.load` reads.
    """
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(  # type: ignore[no-untyped-call]
        header, {"descr": "|u1", "fortran_order": False, "shape": mask.shape}
    )
    pixels = np.ascontiguousarray(mask).reshape(-1)
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW_BITS, _MEMORY_LEVEL, zlib.Z_RLE)
    deflated = [compressor.compress(header.getvalue()), compressor.compress(pixels.data), compressor.flush()]
    checksum = zlib.crc32(pixels.data, zlib.crc32(header.getvalue()))
    return _to_zip(f"{MASK_NAME}.npy".encode("ascii"), b"".join(deflated), checksum, header.tell() + pixels.size)


def _to_zip(name: bytes, deflated: bytes, checksum: int, size: int) -> bytes:
    """A ZIP with one deflated entry (APPNOTE.TXT, 4.3.7, 4.3.12, 4.3.16).

    Args:
        name: Of the entry, ASCII.
        deflated: Raw deflate stream.
        checksum: CRC-32 of the contents.
        size: Of the contents, in bytes.
    """
    facts = struct.pack(
        "<HHHHHIIIHH", _VERSION, 0, _DEFLATED, 0, _EARLIEST_DATE, checksum, len(deflated), size, len(name), 0
    )
    local = b"PK\x03\x04" + facts + name + deflated
    central = (
        b"PK\x01\x02"
        + struct.pack("<H", _UNIX | _VERSION)
        + facts
        + struct.pack("<HHHII", 0, 0, 0, _READABLE, 0)
        + name
    )
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), len(local), 0)
    return local + central + end


def read_mask(npz: bytes) -> NDArray[np.uint8]:
    """Decode a mask.

    Returns:
        uint8 (H, W).

    Raises:
        InputError: It is damaged, or does not hold a uint8 array (H, W) named `mask`.
    """
    with _opened(npz) as stream:
        size_hw = _read_size(stream)
        pixels = np.frombuffer(stream.read(size_hw[0] * size_hw[1] + 1), np.uint8)
    _check_count(len(pixels), size_hw)
    return pixels.reshape(size_hw)


_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class MaskFacts:
    """Properties of a mask file.

    Attributes:
        size_hw: Height and width, in pixels.
        values: Values that occur in it.
        sha256: Digest of its pixels in row order, as in the rows of the journal.
    """

    size_hw: tuple[int, int]
    values: frozenset[int]
    sha256: str


def mask_facts(npz: bytes) -> MaskFacts:
    """Read a whole NPZ.

    Raises:
        InputError: It is damaged, or does not hold a uint8 array (H, W) named `mask`.
    """
    with _opened(npz) as stream:
        size_hw = _read_size(stream)
        digest, present, count = hashlib.sha256(), np.zeros(256, bool), 0
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
            present |= np.bincount(np.frombuffer(block, np.uint8), minlength=256) > 0
            count += len(block)
    _check_count(count, size_hw)
    return MaskFacts(size_hw, frozenset(int(value) for value in present.nonzero()[0]), digest.hexdigest())


def _check_count(count: int, size_hw: tuple[int, int]) -> None:
    if count != size_hw[0] * size_hw[1]:
        raise InputError(f"NPZ: its mask has {count} pixels, but its header declares {size_hw[0]} x {size_hw[1]}")


def _read_size(stream: IO[bytes]) -> tuple[int, int]:
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(np.lib.format.read_magic(stream))  # type: ignore[no-untyped-call]
    if read_header is None:
        raise InputError("NPZ: its mask has an unsupported version of the NPY format; 1.0 and 2.0 can be read")
    shape, is_by_column, dtype = read_header(stream)  # type: ignore[no-untyped-call]
    if dtype != np.uint8 or len(shape) != 2 or is_by_column:
        order = ", column by column" if is_by_column else ""
        raise InputError(f"NPZ: its mask is {dtype} {shape}{order}; a mask is uint8 (height, width), row by row")
    return int(shape[0]), int(shape[1])


@contextmanager
def _opened(npz: bytes) -> Iterator[IO[bytes]]:
    """The NPY in an NPZ, as a stream; errors in the block become input errors."""
    with (
        _mapped_errors(),
        zipfile.ZipFile(io.BytesIO(npz)) as archive,
        archive.open(f"{MASK_NAME}.npy") as stream,
    ):
        yield stream


@contextmanager
def _mapped_errors() -> Iterator[None]:
    """Map the exceptions that zipfile and NumPy raise for damaged files."""
    try:
        yield
    except KeyError as exc:
        raise InputError(f"NPZ: it has no key {MASK_NAME}") from exc
    except (
        OSError,
        ValueError,
        EOFError,
        RuntimeError,
        SyntaxError,
        struct.error,
        tokenize.TokenError,
        lzma.LZMAError,
        zipfile.BadZipFile,
        zlib.error,
    ) as exc:
        raise InputError(f"NPZ: {exc}") from exc
