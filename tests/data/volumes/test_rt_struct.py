"""RT-STRUCT: masks that are drawn as contours are read back exactly, on grids of any direction."""

from contextlib import suppress

import numpy as np
import pytest
from tests.data.volumes.rt_files import contours_of, write

from atrous.data.volumes.dicom_series import read_series
from atrous.data.volumes.grid import Grid, reorientation
from atrous.data.volumes.nifti import read_nifti
from atrous.data.volumes.rt_struct import inside_polygons, read_rt_struct
from atrous.data.volumes.segments import SegmentValues
from atrous.errors import AtrousError

pydicom = pytest.importorskip("pydicom")
measure = pytest.importorskip("skimage.measure")

AXIAL, SAGITTAL, HEAD_DOWN = np.eye(3), np.roll(np.eye(3), 1, axis=1), np.diag([-1.0, 1, -1])
OBLIQUE = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]


def grid_of(directions=AXIAL, shape=(23, 17, 6)) -> Grid:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = directions * (0.7, 0.9, 2.5), (12.5, -80, 31)
    return Grid(shape, affine)


def blobs(shape, seed=0) -> np.ndarray:
    """Random areas with holes, islands in holes, and areas that touch at corners and at the border."""
    noise = np.random.default_rng(seed).normal(size=shape)
    return noise + np.roll(noise, 1, 0) + np.roll(noise, 1, 1) > 0


def test_a_real_liver_is_read_back_exactly(shared, tmp_path):
    source = shared / "data/chaos_ct_liver"
    scan, truth = read_series(source / "series.zip"), read_nifti(source / "liver_mask.nii.gz").values[..., 0]
    path = write(tmp_path / "liver.dcm", scan.stored, {"Liver": contours_of(scan.change.from_ras(truth))})
    for grid in (scan.stored, scan.grid):
        found = read_rt_struct(path, grid)
        np.testing.assert_array_equal(found.volume.values[..., 0], truth * np.uint8(11))
        np.testing.assert_array_equal(found.volume.grid.affine, scan.grid.affine)
    assert found.names == {11: "Liver"} and not found.volume.notes


@pytest.mark.parametrize("directions", [AXIAL, SAGITTAL, HEAD_DOWN, OBLIQUE])
def test_areas_with_holes_are_read_back_on_grids_of_any_direction(tmp_path, directions):
    grid = grid_of(directions)
    one = blobs(grid.shape)
    other = ~one & blobs(grid.shape, 1)
    path = write(tmp_path / "rt.dcm", grid, {"one": contours_of(one), "other": contours_of(other)})
    change = reorientation(grid)
    expected = change.to_ras(np.where(one, 11, np.where(other, 12, 0)))
    for given in (grid, change.ras_grid(grid)):
        np.testing.assert_array_equal(read_rt_struct(path, given).volume.values[..., 0], expected)


def test_a_keyhole_contour_has_a_hole(tmp_path):
    grid = grid_of(OBLIQUE)
    outer = [(2.3, 2.4), (15.6, 2.4), (15.6, 12.7), (2.3, 12.7), (2.3, 2.4)]
    inner = [(5.5, 5.5), (5.5, 9.5), (10.5, 9.5), (10.5, 5.5), (5.5, 5.5)]
    points = np.c_[np.array([*outer, *inner]), np.full(10, 3)]
    found = read_rt_struct(write(tmp_path / "rt.dcm", grid, {"ring": [points]}), grid).volume
    expected = np.zeros(grid.shape, bool)
    expected[3:16, 3:13, 3] = True
    expected[6:11, 6:10, 3] = False
    np.testing.assert_array_equal(found.values[..., 0] > 0, found.change.to_ras(expected))


def test_the_even_odd_rule_is_that_of_single_points():
    rng = np.random.default_rng(5)
    pixels = np.argwhere(np.ones((13, 17)))
    for count in (3, 4, 7, 40):
        polygons = [rng.uniform(-4, 20, (count, 2)) for _ in range(2)]
        expected = np.logical_xor(*(measure.points_in_poly(pixels, one) for one in polygons)).reshape(13, 17)
        np.testing.assert_array_equal(inside_polygons(polygons, (13, 17)), expected)


