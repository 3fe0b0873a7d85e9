"""Every mask survives its run lengths; what is read equals what pycocotools reads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from job.convert.masks import decode_mask, encode_mask
from job.errors import InputError
from job.formats.instance_table import Rle


@given(arrays.arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_decoded_masks_are_those_of_pycocotools(pixels: NDArray[np.bool_]) -> None:
    size_hw = (pixels.shape[0], pixels.shape[1])
    counts = coco_mask.encode(np.asfortranarray(pixels, np.uint8))["counts"].decode()
    if not pixels.any():
        with pytest.raises(InputError, match="empty"):
            decode_mask(Rle(size_hw, counts))
        return
    mask = decode_mask(Rle(size_hw, counts))
    x0, y0, x1, y1 = mask.box_xyxy
    assert np.array_equal(mask.crop(), pixels[y0:y1, x0:x1])
    assert mask.area == pixels.sum()
    assert encode_mask(mask) == Rle(size_hw, counts)


@pytest.mark.parametrize("size_hw", [(3, 4), (4, 4), (5, 9)])
def test_runs_that_do_not_fill_the_raster_are_refused(size_hw: tuple[int, int]) -> None:
    counts = coco_mask.encode(np.ones((4, 5), np.uint8, order="F"))["counts"].decode()
    with pytest.raises(InputError, match="do not fill"):
        decode_mask(Rle(size_hw, counts))
