"""The artifact: a folder with a model in an executable format and a manifest that describes it.

    manifest.json          this module's `Manifest`; its sha256 is the artifact's digest
    image_encoder.<ext>    pixels -> feature_0, feature_1, feature_2
    grounding.<ext>        feature_2 + text -> scores, memory, queries, offsets
    mask_head.<ext>        feature_0, feature_1, one row of those, numbers of queries -> mask_logits
    text_encoder.<ext>     token_ids -> text_features, text_mask; needed only for prompts that are not stored
    text_features.npz      `features` and `mask` of the manifest's prompts
    tokenizer.json         of the `tokenizers` library
    reference.npz          pixels and the original's answers: see `job.model.reference`

Inputs and outputs of the graphs (B images, P prompts, Q queries, K selected, L text tokens, T image
tokens, C channels, S the image side). The mask head takes one image and one prompt: 1 in the place of B and P.

    pixels         uint8   (B, S, S, 3)       RGB; the graph normalizes
    feature_i      float   (B, C, h_i, w_i)   float16 or float32, not read by the worker
    text_features  float32 (P, L, C)
    text_mask      bool    (P, L)             True is padding
    scores         float32 (B, P, Q)
    memory         float   (B, P, T, C)       float16 (B, P, C, T) or float32, not read by the worker
    queries        float   (B, P, Q, C)       as `memory`
    offsets        float32 (B, P, Q)
    selected       int64   (K,)               numbers of queries
    mask_logits    float32 (K, h_0, w_0)
    token_ids      int64   (P, L)
"""

from __future__ import annotations

import hashlib
import os
import re
from importlib.resources import files
from pathlib import Path
from typing import Literal

import msgspec

from job.errors import ArtifactError
from job.storage.json_errors import JSON_ERRORS

FORMAT_VERSION = 2
MANIFEST_NAME = "manifest.json"
DEMO_MODEL_ID = "SAM3-demo"
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
"""A manifest may come from an untrusted source, and its names are joined to paths."""

