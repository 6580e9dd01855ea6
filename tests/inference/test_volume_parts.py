"""Small connected parts of a volume's classes are removed; others and voxels without data are kept."""

import numpy as np
import pytest

from atrous.data.volumes.grid import Grid
from atrous.errors import AtrousError
from atrous.inference.volume_parts import VolumeParts

pytest.importorskip("scipy")
NAMES = ("background", "liver", "tumour")
GRID = Grid((12, 12, 12), np.array([[10, 0, 0, 0], [5, 10, 0, 0], [0, 0, 10, 0], [0, 0, 0, 1.0]]))  # 1 ml, sheared


@pytest.fixture
def labels():
    values = np.zeros((12, 12, 12), np.uint8)
    values[1:4, 1:4, 1:4] = 1  # 27 ml
    values[4, 4, 4] = 1  # touches the part above at a corner
    values[8:10, 8:10, 8:10] = 1  # 8 ml
    values[9, 9, 9] = 2  # 1 ml, inside the smaller liver part
    values[2, 8:11, 2] = 2  # 3 ml
    values[6, 6, 6] = 255
    return values


def parts_of(labels, name):
    return int((labels == NAMES.index(name)).sum())


def test_the_largest_part_is_kept(labels):
    VolumeParts(NAMES, largest=("liver",)).clean(labels, GRID)
    assert (parts_of(labels, "liver"), parts_of(labels, "tumour")) == (28, 4)
    assert labels[6, 6, 6] == 255


def test_parts_below_the_smallest_volume_are_removed(labels):
    VolumeParts(NAMES, smallest={"tumour": 1.5}).clean(labels, GRID)
    assert (parts_of(labels, "liver"), parts_of(labels, "tumour")) == (35, 3)


def test_all_is_every_class_but_the_first_and_a_name_goes_before_it(labels):
    VolumeParts(NAMES, largest=("all",), smallest={"all": 100, "tumour": 2}).clean(labels, GRID)
    assert (parts_of(labels, "liver"), parts_of(labels, "tumour")) == (0, 3)


def test_a_class_in_no_voxel_and_no_option_change_nothing(labels):
    before = labels.copy()
    VolumeParts(NAMES).clean(labels, GRID)
    np.testing.assert_array_equal(labels, before)
    labels[:] = 0
    VolumeParts(NAMES, largest=("all",)).clean(labels, GRID)
    assert not labels.any()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"largest": ("spleen",)}, "'spleen' is not a class .* liver and tumour"),
        ({"largest": ("background",)}, "'background' is not a class whose parts can be removed"),
        ({"smallest": {"liver": -1}}, "smallest volume of 'liver' must be above 0 ml, got -1"),
        ({"smallest": {"liver": float("nan")}}, "must be above 0 ml"),
    ],
)
def test_unknown_classes_and_volumes_are_refused(given, message):
    with pytest.raises(AtrousError, match=message):
        VolumeParts(NAMES, **given)
