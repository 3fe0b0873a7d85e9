"""Indexes, pods, hours and cost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from job.errors import UsageError
from k8s.cli.submit import Submission, _check_cost
from k8s.sizing import MAX_INDEXES, MIN_INDEX_HOURS, PoolRate, size

rates = st.builds(
    PoolRate,
    parallelism=st.integers(1, 2000),
    completions=st.just(8),
    images_per_s=st.floats(0.01, 500),
    price_per_hour=st.floats(0, 100),
)


@given(st.integers(0, 10**9), st.dictionaries(st.sampled_from(["gpu", "cpu"]), rates, min_size=1))
def test_images_and_costs_add_up(images: int, pools: dict[str, PoolRate]) -> None:
    found = size(images, pools)
    assert found.hours is not None
    assert abs(sum(pool.images or 0 for pool in found.pools.values()) - images) <= len(pools)
    assert found.cost == pytest.approx(sum(pool.cost or 0 for pool in found.pools.values()))
    for name, pool in found.pools.items():
        assert pool.parallelism == pools[name].parallelism
        assert pool.parallelism <= pool.completions <= max(MAX_INDEXES, pool.parallelism)
        assert pool.pod_hours == pytest.approx(pool.parallelism * found.hours)
        if pool.completions > pool.parallelism:
            assert (pool.pod_hours or 0) / pool.completions >= MIN_INDEX_HOURS


@given(st.integers(1, 10**9), rates, rates, st.floats(0.1, 1000))
def test_hours_are_met_with_the_fewest_pods(images: int, gpu: PoolRate, cpu: PoolRate, hours: float) -> None:
    found = size(images, {"gpu": gpu, "cpu": cpu}, hours)
    assert found.hours is not None
    assert found.hours <= hours * (1 + 1e-9)
    pods = found.pools["gpu"].parallelism
    one_less = (pods - 1) * (gpu.images_per_s or 0) + cpu.parallelism * (cpu.images_per_s or 0)
    assert pods == 1 or images / 3600 / one_less > hours * (1 - 1e-9)


def test_a_hundred_million_images() -> None:
    gpu = PoolRate(parallelism=100, completions=8, images_per_s=60.0, price_per_hour=4.0)
    found = size(100_000_000, {"gpu": gpu})
    assert found.hours == pytest.approx(4.63, abs=0.01)
    assert found.cost == pytest.approx(1851.85, abs=0.01)
    assert found.pools["gpu"].completions == 925


def test_a_pool_with_a_job_keeps_its_indexes() -> None:
    gpu = PoolRate(parallelism=10, completions=40, images_per_s=60.0, has_job=True)
    assert size(100_000_000, {"gpu": gpu}).pools["gpu"].completions == 40
    found = size(100_000_000, {"gpu": gpu}, hours=1)
    assert (found.pools["gpu"].parallelism, found.pools["gpu"].completions) == (40, 40)
    assert found.hours == pytest.approx(11.57, abs=0.01), "it is told when it takes longer than asked for"


def test_values_are_unchanged_without_rates() -> None:
    found = size(1000, {"gpu": PoolRate(2, 8, 60.0), "cpu": PoolRate(3, 9)})
    assert (found.hours, found.cost) == (None, None)
    assert [(pool.parallelism, pool.completions) for pool in found.pools.values()] == [(2, 8), (3, 9)]
    with pytest.raises(UsageError, match="the rate of a pod of cpu"):
        size(1000, {"gpu": PoolRate(2, 8, 60.0), "cpu": PoolRate(3, 9)}, hours=1)


def test_zero_pods_are_refused() -> None:
    with pytest.raises(UsageError, match="no pool has a pod"):
        size(1000, {"gpu": PoolRate(0, 8, 60.0)})


@pytest.mark.parametrize(
    ("price", "most", "words"), [(4.0, 1.0, "cost 18.52, --max_cost is 1.00"), (None, 1.0, "give")]
)
def test_a_higher_cost_is_refused(price: float | None, most: float, words: str) -> None:
    sizes = size(1_000_000, {"gpu": PoolRate(2, 8, 60.0, price)})
    shown = Submission(release="night", namespace="garage", run="night-1", images=1_000_000, sizes=sizes)
    with pytest.raises(UsageError, match=words):
        _check_cost(shown, most)
    _check_cost(shown, None)
