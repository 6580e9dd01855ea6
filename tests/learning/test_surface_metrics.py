"""Scores of surfaces against closed forms, all pairs of elements, and google-deepmind/surface-distance."""

import dataclasses
import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from atrous.errors import AtrousError
from atrous.learning import surface_metrics
from atrous.learning.marching_cubes_areas import element_areas, neighbour_codes
from atrous.learning.surface_metrics import SCORES, SurfaceMetrics, case_metrics, mask_metrics, summarise_cases

SPACINGS = [(1.0, 1.0, 1.0), (0.7, 1.3, 2.9)]


def blob(seed, shape=(24, 20, 16), number=5):
    """A union of seeded ellipsoids, of additions and comparisons only, so that it is the same on each machine."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(shape, bool)
    grid = np.indices(shape)
    for _ in range(number):
        centre, radius = rng.integers(3, [size - 3 for size in shape]), rng.integers(2, 7, 3)
        mask |= sum(((grid[axis] - centre[axis]) / radius[axis]) ** 2 for axis in range(3)) < 1.01
    return mask


def scores(truth, prediction, spacing, tolerance):
    """Dice, surface Dice, HD95 and both directed mean distances."""
    found = mask_metrics(truth, prediction, spacing, tolerance=tolerance)
    return [
        *(found.dice, found.surface_dice, found.hd95_mm),
        *(found.truth_to_prediction_mm, found.prediction_to_truth_mm),
    ]


def elements(mask, spacing):
    """Place (mm) and area of each element, one corner of voxels after the other."""
    padded, areas, found = np.pad(mask, 1), element_areas(spacing), []
    for corner in itertools.product(*(range(size + 1) for size in mask.shape)):
        cube = padded[tuple(slice(start, start + 2) for start in corner)].ravel()
        if cube.any() and not cube.all():
            found.append([*(corner * np.array(spacing)), areas[sum(1 << bit for bit in np.flatnonzero(cube))]])
    return np.array(found).reshape(-1, 4)


def by_all_pairs(truth, prediction, spacing, tolerance):
    """The scores of `scores`, the mean distance, and how near the cumulated areas come to 95 % of the whole."""
    here, there = elements(truth, spacing), elements(prediction, spacing)
    apart = np.sqrt(((here[:, None, :3] - there[None, :, :3]) ** 2).sum(-1))
    directed, percentiles, near, total, moved, margin = [], [], 0.0, 0.0, 0.0, 1.0
    for surface, distance in ((here, apart.min(1)), (there, apart.min(0))):
        area = surface[:, 3]
        directed.append(np.average(distance, weights=area))
        near += area[distance <= tolerance].sum()
        total += area.sum()
        moved += (distance * area).sum()
        shares = [(area[distance <= one].sum() / area.sum(), one) for one in np.unique(distance)]
        percentiles.append(min(one for share, one in shares if share >= 0.95))
        margin = min(margin, *(abs(share - 0.95) for share, _ in shares))
    dice = 2 * (truth & prediction).sum() / (truth.sum() + prediction.sum())
    return [dice, near / total, max(percentiles), *directed], moved / total, margin


# --- areas -----------------------------------------------------------------------------------------------------------


def code_of(*voxels):
    return sum(1 << (4 * a + 2 * b + c) for a, b, c in voxels)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_areas_of_flat_cuts_are_those_of_geometry(spacing):
    areas = element_areas(spacing)
    x, y, z = spacing
    assert areas[0] == areas[255] == 0
    assert areas[code_of((0, 0, 0))] == pytest.approx(math.hypot(y * z, x * z, x * y) / 8)  # half a cross product
    assert areas[code_of((0, 0, 0), (0, 0, 1))] == pytest.approx(z * math.hypot(x, y) / 2)  # a rectangle
    assert areas[code_of(*itertools.product((0,), (0, 1), (0, 1)))] == pytest.approx(y * z)
    assert areas[code_of(*itertools.product((0, 1), (0,), (0, 1)))] == pytest.approx(x * z)
    hexagon = areas[code_of((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0))]
    assert hexagon == pytest.approx(6 * areas[code_of((0, 0, 0))])


@pytest.mark.parametrize("spacing", SPACINGS)
def test_areas_are_those_of_lorensens_marching_cubes(spacing):
    """scikit-image differs where more than four voxels are inside and a face is ambiguous: there, it joins voxels."""
    measure = pytest.importorskip("skimage.measure")
    areas, compared = element_areas(spacing), 0
    for code in range(1, 255):
        cube = (code >> np.arange(8) & 1).reshape(2, 2, 2)
        faces = [cube.take(side, axis).ravel() for axis in range(3) for side in (0, 1)]
        if cube.sum() <= 4 or not any(face[0] == face[3] != face[1] == face[2] for face in faces):
            mesh = measure.marching_cubes(cube.astype(float), 0.5, method="lorensen", spacing=spacing)
            assert areas[code] == pytest.approx(measure.mesh_surface_area(*mesh[:2]), rel=1e-6), code
            compared += 1
    assert compared == 210


def test_a_mask_and_its_complement_have_equal_areas():
    areas = element_areas((0.7, 1.3, 2.9))
    assert areas == pytest.approx(areas[::-1], rel=1e-15)


def test_areas_are_those_of_the_package():
    """Sums over the 256 codes, weighted by the code, computed with surface-distance 0.1; its bits run the other way."""
    mirrored = np.array([int(f"{code:08b}"[::-1], 2) for code in range(256)])
    for spacing, expected in AREAS.items():
        areas = element_areas(spacing)[mirrored]
        weighted = [areas.sum(), (areas * np.arange(256)).sum(), (areas**2).sum(), (areas * np.arange(256) ** 2).sum()]
        assert weighted == pytest.approx(expected, rel=1e-12)


def test_neighbour_codes_of_one_voxel():
    codes = neighbour_codes(np.ones((1, 1, 1), bool))
    assert codes.shape == (2, 2, 2)
    assert sorted(codes.ravel().tolist()) == [1, 2, 4, 8, 16, 32, 64, 128]
    assert codes[0, 0, 0] == 128  # the voxel is at the offset (1, 1, 1)


# --- closed forms ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [1, 3])
def test_parallel_planes_are_their_distance_apart(axis, spacing, steps):
    shape = [20, 20, 20]
    shape[axis] = 16
    truth, prediction = np.zeros((2, *shape), bool)
    truth[tuple(slice(6 if number == axis else None) for number in range(3))] = True
    prediction[tuple(slice(6 + steps if number == axis else None) for number in range(3))] = True
    distance = steps * spacing[axis]
    at = mask_metrics(truth, prediction, spacing, tolerance=distance * (1 + 1e-12))
    assert at.hd95_mm == pytest.approx(distance, rel=1e-12)
    assert at.surface_dice == 1
    below = mask_metrics(truth, prediction, spacing, tolerance=distance * (1 - 1e-9))
    assert below.surface_dice is not None and 0.6 < below.surface_dice < 1
    assert at.dice == pytest.approx(12 / (12 + steps))
    assert at.relative_volume_difference == pytest.approx(steps / 6)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_voxel_beside_its_neighbour(spacing):
    """Eight equal elements; half of them are on the face that the voxels share."""
    truth, prediction = np.zeros((2, 4, 3, 3), bool)
    truth[1, 1, 1] = prediction[2, 1, 1] = True
    found = mask_metrics(truth, prediction, spacing, tolerance=0)
    assert found.dice == 0
    assert found.surface_dice == pytest.approx(0.5)
    assert found.hd95_mm == spacing[0]
    for mean in (found.truth_to_prediction_mm, found.prediction_to_truth_mm, found.mean_distance_mm):
        assert mean == pytest.approx(spacing[0] / 2)
    assert found.truth_ml == found.predicted_ml == pytest.approx(math.prod(spacing) / 1000)
    assert found.volume_difference_ml == 0


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 1.3, 2.9)])
@pytest.mark.parametrize("side", [2, 5])
def test_a_cube_shifted_by_one_voxel(spacing, side):
    """Apart are the face that is left, with its rim, and the inside of the opposite face; all by one voxel."""
    truth, prediction = np.zeros((2, side + 3, side + 2, side + 2), bool)
    truth[1:-2, 1:-1, 1:-1] = prediction[2:-1, 1:-1, 1:-1] = True
    x, y, z = spacing
    corner = math.hypot(y * z, x * z, x * y) / 8
    along_x, along_y, along_z = x * math.hypot(y, z) / 2, y * math.hypot(x, z) / 2, z * math.hypot(x, y) / 2
    inner = side - 1
    whole = 2 * inner**2 * (y * z + x * z + x * y) + 4 * inner * (along_x + along_y + along_z) + 8 * corner
    apart = 2 * inner**2 * y * z + 2 * inner * (along_y + along_z) + 4 * corner
    found = mask_metrics(truth, prediction, spacing, tolerance=0)
    assert found.truth_to_prediction_mm == pytest.approx(x * apart / whole)
    assert found.prediction_to_truth_mm == pytest.approx(x * apart / whole)
    assert found.mean_distance_mm == pytest.approx(x * apart / whole)
    assert found.surface_dice == pytest.approx(1 - apart / whole)
    assert found.hd95_mm == x
    assert found.dice == pytest.approx((side - 1) / side)


def test_equal_masks_are_perfect():
    mask = blob(0)
    assert scores(mask, mask, (0.7, 1.3, 2.9), 0) == [1, 1, 0, 0, 0]


def test_empty_masks_score_as_in_the_package():
    """The values that surface-distance 0.1 gives, also the infinite HD95 of two empty masks."""
    mask, empty = blob(0), np.zeros((24, 20, 16), bool)
    neither = mask_metrics(empty, empty, (1, 1, 1), tolerance=1)
    assert neither.hd95_mm == math.inf
    assert neither.truth_ml == neither.predicted_ml == neither.volume_difference_ml == 0
    for name in set(SCORES) - {"hd95_mm", "truth_ml", "predicted_ml", "volume_difference_ml"}:
        assert math.isnan(getattr(neither, name)), name
    missed, spurious = scores(mask, empty, (1, 1, 1), 1), scores(empty, mask, (1, 1, 1), 1)
    np.testing.assert_equal(missed, [0, 0, math.inf, math.inf, math.nan])
    np.testing.assert_equal(spurious, [0, 0, math.inf, math.nan, math.inf])
    assert mask_metrics(mask, empty, (1, 1, 1), tolerance=1).mean_distance_mm == math.inf
    assert mask_metrics(mask, empty, (1, 1, 1), tolerance=1).relative_volume_difference == -1
    assert mask_metrics(empty, mask, (1, 1, 1), tolerance=1).relative_volume_difference == math.inf


# --- properties ------------------------------------------------------------------------------------------------------

PAIRS = st.shared(array_shapes(min_dims=3, max_dims=3, max_side=5), key="shape").flatmap(
    lambda shape: st.tuples(arrays(bool, shape), arrays(bool, shape))
)
LENGTHS = st.tuples(*[st.sampled_from([0.3, 0.7, 1.0, 2.9])] * 3)
TOLERANCES = st.sampled_from([0.0, 0.31, 0.712, 1.234, 3.11])  # no distance of voxels of such lengths, but 0


@given(PAIRS, LENGTHS, TOLERANCES)
def test_it_is_the_score_by_all_pairs(pair, spacing, tolerance):
    truth, prediction = pair
    assume(truth.any() and prediction.any())
    expected, mean, margin = by_all_pairs(truth, prediction, spacing, tolerance)
    assume(margin > 1e-9)  # else rounding decides which distance is the percentile
    assert scores(truth, prediction, spacing, tolerance) == pytest.approx(expected, abs=1e-9)
    assert mask_metrics(truth, prediction, spacing, tolerance=tolerance).mean_distance_mm == pytest.approx(mean)


@given(PAIRS, LENGTHS, TOLERANCES, st.permutations(range(3)), st.tuples(*[st.booleans()] * 3))
def test_flips_axes_and_places_change_nothing(pair, spacing, tolerance, order, flips):
    truth, prediction = pair
    assume(truth.any() and prediction.any())
    assume(by_all_pairs(truth, prediction, spacing, tolerance)[2] > 1e-9)
    expected = scores(truth, prediction, spacing, tolerance)
    turned = [np.flip(mask, np.flatnonzero(flips)).transpose(order) for mask in pair]
    moved = [np.pad(mask, [(2, 1), (0, 3), (1, 0)]) for mask in turned]
    lengths = [spacing[axis] for axis in order]
    assert scores(*turned, lengths, tolerance) == pytest.approx(expected, abs=1e-9)
    assert scores(*moved, lengths, tolerance) == pytest.approx(expected, abs=1e-9)


@given(PAIRS, LENGTHS, TOLERANCES)
def test_truth_and_prediction_can_be_exchanged(pair, spacing, tolerance):
    there, back = (mask_metrics(*masks, spacing, tolerance=tolerance) for masks in (pair, pair[::-1]))
    for name in ("dice", "surface_dice", "hd95_mm", "mean_distance_mm"):
        assert getattr(there, name) == pytest.approx(getattr(back, name), nan_ok=True), name
    assert there.truth_to_prediction_mm == pytest.approx(back.prediction_to_truth_mm, nan_ok=True)
    assert there.volume_difference_ml == -back.volume_difference_ml


@pytest.mark.parametrize("seed", range(4))
def test_the_search_tree_finds_what_the_distance_transform_finds(seed, monkeypatch):
    truth, prediction = blob(seed), blob(seed + 100)
    transformed = mask_metrics(truth, prediction, (0.7, 1.3, 2.9), tolerance=1.5)
    monkeypatch.setattr(surface_metrics, "_TRANSFORMED", 0)
    searched = mask_metrics(truth, prediction, (0.7, 1.3, 2.9), tolerance=1.5)
    assert dataclasses.astuple(searched) == pytest.approx(dataclasses.astuple(transformed), rel=1e-12)


# --- the package -----------------------------------------------------------------------------------------------------

#: surface-distance 0.1 at seeds, spacing and tolerance: Dice, surface Dice, HD95, mean distances there and back.
FIGURES = [
    ((1, 101), (1.0, 1.0, 1.0), 1.0, [0.289806234, 0.562033561, 4.472135955, 1.514822296, 1.322468603]),
    ((1, 101), (0.7, 1.3, 2.9), 2.345, [0.289806234, 0.711940542, 5.953990259, 1.729622999, 1.652810039]),
    ((1, 101), (2.5, 0.8, 0.8), 0.0, [0.289806234, 0.256781218, 4.716990566, 1.633325604, 1.299247865]),
    ((2, 102), (1.0, 1.0, 1.0), 1.0, [0.287433155, 0.402097102, 6.32455532, 2.102684285, 2.148912085]),
    ((2, 102), (0.7, 1.3, 2.9), 2.345, [0.287433155, 0.544517635, 8.173738435, 2.15029362, 2.821203864]),
    ((2, 102), (2.5, 0.8, 0.8), 0.0, [0.287433155, 0.201518587, 6.449806199, 2.131909246, 2.089261493]),
    ((3, 3), (1.0, 1.0, 1.0), 1.0, [0.778156997, 1.0, 1.0, 0.291640903, 0.277305975]),
    ((3, 3), (0.7, 1.3, 2.9), 2.345, [0.778156997, 1.0, 1.3, 0.267655111, 0.248940062]),
    ((3, 3), (2.5, 0.8, 0.8), 0.0, [0.778156997, 0.647449547, 0.8, 0.288993058, 0.275087667]),
]
#: surface-distance 0.1: sums of the areas of codes, of areas × code, of areas², of areas × code², for three spacings.
AREAS = {
    (1.0, 1.0, 1.0): [241.34313970553745, 30771.250312456017, 267.0523395971635, 5101347.181405662],
    (0.7, 1.3, 2.9): [591.6622968920757, 75436.94285373966, 1655.1392623604315, 12650232.978816621],
    (2.5, 0.8, 0.8): [397.36336298630545, 50663.828780753945, 735.6616644649202, 8328409.154846696],
}
#: surface-distance 0.1 on both classes of hippocampus_NUMBER with itself, shifted by a voxel or eroded.
REAL = [
    ("001", 1, "shifted", [0.848942598, 1.0, 1.0, 0.334206241, 0.342767308]),
    ("001", 2, "eroded", [0.701838529, 0.96414496, 1.414213562, 0.682015695, 0.555472329]),
    ("125", 1, "shifted", [0.87990344, 1.0, 1.0, 0.265103501, 0.272159753]),
    ("125", 2, "eroded", [0.683497537, 0.936711855, 1.414213562, 0.755383932, 0.566375887]),
]


def pair_of(seeds):
    """Two blobs; of equal seeds the second is shifted by one voxel along the second axis."""
    first, second = (blob(seed) for seed in seeds)
    return first, np.roll(second, 1, axis=1) if seeds[0] == seeds[1] else second


def real_pair(shared, number, index, change):
    nibabel = pytest.importorskip("nibabel", reason="the extra medical is not installed")
    image = nibabel.load(shared / "data" / "msd_hippocampus" / "labels" / f"hippocampus_{number}.nii.gz")
    truth = np.asarray(image.dataobj) == index
    spacing = [float(size) for size in image.header.get_zooms()]
    return truth, np.roll(truth, 1, axis=2) if change == "shifted" else ndimage.binary_erosion(truth), spacing


def package_scores(truth, prediction, spacing, tolerance):
    package = pytest.importorskip("surface_distance", reason="the package surface-distance is not installed")
    found = package.compute_surface_distances(truth, prediction, spacing)
    return [
        package.compute_dice_coefficient(truth, prediction),
        package.compute_surface_dice_at_tolerance(found, tolerance),
        package.compute_robust_hausdorff(found, 95),
        *package.compute_average_surface_distance(found),
    ]


@pytest.mark.parametrize(("seeds", "spacing", "tolerance", "expected"), FIGURES)
def test_figures_of_the_package(seeds, spacing, tolerance, expected):
    assert scores(*pair_of(seeds), spacing, tolerance) == pytest.approx(expected, rel=0, abs=1e-6)


@pytest.mark.parametrize(("number", "index", "change", "expected"), REAL)
def test_figures_of_the_package_on_real_labels(shared, number, index, change, expected):
    truth, prediction, spacing = real_pair(shared, number, index, change)
    assert scores(truth, prediction, spacing, 1.0) == pytest.approx(expected, rel=0, abs=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("seed", range(20))
def test_it_is_the_package_on_random_masks(seed):
    rng = np.random.default_rng(seed)
    shape = rng.integers(8, 30, 3)
    truth, prediction = blob(seed, shape), blob(seed + 1000, shape)
    spacing = tuple(rng.uniform(0.3, 4, 3)) if seed % 2 else tuple(rng.choice([0.5, 1.0, 1.2, 3.0], 3))
    for tolerance in (0.0, 1.0, 2.5):
        expected = package_scores(truth, prediction, spacing, tolerance)
        assert scores(truth, prediction, spacing, tolerance) == pytest.approx(expected, rel=0, abs=1e-9)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("change", ["shifted", "eroded"])
def test_it_is_the_package_on_real_labels(shared, change):
    for path in sorted((shared / "data" / "msd_hippocampus" / "labels").glob("*.nii.gz"))[:10]:
        number = path.name.removeprefix("hippocampus_").removesuffix(".nii.gz")
        for index in (1, 2):
            truth, prediction, spacing = real_pair(shared, number, index, change)
            expected = package_scores(truth, prediction, spacing, 1.0)
            assert scores(truth, prediction, spacing, 1.0) == pytest.approx(expected, rel=0, abs=1e-9), path.name


# --- cases and their summary -----------------------------------------------------------------------------------------


def test_each_class_is_measured_without_ignored_voxels():
    truth, prediction = (blob(seed) + np.uint8(2) * blob(seed + 50) for seed in (1, 101))
    truth[5:9, :, 3:8] = 255
    prediction[0:2] = 255
    found = case_metrics(truth, prediction, (0.7, 1.3, 2.9), [2, 0, 1, 9], tolerance=1)
    assert list(found) == [2, 0, 1, 9]
    labelled = truth != 255
    for index in (0, 1, 2):
        alone = mask_metrics(truth == index, (prediction == index) & labelled, (0.7, 1.3, 2.9), tolerance=1)
        assert found[index] == alone
        assert found[index].truth_ml == pytest.approx((truth == index).sum() * 0.7 * 1.3 * 2.9 / 1000)
    assert found[9].truth_ml == found[9].predicted_ml == 0


def test_what_is_predicted_on_ignored_voxels_changes_nothing():
    truth, prediction = (blob(seed).astype(np.uint8) for seed in (1, 101))
    truth[:, 7:12] = 255
    changed = prediction.copy()
    changed[:, 7:12] = 1 - changed[:, 7:12]
    assert case_metrics(truth, prediction, (1, 1, 2), [1], tolerance=1) == case_metrics(
        truth, changed, (1, 1, 2), [1], tolerance=1
    )


def test_arrays_in_any_order_in_memory():
    truth, prediction = (blob(seed).astype(np.uint8) for seed in (1, 101))
    expected = case_metrics(truth, prediction, (1, 1, 2), [1], tolerance=1)
    assert case_metrics(np.asfortranarray(truth), prediction, (1, 1, 2), [1], tolerance=1) == expected
    assert (
        case_metrics(np.asfortranarray(truth), np.asfortranarray(prediction), (1, 1, 2), [1], tolerance=1) == expected
    )


def test_without_scipy_only_dice_and_volumes(monkeypatch):
    truth, prediction = (blob(seed).astype(np.uint8) for seed in (1, 101))
    full = case_metrics(truth, prediction, (1, 1, 2), [1], tolerance=1)[1]
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(AtrousError, match=r"pip install 'atrous\[medical\]'"):
        case_metrics(truth, prediction, (1, 1, 2), [1], tolerance=1)
    found = case_metrics(truth, prediction, (1, 1, 2), [1], tolerance=None)[1]
    assert found == SurfaceMetrics(full.truth_ml, full.predicted_ml, full.dice)
    assert found.surface_dice is found.hd95_mm is found.mean_distance_mm is None


# --- sheared grids ---------------------------------------------------------------------------------------------------

#: A tilted gantry: the third axis leans by 1 mm per step of 2 mm. Then any three directions.
SHEARED = [
    np.array([[0.7, 0, 0], [0, 1.3, 1.0], [0, 0, 2.0]]),
    np.array([[-0.9, 0.3, 0.1], [0.2, 1.1, -0.4], [0.0, 0.5, 1.9]]),
]
TURN = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0]


@pytest.mark.parametrize("steps", SHEARED)
def test_volumes_of_sheared_voxels_are_determinants(steps):
    mask = blob(1)
    found = mask_metrics(mask, mask[::-1], steps, tolerance=None)
    assert found.truth_ml == pytest.approx(mask.sum() * abs(np.linalg.det(steps)) / 1000, rel=1e-12)
    assert found.truth_ml != pytest.approx(mask.sum() * np.prod(np.linalg.norm(steps, axis=0)) / 1000, rel=0.02)


def test_the_same_voxels_in_a_sheared_numbering_have_the_same_volume():
    mask, sheared = blob(2), np.zeros((44, 20, 16), bool)
    for x, y, z in np.argwhere(mask):
        sheared[x - y + 20, y, z] = True  # the second step becomes (1, 1, 0)
    steps = np.array([[0.7, 0.7, 0], [0, 1.3, 0], [0, 0, 2.9]])
    one = mask_metrics(mask, mask, (0.7, 1.3, 2.9), tolerance=None)
    assert mask_metrics(sheared, sheared, steps, tolerance=None).truth_ml == pytest.approx(one.truth_ml, rel=1e-12)


@pytest.mark.parametrize("steps", SHEARED)
def test_areas_of_sheared_elements_are_those_of_the_sheared_mesh(steps):
    measure = pytest.importorskip("skimage.measure")
    areas = element_areas(steps)
    for code in range(1, 255):
        cube = (code >> np.arange(8) & 1).reshape(2, 2, 2)
        # the mesh of other cubes is a mirror image of ours, whose area differs once it is sheared
        if cube.sum() <= 2 or (cube.sum() == 4 and any(len(np.unique(cube.take(0, axis))) == 1 for axis in range(3))):
            mesh = measure.marching_cubes(cube.astype(float), 0.5, method="lorensen")
            area = measure.mesh_surface_area(mesh[0] @ steps.T, mesh[1])
            assert areas[code] == pytest.approx(area, rel=1e-5), code


@pytest.mark.parametrize("steps", SHEARED)
def test_scores_in_a_sheared_grid_are_those_of_all_pairs(steps):
    truth, prediction = blob(3, (14, 12, 10), 2), blob(4, (14, 12, 10), 2)

    def placed(mask):
        padded, areas, found = np.pad(mask, 1), element_areas(steps), []
        for corner in itertools.product(*(range(size + 1) for size in mask.shape)):
            cube = padded[tuple(slice(start, start + 2) for start in corner)].ravel()
            if cube.any() and not cube.all():
                found.append([*(steps @ corner), areas[sum(1 << bit for bit in np.flatnonzero(cube))]])
        return np.array(found)

    here, there = placed(truth), placed(prediction)
    apart = np.sqrt(((here[:, None, :3] - there[None, :, :3]) ** 2).sum(-1))
    found = mask_metrics(truth, prediction, steps, tolerance=1.5)
    assert found.truth_to_prediction_mm == pytest.approx(np.average(apart.min(1), weights=here[:, 3]))
    assert found.prediction_to_truth_mm == pytest.approx(np.average(apart.min(0), weights=there[:, 3]))
    near = here[apart.min(1) <= 1.5, 3].sum() + there[apart.min(0) <= 1.5, 3].sum()
    assert found.surface_dice == pytest.approx(near / (here[:, 3].sum() + there[:, 3].sum()))


@pytest.mark.parametrize("lengths", SPACINGS)
def test_a_turned_grid_has_the_scores_of_its_lengths(lengths):
    pair = blob(5), blob(6)
    turned = mask_metrics(*pair, (TURN @ np.diag(lengths)).astype(np.float32), tolerance=1.05)
    straight = mask_metrics(*pair, lengths, tolerance=1.05)
    for name, value in dataclasses.asdict(straight).items():
        assert getattr(turned, name) == pytest.approx(value, rel=1e-5), name


VOLUME = np.zeros((3, 4, 5), np.uint8)


@pytest.mark.parametrize(
    ("truth", "prediction", "spacing", "classes", "tolerance", "message"),
    [
        (VOLUME[0], VOLUME[0], (1, 1, 1), [1], 1, r"truth has the shape \(4, 5\)"),
        (VOLUME, VOLUME[1:], (1, 1, 1), [1], 1, r"prediction \(2, 4, 5\)"),
        (VOLUME.astype(np.int64), VOLUME, (1, 1, 1), [1], 1, "truth has the type int64"),
        (VOLUME, VOLUME > 0, (1, 1, 1), [1], 1, "prediction has the type bool"),
        (VOLUME, VOLUME, (1, 1), [1], 1, "three lengths"),
        (VOLUME, VOLUME, (1, 1, 0), [1], 1, "above 0"),
        (VOLUME, VOLUME, (1, math.nan, 1), [1], 1, "the spacing is"),
        (VOLUME, VOLUME, np.eye(4), [1], 1, "3×3 matrix of steps"),
        (VOLUME, VOLUME, np.ones((3, 3)), [1], 1, "must not lie in one plane"),
        (VOLUME, VOLUME, np.diag([1, 0, 1]), [1], 1, "must not lie in one plane"),
        (VOLUME, VOLUME, (1, 1, 1), [255], 1, "255 is not a class"),
        (VOLUME, VOLUME, (1, 1, 1), [-1], 1, "-1 is not a class"),
        (VOLUME, VOLUME, (1, 1, 1), [1], -0.5, "the tolerance is -0.5"),
        (VOLUME, VOLUME, (1, 1, 1), [1], math.inf, "the tolerance is inf"),
    ],
)
def test_wrong_arguments_are_named(truth, prediction, spacing, classes, tolerance, message):
    with pytest.raises(AtrousError, match=message):
        case_metrics(truth, prediction, spacing, classes, tolerance=tolerance)


def test_masks_must_be_boolean():
    with pytest.raises(AtrousError, match="prediction has the type uint8"):
        mask_metrics(VOLUME > 0, VOLUME, (1, 1, 1), tolerance=None)


def measured(dice, distance=1.0, volumes=(2.0, 3.0)):
    return SurfaceMetrics(*volumes, dice, dice, distance, distance, distance, distance)


ABSENT = SurfaceMetrics(0.0, 0.0, math.nan, math.nan, math.inf, math.nan, math.nan, math.nan)
MISSED = SurfaceMetrics(2.0, 0.0, 0.0, 0.0, math.inf, math.inf, math.nan, math.inf)
SPURIOUS = SurfaceMetrics(0.0, 2.0, 0.0, 0.0, math.inf, math.nan, math.inf, math.inf)


def test_the_summary_counts_absent_missed_and_spurious_classes():
    cases = [{1: measured(0.8), 2: ABSENT}, {1: ABSENT}, {1: MISSED, 2: ABSENT}, {1: SPURIOUS}, {1: measured(0.6, 3.0)}]
    one, two = summarise_cases(cases).values()
    assert (one.cases, one.absent, one.missed, one.spurious) == (4, 1, 1, 1)
    assert one.scores.keys() == set(SCORES)
    assert one.scores["dice"].mean == pytest.approx((0.8 + 0 + 0 + 0.6) / 4)
    assert one.scores["dice"].patients == 4
    assert one.scores["hd95_mm"].mean == pytest.approx(2)
    assert one.scores["hd95_mm"].patients == 2
    assert one.scores["relative_volume_difference"].mean == pytest.approx((0.5 - 1 + 0.5) / 3)
    assert (two.cases, two.absent) == (0, 2)
    assert math.isnan(two.scores["dice"].mean) and two.scores["dice"].interval is None


def test_cases_of_a_patient_count_once():
    cases = [{1: measured(dice)} for dice in (0.2, 0.4, 0.9)]
    summary = summarise_cases(cases, ["anna", "anna", "ben"])[1]
    assert summary.cases == 3
    assert summary.scores["dice"].mean == pytest.approx((0.3 + 0.9) / 2)
    assert summary.scores["dice"].patients == 2
    assert summary.scores["dice"].interval == pytest.approx((0.3, 0.9))
    with pytest.raises(AtrousError, match="3 cases, but 2 patients"):
        summarise_cases(cases, ["anna", "ben"])


def test_the_interval_of_many_patients_is_the_normal_one():
    dice = np.random.default_rng(0).beta(8, 2, 100)
    score = summarise_cases([{1: measured(float(one))} for one in dice])[1].scores["dice"]
    error = dice.std() / 10
    assert score.interval == pytest.approx((dice.mean() - 1.96 * error, dice.mean() + 1.96 * error), abs=0.15 * error)
    assert score == summarise_cases([{1: measured(float(one))} for one in dice])[1].scores["dice"]


def test_no_cases_have_no_summary():
    assert summarise_cases([]) == {}


def test_dice_and_volumes_alone_are_summarised():
    found = summarise_cases([{1: SurfaceMetrics(2.0, 3.0, 0.8)}, {1: SurfaceMetrics(2.0, 1.0, 0.6)}])[1].scores
    assert found["dice"].mean == pytest.approx(0.7)
    assert found["volume_difference_ml"].mean == 0
    assert math.isnan(found["hd95_mm"].mean) and found["hd95_mm"].patients == 0


def test_it_needs_no_torch():
    code = "import sys, atrous.learning.surface_metrics; assert not {'torch', 'scipy'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
