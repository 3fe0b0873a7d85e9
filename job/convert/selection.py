"""Which images and instances are written, and what was left out and why."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from job.convert.labelled import LabelledImage, LabelledInstance
from job.convert.masks import visible_parts
from job.formats.instance_table import InstanceRow, Rle
from job.rules.rules import exceeds
from job.storage.keys import fits_globs

logger = logging.getLogger(__name__)

Reviewed = Literal["any", "only", "none"]
Masks = Literal["whole", "visible"]


@dataclass(frozen=True, kw_only=True)
class SelectionOptions:
    """What is written.

    Attributes:
        min_score: Instances with a higher score are written; 0 to 1, None for all.
        min_scores: The same by class; it replaces `min_score` for that class.
        classes: Classes that are written; none for all.
        rename: New names of classes.
        min_area: Instances with at least this many pixels are written.
        masks: Whole masks, or the parts that smaller instances do not cover.
        include: Globs of JSON keys; none for all.
        exclude: Globs of JSON keys.
    """

    min_score: float | None = None
    min_scores: Mapping[str, float] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    min_area: int = 0
    masks: Masks = "whole"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def fits(self, key: str) -> bool:
        """Whether the globs select a JSON key."""
        return fits_globs(key, self.include, self.exclude)

    @property
    def has_thresholds(self) -> bool:
        """Whether instances are selected by their scores."""
        return self.min_score is not None or bool(self.min_scores)

    def threshold_of(self, class_name: str, found_class: str) -> float | None:
        """The score that an instance must exceed.

        Args:
            class_name: Its class.
            found_class: The class that its prompt gave it; that of a passenger is `person`.
        """
        return self.min_scores.get(class_name, self.min_scores.get(found_class, self.min_score))

    def names(self, classes: Sequence[str]) -> tuple[str, ...]:
        """The classes as written, in order, each once."""
        return tuple(dict.fromkeys(self.rename.get(name, name) for name in self.classes or classes))


@dataclass
class ConversionCounts:
    """What was written and what was left out.

    Attributes:
        images: Images that were written.
        instances: Their instances.
        negatives: Images without instances among them.
        sides: Images by side of the split.
        images_left_out: By reason.
        instances_left_out: By reason.
        visible_only: Images without table rows among those written: their masks are the visible parts.
        filtered: Images whose runs stored no candidates, so that a lower score than the run's adds nothing.
        inexact: Images with more candidates than their runs stored.
        edited: Images whose JSON lists other instances than the rows; known only where reviews select images.
        joined: Instances whose parts were joined to one outline.
    """

    images: int = 0
    instances: int = 0
    negatives: int = 0
    sides: Counter[str] = field(default_factory=Counter)
    images_left_out: Counter[str] = field(default_factory=Counter)
    instances_left_out: Counter[str] = field(default_factory=Counter)
    visible_only: int = 0
    filtered: int = 0
    inexact: int = 0
    edited: int = 0
    joined: int = 0

    def add(self, image: LabelledImage) -> None:
        """Count an image that is written."""
        self.images += 1
        self.instances += len(image.instances)
        self.negatives += not image.instances
        self.visible_only += image.is_visible_only
        if image.side:
            self.sides[image.side] += 1


def select_instances(
    rows: Sequence[InstanceRow], orientation: int, options: SelectionOptions, found_class: Callable[[str], str] = str
) -> tuple[tuple[LabelledInstance, ...], Counter[str]]:
    """The instances of an image that are written, and how many are not, by reason.

    Args:
        rows: Rows of instances of the output, in its order.
        orientation: EXIF orientation of the image.
        options: What is written.
        found_class: The class that the prompts gave an instance, of its class.
    """
    visible = visible_parts(rows) if options.masks == "visible" else None
    kept, left_out = [], Counter[str]()
    for row in rows:
        threshold = options.threshold_of(row.class_name or "", found_class(row.class_name or ""))
        reason = _reason_against(row, options, threshold, visible)
        instance = None if reason else _instance(row, orientation, options, visible)
        if instance is not None and options.min_area and instance.area < options.min_area:
            reason = "min_area"
        if instance is None or reason:
            left_out[reason] += 1
        else:
            kept.append(instance)
    return tuple(kept), left_out


def _reason_against(
    row: InstanceRow, options: SelectionOptions, threshold: float | None, visible: Mapping[int, Rle] | None
) -> str:
    if options.classes and row.class_name not in options.classes:
        return "classes"
    if threshold is not None and (row.score is None or not exceeds(row.score, threshold)):
        return "min_score"
    if visible is not None and (row.value is None or row.value not in visible):
        return "hidden"
    return ""


def _instance(
    row: InstanceRow, orientation: int, options: SelectionOptions, visible: Mapping[int, Rle] | None
) -> LabelledInstance:
    name = row.class_name or ""
    part = None if visible is None or row.value is None else visible[row.value]
    return LabelledInstance(row, options.rename.get(name, name), orientation, part)
