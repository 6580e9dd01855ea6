import numpy as np
import pytest
from PIL import Image

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
