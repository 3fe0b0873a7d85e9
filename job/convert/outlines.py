"""Outlines of masks as polygons.

Coordinates are edges of pixels: a mask of one pixel at (0, 0) has the outline (0, 0), (1, 0), (1, 1), (0, 1). Pixels
that touch at a corner belong to one part. Holes are filled: these polygons cannot express them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from job.postprocess.masks import CroppedMask

Outline = TypeVar("Outline", NDArray[np.int64], NDArray[np.float64])

EXACT_CORNERS = 100
"""Outlines with at most this many corners are not simplified."""
TOLERANCE_PX = 0.75
"""Largest distance of a removed corner from a simplified outline; a stair of single pixels becomes a line."""


def outlines(mask: CroppedMask) -> list[NDArray[np.int64]]:
    """The outer outline of each part of a mask, exact.

    Returns:
        int64 (n, 2), x and y in the raster, clockwise, n >= 4; ordered by the part's topmost, then leftmost corner.
    """
    x0, y0, _, _ = mask.box_xyxy
    corners, across, along, opens = _corners(np.pad(mask.crop(), 1))
    seen = [False] * len(corners)
    found = []
    for start in range(len(corners)):
        if seen[start]:
            continue
        loop, at = [], start
        while not seen[at]:
            other = across[at]
            seen[at] = seen[other] = True
            loop += [at, other]
            at = along[other]
        if opens[start]:
            found.append(corners[loop] + (x0, y0))
    return found


def _corners(padded: NDArray[np.bool_]) -> tuple[NDArray[np.int64], list[int], list[int], list[bool]]:
    """Corners of all outlines by row and column, and how edges connect them.

    A corner is a point where the number of filled pixels among its four neighbours is odd, or where two filled ones
    touch; the latter is two corners. Along a row of points, corners are the ends of horizontal edges in pairs; along a
    column, of vertical edges.

    Returns:
        Points x, y; for each the other end of its horizontal and of its vertical edge; whether the pixel to the lower
        right is filled, so that the corner begins an outer outline.
    """
    a, b, c, d = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    odd, falling, rising = a ^ b ^ c ^ d, a & d & ~b & ~c, b & c & ~a & ~d
    points = np.argwhere(odd | falling | rising)
    points = np.repeat(points, np.where(odd[tuple(points.T)], 1, 2), axis=0)
    y, x = points.T
    is_rising = rising[y, x]
    second = np.zeros(len(y), np.int64)
    second[1:] = (y[1:] == y[:-1]) & (x[1:] == x[:-1])
    count = np.arange(len(y))
    # The first copy ends the edge from the left. It continues up or down, so that the two filled pixels stay one part.
    by_column = np.lexsort((np.where(is_rising, second, 1 - second), y, x))
    along = np.empty(len(y), np.int64)
    along[by_column] = by_column[count ^ 1]
    return points[:, ::-1], (count ^ 1).tolist(), along.tolist(), d[y, x].tolist()


def inset(outline: NDArray[np.int64], distance_px: float) -> NDArray[np.float64]:
    """Move every edge of an exact outline towards the inside.

    A rasteriser that drops the fraction of coordinates and fills up to and including the border draws the mask of an
    outline that is moved by less than a pixel; of an exact one it draws a column and a row too many.

    Returns:
        float64 (n, 2).
    """
    arriving = np.sign(outline - np.roll(outline, 1, axis=0))
    leaving = np.sign(np.roll(outline, -1, axis=0) - outline)
    turned = arriving + leaving  # one of them is horizontal and one vertical; the inside is on the right of both
    return outline + distance_px * np.stack((-turned[:, 1], turned[:, 0]), axis=1)


def simplify(outline: Outline) -> Outline:
    """Remove corners (Douglas and Peucker, 1973) of an outline that has more than `EXACT_CORNERS`."""
    if len(outline) <= EXACT_CORNERS:
        return outline
    points = np.concatenate((outline, outline[:1])).astype(np.float64)
    far = int(((points - points[0]) ** 2).sum(axis=1).argmax())
    keep = np.zeros(len(points), np.bool_)
    keep[[0, far, -1]] = True
    pending = [(0, far), (far, len(points) - 1)]
    while pending:
        first, last = pending.pop()
        if last - first < 2:
            continue
        distance = _distance_to_line(points[first + 1 : last], points[first], points[last])
        farthest = int(distance.argmax())
        if distance[farthest] > TOLERANCE_PX:
            middle = first + 1 + farthest
            keep[middle] = True
            pending += [(first, middle), (middle, last)]
    simple = outline[keep[:-1]]
    return simple if len(simple) >= 3 else outline


def _distance_to_line(
    points: NDArray[np.float64], start: NDArray[np.float64], end: NDArray[np.float64]
) -> NDArray[np.float64]:
    direction = end - start
    length = float(np.hypot(*direction))
    offset = points - start
    if length == 0:
        return np.asarray(np.hypot(offset[:, 0], offset[:, 1]))
    return np.asarray(np.abs(direction[0] * offset[:, 1] - direction[1] * offset[:, 0]) / length)


def join_parts(parts: list[Outline]) -> Outline:
    """One polygon from the outlines of several parts, as Ultralytics joins the parts of COCO's polygons.

    Each part is connected with the closest point of those before it by a line that is walked in both directions, so it
    adds no area. A rasteriser may draw the line, one pixel wide: a part that holds fewer pixels than that is left out.

    Returns:
        (n, 2).
    """
    ordered = sorted(parts, key=_area, reverse=True)
    joined = ordered[0]
    for part in ordered[1:]:
        at, to = _closest(joined, part)
        if _area(part) < np.abs(joined[at] - part[to]).max() - 1:
            continue
        turned = np.roll(part, -to, axis=0)
        joined = np.concatenate((joined[: at + 1], turned, turned[:1], joined[at:]))
    return joined


def _area(outline: Outline) -> float:
    """Pixels inside (shoelace formula)."""
    x, y = outline.T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


def _closest(one: Outline, other: Outline) -> tuple[int, int]:
    """Indexes of the closest two points."""
    distance = ((one[:, None, :] - other[None, :, :]) ** 2).sum(axis=2)
    at, to = np.unravel_index(int(distance.argmin()), distance.shape)
    return int(at), int(to)
