"""The layouts on real data, against what their publishers and READMEs state."""

import numpy as np
import pytest

from atrous.data.doctor.examine import examine
from atrous.data.open_dataset import open_dataset
from atrous.data.pictures import read_picture, to_channels
from atrous.data.statistics import class_pixels


def test_camvid_has_its_published_pixels(shared):
    dataset = open_dataset(shared / "data/camvid")
    assert dataset.layout == "camvid"
    assert {name: len(items) for name, items in dataset.splits.items() if items} == {"train": 367, "val": 101}
    assert dataset.classes.names[2] == "Pole"
    # the counts that the data's README gives, void left out
    assert class_pixels(dataset, "train") == [
        10682767, 14750079, 623349, 20076880, 2845085, 6166762, 743859, 714595, 3719877, 405385, 184967,
    ]  # fmt: skip
    sample = dataset.read(dataset.split("val")[0])
    assert sample.image.shape == (360, 480, 3)
    assert sample.image.dtype == np.uint8
    assert set(np.unique(sample.label)) <= {*range(11), 255}


def test_voc_reads_every_pair(shared):
    dataset = open_dataset(shared / "data/voc2012_subset")
    assert dataset.layout == "voc"
    assert len(dataset.classes) == 21
    items = [item for split in dataset.splits.values() for item in split]
    seen = np.zeros(256, dtype=np.int64)
    for item in items:
        sample = dataset.read(item)
        assert sample.image.shape[:2] == sample.label.shape
        seen += np.bincount(sample.label.ravel(), minlength=256)
    assert seen[255] > 0  # the borders
    assert seen[21:255].sum() == 0
    assert all(seen[index] > 0 for index in (0, 8, 10, 12, 13, 15, 17))  # cat, cow, dog, horse, person, sheep


@pytest.mark.slow
@pytest.mark.parametrize("name", ["camvid", "voc2012_subset"])
def test_the_doctor_finds_real_data_ready_to_train(shared, name):
    diagnosis = examine(shared / "data" / name)
    assert diagnosis.errors == ()


def test_rgba_microscopy_loses_its_alpha_only_when_asked(shared):
    path = sorted((shared / "data/dsb2018_nuclei/images").glob("*.png"))[0]
    picture = read_picture(path)
    assert picture.shape[2] == 4
    np.testing.assert_array_equal(to_channels(picture, 3), picture[..., :3])


def test_twelve_band_tiffs_keep_their_bands(shared):
    path = sorted((shared / "data/water_multispectral/images").iterdir())[0]
    picture = read_picture(path)
    assert picture.shape[2] == 12
    assert np.array_equal(picture, read_picture(path))
