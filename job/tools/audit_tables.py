"""Check that the rows of the instance table are those of a stored mask."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

from job.formats.instance_rows import paint_rows
from job.formats.instance_table import InstanceRow
from job.formats.mask_npz import MaskFacts
from job.formats.rle import decode_cropped
from job.postprocess.painting import visible_areas


def table_problem(rows: Sequence[InstanceRow], mask: MaskFacts, scores: Mapping[str, Sequence[float]]) -> str | None:
    """Why the rows of an image are not those of its mask; None if they are.

    Args:
        rows: All rows of the image in the instance table.
        mask: Of its NPZ.
        scores: Of its journal row, by class.

    Raises:
        InputError: A mask of the table is damaged.
    """
    sizes = {row.size_hw for row in rows}
    if sizes != {mask.size_hw}:
        return f"its rows in the instance table are of rasters of {sorted(sizes)}, its mask has {mask.size_hw} (H, W)"
    painted = [row for row in rows if row.value is not None]
    expected = {name: len(listed) for name, listed in scores.items() if listed}
    if Counter(row.class_name for row in painted) != expected:
        return f"the instance table has {len(painted)} instances with a value, the journal {sum(expected.values())}"
    raster = paint_rows(painted, mask.size_hw)
    if hashlib.sha256(raster.data).hexdigest() != mask.sha256:
        return "the masks of the instance table, painted, are not the mask of the NPZ"
    visible = visible_areas(raster, [row.value for row in painted if row.value is not None])
    wrong = [row.value for row, area in zip(painted, visible, strict=True) if not _has_figures(row, area)]
    return f"box or areas of value {wrong[0]} in the instance table are not those of its mask" if wrong else None


def _has_figures(row: InstanceRow, visible_area: int) -> bool:
    """Whether box and areas of a row are those of its mask."""
    if row.rle is None:
        return False
    mask = decode_cropped(row.rle.counts, row.size_hw)
    return (row.box, row.area, row.visible_area) == (mask.box_xyxy, mask.area, visible_area)
