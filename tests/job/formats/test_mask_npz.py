from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.formats import mask_npz as npz


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 1 << 30))
def test_numpy_reads_the_single_array_mask(height: int, width: int, seed: int) -> None:
    mask = np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)
    with np.load(io.BytesIO(npz.to_npz(mask)), allow_pickle=False) as arrays:
        assert arrays.files == ["mask"]
        again = arrays["mask"]
    assert again.dtype == np.uint8
    assert np.array_equal(again, mask)


@pytest.mark.parametrize(
    "as_given",
    [np.asfortranarray, lambda mask: np.pad(mask, 3)[3:-3, 3:-3], lambda mask: mask[::-1][::-1]],
    ids=["column by column", "a part of a larger one", "turned twice"],
)
def test_equal_masks_give_equal_bytes_in_every_memory_layout(as_given: Callable[[Any], Any]) -> None:
    mask = np.arange(35, dtype=np.uint8).reshape(5, 7)
    assert npz.to_npz(as_given(mask)) == npz.to_npz(mask.copy())


def test_the_file_holds_no_write_time() -> None:
    with zipfile.ZipFile(io.BytesIO(npz.to_npz(np.zeros((2, 2), np.uint8)))) as archive:
        assert [entry.date_time for entry in archive.infolist()] == [(1980, 1, 1, 0, 0, 0)]


def test_the_compression_level_is_the_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = np.repeat(np.random.default_rng(0).integers(0, 9, (60, 400), np.uint8), 3, axis=1)
    sizes = []
    for level in (1, npz._DEFLATE_LEVEL, 9):
        monkeypatch.setattr(npz, "_DEFLATE_LEVEL", level)
        sizes.append(len(npz.to_npz(mask)))
    assert sizes == sorted(set(sizes), reverse=True)


def test_masks_are_compressed() -> None:
    assert len(npz.to_npz(np.zeros((1080, 1920), np.uint8))) < 1080 * 1920 / 500
