"""Volumes and masks on a target grid: positions in the patient, values, and the target spacing of nnU-Net."""

from itertools import permutations

import numpy as np
import pytest

from atrous.data.volumes import resampling
from atrous.data.volumes.grid import Grid
from atrous.data.volumes.read_volume import read_volume
from atrous.data.volumes.resampling import (
    labels_of_probabilities,
    median_spacing,
    nearest_axis,
    resampled,
    resampled_labels,
    target_grid,
)
from atrous.data.volumes.volume import Volume
from atrous.errors import AtrousError


def oblique(rng, shape, sides):
    """A grid of any order and direction of axes, turned by up to some degrees."""
    turn, _ = np.linalg.qr(np.eye(3) + rng.normal(scale=0.1, size=(3, 3)))
    turn *= np.sign(np.diag(turn))
    affine = np.eye(4)
    order = rng.permutation(3)
    affine[:3, :3] = (turn * rng.choice([-1, 1], 3))[:, order] * sides
    affine[:3, 3] = rng.normal(scale=50, size=3)
    return Grid(shape, affine)


@pytest.mark.parametrize("seed", range(20))
def test_a_marked_block_keeps_its_place_in_millimetres(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(10, 20, 3).tolist())
    stored = oblique(rng, shape, rng.uniform(0.7, 1.5, 3))
    first = [int(rng.integers(2, side - 6)) for side in shape]
    box = tuple(slice(one, one + 4) for one in first)
    values = np.zeros((*shape, 1), np.float32)
    values[box] = 1
    marked = stored.positions(np.argwhere(values[..., 0])).mean(axis=0)
    bare = Volume(values, stored)
    volume = Volume(bare.change.to_ras(values), stored)
    spacing = tuple(rng.uniform(0.5, 2, 3).tolist())
    found = resampled(volume, spacing)
    weights = found.values[..., 0].astype(float)
    place = (found.grid.positions(np.argwhere(weights > 0)) * weights[weights > 0, None]).sum(0) / weights.sum()
    assert np.linalg.norm(place - marked) < 0.35 * max(*spacing, *stored.spacing)
    labels = np.ascontiguousarray(volume.values[..., 0]).astype(np.uint8)
    there = resampled_labels(labels, found.grid.shape, None)
    back = resampled_labels(there, volume.grid.shape, None)
    assert np.linalg.norm(volume.grid.positions(np.argwhere(back)).mean(0) - marked) < 0.5 * max(
        *spacing, *stored.spacing
    )


@pytest.mark.parametrize("seed", range(10))
def test_the_target_grid_has_the_corners_of_the_volume(seed):
    rng = np.random.default_rng(seed)
    grid = oblique(rng, (9, 14, 11), rng.uniform(0.5, 4, 3))
    grid = Volume(np.zeros((9, 14, 11, 1)), grid).grid
    spacing = tuple(rng.uniform(0.4, 5, 3).tolist())
    target = target_grid(grid, spacing)
    for one in (0, 1):
        ends = [np.array([[-0.5] * 3 if not one else np.array(each.shape) - 0.5]) for each in (grid, target)]
        np.testing.assert_allclose(grid.positions(ends[0]), target.positions(ends[1]), atol=1e-9)
    extents = np.array(grid.shape) * grid.spacing
    assert (np.abs(extents / spacing - target.shape) <= 0.5 + 1e-9).all() or 1 in target.shape


def test_interpolation_is_that_of_an_exact_slow_version():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(7, 6, 5, 2)).astype(np.float32)
    volume = Volume(values, Grid((7, 6, 5), np.diag([1.0, 1.2, 2, 1])))
    found = resampled(volume, (0.8, 1.9, 1.3))
    inverse = np.linalg.inv(volume.grid.affine) @ found.grid.affine
    for voxel in np.ndindex(*found.grid.shape):
        place = (inverse @ [*voxel, 1])[:3].clip(0, np.array(volume.grid.shape) - 1)
        low = np.floor(place).astype(int)
        total = np.zeros(2)
        for corner in np.ndindex(2, 2, 2):
            source = np.minimum(low + corner, np.array(volume.grid.shape) - 1)
            total += np.prod(np.where(corner, place - low, 1 - (place - low))) * values[tuple(source)]
        np.testing.assert_allclose(found.values[voxel], total, atol=1e-5)


def test_masks_take_the_class_with_the_largest_interpolated_share():
    rng = np.random.default_rng(1)
    labels = rng.choice(np.array([0, 1, 2, 255], np.uint8), (6, 7, 8))
    volume = Volume(labels[..., None], Grid(labels.shape, np.eye(4)))
    spacing = (0.7, 1.3, 0.9)
    found = resampled_labels(labels, target_grid(volume.grid, spacing).shape, None)
    shares = np.stack(
        [
            resampled(Volume((labels == label)[..., None], volume.stored), spacing).values[..., 0]
            for label in (0, 1, 2, 255)
        ]
    )
    order = np.sort(shares, axis=0)
    clear = order[-1] - order[-2] > 1e-4
    np.testing.assert_array_equal(found[clear], np.array([0, 1, 2, 255], np.uint8)[shares.argmax(0)][clear])
    assert clear.mean() > 0.9


@pytest.mark.parametrize("spacing", [(0.8, 0.8, 0.8), (1.4, 1.4, 1.4), (1, 1, 2)])
def test_a_mask_that_goes_there_and_back_changes_few_voxels(spacing):
    x, y, z = np.meshgrid(*(np.arange(40),) * 3, indexing="ij")
    ball = ((x - 20) ** 2 + (y - 19) ** 2 + (z - 18) ** 2 < 12**2).astype(np.uint8)
    grid = Grid(ball.shape, np.eye(4))
    there = resampled_labels(ball, target_grid(grid, spacing).shape, nearest_axis(grid, spacing))
    back = resampled_labels(there, ball.shape, nearest_axis(grid, spacing))
    shared = 2 * np.logical_and(ball, back).sum() / (ball.sum() + back.sum())
    assert shared > 0.96


