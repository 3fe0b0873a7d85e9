"""Lookup of what a plan made from a list of keys does not hold: the image of a JSON, and its earlier outputs."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

import msgspec

from job.errors import InputError
from job.plan.plan import PlannedInput
from job.run.run import RunTarget
from job.storage.keys import (
    IMAGE_SUFFIXES,
    JSON_SUFFIX,
    MASK_SUFFIX,
    READ_FORMATS,
    UNREAD_SUFFIXES,
    printable,
    stem_of,
)
from job.storage.store import Store


@dataclass(frozen=True)
class Found:
    """What exists of one input.

    Attributes:
        image: Key of its image, or None.
        has_prior: Whether the output holds its JSON.
        is_done: Whether the output holds everything and the input is not to be redone.
        has_json: Whether the input holds its JSON.
    """

    image: str | None
    has_prior: bool
    is_done: bool = False
    has_json: bool = True


def look_up(planned: PlannedInput, source: Store, run: RunTarget) -> Found:
    """Return what the plan holds; where it holds nothing, ask input and output, one request each.

    Raises:
        InputError: The plan holds nothing, and there is no JSON of this name (nor, with `missing_json`, an image).
    """
    if not isinstance(planned.image, msgspec.UnsetType) and not isinstance(planned.prior, msgspec.UnsetType):
        return Found(planned.image, planned.prior, has_json=not planned.no_json)
    stem = stem_of(planned.json)
    there, done = source.existing_suffixes(stem), run.store.existing_suffixes(stem)
    suffix = next((suffix for suffix in IMAGE_SUFFIXES if suffix in there), None)
    needed = {JSON_SUFFIX, MASK_SUFFIX} | ({suffix} if suffix and run.spec.image_mode == "copy" else set())
    is_done = not run.spec.override and not planned.forced and needed <= done
    is_created = suffix is not None and run.spec.missing_json == "create"
    if not is_done and JSON_SUFFIX not in there and not is_created:
        hint = _other_form(source, stem, (JSON_SUFFIX,))
        raise InputError(f"{source.url}/{planned.json}: no such file, or one that cannot be read{hint}")
    return Found(stem + suffix if suffix else None, JSON_SUFFIX in done, is_done, has_json=JSON_SUFFIX in there)


def no_image_reason(source: Store, json_key: str) -> str:
    """Why an input without an image fails.

    Names an image whose name differs only in Unicode normalization, or a picture beside the JSON that is not read.
    """
    stem = stem_of(json_key)
    hint = _other_form(source, stem, IMAGE_SUFFIXES) or _unread_picture(source, stem)
    return f"No image found at {source.url}/{json_key}{hint}"


def _unread_picture(source: Store, stem: str) -> str:
    """A hint at a picture of the same stem whose suffix is not read, or an empty string."""
    found = source.existing_suffixes(stem, UNREAD_SUFFIXES)
    if not found:
        return ""
    name = stem.rpartition("/")[2]
    files = ", ".join(name + suffix for suffix in UNREAD_SUFFIXES if suffix in found)
    return f": found {printable(files)}; only {READ_FORMATS} are read. Convert it to JPEG"


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
