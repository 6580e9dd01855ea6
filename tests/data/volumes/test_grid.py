"""The grid of a volume: the position of each voxel in the patient, whatever the order of the file's axes."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atrous.data.volumes.grid import Grid, check_same_grid, reorientation
from atrous.errors import AtrousError

nibabel = pytest.importorskip("nibabel")

ORIENTATIONS = [
    (order, signs) for order in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)
]


def affine_of(order, signs, spacing=(1.0, 2.0, 3.5), origin=(-10.0, 5.0, 7.25), tilt=0.0):
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (direction, sign) in enumerate(zip(order, signs, strict=True)):
        affine[direction, axis] = sign * spacing[axis]
    turn = np.array([[np.cos(tilt), -np.sin(tilt), 0], [np.sin(tilt), np.cos(tilt), 0], [0, 0, 1]])
    affine[:3, :3] = turn @ affine[:3, :3]
    affine[:3, 3] = origin
    return affine


@given(
    orientation=st.sampled_from(ORIENTATIONS),
    spacing=st.tuples(*[st.floats(0.05, 12)] * 3),
    shape=st.tuples(*[st.integers(1, 6)] * 3),
    tilt=st.floats(-0.6, 0.6),
    data=st.data(),
)
def test_every_voxel_keeps_its_position_in_all_48_orientations(orientation, spacing, shape, tilt, data):
    grid = Grid(shape, affine_of(*orientation, spacing, tilt=tilt))
    marked = tuple(data.draw(st.integers(0, side - 1)) for side in shape)
    values = np.zeros(shape, np.uint8)
    values[marked] = 1
    change = reorientation(grid)
    turned, new = change.to_ras(values), change.ras_grid(grid)
    assert turned.shape == new.shape
    found = np.argwhere(turned)
    np.testing.assert_allclose(new.positions(found), grid.positions(np.array([marked])), atol=1e-9)
    np.testing.assert_array_equal(change.from_ras(turned), values)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_axes_are_those_of_nibabel(orientation):
    affine = affine_of(*orientation, tilt=0.3)
    grid = Grid((4, 5, 6), affine)
    assert grid.axes == "".join(nibabel.aff2axcodes(affine))
    assert reorientation(grid).ras_grid(grid).axes == "RAS"
    np.testing.assert_allclose(grid.spacing, (1.0, 2.0, 3.5))


def test_values_after_the_third_axis_stay():
    grid = Grid((2, 3, 4), affine_of((2, 0, 1), (1, -1, 1)))
    values = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    change = reorientation(grid)
    for contrast in range(5):
        np.testing.assert_array_equal(change.to_ras(values)[..., contrast], change.to_ras(values[..., contrast]))


def test_rounded_affines_are_one_grid():
    affine = affine_of((0, 1, 2), (-1, -1, 1), spacing=(0.7265625, 0.7265625, 2.0), origin=(180.123456789, 90.3, -40))
    one = Grid((512, 512, 80), affine)
    check_same_grid(one, Grid((512, 512, 80), affine.astype(np.float32)), "scan.nii.gz", "mask.nii.gz")


@pytest.mark.parametrize("changed", ["origin", "spacing", "flip", "shape"])
def test_another_grid_is_refused_with_both_grids(changed):
    affine, shape = affine_of((0, 1, 2), (1, 1, 1)), (20, 20, 20)
    other, other_shape = affine.copy(), shape
    if changed == "origin":
        other[0, 3] += 0.5
    elif changed == "spacing":
        other[2, 2] *= 1.05
    elif changed == "flip":
        other[0] = [-1, 0, 0, affine[0, 3] + 19]  # the same box, with left and right exchanged
    else:
        other_shape = (20, 20, 21)
    with pytest.raises(AtrousError, match=r"mask\.nii is not on the grid of scan\.nii") as error:
        check_same_grid(Grid(shape, affine), Grid(other_shape, other), "scan.nii", "mask.nii")
    assert str(error.value).count("affine [") == 2


@pytest.mark.parametrize(
    "affine",
    [np.diag([1.0, 0, 1, 1]), np.diag([1.0, np.nan, 1, 1]), np.ones((4, 4)), np.eye(3)],
    ids=["no size", "not finite", "last row", "3×3"],
)
def test_unusable_affines_are_refused(affine):
    with pytest.raises(AtrousError, match="affine"):
        Grid((2, 2, 2), affine)


def test_two_axes_of_one_direction_are_refused():
    affine = np.eye(4)
    affine[:3, 1] = affine[:3, 0]
    with pytest.raises(AtrousError, match="singular"):
        Grid((2, 2, 2), affine)
