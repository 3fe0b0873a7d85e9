"""What a plan made from a list of keys has not looked up: the image of a JSON, and its earlier outputs."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from job.plan.plan import PlannedInput
from job.run.run import RunTarget
from job.storage.keys import IMAGE_SUFFIXES, JSON_SUFFIX, MASK_SUFFIX, stem_of
from job.storage.store import Store


@dataclass(frozen=True)
class Found:
    """What there is of one input.

    Attributes:
        image: Key of its image, or None.
        has_prior: Whether the output holds its JSON.
        is_done: Whether the output holds everything and nothing is to be done again.
    """

    image: str | None
    has_prior: bool
    is_done: bool = False


def look_up(planned: PlannedInput, source: Store, run: RunTarget) -> Found:
    """Take what the plan says; ask input and output, one request each, where it says nothing."""
    if not isinstance(planned.image, msgspec.UnsetType) and not isinstance(planned.prior, msgspec.UnsetType):
        return Found(planned.image, planned.prior)
    stem = stem_of(planned.json)
    there, done = source.existing_suffixes(stem), run.store.existing_suffixes(stem)
    suffix = next((suffix for suffix in IMAGE_SUFFIXES if suffix in there), None)
    needed = {JSON_SUFFIX, MASK_SUFFIX} | ({suffix} if suffix and run.spec.image_mode == "copy" else set())
    is_wanted = run.spec.override or planned.forced
    return Found(
        image=stem + suffix if suffix else None,
        has_prior=JSON_SUFFIX in done,
        is_done=not is_wanted and needed <= done,
    )
