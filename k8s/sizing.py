"""Sizes pools: indexes, pods, hours and cost; pure arithmetic.

With n images left and pools of p pods that do r images/s each and cost c an hour:

    hours      = n / 3600 / sum(p r)        both pools work until the end
    pod-hours  = p hours                    for each pool
    cost       = sum(c pod-hours)
    indexes    = pod-hours / 0.5            at least p, at most 5,000; a pool that has a Job keeps its indexes
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from job.errors import UsageError

MIN_INDEX_HOURS = 0.5
"""Pulling the image and loading the model then take less than 5 % of an index."""
MAX_INDEXES = 5_000
"""A stock Job controller creates about ten pods a second."""


@dataclass(frozen=True)
class PoolRate:
    """Rate and price of a pool.

    Attributes:
        parallelism: Pods at a time.
        completions: Indexes, for a pool without a rate or with a Job.
        images_per_s: Measured rate of one pod; None if unknown.
        price_per_hour: Price of one pod, in any currency; None if unknown.
        has_job: Whether its Job runs already: another number of indexes would replace all its pods.
    """

    parallelism: int
    completions: int
    images_per_s: float | None = None
    price_per_hour: float | None = None
    has_job: bool = False


class PoolSize(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Size of a pool.

    Attributes:
        completions: Indexes.
        parallelism: Pods at a time.
        images: Its share of the images, in proportion to its rate; None if a rate is unknown.
        pod_hours: Working hours of all its pods together.
        cost: Cost of the pod-hours, in the currency of the price.
    """

    completions: int
    parallelism: int
    images: int | None = None
    pod_hours: float | None = None
    cost: float | None = None


class Sizes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sizes of all pools of a release.

    Attributes:
        pools: Sizes by pool.
        hours: From the first image to the last; None if a rate is unknown.
        cost: Cost of all pools; None if a rate or a price is unknown.
    """

    pools: dict[str, PoolSize]
    hours: float | None = None
    cost: float | None = None


def size(images: int, rates: Mapping[str, PoolRate], hours: float | None = None) -> Sizes:
    """Size the pools.

    Args:
        images: Images to do.
        rates: Rates by pool; `hours` changes the first pool.
        hours: Time limit: the first pool gets the pods for it, at most the indexes of its Job.

    Raises:
        UsageError: `hours` without all rates, or not above 0; no pool has a pod.
    """
    if hours is not None and not 0 < hours < math.inf:
        raise UsageError(f"--hours {hours} is not a valid time: give a number above 0")
    if not all(rate.images_per_s for rate in rates.values()):
        if hours is not None:
            missing = ", ".join(name for name, rate in rates.items() if not rate.images_per_s)
            raise UsageError(f"--hours needs the rate of a pod of {missing}: give --images_per_s POOL=N")
        return Sizes(pools={name: _unmeasured(rate) for name, rate in rates.items()})
    pods = {name: rate.parallelism for name, rate in rates.items()}
    if hours is not None:
        pods |= _grown(images, rates, hours)
    speeds = {name: pods[name] * (rate.images_per_s or 0) for name, rate in rates.items()}
    total = sum(speeds.values())
    if not total:
        raise UsageError("no pool has a pod: set a pools.POOL.parallelism above 0, or give --hours")
    lasts_h = images / total / 3600
    sized = {name: _pool_size(rate, pods[name], lasts_h, images * speeds[name] / total) for name, rate in rates.items()}
    costs = [one.cost for one in sized.values()]
    return Sizes(pools=sized, hours=lasts_h, cost=None if None in costs else math.fsum(one or 0 for one in costs))


def _unmeasured(rate: PoolRate) -> PoolSize:
    return PoolSize(completions=rate.completions, parallelism=rate.parallelism)


def _grown(images: int, rates: Mapping[str, PoolRate], hours: float) -> dict[str, int]:
    """Pods of the first pool with which the work ends in time."""
    first, *others = rates
    done_by_others = sum(rates[name].parallelism * (rates[name].images_per_s or 0) for name in others)
    wanted = images / hours / 3600 - done_by_others
    pods = max(1, math.ceil(wanted / (rates[first].images_per_s or 1)))
    return {first: min(pods, rates[first].completions) if rates[first].has_job else pods}


def _pool_size(rate: PoolRate, pods: int, hours: float, images: float) -> PoolSize:
    pod_hours = pods * hours
    by_work = min(MAX_INDEXES, math.floor(pod_hours / MIN_INDEX_HOURS))
    return PoolSize(
        completions=rate.completions if rate.has_job else max(1, pods, by_work),
        parallelism=pods,
        images=round(images),
        pod_hours=pod_hours,
        cost=None if rate.price_per_hour is None else pod_hours * rate.price_per_hour,
    )
