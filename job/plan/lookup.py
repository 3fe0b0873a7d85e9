"""Lookup of what a plan made from a list of keys does not hold: the image of a JSON, and its earlier outputs."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

import msgspec

from job.errors import InputError
from job.plan.plan import PlannedInput
from job.run.run import RunTarget
from job.storage.keys import IMAGE_SUFFIXES, JSON_SUFFIX, MASK_SUFFIX, stem_of
from job.storage.store import Store


@dataclass(frozen=True)
class Found:
    """What exists of one input.

    Attributes:
        image: Key of its image, or None.
        has_prior: Whether the output holds its JSON.
        is_done: Whether the output holds everything and the input is not to be redone.
    """

    image: str | None
    has_prior: bool
    is_done: bool = False


def look_up(planned: PlannedInput, source: Store, run: RunTarget) -> Found:
    """Return what the plan holds; where it holds nothing, ask input and output, one request each.

    Raises:
        InputError: The plan holds nothing, and there is no JSON of this name.
    """
    if not isinstance(planned.image, msgspec.UnsetType) and not isinstance(planned.prior, msgspec.UnsetType):
        return Found(planned.image, planned.prior)
    stem = stem_of(planned.json)
    there, done = source.existing_suffixes(stem), run.store.existing_suffixes(stem)
    suffix = next((suffix for suffix in IMAGE_SUFFIXES if suffix in there), None)
    needed = {JSON_SUFFIX, MASK_SUFFIX} | ({suffix} if suffix and run.spec.image_mode == "copy" else set())
    is_done = not run.spec.override and not planned.forced and needed <= done
    if not is_done and JSON_SUFFIX not in there:
        hint = _other_form(source, stem, (JSON_SUFFIX,))
        raise InputError(f"{source.url}/{planned.json}: no such file, or one that cannot be read{hint}")
    return Found(image=stem + suffix if suffix else None, has_prior=JSON_SUFFIX in done, is_done=is_done)


def no_image_reason(source: Store, json_key: str) -> str:
    """Why an input without an image fails; names an image whose name differs only in Unicode normalization."""
    return f"No image found at {source.url}/{json_key}{_other_form(source, stem_of(json_key), IMAGE_SUFFIXES)}"


def _other_form(source: Store, stem: str, suffixes: tuple[str, ...]) -> str:
    """A hint at a file whose name is canonically equivalent but not equal, or an empty string."""
    folder, slash, name = stem.rpartition("/")
    for form in ("NFC", "NFD"):
        for other in (folder + slash + unicodedata.normalize(form, name), unicodedata.normalize(form, stem)):
            if other != stem and (there := source.existing_suffixes(other).intersection(suffixes)):
                file = other.rpartition("/")[2] + min(there)
                return (
                    f": {file!a} has the same name in another Unicode normalization form ({form}). Names must be "
                    "equal byte by byte: rename one of the two"
                )
    return ""
