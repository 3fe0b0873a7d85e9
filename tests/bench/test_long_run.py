"""The long run itself is `make long-run`; here its verdict, and a short one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench.long_run import Sample, main, parsed, verdict

FLAT = [
    Sample(seconds=30.0 * n, images=500 * n, resident_bytes=200 << 20, handles=9, threads=17, processor_s=10.0 * n)
    for n in range(200)
]


def test_a_flat_run_is_flat() -> None:
    assert verdict(FLAT)["is_flat"] is True


def test_too_few_samples_give_no_verdict() -> None:
    assert verdict(FLAT[:6])["is_flat"] is None


@pytest.mark.parametrize(
    ("name", "grown"),
    [
        ("resident_bytes", lambda n, found: replace(found, resident_bytes=found.resident_bytes + n * (1 << 17))),
        ("handles", lambda n, found: replace(found, handles=found.handles + n // 20)),
        ("threads", lambda n, found: replace(found, threads=found.threads + n // 100)),
        ("processor_s_per_image", lambda n, found: replace(found, processor_s=found.processor_s * (1 + n / 300))),
    ],
)
def test_what_grows_is_found(name: str, grown: object) -> None:
    assert callable(grown)
    found = verdict([grown(number, one) for number, one in enumerate(FLAT)])
    assert found[name]["is_flat"] is False
    assert found["is_flat"] is False


def test_a_short_run_ends_with_its_figures(tmp_path: Path) -> None:
    found = main(parsed([str(tmp_path), "--images", "40", "--sample_s", "0.2"]))
    assert (found["exit_code"], found["done"]) == (0, 40)
    assert len(found["samples"]) > 3
    assert found["samples"][-1]["resident_bytes"] > 50 << 20
