"""Shared by the demo model's tests: a network small enough to train in seconds, and sam3's warnings."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.demo_model.dataset import Cache, CacheOptions, render_cache


@pytest.fixture(scope="session")
def small_cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return render_cache(tmp_path_factory.mktemp("small") / "cache", small_options())


@pytest.fixture(scope="session")
def small_cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "cache"
    render_cache(folder, small_options())
    return folder


def small_options() -> CacheOptions:
    return CacheOptions(scenes=6, seed=40, image_side_px=112, mask_side_px=64, shards=2)
