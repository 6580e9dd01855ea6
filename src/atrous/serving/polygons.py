"""Outlines of a mask as polygons along the edges of its pixels; filling the polygons gives exactly the same mask."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np

from atrous.errors import AtrousError

#: Rings of one polygon: its outline, then its holes. Each ring is closed and lists its (x, y) corners in pixels.
Polygon = list[list[tuple[int, int]]]


def polygons_of(mask: np.ndarray, most: int | None = None) -> list[Polygon]:
    """Returns polygons of the 4-connected areas of a mask.

    Args:
        mask: H×W booleans.
        most: largest number of corners of all polygons together; None for no limit.

    Returns:
        Polygons as in GeoJSON. The signed area of an outline, computed from its (x, y) corners, is positive, and the
        signed area of a hole is negative. Each ring repeats its first corner at the end. The pixel in column x and
        row y reaches from (x, y) to (x + 1, y + 1).

    Raises:
        AtrousError: the polygons have more than `most` corners.
    """
    rings = _rings(mask, most)
    _, areas = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    of_area: dict[int, Polygon] = {}
    holes: list[tuple[int, list[tuple[int, int]]]] = []
    for ring in rings:
        x, y = min(ring, key=lambda corner: (corner[1], corner[0]))  # the leftmost of the topmost corners
        if mask[y, x]:
            of_area[int(areas[y, x])] = [_turned(ring, positive=True)]
        else:  # the pixel above belongs to the area in which the hole is
            holes.append((int(areas[y - 1, x]), _turned(ring, positive=False)))
    for area, ring in holes:
        of_area[area].append(ring)
    return list(of_area.values())


def _rings(mask: np.ndarray, most: int | None) -> list[list[tuple[int, int]]]:
    """Returns the corners of each closed line between the mask and the rest of the picture.

    Each corner is the end of one horizontal and of one vertical side. If all corners are sorted along rows, the first
    and the second corner form a horizontal side, then the third and the fourth, and so on. If they are sorted along
    columns, such pairs form vertical sides. If two pixels touch only at a corner, there are two corners at this
    position, one for each pixel.
    """
    padded = np.pad(mask.astype(np.int8), 1)
    upper_left, upper_right = padded[:-1, :-1], padded[:-1, 1:]
    lower_left, lower_right = padded[1:, :-1], padded[1:, 1:]
    odd = (upper_left + upper_right + lower_left + lower_right) % 2 == 1
    falling = (upper_left == 1) & (lower_right == 1) & (upper_right == 0) & (lower_left == 0)
    rising = (upper_right == 1) & (lower_left == 1) & (upper_left == 0) & (lower_right == 0)
    if most is not None and odd.sum() + 2 * (falling.sum() + rising.sum()) > most:
        raise AtrousError("the outlines of this mask have more corners than the server allows: use format=rle.")
    rows, columns, second = [], [], []
    # If two corners are at one position, the corner of the left side comes first in a row, and the corner of the upper
    # side comes first in a column. On a rising diagonal, these two are different corners.
    for where, order in ((odd, ((0, 0),)), (falling, ((0, 0), (1, 1))), (rising, ((0, 1), (1, 0)))):
        y, x = np.nonzero(where)
        for in_row, in_column in order:
            rows.append(np.stack([y, x, np.full_like(x, in_row)]))
            columns.append(np.stack([x, y, np.full_like(x, in_column)]))
            second.append(np.stack([x, y], 1))
    corners = np.concatenate(second)
    beside, below = (_partners(np.concatenate(keys, axis=1)) for keys in (rows, columns))
    return _walk(corners.tolist(), beside.tolist(), below.tolist())


def _partners(keys: np.ndarray) -> np.ndarray:
    """Returns, for each corner, the index of the corner at the other end of its side.

    Args:
        keys: 3×N sort keys: the row or column, the position along it, and the order of corners at one position.
    """
    order = np.lexsort(keys[::-1])
    partners = np.empty(len(order), np.int64)
    partners[order[::2]], partners[order[1::2]] = order[1::2], order[::2]
    return partners


def _walk(corners: list[list[int]], beside: list[int], below: list[int]) -> list[list[tuple[int, int]]]:
    """Joins the corners to closed rings, along a horizontal and a vertical side in turn."""
    rings, seen = [], bytearray(len(corners))
    for start in range(len(corners)):
        if seen[start]:
            continue
        ring, at = [], start
        while not seen[at]:
            across = beside[at]
            seen[at] = seen[across] = 1
            ring += [tuple(corners[at]), tuple(corners[across])]
            at = below[across]
        rings.append([*ring, ring[0]])
    return rings


def _turned(ring: list[tuple[int, int]], positive: bool) -> list[tuple[int, int]]:
    """Returns a ring in the direction in which its signed area is positive, or negative if `positive` is False."""
    twice = sum(x * next_y - next_x * y for (x, y), (next_x, next_y) in pairwise(ring))
    return ring if (twice > 0) == positive else ring[::-1]
