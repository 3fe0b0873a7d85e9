"""Completeness of an output, judged from listings: what is missing, torn, empty or without an input.

Only failed rows of runs are trusted; everything else is checked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, get_args

import msgspec

from job.run.history import runs_of
from job.run.spec import RunSpec
from job.storage.keys import IMAGE_SUFFIXES, JSON_SUFFIX, MASK_SUFFIX, printable
from job.storage.store import PRIVATE_FOLDER, UNKNOWN_SIZE, Store
from job.tools.failures import KnownFailures, known_failures
from job.tools.groups import ImageGroup, groups

Kind = Literal[
    "failed", "missing", "torn", "empty", "orphaned", "image_differs",
    "unreadable", "mask_size", "mask_values", "foreign", "instances",
]  # fmt: skip
NOT_REDONE = {"failed", "orphaned"}


class Finding(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A finding about one input, or one orphan.

    Attributes:
        kind: `failed`: it has no outputs, and a run has the reason. `missing`: it has none, without a reason. `torn`:
            some exist. `empty`: one has no bytes. `orphaned`: outputs without an input. `image_differs`: the copy
            differs from the original. Only with `deep`: `unreadable`, `mask_size` (not the image's), `mask_values`
            (not in `properties`), `foreign` (mask and scores are not those of one row of the newest run that
            annotated it), `instances` (its rows in the instance table are missing, or not those of the mask).
        key: Key of the JSON; for an orphan its own key.
        detail: What was found and what is expected.
    """

    kind: Kind
    key: str
    detail: str = ""


@dataclass
class AuditCounts:
    """Filled while the findings are consumed.

    Attributes:
        inputs: JSONs in the input, and images without one that a run took.
        annotated: Inputs whose outputs exist and passed every check that was made.
        findings: By kind; an incomplete input is counted in one of them.
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
    """A group and its findings from the listings; without a finding all outputs exist.

    Attributes:
        group: Its objects.
        image_suffix: Suffix of its image in the input, or None.
        is_input: Whether it is an input; else it is a file without one.
        findings: What the listings show.
    """

    group: ImageGroup
    image_suffix: str | None
    is_input: bool
    findings: tuple[Finding, ...]


def judge_listings(source: Store, target: Store, spec: RunSpec) -> Iterator[Judged]:
    """Judge every group of input and output, ascending by JSON key.

    Args:
        source: The whole input.
        target: The output.
        spec: Of its newest run; it says whether images are copied, and whether those without a JSON are inputs. If
            only an earlier run took these, those with an output are inputs.
    """
    has_created = spec.missing_json == "create" or any(run.spec.missing_json == "create" for run in runs_of(target))
    with known_failures(target) as failures:
        for group in groups(source.list(skip=PRIVATE_FOLDER), target.list(skip=PRIVATE_FOLDER)):
            image = next((suffix for suffix in IMAGE_SUFFIXES if suffix in group.input_sizes), None)
            is_input = JSON_SUFFIX in group.input_sizes
            if has_created and image is not None:
                is_input = is_input or spec.missing_json == "create" or JSON_SUFFIX in group.output_sizes
            findings = _findings(group, image, spec.image_mode == "copy", failures) if is_input else _orphans(group)
            yield Judged(group, image, is_input, tuple(findings))


def _orphans(group: ImageGroup) -> Iterator[Finding]:
    for suffix in group.output_sizes:
        yield Finding(kind="orphaned", key=printable(group.stem + suffix), detail="no JSON in the input")


def _findings(group: ImageGroup, image: str | None, is_copied: bool, failures: KnownFailures) -> Iterator[Finding]:
    present, key = group.output_sizes, printable(group.json_key)
    for suffix in present:
        if suffix in IMAGE_SUFFIXES and suffix not in group.input_sizes:
            yield Finding(kind="orphaned", key=printable(group.stem + suffix), detail="no such image in the input")
    needed = [MASK_SUFFIX, JSON_SUFFIX] + ([image] if image is not None and is_copied else [])
    absent = [suffix for suffix in needed if suffix not in present]
    if absent or (image is None and is_copied):
        yield _incomplete(key, [suffix for suffix in needed if suffix in present], absent, failures)
        return
    empty = [suffix for suffix in needed if present[suffix] == 0]
    if empty:
        yield Finding(kind="empty", key=key, detail=f"{', '.join(empty)} of no bytes")
    elif image is not None and is_copied and group.input_sizes[image] not in {present[image], UNKNOWN_SIZE}:
        detail = f"{image} has {present[image]} bytes, the input's has {group.input_sizes[image]}"
        yield Finding(kind="image_differs", key=key, detail=detail)


def _incomplete(key: str, present: list[str], absent: list[str], failures: KnownFailures) -> Finding:
    reason = failures.reason(key)
    if reason is not None:
        return Finding(kind="failed", key=key, detail=reason)
    if not present:
        return Finding(kind="missing", key=key, detail="no output, and no run has a reason")
    return Finding(kind="torn", key=key, detail=f"{', '.join(present)} without {', '.join(absent) or 'an image'}")
