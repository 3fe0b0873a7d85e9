"""Pictures to the square that the model sees."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray


def resize_to_square(picture: Image.Image, side: int) -> NDArray[np.uint8]:
    """Resize an upright RGB picture, aspect ratio given up, as sam3's processor does: bilinear, antialiased.

    Returns:
        uint8 (side, side, 3). Pillow's result is within one level of torchvision's, which itself differs by as
        much between CPU and GPU; `sam3-annotate verify` measures what that does to the annotations.
    """
    resized = picture.resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(resized, np.uint8)
