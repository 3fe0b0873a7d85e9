"""Whether an output is complete, told from listings: what is missing, torn, empty or without an input.

Only failed rows of runs are trusted; everything else is looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, get_args

import msgspec

from job.run.spec import RunSpec
from job.storage.keys import IMAGE_SUFFIXES, JSON_SUFFIX, MASK_SUFFIX, printable
from job.storage.store import PRIVATE_FOLDER, Store
from job.tools.failures import KnownFailures, known_failures
from job.tools.groups import ImageGroup, groups

Kind = Literal[
    "failed", "missing", "torn", "empty", "orphaned", "image_differs",
    "unreadable", "mask_size", "mask_values", "foreign",
]  # fmt: skip
NOT_TO_BE_DONE_AGAIN = {"failed", "orphaned"}


class Finding(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something about one input, or one orphan.

    Attributes:
        kind: `failed`: it has no outputs, and a run says why. `missing`: it has none and nobody says why. `torn`:
            some are there. `empty`: one has no bytes. `orphaned`: outputs without an input. `image_differs`: the
            copy is not the original. Only by reading: `unreadable`, `mask_size` (not the image's), `mask_values`
            (not in `properties`), `foreign` (mask and scores are not those of one row of the newest run that has
            annotated it).
        key: Key of the JSON; of an orphan its own.
        detail: What was got and what should be.
    """

    kind: Kind
    key: str
    detail: str = ""


@dataclass
class AuditCounts:
    """Filled while the findings are consumed.

    Attributes:
        inputs: JSONs in the input.
        annotated: Inputs whose outputs are there, and good as far as was looked.
        findings: By kind; an input that is not whole is in one of them.
    """

    inputs: int = 0
    annotated: int = 0
    findings: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(get_args(Kind), 0)))

    @property
    def bad(self) -> int:
        """Findings other than failed inputs."""
        return self.findings.total() - self.findings["failed"]


@dataclass(frozen=True)
class Judged:
    """A family and what the listings say of it; no finding means that all outputs are there."""

    family: ImageGroup
    image_suffix: str | None
    findings: tuple[Finding, ...]


def judge_listings(source: Store, target: Store, spec: RunSpec) -> Iterator[Judged]:
    """Look at every family of input and output, ascending by JSON key.

    Args:
        source: The whole input.
        target: The output.
        spec: Of its newest run: tells whether images are copied.
    """
    with known_failures(target) as failures:
        for family in groups(source.list(skip=PRIVATE_FOLDER), target.list(skip=PRIVATE_FOLDER)):
            image = next((suffix for suffix in IMAGE_SUFFIXES if suffix in family.input_sizes), None)
            yield Judged(family, image, tuple(_findings(family, image, spec.image_mode == "copy", failures)))


def is_input(family: ImageGroup) -> bool:
    """Whether the family has a JSON in the input."""
    return JSON_SUFFIX in family.input_sizes


def _findings(family: ImageGroup, image: str | None, is_copied: bool, failures: KnownFailures) -> Iterator[Finding]:
    there, key = family.output_sizes, printable(family.json_key)
    if not is_input(family):
        for suffix in there:
            yield Finding(kind="orphaned", key=printable(family.stem + suffix), detail="no JSON in the input")
        return
    for suffix in there:
        if suffix in IMAGE_SUFFIXES and suffix not in family.input_sizes:
            yield Finding(kind="orphaned", key=printable(family.stem + suffix), detail="no such image in the input")
    needed = [MASK_SUFFIX, JSON_SUFFIX] + ([image] if image is not None and is_copied else [])
    absent = [suffix for suffix in needed if suffix not in there]
    if absent or (image is None and is_copied):
        yield _incomplete(key, [suffix for suffix in needed if suffix in there], absent, failures)
        return
    empty = [suffix for suffix in needed if there[suffix] == 0]
    if empty:
        yield Finding(kind="empty", key=key, detail=f"{', '.join(empty)} of no bytes")
    elif image is not None and is_copied and there[image] != family.input_sizes[image]:
        detail = f"{image} has {there[image]} bytes, the input's has {family.input_sizes[image]}"
        yield Finding(kind="image_differs", key=key, detail=detail)


def _incomplete(key: str, present: list[str], absent: list[str], failures: KnownFailures) -> Finding:
    reason = failures.reason(key)
    if reason is not None:
        return Finding(kind="failed", key=key, detail=reason)
    if not present:
        return Finding(kind="missing", key=key, detail="no output, and no run says why")
    return Finding(kind="torn", key=key, detail=f"{', '.join(present)} without {', '.join(absent) or 'an image'}")
