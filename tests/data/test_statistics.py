import tracemalloc

import numpy as np
import pytest
from PIL import Image

from atrous.data import statistics
from atrous.data.mask_value_map import ClassTable
from atrous.data.open_dataset import open_dataset
from atrous.data.statistics import channel_statistics, class_pixels
from atrous.input_spec import Input


@pytest.fixture
def dataset(tmp_path):
    rng = np.random.default_rng(0)
    for folder in ("images", "masks", "splits"):
        (tmp_path / folder).mkdir()
    names = [f"p{number}" for number in range(4)]
    for name in names:
        Image.fromarray(rng.integers(0, 256, (7, 9, 3)).astype(np.uint8)).save(tmp_path / "images" / f"{name}.png")
        mask = rng.choice(np.array([10, 20, 99], np.uint8), (7, 9))
        Image.fromarray(mask).save(tmp_path / "masks" / f"{name}.png")
    (tmp_path / "splits/train.txt").write_text("\n".join(names[:3]))
    (tmp_path / "splits/val.txt").write_text(names[3])
    ClassTable(("a", "b"), ((0, 0, 0), (1, 1, 1)), ((10,), (20,)), (99,)).to_yaml(tmp_path / "classes.yaml")
    return open_dataset(tmp_path)


def test_channels_against_all_pixels_at_once(dataset):
    mean, std = channel_statistics(dataset, "train", Input((0.0,) * 3, (1.0,) * 3))
    pixels = np.concatenate([dataset.read(item).image.reshape(-1, 3) for item in dataset.split("train")])
    np.testing.assert_allclose(mean, pixels.mean(0))
    np.testing.assert_allclose(std, pixels.std(0))


def test_a_constant_channel_has_a_usable_deviation(dataset):
    for item in dataset.split("train"):
        Image.fromarray(np.full((7, 9), 50, np.uint8)).save(item.image)
    assert channel_statistics(dataset, "train", Input((0.0,), (1.0,))) == ((50.0,), (1.0,))


def test_class_pixels_are_those_of_the_labels(dataset):
    labels = np.concatenate([dataset.read(item).label.ravel() for item in dataset.split("train")])
    assert class_pixels(dataset, "train") == [(labels == 0).sum(), (labels == 1).sum()]


def test_sums_in_blocks_are_those_of_float64_and_need_little_memory():
    rng = np.random.default_rng(0)
    pixels = rng.normal(1e4, 3, (400_000, 3)).astype(np.float32)
    pixels[:1000, 1] = np.nan
    valid, limits = rng.random(len(pixels)) < 0.7, np.array([[9e3, 9e3, 9_998], [2e4, 2e4, 10_001]])
    exact = pixels[valid].astype(np.float64).clip(*limits)
    tracemalloc.start()
    count, total, squares = statistics._sums(pixels, valid, limits)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * 8 * statistics.BLOCK_VALUES < pixels.nbytes * 2  # a float64 copy alone is twice as large
    assert np.array_equal(count, np.isfinite(exact).sum(0))
    np.testing.assert_allclose(total, np.nansum(exact, 0), rtol=1e-12)
    np.testing.assert_allclose(squares, np.nansum(exact**2, 0), rtol=1e-12)
    np.testing.assert_allclose(statistics._sums(pixels, None, limits)[0], np.isfinite(pixels).sum(0))


def test_class_pixels_leave_out_missing_values_of_photographs(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    picture, mask = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)
    picture[:4] = 9
    mask[:, :2] = 1
    for name in "abc":
        Image.fromarray(picture).save(tmp_path / f"images/{name}.png")
        Image.fromarray(mask).save(tmp_path / f"masks/{name}.png")
    (tmp_path / "classes.yaml").write_text("classes:\n  - {name: land}\n  - {name: water}\n", encoding="utf-8")
    (tmp_path / "inputs.yaml").write_text("inputs: {image: {missing: [0]}}\n", encoding="utf-8")
    dataset = open_dataset(tmp_path)
    assert class_pixels(dataset, "val") == [24, 8]
