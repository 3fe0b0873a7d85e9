from __future__ import annotations

import io
import zipfile
import zlib
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


def test_a_painted_mask_takes_no_more_bytes_than_with_all_matches_of_zlib() -> None:
    painted = np.zeros((1080, 1920), np.uint8)
    y, x = np.ogrid[:1080, :1920]
    for i in range(7):
        painted[(y - 540) ** 2 + (x - 250 * (i + 1)) ** 2 < (60 + 20 * i) ** 2] = 36 * (i + 1)
    assert len(npz.to_npz(painted)) < len(zlib.compress(painted.tobytes(), 6))


def test_the_archive_is_whole_and_its_entry_is_a_file_that_its_owner_reads() -> None:
    with zipfile.ZipFile(io.BytesIO(npz.to_npz(np.arange(35, dtype=np.uint8).reshape(5, 7)))) as archive:
        assert archive.testzip() is None
        (entry,) = archive.infolist()
    assert (entry.filename, entry.file_size, entry.create_system) == ("mask.npy", 128 + 35, 3)
    assert entry.external_attr == 0o600 << 16


@pytest.mark.parametrize("shape", [(1, 1), (0, 5), (1, 100_000), (100_000, 1)])
def test_masks_of_extreme_shapes_are_read_again(shape: tuple[int, int]) -> None:
    mask = np.full(shape, 3, np.uint8)
    assert np.array_equal(npz.read_mask(npz.to_npz(mask)), mask)


def test_masks_are_compressed() -> None:
    assert len(npz.to_npz(np.zeros((1080, 1920), np.uint8))) < 1080 * 1920 / 500
