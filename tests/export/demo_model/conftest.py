"""Fixtures of the demo model's tests: a few small scenes, and one thread for training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from export.demo_model.scenes.dataset import Cache, CacheOptions, render_cache


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads of a small network spend more time waiting than working, most of all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