def test_along_the_coarse_axis_slices_are_copied():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(8, 8, 5, 1)).astype(np.float32)
    volume = Volume(values, Grid((8, 8, 5), np.diag([1.0, 1, 4, 1])))
    found = resampled(volume, (1, 1, 3))
    assert found.values.shape == (8, 8, 7, 1)
    for index in range(7):
        assert any(np.array_equal(found.values[:, :, index], values[:, :, one]) for one in range(5))
    assert nearest_axis(volume.grid, (1, 1, 1)) == 2
    assert nearest_axis(Grid((8, 8, 8), np.eye(4)), (4, 1, 1)) == 0
    assert nearest_axis(Grid((8, 8, 8), np.eye(4)), (4, 4, 1)) is None


def test_voxels_without_data_do_not_mix_with_others():
    values = np.full((8, 8, 8, 1), 5, np.float32)
    values[:3] = -2000
    values[4, 4, 4] = np.nan
    volume = Volume(values, Grid((8, 8, 8), np.eye(4)))
    found = resampled(volume, (0.7, 0.7, 0.7), (-2000.0,)).values
    np.testing.assert_allclose(found[np.isfinite(found)], 5, rtol=1e-6)
    edge = np.flatnonzero(np.isfinite(found[:, 0, 0, 0])).min()
    assert abs(edge * 8 / len(found) - 3) < 0.7


def test_probabilities_come_back_on_the_grid_of_the_scan():
    rng = np.random.default_rng(0)
    labels = np.kron(rng.integers(0, 3, (4, 4, 4)), np.ones((4, 4, 4), int)).astype(np.uint8)
    one_hot = np.eye(3, dtype=np.float32)[labels]
    np.testing.assert_array_equal(np.stack(list(labels_of_probabilities(one_hot, labels.shape, None)), 2), labels)
    found = np.stack(list(labels_of_probabilities(one_hot, (32, 24, 20), 2)), 2)
    assert (found == resampled_labels(labels, (32, 24, 20), 2)).mean() > 0.999


def test_the_own_spacing_changes_no_bit(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    values = np.random.default_rng(0).integers(-1000, 1000, (5, 6, 7)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-0.7, 1.1, 3, 1])), tmp_path / "scan.nii.gz")
    volume, same = read_volume(tmp_path / "scan.nii.gz"), read_volume(tmp_path / "scan.nii.gz", (0.7, 1.1, 3.0))
    assert same is volume and same.values.dtype == np.int16
    other = read_volume(tmp_path / "scan.nii.gz", (1.4, 1.1, 3.0))
    assert other.values.shape == (2, 6, 7, 1) and read_volume(tmp_path / "scan.nii.gz") is volume


@pytest.mark.parametrize("axis", range(3))
def test_the_median_and_the_rule_for_anisotropic_volumes_are_those_of_nnunet(axis):
    rng = np.random.default_rng(axis)
    for coarse in (1.5, 5.0):
        spacings = rng.uniform(0.6, 0.9, (11, 3))
        spacings[:, axis] = coarse * rng.uniform(0.5, 1.5, 11)
        shapes = np.full((11, 3), 200)
        shapes[:, axis] = 40
        grids = [Grid(tuple(shape.tolist()), np.diag([*one, 1])) for shape, one in zip(shapes, spacings, strict=True)]
        expected = [sorted(spacings[:, one])[5] for one in range(3)]
        if coarse == 5.0:
            expected[axis] = sorted(spacings[:, axis])[1]  # percentile 10 of eleven values
        np.testing.assert_allclose(median_spacing(grids), expected)
    thick = [Grid((200, 200, 200), np.diag([*np.roll([4.0, 1, 1], axis), 1]))]
    np.testing.assert_allclose(median_spacing(thick), np.roll([4.0, 1, 1], axis))


def test_a_spacing_that_needs_too_many_voxels_is_refused():
    with pytest.raises(AtrousError, match="at most"):
        target_grid(Grid((512, 512, 512), np.eye(4)), (0.01, 0.01, 0.01))


def test_target_grids_are_in_ras():
    for order in permutations(range(3)):
        affine = np.zeros((4, 4))
        affine[list(order), range(3)] = (-1, 2, -3)
        affine[3, 3] = 1
        volume = Volume(np.zeros((6, 6, 6, 1)), Grid((6, 6, 6), affine))
        assert target_grid(volume.grid, (1.5, 1.5, 1.5)).axes == "RAS"


def test_voxels_larger_than_the_volume_are_refused():
    grid = Grid((35, 50, 1), np.diag([1.0, 1.0, 4.0, 1.0]))
    with pytest.raises(AtrousError, match="1000×1000×1000 mm are larger than the volume of 35×50×4 mm"):
        target_grid(grid, (1000.0, 1000.0, 1000.0))
    assert target_grid(grid, (2.0, 2.0, 9.0)).shape == (18, 25, 1)  # an axis of one voxel keeps it


def test_probabilities_on_the_same_grid_are_not_resampled(monkeypatch):
    probabilities = np.random.default_rng(0).random((4, 5, 6, 3)).astype(np.float32)
    by_resampling = np.stack([plane.argmax(2) for plane in resampling._planes(probabilities, (4, 5, 6), None)], 2)
    monkeypatch.setattr(resampling, "_planes", None)
    found = np.stack(list(labels_of_probabilities(probabilities, (4, 5, 6), None)), 2)
    np.testing.assert_array_equal(found, by_resampling)
    np.testing.assert_array_equal(found, probabilities.argmax(3))
