"""The function of each stage on one image (infer: on a batch). Their order is in job.pipeline.order."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from job.errors import (
    InputError,
    ModelError,
    ObjectMissingError,
    ObjectRefusedError,
    UnreadableInputError,
    UnreadableObjectError,
    UnstorableObjectError,
)
from job.formats import gva
from job.formats.image_decode import Header, decode_for_model, read_header
from job.formats.instance_rows import ImageFacts, rows_of
from job.formats.instance_table import encode_rows
from job.formats.mask_npz import to_npz
from job.formats.overlay import OverlayEncoding, encode_overlay
from job.model.session import Grounding, Session, TextFeatures
from job.pipeline.executor import Finished
from job.pipeline.items import DecodedItem, EncodedItem, InferredItem, LoadedItem, ProcessedItem, StoredItem
from job.pipeline.memory import ByteBudget, ResidentBudget
from job.plan.lookup import look_up, no_image_reason
from job.plan.plan import PlannedInput
from job.postprocess.annotate import Annotation, annotate_grounding
from job.postprocess.candidates import CandidateLimits
from job.run.journal import ANNOTATED, REVIEWED, SKIPPED, ResultRow
from job.run.run import RunTarget
from job.run.spec import RunSpec
from job.storage.keys import mask_key, mask_name, stem_of
from job.storage.store import PRIVATE_FOLDER, Fetched, Guard, Store

logger = logging.getLogger(__name__)

OVERLAY_FOLDER = f"{PRIVATE_FOLDER}/overlays"
_POSTPROCESS_BYTES_PER_PIXEL = 4
"""The mask of one instance while it is resized and painted, with copies."""


class ModelFailedInputError(InputError):
    """The model failed on this image; job.worker.worker stops after many such failures in a row."""


class RefusedInputError(InputError):
    """The store refused a file of this input; job.worker.worker stops after many such failures in a row."""


@dataclass(frozen=True)
class Budgets:
    """Memory budgets for images; see job.pipeline.memory."""

    resident: ResidentBudget
    transient: ByteBudget


@dataclass(frozen=True)
class AnnotatorIO:
    """The stores and the guard of an annotator.

    Attributes:
        source: The input.
        run: The output and the options of the run.
        guard: Called before each attempt to write an output.
    """

    source: Store
    run: RunTarget
    guard: Guard


@dataclass(frozen=True)
class Overlays:
    """Which overlays are stored, and how.

    Attributes:
        encoding: Format and size.
        keys: JSON keys of the images that get one; None for all.
    """

    encoding: OverlayEncoding
    keys: frozenset[str] | None


class Annotator:
    """The six stages of a run.

    Attributes:
        overlays: Which overlays to store; None for none.
    """

    def __init__(self, io: AnnotatorIO, session: Session, text: TextFeatures, budgets: Budgets) -> None:
        self._run = io.run
        self._spec = io.run.spec
        self._rules = io.run.spec.rules
        self._threshold = io.run.spec.lowest_score
        self._limits = _candidate_limits(io.run.spec)
        self._source = io.source
        self._guard = io.guard
        self._session = session
        self._text = text
        self._budgets = budgets
        self.overlays: Overlays | None = None

    def read(self, planned: PlannedInput) -> LoadedItem | Finished:
        """Fetch JSON, image and the output's JSON; finish inputs whose annotation a person has reviewed."""
        if planned.problem:
            raise InputError(planned.problem)
        with _input_errors():
            found = look_up(planned, self._source, self._run)
        if found.is_done:
            return Finished(StoredItem(ResultRow(json=planned.json, result=SKIPPED)))
        if found.image is None:
            with _input_errors():
                raise InputError(no_image_reason(self._source, planned.json))
        document = gva.parse(self._fetch(self._source, planned.json).data) if found.has_json else None
        image = self._fetch(self._source, found.image)
        if document is None:
            size_hw = read_header(image.data, self._spec.max_image_pixels).size_hw
            document = gva.new_document(found.image.rpartition("/")[2], size_hw)
        prior = self._read_prior(planned.json) if found.has_prior else None
        if prior is not None and not self._spec.override_reviewed and gva.is_reviewed(prior, self._spec.model_id):
            return Finished(StoredItem(ResultRow(json=planned.json, result=REVIEWED)))
        self._budgets.resident.record_file(len(image.data))
        return LoadedItem(planned, found.image, image, document, prior)

    def decode(self, loaded: LoadedItem) -> DecodedItem:
        """Check the header, then decode to the input size of the model."""
        header = read_header(loaded.image.data, self._spec.max_image_pixels)
        self._warn_of_size(loaded, header)
        with self._budgets.transient.hold(header.decode_bytes):
            decoded = decode_for_model(loaded.image.data, self._session.info.image_side)
        if decoded.damage is not None:
            logger.warning(
                "%s: the image is damaged (%s): it is annotated as decoded", loaded.image_key, decoded.damage
            )
        return DecodedItem(loaded, header, decoded.pixels)

    def infer(self, batch: list[DecodedItem]) -> list[InferredItem | InputError]:
        """Run the model; retry the images of a failed batch one at a time."""
        try:
            groundings = self._ground(batch)
        except ModelError:
            if len(batch) > 1:
                return [result for item in batch for result in self.infer([item])]
            return self._infer_again(batch[0])
        return [InferredItem(item.loaded, item.header, found) for item, found in zip(batch, groundings, strict=True)]

    def postprocess(self, inferred: InferredItem) -> ProcessedItem:
        """Compute the instances in the stored raster and the painted mask."""
        height, width = inferred.header.size_hw
        with self._budgets.transient.hold(height * width * _POSTPROCESS_BYTES_PER_PIXEL):
            self._budgets.transient.release(-height * width)  # the mask, held until `encode` ends
            annotation = annotate_grounding(
                inferred.grounding,
                self._rules,
                inferred.header.upright_size_hw,
                inferred.header.orientation,
                self._limits,
            )
        return ProcessedItem(inferred.loaded, annotation, inferred.header.orientation)

    def encode(self, processed: ProcessedItem) -> EncodedItem:
        """Encode NPZ, JSON and the rows of the instance table, and make the journal row."""
        loaded, annotation = processed.loaded, processed.annotation
        entry = gva.segmentation_entry(
            annotation,
            npz_name=mask_name(loaded.planned.json),
            model_id=self._spec.model_id,
            annotation_date=self._spec.annotation_date,
        )
        merged = gva.merge(loaded.document, entry, loaded.prior)
        for warning in merged.warnings:
            logger.warning("%s: %s", loaded.planned.json, warning)
        if annotation.beyond_255:
            logger.warning(
                "%s: more than 255 instances: the %d with the lowest scores are left out",
                loaded.planned.json,
                len(annotation.beyond_255),
            )
        overlay = self._draw_overlay(loaded, annotation)
        row = _row(loaded.planned.json, annotation)
        npz = to_npz(annotation.mask)
        self._budgets.transient.release(annotation.mask.size)
        return EncodedItem(loaded, npz, gva.render(merged.document), overlay, row, self._lines(processed))

    def write(self, encoded: EncodedItem) -> StoredItem:
        """Store image, NPZ and JSON, in this order: the JSON is the commit mark."""
        store, key, guard = self._run.store, encoded.loaded.planned.json, self._guard
        try:
            if encoded.overlay is not None:
                store.put(*encoded.overlay, guard)
            if self._spec.image_mode == "copy":
                store.copy_from(encoded.loaded.image_key, encoded.loaded.image, guard)
            store.put(mask_key(key), encoded.npz, guard)
            store.put(key, encoded.json, guard)
        except UnstorableObjectError as exc:
            raise InputError(str(exc)) from exc
        return StoredItem(encoded.row, encoded.instance_lines)

    def _lines(self, processed: ProcessedItem) -> bytes:
        """Rows of the instance table, if this run has one."""
        if self._spec.instances == "none":
            return b""
        loaded = processed.loaded
        origin = gva.origin_of(loaded.document)
        facts = ImageFacts(loaded.planned.json, loaded.image_key, origin, processed.orientation)
        return encode_rows(rows_of(processed.annotation, facts))

    def _draw_overlay(self, loaded: LoadedItem, annotation: Annotation) -> tuple[str, bytes] | None:
        """Key and bytes of the overlay, if this image gets one."""
        key, overlays = loaded.planned.json, self.overlays
        if overlays is None or (overlays.keys is not None and key not in overlays.keys):
            return None
        encoding = overlays.encoding
        return f"{OVERLAY_FOLDER}/{stem_of(key)}{encoding.suffix}", encode_overlay(
            loaded.image.data, annotation, encoding
        )

    def _read_prior(self, key: str) -> gva.Document | None:
        """Read the output's JSON; a broken one is replaced only in an override run."""
        raw = self._fetch(self._run.store, key).data
        try:
            return gva.parse_prior(raw)
        except InputError as exc:
            if not self._spec.override:
                raise
            logger.warning("%s: %s; it is overwritten", key, exc)
            return None

    def _fetch(self, store: Store, key: str) -> Fetched:
        with _input_errors():
            return store.fetch(key)

    def _warn_of_size(self, loaded: LoadedItem, header: Header) -> None:
        declared = gva.declared_size_wh(loaded.document)
        height, width = header.size_hw
        if declared is not None and declared != (width, height):
            logger.warning(
                "%s: image.dimensions says %s x %s, the file has %d x %d: using the file",
                loaded.planned.json,
                *declared,
                width,
                height,
            )

    def _ground(self, batch: list[DecodedItem]) -> tuple[Grounding, ...]:
        features = self._session.encode_images(np.stack([item.pixels for item in batch]))
        groundings = self._session.ground(features, self._text, self._threshold)
        if not all(np.isfinite(found.scores).all() and np.isfinite(found.mask_logits).all() for found in groundings):
            raise ModelError("the model returned numbers that are not finite")
        return groundings

    def _infer_again(self, item: DecodedItem) -> list[InferredItem | InputError]:
        try:
            return [InferredItem(item.loaded, item.header, self._ground([item])[0])]
        except ModelError as exc:
            return [ModelFailedInputError(f"the model failed on this image twice: {exc}")]