def test_contours_that_lie_on_no_slice_are_named(tmp_path):
    grid = grid_of(HEAD_DOWN)
    mask = blobs(grid.shape)
    path = write(tmp_path / "rt.dcm", grid, {"liver": contours_of(mask), "tumour": contours_of(mask[:, :, :2])})
    fewer = Grid((23, 17, 4), grid.affine)  # the last two slices are missing
    with pytest.raises(AtrousError, match=r"no slice of the scan: 'liver' \(\d+ contours, the first .* mm"):
        read_rt_struct(path, fewer)
    moved = grid.affine.copy()
    for share, is_fit in ((0.05, True), (0.15, False)):
        moved[:3, 3] = grid.affine[:3, 3] + share * grid.affine[:3, 2]
        if is_fit:
            read_rt_struct(path, Grid(grid.shape, moved), order=("liver", "tumour"))
        else:
            with pytest.raises(AtrousError, match="on no slice"):
                read_rt_struct(path, Grid(grid.shape, moved))
    tilted = grid.affine @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0.02, 0, 1, 0], [0, 0, 0, 1]])
    with pytest.raises(AtrousError, match="on no slice"):
        read_rt_struct(path, Grid(grid.shape, tilted))


def test_contours_of_another_scan_are_refused(tmp_path):
    grid = grid_of()
    path = write(tmp_path / "rt.dcm", grid, {"liver": contours_of(blobs(grid.shape))})
    moved = grid.affine.copy()
    moved[0, 3] += 5
    with pytest.raises(AtrousError, match="the contours of 'liver' reach beyond the scan"):
        read_rt_struct(path, Grid(grid.shape, moved))


def test_overlapping_regions_need_an_order(tmp_path):
    grid = grid_of()
    mask = blobs(grid.shape)
    part = mask & blobs(grid.shape, 2)
    path = write(tmp_path / "rt.dcm", grid, {"liver": contours_of(mask), "tumour": contours_of(part)})
    with pytest.raises(AtrousError, match=r"11 \(liver\) and 12 \(tumour\) overlap"):
        read_rt_struct(path, grid)
    found = read_rt_struct(path, grid, order=("tumour", "liver")).volume
    np.testing.assert_array_equal(found.values[..., 0], found.change.to_ras(np.where(part, 12, mask * 11)))


def test_regions_that_are_left_out_may_lie_beyond_the_scan_and_between_its_slices(tmp_path):
    grid = grid_of()
    mask = blobs(grid.shape)
    inside, couch = contours_of(mask), contours_of(blobs(grid.shape, 2))
    # the couch is out of every picture, between the slices, and also drawn in another plane
    couch = [
        *(one + np.array([40, 0, 0.5]) for one in couch),
        *(one[:, [2, 0, 1]] - np.array([0, 30, 0]) for one in couch),
    ]
    path = write(tmp_path / "rt.dcm", grid, {"Couch": couch, "liver": inside})
    with pytest.raises(AtrousError, match="'Couch'"):
        read_rt_struct(path, grid)
    found = read_rt_struct(path, grid, choose=lambda _: SegmentValues({11: 0, 12: 3})).volume
    np.testing.assert_array_equal(found.values[..., 0], found.change.to_ras(mask * 3))
    found = read_rt_struct(path, grid, choose=lambda given: SegmentValues(dict.fromkeys(given, 0)))
    assert not found.volume.values.any()


def test_points_are_left_out_with_a_note(tmp_path):
    path = write(tmp_path / "rt.dcm", grid_of(), {"isocentre": [np.array([[3.0, 4, 2.4]])]}, kind="POINT")
    found = read_rt_struct(path, grid_of()).volume
    assert not found.values.any()
    assert found.notes == ("rt.dcm: 1 contour without an area (points or open lines) is not read.",)


def test_damaged_and_other_files_are_refused_without_the_name_of_the_patient(shared, tmp_path):
    grid = grid_of()
    path = write(tmp_path / "rt.dcm", grid, {"liver": contours_of(blobs(grid.shape))})
    content = path.read_bytes()
    with pytest.raises(AtrousError, match="not an RT-STRUCT"):
        read_rt_struct(shared / "data/dicom_seg/dcmqi_liver.dcm", grid)
    with pytest.raises(AtrousError, match="no such file"):
        read_rt_struct(tmp_path / "none.dcm", grid)
    whole = read_rt_struct(path, grid).volume.values
    for cut in [*range(140, len(content), len(content) // 40), *range(len(content) - 60, len(content), 7)]:
        path.write_bytes(content[:cut])
        with suppress(AtrousError):  # some last bytes are not needed
            np.testing.assert_array_equal(read_rt_struct(path, grid).volume.values, whole)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(AtrousError, match="damaged") as caught:
        read_rt_struct(path, grid)
    assert "Müller" not in str(caught.value)
    changed = pydicom.dcmread(write(path, grid, {"liver": contours_of(blobs(grid.shape))}))
    changed.ROIContourSequence[0].ContourSequence[0].ContourData = ["1", "2", "3", "4"]
    changed.save_as(path)
    with pytest.raises(AtrousError, match="damaged"):
        read_rt_struct(path, grid)
