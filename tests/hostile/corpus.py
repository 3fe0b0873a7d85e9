"""A corpus of hostile inputs, made from a seed: images, JSONs and names; most cannot be annotated."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, islice

from PIL import Image, ImageCms

from tests.fuzz.mutation import mutate_json

GOOD_JSON = b'{"source": {"camera": "entry1"}}'
_FULL_JSON = (
    b'{"image": {"dimensions": {"width": 40, "height": 30}, "timestamp_ms": 1}, "source": {"camera": "c",'
    b' "garage": "g"}, "annotation": {"segmentation": [{"annotator": {"model_id": "other"}, "labels": {"path": "x.npz",'
    b' "properties": {"car": [1]}, "confidences": {"car": [0.5]}}, "review": null}]}, "more": [1.50, -0, 1E40]}'
)
_NAMES = (
    "line\nend", "tab\there", "\x1b[31mred", "..", "...", "..a", "-rf", "~", " ", " lead", "trail ", "a b", "%2e%2e%2f",
    "%00", "a?b=c#d", "a*b", "[a]", "{a}", "a\\b", "C:", "con", "nul", "'", '"', "`id`", "$(id)", "a;b", "a|b", "<a>",
    "\u202egpj", "e\u0301", "\xe9", "\U0001f600", "\ufeff", "\u2028", ".json", ".jpg", "a.json", "a.npz", "x.JPG",
)  # fmt: skip
"""Stems; every single byte that a file may have in its name comes besides."""


@dataclass(frozen=True)
class Case:
    """One input.

    Attributes:
        kind: What it tries.
        stem: Its name without suffix, as bytes: names need not be UTF-8.
        json: Content of its JSON.
        image: Content of its image.
    """

    kind: str
    stem: bytes
    json: bytes
    image: bytes


def cases(seed: int, images: int, documents: int) -> Iterator[Case]:
    """Every name, every fixed image and JSON, and so many mutated images and JSONs."""
    chosen = random.Random(seed)
    good = _saved(Image.new("RGB", (40, 30), (9, 99, 199)), "JPEG")
    numbers = count()
    for stem in _stems():
        yield Case("name", stem, GOOD_JSON, good)
    for kind, image in _fixed_images():
        yield Case(kind, b"i%06d" % next(numbers), GOOD_JSON, image)
    for kind, document in _fixed_documents():
        yield Case(kind, b"j%06d" % next(numbers), document, good)
    for kind, image in islice(_mutated_images(chosen), images):
        yield Case(kind, b"m%06d" % next(numbers), GOOD_JSON, image)
    for kind, document in islice(_mutated_documents(chosen), documents):
        yield Case(kind, b"n%06d" % next(numbers), document, good)


def _stems() -> Iterator[bytes]:
    yield from (name.encode() for name in _NAMES)
    yield from (b"byte-%03d-" % byte + bytes([byte]) for byte in (*range(1, 129), 192, 255) if byte != ord("/"))
    yield b"long-" + b"a" * 245
    yield b"deep/" + b"/".join([b"d" * 100] * 9) + b"/x"
    yield b"too-deep/" + b"/".join([b"d" * 200] * 6) + b"/x"


def _sources() -> list[tuple[str, bytes]]:
    """Valid files that are mutated."""
    red, grey = Image.new("RGB", (48, 32), (200, 30, 30)), Image.linear_gradient("L").resize((48, 32))
    exif = Image.Exif()
    exif[0x0112] = 6
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return [
        ("jpeg", _saved(red, "JPEG")),
        ("jpeg, EXIF", _saved(grey.convert("RGB"), "JPEG", exif=exif)),
        ("jpeg, progressive", _saved(grey.convert("RGB"), "JPEG", progressive=True)),
        ("jpeg, CMYK", _saved(red.convert("CMYK"), "JPEG")),
        ("jpeg, grey", _saved(grey, "JPEG")),
        ("jpeg, ICC", _saved(red, "JPEG", icc_profile=icc)),
        ("jpeg, restarts", _saved(grey, "JPEG", restart_marker_rows=1)),
        ("mpo", _saved(red, "MPO", save_all=True, append_images=[grey.convert("RGB")])),
        ("png", _saved(red, "PNG", icc_profile=icc)),
        ("png, 16 bits", _saved(grey.convert("I;16"), "PNG")),
        ("png, palette", _saved(red.convert("P"), "PNG", transparency=0)),
        ("webp", _saved(red, "WEBP", exif=exif)),
        ("bmp", _saved(red, "BMP")),
        ("gif", _saved(grey, "GIF", save_all=True, append_images=[grey.rotate(9)])),
        ("tiff", _saved(red, "TIFF")),
    ]


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _fixed_images() -> Iterator[tuple[str, bytes]]:
    yield from ((f"whole {kind}", data) for kind, data in _sources())
    yield "no bytes", b""
    for size in (1, 2, 3, 100, 1 << 20):
        yield "zero bytes", bytes(size)
    for side_wh in ((1, 1), (65_500, 1), (1, 65_500), (65_500, 15), (7, 9_000)):
        yield "extreme shape", _saved(Image.new("RGB", side_wh), "JPEG")
        yield "extreme shape", _saved(Image.new("RGB", side_wh), "PNG")
    yield "flat bomb", _saved(Image.new("1", (20_000, 20_000)), "PNG")
    jpeg, png, gif, bmp = (dict(_sources())[kind] for kind in ("jpeg", "png", "gif", "bmp"))
    for side in (0, 1, 65_535, 2**31 - 1, 2**32 - 1):
        low = (side & 0xFFFF).to_bytes(2, "big")
        at = jpeg.index(b"\xff\xc0") + 5
        yield "declared size", jpeg[:at] + low + low + jpeg[at + 4 :]
        yield "declared size", png[:16] + side.to_bytes(4, "big") * 2 + png[24:]
        yield "declared size", gif[:6] + low[::-1] * 2 + gif[10:]
        yield "declared size", bmp[:18] + side.to_bytes(4, "little") * 2 + bmp[26:]


def _mutated_images(chosen: random.Random) -> Iterator[tuple[str, bytes]]:
    sources = _sources()
    for number in count():
        kind, data = sources[number % len(sources)]
        name, change = chosen.choice(_CHANGES)
        yield f"{name} {kind}", change(data, chosen)


def _flipped(data: bytes, chosen: random.Random, bits: int = 1) -> bytes:
    changed = bytearray(data)
    for _ in range(bits):
        changed[chosen.randrange(len(changed))] ^= 1 << chosen.randrange(8)
    return bytes(changed)


def _zeroed(data: bytes, chosen: random.Random) -> bytes:
    start = chosen.randrange(len(data))
    end = min(len(data), start + chosen.randrange(1, 64))
    return data[:start] + bytes(end - start) + data[end:]


def _repeated(data: bytes, chosen: random.Random) -> bytes:
    start, end = sorted(chosen.randrange(len(data)) for _ in range(2))
    return data[:end] + data[start:end] * chosen.randrange(1, 9) + data[end:]


def _marked(data: bytes, chosen: random.Random) -> bytes:
    at = chosen.randrange(2, len(data))
    return data[:at] + bytes((0xFF, chosen.randrange(256), chosen.randrange(256), chosen.randrange(256))) + data[at:]


_CHANGES: tuple[tuple[str, Callable[[bytes, random.Random], bytes]], ...] = (
    ("truncated", lambda data, chosen: data[: chosen.randrange(len(data))]),
    ("one bit flipped in", _flipped),
    ("many bits flipped in", lambda data, chosen: _flipped(data, chosen, 40)),
    ("a bit flipped in the header of", lambda data, chosen: _flipped(data[:64], chosen, 2) + data[64:]),
    ("zeros in", _zeroed),
    ("repeated bytes in", _repeated),
    ("a marker in", _marked),
)


def _fixed_documents() -> Iterator[tuple[str, bytes]]:
    good = GOOD_JSON.decode()
    for encoding in ("utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "utf-7"):
        yield f"encoded as {encoding}", good.replace("entry1", "\xe9").encode(encoding)
    for text in (
        "NaN",
        "Infinity",
        "-Infinity",
        "1e999",
        "-0",
        "9" * 4300,
        "9" * 4301,
        "1" + "0" * 10_000 + ".5",
        "1_0",
    ):
        yield "number", b'{"a": %s}' % text.encode()
    for depth in (499, 500, 501, 5_000, 100_000):
        yield "nesting", b'{"a": %s%s}' % (b"[" * (depth - 1), b"]" * (depth - 1))
        yield "nesting", b'{"a": %s1%s}' % (b'{"b":' * (depth - 1), b"}" * (depth - 1))
        yield "nesting without end", b'{"a": ' + b"[" * depth
    for text in (
        "",
        " ",
        "null",
        "[]",
        '""',
        "1",
        "{",
        "}",
        '{"a":1,"a":2}',
        '{"a":1}{',
        "{'a':1}",
        '{"a":1,}',
        "//\n{}",
    ):
        yield "not an object", text.encode()
    yield "surrogates", b'{"source": {"camera": "\\ud800", "garage": "\\udc00\\ud800"}}'
    yield "long text", b'{"source": {"camera": "%s"}}' % (b"c" * 1_000_000)
    yield "long key", b'{"%s": 1}' % (b"k" * 1_000_000)
    yield "many keys", json.dumps({str(number): number for number in range(100_000)}).encode()
    yield "many numbers", b'{"a": [%s1]}' % (b"1," * 500_000)
    yield "indents", b'{"a": %s%s1%s}' % (b"[" * 490, b"1," * 100_000, b"]" * 490)
    entry = b'{"annotator": {"model_id": "%d"}, "labels": {"path": "a.npz"}},'
    yield "many entries", b'{"annotation": {"segmentation": [%snull]}}' % b"".join(entry % i for i in range(20_000))


def _mutated_documents(chosen: random.Random) -> Iterator[tuple[str, bytes]]:
    while True:
        kind = chosen.randrange(3)
        if kind == 0:
            name, change = chosen.choice(_CHANGES)
            yield f"{name} JSON", change(_FULL_JSON, chosen)
            continue
        document = _FULL_JSON
        for _ in range(kind):
            document = mutate_json(document, chosen.randrange(1 << 30)) or document
        yield "wrong type in JSON", document