Precision = Literal["fp32", "bf16", "fp16", "int8"]
"""bf16: weights stored in float32, and for OpenVINO on CPUs whose instructions compute in bfloat16."""
GraphFormat = Literal["onnx", "torchscript"]


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of the artifact: sha256 in hex, size in bytes."""

    sha256: str
    size: int


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One input or output of a graph; a dimension is a number or a symbol (`batch`, `prompts`, …)."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class GraphSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A graph: its file (external weights are in the same folder), inputs and outputs in order."""

    file: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class Tolerance(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """The limits that a comparison must meet.

    Attributes:
        score: Largest difference of the scores of one query, also of those below the threshold.
        threshold_band: An instance that only one side finds is accepted when its score is this near the threshold.
        mask_iou: Smallest mask IoU of one instance, unless its masks differ by at most `mask_pixels` pixels.
        mask_pixels: See `mask_iou`.
        mask_iou_mean: Smallest mean mask IoU over all instances.
        mask_outliers: Fraction of the instances whose mask may miss `mask_iou`: with rounded arithmetic a mask whose
            logits are near zero everywhere can get another shape.
        query_error: Largest relative error of the mask logits of all queries of a prompt. Set only when no instance was
            found: then it decides instead of the limits on masks.
        prompt_error: Largest relative error of the scores of all queries of a prompt in one image. Presence is a factor
            of each of them, so this limits its relative error too.
    """

    score: float
    threshold_band: float
    mask_iou: float
    mask_pixels: int
    mask_iou_mean: float
    mask_outliers: float = 0.0
    query_error: float = 0.0
    prompt_error: float = 0.0


class ParityFigures(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Agreement of an artifact with the original, and the machine that it was measured on.

    Fields with a default may be missing: artifacts of earlier versions lack them.

    Attributes:
        comparison: `same_input` (the same resized tensor) or `end_to_end` (each side resizes the image itself).
        images: Images compared.
        instances: Instances compared (found by both), by class name.
        unmatched: Instances found by one side only, those near the threshold included.
        score_max: Largest score difference of all queries.
        mask_iou_min: Smallest mask IoU.
        mask_iou_mean: Mean mask IoU.
        mask_pixels_max: Largest number of differing pixels of one instance.
        tolerance: Limits to meet.
        passed: Whether they were met.
        provider: Execution provider of the artifact.
        machine: Processor or GPU of the artifact.
        queries: Queries whose scores were compared: all of each prompt and image.
        query_error: Largest relative error of the mask logits of all queries of a prompt, compared where no instance
            was found.
        prompt_error: Largest relative error of the scores of all queries of a prompt in one image.
    """

    comparison: Literal["same_input", "end_to_end"]
    images: int
    instances: dict[str, int]
    unmatched: int
    score_max: float
    mask_iou_min: float
    mask_iou_mean: float
    mask_pixels_max: int
    tolerance: Tolerance
    passed: bool
    provider: str
    machine: str
    queries: int = 0
    query_error: float = 0.0
    prompt_error: float = 0.0

    @property
    def unproved(self) -> tuple[str, ...]:
        """Classes of which no instance was compared: their masks are not proved."""
        return tuple(name for name, count in self.instances.items() if not count)


class Quantization(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Rounding of the image encoder's matrix products with constant scales, for OpenVINO.

    Attributes:
        calibration_images: Images whose activations gave the scales.
        rounded: Number of activation tensors that are rounded to 8 bits; each is read by one or more products.
        kept: Names of those that are not, because the comparison with the original failed with them, first those with
            most error for their size.
    """

    calibration_images: int
    rounded: int
    kept: tuple[str, ...]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Description of an artifact.

    Attributes:
        format_version: `FORMAT_VERSION` of the exporter.
        model_id: Written to each annotation: `SAM3` for an official checkpoint, `SAM3-demo` for the demo model.
        sam3_version: Version of the sam3 package whose code was exported.
        checkpoint_sha256: Digest of the checkpoint file; the same for every precision and format.
        format: Format of the graphs.
        precision: Of the graphs' weights and arithmetic.
        image_side: S, in pixels.
        mean: Subtracted by the graph after scaling to 0..1, by channel.
        std: The graph divides by it, by channel.
        prompts: Prompts of `text_features.npz`, in order.
        context_length: L.
        image_encoder: Pixels to features.
        grounding: Features and text to scores.
        mask_head: Features and outputs of the grounding to the masks of selected queries, for one image and prompt.
        text_encoder: Token ids to text features.
        files: Every file except the manifest.
        parity: Agreement with the official processor.
        weights_licence: Name of the licence of the weights.
        quantization: Of an int8 artifact for OpenVINO. An int8 artifact without it has a scale for each token, computed
            by operators of ONNX Runtime.
    """

    format_version: int
    model_id: str
    sam3_version: str
    checkpoint_sha256: str
    format: GraphFormat
    precision: Precision
    image_side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    prompts: tuple[str, ...]
    context_length: int
    image_encoder: GraphSpec
    grounding: GraphSpec
    mask_head: GraphSpec
    text_encoder: GraphSpec
    files: dict[str, FileEntry]
    parity: tuple[ParityFigures, ...]
    weights_licence: str
    quantization: Quantization | None = None

    def graph_bytes(self, graph: GraphSpec) -> int:
        """Size of the files of a graph, those with its weights included."""
        return sum(entry.size for name, entry in self.files.items() if name.startswith(graph.file))


_MANIFEST = msgspec.json.Decoder(Manifest)


class Artifact(msgspec.Struct, frozen=True):
    """A verified artifact on local disk.

    Attributes:
        folder: Folder of the files.
        manifest: Description of the artifact.
        digest: sha256 of its `manifest.json` in hex.
        pinned: Whether the caller gave this digest; only then may the files be executed.
    """

    folder: Path
    manifest: Manifest
    digest: str
    pinned: bool = False

    def path(self, name: str) -> Path:
        """Path of a file of the artifact."""
        return self.folder / name

    def text_encoder(self) -> GraphSpec:
        """Give the graph of the text encoder.

        Raises:
            ArtifactError: The artifact was copied without it.
        """
        spec = self.manifest.text_encoder
        if spec.file not in self.manifest.files or not self.path(spec.file).is_file():
            raise ArtifactError(
                f"model {self.folder} came without its text encoder {spec.file}: "
                "copy the whole folder, or give only prompts that it has stored"
            )
        return spec


def open_demo_artifact(digest: str | None = None) -> Artifact:
    """Open the artifact of the embedded demo model; see `open_artifact`."""
    return open_artifact(Path(os.fspath(files("job") / "demo_artifact")), digest)  # type: ignore[call-overload]


def open_artifact(folder: Path, expected_digest: str | None = None) -> Artifact:
    """Read the manifest and check every file against it.

    Args:
        folder: The artifact's folder.
        expected_digest: sha256 of `manifest.json` in hex, or None to accept any.

    Raises:
        ArtifactError: There is no artifact, its format version is not supported, a file is missing or has the wrong
            size or digest, or the artifact is not the expected one.
    """
    raw = _read_manifest(folder)
    digest = checked_digest(raw, folder, expected_digest)
    manifest = decode_manifest(raw, folder)
    for name, entry in manifest.files.items():
        _check_file(folder / name, entry)
    return Artifact(folder=folder, manifest=manifest, digest=digest, pinned=expected_digest is not None)


def checked_digest(raw: bytes, location: Path | str, expected_digest: str | None) -> str:
    """Digest of a manifest.

    Raises:
        ArtifactError: Another one is expected.
    """
    digest = hashlib.sha256(raw).hexdigest()
    if expected_digest is not None and digest != expected_digest.lower():
        raise ArtifactError(
            f"model {location} has the digest {digest}, but --model_digest asks for {expected_digest}: "
            "give the digest of this artifact, or the location of that one"
        )
    return digest


def decode_manifest(raw: bytes, location: Path | str) -> Manifest:
    """Decode a manifest; errors name `location`.

    Raises:
        ArtifactError: Not a manifest, another format version, or a file name that points outside the folder.
    """
    try:
        version = _VERSION.decode(raw).format_version
        if version != FORMAT_VERSION:
            advice = "export it again" if version < FORMAT_VERSION else "upgrade sam3-annotate, or export it again"
            raise ArtifactError(
                f"model {location} has artifact format {version}, this version reads {FORMAT_VERSION}: {advice}"
            )
        manifest = _MANIFEST.decode(raw)
    except JSON_ERRORS as exc:
        raise ArtifactError(f"{location}/{MANIFEST_NAME} is not an artifact manifest: {exc}") from exc
    graphs = (manifest.image_encoder, manifest.grounding, manifest.mask_head, manifest.text_encoder)
    for name in (*manifest.files, *(graph.file for graph in graphs)):
        if not _PLAIN_NAME.fullmatch(name) or name == MANIFEST_NAME:
            raise ArtifactError(f"{location}/{MANIFEST_NAME} names the file {name!r}: names are letters, digits, `.-_`")
    return manifest


def encode_manifest(manifest: Manifest) -> bytes:
    """Encode for `manifest.json`: indented, with a final newline, the same bytes for the same manifest."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def file_entry(path: Path) -> FileEntry:
    """Size and digest of a file."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return FileEntry(sha256=digest, size=path.stat().st_size)


def damaged_file(path: Path | str, got: FileEntry, expected: FileEntry, advice: str) -> ArtifactError:
    """Error for a file that differs from its entry in the manifest."""
    return ArtifactError(
        f"model file {path} is damaged: {got.size} bytes with sha256 {got.sha256[:12]}…, the manifest says "
        f"{expected.size} bytes with {expected.sha256[:12]}…. {advice}"
    )


class _VersionOnly(msgspec.Struct):
    format_version: int


_VERSION = msgspec.json.Decoder(_VersionOnly)


def _read_manifest(folder: Path) -> bytes:
    try:
        return (folder / MANIFEST_NAME).read_bytes()
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise ArtifactError(
            f"no model at {folder}: it has no {MANIFEST_NAME}. Give the folder that `sam3-annotate export` wrote"
        ) from exc
    except OSError as exc:
        raise ArtifactError(f"model {folder} cannot be read: {exc.strerror}") from exc


def _check_file(path: Path, entry: FileEntry) -> None:
    try:
        got = file_entry(path)
    except OSError as exc:
        raise ArtifactError(f"model file {path} cannot be read: {exc.strerror}. Export or copy it again") from exc
    if got != entry:
        raise damaged_file(path, got, entry, "Export or copy it again")