def _candidate_limits(spec: RunSpec) -> CandidateLimits | None:
    threshold = spec.candidates_threshold
    return None if threshold is None else CandidateLimits(threshold, spec.max_candidates)


@contextmanager
def _input_errors() -> Iterator[None]:
    """Map what is wrong with a file of an input to an error of the input."""
    try:
        yield
    except (ObjectMissingError, UnstorableObjectError) as exc:
        raise InputError(str(exc)) from exc
    except ObjectRefusedError as exc:
        raise RefusedInputError(str(exc)) from exc
    except UnreadableObjectError as exc:
        raise UnreadableInputError(str(exc)) from exc


def _row(json: str, annotation: Annotation) -> ResultRow:
    scores: dict[str, list[float]] = {}
    for instance in annotation.instances:
        scores.setdefault(instance.class_name, []).append(round(instance.score, 3))
    dropped = {
        "empty": annotation.dropped_empty,
        "overlap": annotation.dropped_overlap,
        "beyond_255": len(annotation.beyond_255),
    }
    return ResultRow(
        json=json,
        result=ANNOTATED,
        scores=scores,
        dropped={why: count for why, count in dropped.items() if count},
        hidden=annotation.hidden,
        mask_sha256=hashlib.sha256(annotation.mask.data).hexdigest(),
    )
