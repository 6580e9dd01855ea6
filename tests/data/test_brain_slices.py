import sys
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from atrous.data.brain_slices import SLABS, Thresholds, best_two_thresholds, scanned, write_brain_slices
from atrous.data.open_dataset import open_dataset
from atrous.errors import AtrousError


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    pytest.importorskip("nilearn", reason="nilearn (extra 'demo') brings the brain")
    return write_brain_slices(tmp_path_factory.mktemp("brain"))


def test_it_is_an_ordinary_folder_dataset(dataset):
    found = open_dataset(dataset.root)
    assert found.layout == "folder"
    assert found.classes.names == ("other", "grey", "white")
    assert {name: len(items) for name, items in found.splits.items()} == {"train": 66, "val": 12, "test": 16}


def test_slabs_are_apart():
    taken = sorted((slab.start, slab.stop) for slab in SLABS.values())
    assert all(after[0] - before[1] >= 5 for before, after in pairwise(taken))


def test_every_slice_shows_all_classes(dataset):
    for items in dataset.splits.values():
        for item in items:
            sample = dataset.read(item)
            assert (sample.image.shape, sample.image.dtype) == ((233, 197, 1), np.uint8)
            shares = np.bincount(sample.label.ravel(), minlength=3) / sample.label.size
            assert len(shares) == 3
            assert shares[0] > 0.5
            assert shares[1:].min() > 0.02


def test_the_seed_decides(dataset, tmp_path):
    again = write_brain_slices(tmp_path / "again")
    other = write_brain_slices(tmp_path / "other", seed=1)
    for item in dataset.split("val"):
        name = f"images/{item.name}.png"
        assert (dataset.root / name).read_bytes() == (again.root / name).read_bytes()
        assert (dataset.root / name).read_bytes() != (other.root / name).read_bytes()


def test_thresholds_are_no_longer_enough(dataset):
    """On the clean slices they reach 0.95; what scanners add leaves them about 0.62."""
    thresholds = best_two_thresholds(dataset)
    assert 0.58 < thresholds.miou < 0.66
    assert 0 < thresholds.low < thresholds.high < 255


def test_thresholds_agree_with_counting_pixels(dataset):
    thresholds = best_two_thresholds(dataset, fit="val", score="test")
    truth, guess = [], []
    for item in dataset.split("test"):
        sample = dataset.read(item)
        truth.append(sample.label.ravel())
        guess.append(np.digitize(sample.image.ravel(), [thresholds.low, thresholds.high]))
    truth, guess = np.concatenate(truth), np.concatenate(guess)
    ious = [((truth == c) & (guess == c)).sum() / ((truth == c) | (guess == c)).sum() for c in range(3)]
    assert thresholds.miou == pytest.approx(np.mean(ious))


def test_thresholds_find_a_perfect_cut(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    (tmp_path / "classes.yaml").write_text("classes: [{name: a}, {name: b}, {name: c}]")
    label = np.arange(12, dtype=np.uint8).reshape(3, 4) % 3
    for name in ("one", "two"):
        Image.fromarray(label * 50 + 10).save(tmp_path / "images" / f"{name}.png")
        Image.fromarray(label).save(tmp_path / "masks" / f"{name}.png")
    found = best_two_thresholds(open_dataset(tmp_path), fit="train", score="val")
    assert found == Thresholds(low=11, high=61, fitted_miou=1.0, miou=1.0)


def test_scanning_keeps_the_size_and_darkness_dark():
    scan = scanned(np.zeros((30, 40)), np.random.default_rng(0))
    assert (scan.shape, scan.dtype) == ((30, 40), np.uint8)
    assert scan.max() < 128


def test_without_nilearn_the_install_command_is_given(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "nilearn.datasets", None)
    with pytest.raises(AtrousError, match=r"pip install 'atrous\[demo\]'"):
        write_brain_slices(tmp_path)
