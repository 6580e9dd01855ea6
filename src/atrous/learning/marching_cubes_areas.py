"""Areas of the surface elements of a mask, by marching cubes (Lorensen and Cline, SIGGRAPH 1987).

An element lies at each corner of the voxel grid. Its neighbour code states which of the 2×2×2 voxels around the corner
are inside the mask. The table of areas is computed from one triangulation for each shape of up to four voxels that are
connected by faces.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray

Point = tuple[int, int, int]

#: Shapes of up to four connected voxels of a 2×2×2 cube, without rotated and mirrored copies, and the triangles that
#: separate these voxels from the others. The voxels' centres have the coordinates 0 and 2, so the middle of a cube's
#: edge has a 1.
#: The triangles of the last shape are not in one plane, so their area depends on the choice of the triangles. The
#: triangles here are the classic choice, as in surface-distance and scikit-image.
_SHAPES: tuple[tuple[tuple[Point, ...], tuple[tuple[Point, Point, Point], ...]], ...] = (
    (((0, 0, 0),), (((1, 0, 0), (0, 1, 0), (0, 0, 1)),)),
    (
        ((0, 0, 0), (0, 0, 2)),
        (((1, 0, 0), (1, 0, 2), (0, 1, 2)), ((1, 0, 0), (0, 1, 2), (0, 1, 0))),
    ),
    (
        ((0, 0, 0), (0, 0, 2), (0, 2, 0)),
        (
            ((1, 0, 0), (1, 0, 2), (1, 2, 0)),
            ((1, 0, 2), (0, 1, 2), (0, 2, 1)),
            ((1, 0, 2), (0, 2, 1), (1, 2, 0)),
        ),
    ),
    (
        ((0, 0, 0), (0, 0, 2), (0, 2, 0), (0, 2, 2)),
        (((1, 0, 0), (1, 0, 2), (1, 2, 2)), ((1, 0, 0), (1, 2, 2), (1, 2, 0))),
    ),
    (
        ((0, 0, 0), (0, 0, 2), (0, 2, 0), (2, 0, 0)),
        (
            ((2, 1, 0), (2, 0, 1), (1, 0, 2)),
            ((2, 1, 0), (1, 0, 2), (0, 1, 2)),
            ((2, 1, 0), (0, 1, 2), (0, 2, 1)),
            ((2, 1, 0), (0, 2, 1), (1, 2, 0)),
        ),
    ),
    (
        ((2, 0, 0), (2, 2, 0), (2, 2, 2), (0, 2, 2)),
        (
            ((1, 0, 0), (2, 0, 1), (1, 2, 0)),
            ((2, 0, 1), (2, 1, 2), (0, 1, 2)),
            ((2, 0, 1), (0, 1, 2), (1, 2, 0)),
            ((0, 1, 2), (0, 2, 1), (1, 2, 0)),
        ),
    ),
)


def neighbour_codes(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Returns the neighbour codes of all corners of voxels; voxels outside the volume are outside the mask.

    Args:
        mask: X×Y×Z booleans.

    Returns:
        (X+1)×(Y+1)×(Z+1) codes. With a, b and c each 0 or 1, bit 4a + 2b + c of the code of the corner (x, y, z) is 1
        if the voxel (x - 1 + a, y - 1 + b, z - 1 + c) is inside the mask. The codes 0 and 255 have no surface.
    """
    padded = np.pad(mask, 1).view(np.uint8)
    x, y, z = (size + 1 for size in mask.shape)
    codes = np.zeros((x, y, z), np.uint8)
    for bit, (a, b, c) in enumerate(product((0, 1), repeat=3)):
        codes |= padded[a : a + x, b : b + y, c : c + z] << bit
    return codes


def voxel_steps(spacing: Sequence[float] | Sequence[Sequence[float]] | NDArray) -> NDArray[np.float64]:
    """Returns the 3×3 matrix whose columns are the steps from a voxel to the next one along each axis, in mm.

    Args:
        spacing: the lengths of three perpendicular steps, mm; or the matrix itself.
    """
    given = np.asarray(spacing, np.float64)
    return np.diag(given) if given.ndim == 1 else given


def element_areas(spacing: Sequence[float] | Sequence[Sequence[float]] | NDArray) -> NDArray[np.float64]:
    """Returns the areas of the surface elements of all 256 neighbour codes, in mm².

    Args:
        spacing: as for `voxel_steps`.

    Returns:
        256 areas; the areas of the codes 0 and 255 are 0.
    """
    x, y, z = voxel_steps(spacing).T
    faces = np.stack([np.cross(y, z), np.cross(z, x), np.cross(x, y)])
    return np.array([np.sqrt(((normals @ faces) ** 2).sum(1)).sum() for normals in _normals()])


@cache
def _normals() -> tuple[NDArray[np.float64], ...]:
    """Returns, for each of 256 neighbour codes, the T×3 normals of its T triangles; their lengths are the areas.

    The normals of a connected group of voxels may all have the opposite sign, because areas do not depend on the sign.
    If a cube has more than four voxels in the mask, the triangles are those of its voxels outside the mask. So a mask
    and its complement have the same area.
    """
    known: dict[frozenset[Point], NDArray[np.float64]] = {}
    for voxels, triangles in _SHAPES:
        corners = np.array(triangles) / 2.0
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]) / 2
        for order, flip in product(permutations(range(3)), product((0, 2), repeat=3)):
            turned = frozenset(
                (voxel[order[0]] ^ flip[0], voxel[order[1]] ^ flip[1], voxel[order[2]] ^ flip[2]) for voxel in voxels
            )
            known.setdefault(turned, normals[:, order] * (1 - np.array(flip)))
    cube: list[Point] = [(a, b, c) for a, b, c in product((0, 2), repeat=3)]
    table = []
    for code in range(256):
        inside = {voxel for bit, voxel in enumerate(cube) if code >> bit & 1}
        waiting = inside if len(inside) <= 4 else set(cube) - inside
        found = [np.zeros((0, 3))]
        while waiting:
            group, edge = set(), {min(waiting)}
            while edge:
                group |= edge
                edge = {a for a in waiting - group if any(math.dist(a, b) == 2 for b in edge)}
            waiting = waiting - group
            found.append(known[frozenset(group)])
        table.append(np.concatenate(found))
    return tuple(table)
