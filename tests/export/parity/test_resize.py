"""The worker's resize gives the bits of torchvision's resize."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from job.formats.image_resize import resize_to_square

pytestmark = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"),
    reason="torchvision resizes uint8 as such only with AVX2",
)


def agrees(image: Image.Image, side: int) -> bool:
    expected = v2.functional.resize(v2.functional.to_image(image), [side, side]).permute(1, 2, 0).numpy()
    return np.array_equal(resize_to_square(image, side), expected)


def noise(width: int, height: int, seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@given(
    width=st.integers(1, 1200),
    height=st.integers(1, 1200),
    side=st.sampled_from((1, 7, 28, 336, 500)),
    seed=st.integers(0, 99),
)
@settings(max_examples=150, deadline=None)
def test_noise_of_any_size(width: int, height: int, side: int, seed: int) -> None:
    assert agrees(noise(width, height, seed), side)


@pytest.mark.parametrize("size_wh", [(3840, 2160), (1920, 1080), (1008, 1008), (9000, 40), (40, 9000), (1009, 1007)])
def test_sizes_of_cameras_and_extremes(size_wh: tuple[int, int]) -> None:
    assert agrees(noise(*size_wh, seed=1), 1008)


@pytest.mark.parametrize("level", [0, 1, 128, 254, 255])
def test_uniform_images_stay_uniform(level: int) -> None:
    assert agrees(Image.new("RGB", (777, 431), (level, level, level)), 336)
