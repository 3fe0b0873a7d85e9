"""Parsers of untrusted bytes, each with the laws that hold for every input and the only errors that it may raise."""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from job.errors import AnnotateError, ArtifactError, InputError, RunConflictError, UsageError
from job.formats import gva, lossless_json
from job.formats.file_type import describe
from job.formats.image_decode import decode_for_model, read_header
from job.formats.instance_rows import paint_rows
from job.formats.instance_table import decode_part
from job.formats.mask_npz import mask_facts, read_mask
from job.formats.rle import decode_cropped, decode_rle
from job.model.artifact import decode_manifest
from job.plan.input_list import open_input_list
from job.plan.plan import PlannedInput
from job.rules.classes_file import parse_classes_file
from job.run.decoding import decoding
from job.run.journal import Row
from job.run.spec import RunEnd, RunSpec
from job.storage.open import Address

MAX_PIXELS = 1 << 18
SPLIT = b"\x00"
"""Between the parts of an input that has several; no valid JSON or YAML has it."""
GZIP = b"\x1f\x8b"
_ENTRY = {
    "annotator": {"model_id": "SAM3", "annotator_type": "Model"},
    "labels": {"path": "a.npz", "properties": {}, "confidences": {}},
    "review": None,
}


@dataclass(frozen=True)
class Target:
    """A parser.

    Attributes:
        call: Takes any bytes; raises `AssertionError` when a law is broken.
        errors: What it may raise.
    """

    call: Callable[[bytes], None]
    errors: tuple[type[AnnotateError], ...]

    def check(self, data: bytes) -> None:
        """Call it with any bytes; every error but the allowed ones is a finding."""
        reason = "none"
        try:
            self.call(data)
        except self.errors as exc:
            reason = str(exc)
        assert reason.strip(), "a reason is never empty"


def merge_json(data: bytes) -> None:
    """An input's JSON, and behind a zero byte the output's: what is merged can be read back, and loses no entry."""
    raw, _, raw_prior = data.partition(SPLIT)
    document = gva.parse(raw)
    gva.declared_size_wh(document)
    gva.origin_of(document)
    gva.is_reviewed(document, "SAM3")
    gva.labels_of(document, "SAM3")
    gva.labels_at(document, "a.npz")
    prior = gva.parse_prior(raw_prior) if raw_prior else None
    merged = gva.merge(document, _ENTRY, prior).document
    again = gva.parse(gva.render(merged))
    assert gva.render(again) == gva.render(merged)
    entries = again.fields["annotation"]["segmentation"]
    ours = [entry for entry in entries if isinstance(entry, dict) and entry.get("annotator") == _ENTRY["annotator"]]
    assert len(ours) == 1
    others = {name: value for name, value in again.fields.items() if name != "annotation"}
    assert others == {name: value for name, value in document.fields.items() if name != "annotation"}
    assert lossless_json.parse(lossless_json.render(document.fields)) == document.fields


def read_image(data: bytes) -> None:
    """An image file: header, file type, then pixels if they are few."""
    describe(data)
    header = read_header(data, MAX_PIXELS)
    assert 1 <= header.orientation <= 8
    height, width = header.size_hw
    assert 0 < height * width <= MAX_PIXELS
    assert decode_for_model(data, 16).pixels.shape == (16, 16, 3)


def read_manifest(data: bytes) -> None:
    """A manifest: no name leads out of the folder."""
    manifest = decode_manifest(data, "model")
    graphs = (manifest.image_encoder, manifest.grounding, manifest.mask_head, manifest.text_encoder)
    for name in (*manifest.files, *(graph.file for graph in graphs)):
        assert (Path("/model") / name).resolve().parent == Path("/model")


def read_rows(data: bytes) -> None:
    """Rows of the instance table: what decodes can be painted."""
    rows = decode_part(gzip.compress(data, 0))
    size_hw = rows[0].size_hw
    if size_hw[0] * size_hw[1] <= MAX_PIXELS:
        assert paint_rows(rows, size_hw).shape == size_hw


def read_part(data: bytes) -> None:
    """A part of the instance table as it is stored: gzip."""
    decode_part(data)


def read_rle(data: bytes) -> None:
    """Run lengths: height, width, then counts."""
    size_hw = (1 + int.from_bytes(data[:1], "big"), 1 + int.from_bytes(data[1:2], "big"))
    counts = data[2:].decode("latin-1")
    mask = decode_rle(counts, size_hw)
    assert mask.shape == size_hw
    if mask.any():
        assert decode_cropped(counts, size_hw).area == int(mask.sum())


def read_mask_file(data: bytes) -> None:
    """An NPZ: both readers agree."""
    facts = mask_facts(data)
    mask = read_mask(data)
    assert mask.shape == facts.size_hw


def read_key_list(data: bytes) -> None:
    """A key list or a CSV; the part before a zero byte is the column, if it is short."""
    column, found, content = data.partition(SPLIT)
    if not found or len(column) > 8 or data.startswith(GZIP):
        column, content = b"", data
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        path = Path(folder) / ("list.gz" if content.startswith(GZIP) else "list")
        path.write_bytes(content)
        name = column.decode("utf-8", "replace") or None
        keys = list(open_input_list(str(path), name, Address("s3://b/in"), "s3://b/in").json_keys())
    assert keys == sorted(set(keys), key=lambda key: key.encode("utf-8", "surrogateescape"))
    assert all(key.endswith(".json") and not key.startswith("/") for key in keys)


def read_classes(data: bytes) -> None:
    """A file of own classes."""
    rules = parse_classes_file(data, "classes.yaml", 0.4).rules
    assert rules.classes
    assert all(0 <= one.min_score <= 1 for one in rules.classes)


def read_run_files(data: bytes) -> None:
    """Stored files of a run: bytes that no kind of file accepts raise the error of the last kind."""
    kinds, errors = (Row, PlannedInput, RunSpec, RunEnd), []
    for kind in kinds:
        try:
            with decoding("run"):
                msgspec.json.Decoder(kind).decode_lines(data)  # type: ignore[arg-type]
        except RunConflictError as exc:
            errors.append(exc)
    if len(errors) == len(kinds):
        raise errors[-1]


TARGETS = {
    "json_merge": Target(merge_json, (InputError,)),
    "image": Target(read_image, (InputError,)),
    "manifest": Target(read_manifest, (ArtifactError,)),
    "instance_rows": Target(read_rows, (InputError,)),
    "instance_part": Target(read_part, (InputError,)),
    "rle": Target(read_rle, (InputError,)),
    "mask_npz": Target(read_mask_file, (InputError,)),
    "key_list": Target(read_key_list, (UsageError,)),
    "classes": Target(read_classes, (UsageError,)),
    "run_files": Target(read_run_files, (RunConflictError,)),
}
