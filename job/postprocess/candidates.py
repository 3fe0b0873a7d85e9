"""Candidates: instances that are not in the output, kept so that other thresholds can be applied later."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from job.postprocess.instances import Instance

Reason = Literal["below_threshold", "overlap"]


@dataclass(frozen=True)
class CandidateLimits:
    """Which candidates are kept.

    Attributes:
        min_score: Candidates have a higher score.
        count: Maximum number in one image.
    """

    min_score: float
    count: int


@dataclass(frozen=True)
class Candidate:
    """An instance that is not in the output.

    Attributes:
        instance: With the class that its prompt gave it, or for `overlap` that of the passenger rule.
        reason: `below_threshold`: its score is too low. `overlap`: it overlaps a kept instance.
    """

    instance: Instance
    reason: Reason


@dataclass(frozen=True)
class Candidates:
    """The candidates of one image.

    Attributes:
        listed: Highest score first.
        cut: Whether there were more than the limit allows.
    """

    listed: tuple[Candidate, ...] = ()
    cut: bool = False


def select_candidates(below: Iterable[Instance], overlapping: Sequence[Instance], count: int) -> Candidates:
    """Select the candidates with the highest scores.

    Args:
        below: Instances whose score is too low, highest first; only as many are computed as are needed.
        overlapping: Instances that the overlap rule dropped.
        count: Maximum number.
    """
    found = [Candidate(one, "overlap") for one in overlapping]
    found += [Candidate(one, "below_threshold") for one in islice(below, count + 1)]
    ranked = sorted(found, key=lambda one: -one.instance.score)  # stable: ties stay in order
    return Candidates(tuple(ranked[:count]), cut=len(ranked) > count)
