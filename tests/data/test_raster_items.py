"""Scenes become windows; windows of one place stay in one split, and training moves them inside their region."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.rasters.test_band_names import write

from atrous.data.file_of_picture import file_of_picture
from atrous.data.open_dataset import open_dataset, open_whole
from atrous.data.raster_items import LEAST_PLACES, moved
from atrous.data.rasters.scene_windows import window_place
from atrous.data.sources.source import Window
from atrous.data.transforms import Augment
from atrous.errors import AtrousError
from atrous.learning.data_loader import AugmentedSamples

pytestmark = pytest.mark.filterwarnings("ignore")
CLASSES = "classes:\n  - {name: land}\n  - {name: water}\n  - {name: field}\n"


def make(root, sizes, folders=("scenes", "labels")):
    """Writes scenes whose first band tells the row and the column of each pixel, and their labels."""
    for folder in folders:
        (root / folder).mkdir(parents=True)
    for index, (height, width) in enumerate(sizes):
        rows, columns = np.mgrid[:height, :width]
        values = np.stack([rows, columns, rows * 0 + index], axis=2).astype(np.uint16)
        write(root / folders[0] / f"s{index}.tif", values, ["row", "column", "scene"])
        write(root / folders[1] / f"s{index}.tif", ((rows // 7 + columns // 5) % 3).astype(np.uint8)[..., None], [""])
    (root / "classes.yaml").write_text(CLASSES, encoding="utf-8")
    return root


@settings(max_examples=25)  # each writes files
@given(
    sizes=st.lists(st.tuples(st.integers(1, 70), st.integers(1, 70)), min_size=1, max_size=3), side=st.integers(5, 40)
)
def test_windows_cover_each_pixel_once(tmp_path_factory, sizes, side):
    dataset = open_dataset(make(tmp_path_factory.mktemp("rasters") / "data", sizes), window=side)
    items = [item for part in dataset.splits.values() for item in part]
    assert sorted(items, key=lambda item: item.name) == sorted(dataset.unlisted, key=lambda item: item.name)
    counts = [np.zeros(size, int) for size in sizes]
    for item in items:
        window = window_place(item.image).window
        assert max(window.height, window.width) <= side
        counts[int(file_of_picture(item.image).stem[1:])][window.rows, window.columns] += 1
        sample = dataset.read(item)
        assert sample.image[0, 0, :2].tolist() == [window.top, window.left]
        assert sample.label[0, 0] == (window.top // 7 + window.left // 5) % 3
    assert all((count == 1).all() for count in counts)


def test_places_are_in_one_split(tmp_path):
    dataset = open_dataset(make(tmp_path / "data", [(400, 400), (300, 500)]), window=16)
    split_of = {}
    for name, items in dataset.splits.items():
        for item in items:
            assert split_of.setdefault(item.group, name) == name
    assert len(split_of) >= LEAST_PLACES
    assert set(dataset.splits) == {"train", "val", "test"}
    assert "divided into 28 places of at most 125×125 pixels" in " ".join(dataset.notes)
    assert sum("random split" in note for note in dataset.notes) == 1


def test_the_size_of_windows_does_not_change_the_splits(tmp_path):
    root = make(tmp_path / "data", [(400, 300), (70, 500)])
    regions = [
        {name: {(file_of_picture(item.image), item.region) for item in items} for name, items in splits.items()}
        for splits in (open_dataset(root, window=side).splits for side in (9, 50, 1000))
    ]
    assert regions[0] == regions[1] == regions[2]


def test_regions_of_different_splits_do_not_overlap(tmp_path):
    dataset = open_dataset(make(tmp_path / "data", [(400, 400)]), window=16)
    taken = np.full((400, 400), "", dtype=object)
    for name, items in dataset.splits.items():
        for item in items:
            top, left, height, width = item.region
            area = taken[top : top + height, left : left + width]
            assert np.isin(area.astype(str), ["", name]).all()
            area[:] = name
    assert (taken != "").all()


def test_many_scenes_are_divided_as_a_whole(tmp_path):
    dataset = open_dataset(make(tmp_path / "data", [(40, 40)] * 12), window=16)
    owners = Counter()
    for name, items in dataset.splits.items():
        for scene in {file_of_picture(item.image) for item in items}:
            owners[scene] += 1
        assert all(item.region == (0, 0, 40, 40) for item in items), name
    assert set(owners.values()) == {1}


def test_lists_name_scenes(tmp_path):
    root = make(tmp_path / "data", [(40, 40)] * 3)
    (root / "splits").mkdir()
    for name, scenes in {"train": "s0\ns2\n", "val": "s1.tif\nmissing\n"}.items():
        (root / "splits" / f"{name}.txt").write_text(scenes, encoding="utf-8")
    dataset = open_dataset(root, window=20)
    assert {file_of_picture(item.image).stem for item in dataset.split("train")} == {"s0", "s2"}
    assert len(dataset.split("val")) == 5
    assert not dataset.unlisted
    missing = next(item for item in dataset.split("val") if item.listed)
    with pytest.raises(AtrousError, match="there is no such picture"):
        dataset.read(missing)


def test_moved_windows_reach_all_positions_and_stay_inside(tmp_path):
    dataset = open_dataset(make(tmp_path / "data", [(64, 64)]), window=32)
    item = replace(dataset.unlisted[0], region=(0, 0, 64, 48))
    seen = set()
    for epoch in range(300):
        other = moved(item, seed=5, epoch=epoch, index=7)
        assert other == moved(item, seed=5, epoch=epoch, index=7)
        window = window_place(other.image).window
        assert window_place(other.mask).window == window
        assert window.top + window.height <= 64
        assert window.left + window.width <= 48
        assert abs(window.top - window_place(item.image).window.top) <= 16
        seen.add((window.top, window.left))
    assert {top for top, _ in seen} == set(range(17))
    assert {left for _, left in seen} == set(range(17))
    assert moved(replace(item, region=None), seed=0, epoch=0, index=0).image == item.image


def test_training_reads_moved_windows_with_their_labels(tmp_path):
    dataset = open_dataset(make(tmp_path / "data", [(90, 90)] * 10), window=32)
    config = Augment(crop=None, scale=(1, 1), flip=0)
    samples = AugmentedSamples(dataset, dataset.split("train"), config, channels=3, seed=0, fill=(0, 0, 0), colors=())
    corners = set()
    for epoch in range(20):
        image, label, _ = samples[(epoch, 4)]
        rows, columns = image[0].numpy().astype(int), image[1].numpy().astype(int)
        assert np.array_equal(label.numpy(), (rows // 7 + columns // 5) % 3)
        corners.add((rows[0, 0], columns[0, 0]))
    assert len(corners) > 10


def test_scenes_are_recognised_by_folder_or_by_vector_labels(tmp_path):
    assert open_whole(make(tmp_path / "a", [(20, 20)])).layout == "rasters"
    assert open_whole(make(tmp_path / "b", [(20, 20)], ("images", "labels"))).layout == "folder"
    assert open_dataset(tmp_path / "b", "rasters", window=10).unlisted[0].region == (0, 0, 20, 20)


def test_other_layouts_have_no_windows(tmp_path):
    with pytest.raises(AtrousError, match="only the layout 'rasters' has windows"):
        open_dataset(make(tmp_path / "b", [(20, 20)], ("images", "labels")), window=10)


def test_normalisation_by_the_picture_needs_the_whole_scene(tmp_path):
    root = make(tmp_path / "data", [(40, 40)])
    (root / "inputs.yaml").write_text("inputs: {image: {normalize: per_image}}\n", encoding="utf-8")
    with pytest.raises(AtrousError, match=r"scenes are read window by window.*normalize: fixed"):
        open_dataset(root)


def test_a_window_has_a_window_of_the_ground(tmp_path):
    from rasterio.transform import from_origin

    from atrous.data.doctor.geographic_footprints import footprint_of

    path = write(
        tmp_path / "a.tif",
        np.ones((20, 30, 1), np.uint8),
        [""],
        crs="EPSG:32633",
        transform=from_origin(500, 900, 10, 10),
    )
    whole, part = footprint_of(path), footprint_of(path / "window/5_6_7_8")
    assert (whole.left, whole.bottom, whole.right, whole.top) == (500, 700, 800, 900)
    assert (part.left, part.bottom, part.right, part.top) == (560, 780, 640, 850)
    assert part.system == "EPSG:32633"
    assert Window(5, 6, 7, 8).height == 7
