"""The doctor examines the bands that training takes, wherever a file has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.data.rasters.test_band_names import write

from atrous.data.class_colors import default_colors
from atrous.data.doctor.examine import examine
from atrous.data.mask_value_map import ClassTable
from atrous.data.open_dataset import open_dataset
from atrous.data.statistics import kind_of_input, kind_of_pictures
from atrous.errors import AtrousError

pytestmark = pytest.mark.filterwarnings("ignore")
NAMES = ("blue", "green", "red", "nir", "swir")


def make(root: Path, orders: dict[str, list[int]], values: np.ndarray) -> Path:
    """A dataset in which each picture has some of five bands, in its own order; a name begins with its split."""
    for name, order in orders.items():
        split = name.split("_")[0]
        for folder in ("images", "masks"):
            (root / folder / split).mkdir(parents=True, exist_ok=True)
        write(root / "images" / split / f"{name}.tif", values[:, :, order], [NAMES[band] for band in order])
        mask = np.zeros((40, 60), np.uint8)
        mask[:, 20:] = 1
        Image.fromarray(mask).save(root / "masks" / split / f"{name}.png")
    ClassTable(("ground", "thing"), default_colors(2), ((0,), (1,)), (255,)).to_yaml(root / "classes.yaml")
    return root


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(0).integers(1, 4000, (40, 60, 5)).astype(np.float32)


def test_pictures_that_differ_in_the_order_of_their_bands_are_the_same(tmp_path, values):
    pytest.importorskip("rasterio")
    values[:, :, 4] = np.nan  # a band that one file has; it makes no pixel void
    orders = {"train_a": [0, 1, 2, 3], "val_b": [4, 3, 1, 0, 2]}
    found = examine(make(tmp_path, orders, values))
    kinds = {finding.kind: finding for finding in (*found.errors, *found.warnings)}
    assert not kinds.keys() & {"mixed_channels", "dropped_channels", "void", "channels_without_a_way"}
    (copies,) = (one for kind, one in kinds.items() if any("pixel for pixel" in text for text in one.examples))
    assert copies.count == 1
    kind, _ = kind_of_pictures(open_dataset(tmp_path), "train")
    assert found.taken.bands == kind.names == NAMES[:4] and found.taken.channels == kind.channels
    assert found.ignored == {"train": 0, "val": 0}


def test_contradicting_names_beside_a_file_without_names_are_refused_in_doctor_and_training(tmp_path, values):
    pytest.importorskip("rasterio")
    root = make(
        tmp_path, {"train_a": [0, 1, 2], "train_b": [2, 1, 0], "train_c": [0, 1, 2], "val_d": [0, 1, 2]}, values
    )
    write(root / "images/train/train_c.tif", values[:, :, :3], [None] * 3)
    with pytest.raises(AtrousError, match=r"train_b.tif has red, green, blue, .*train_c.tif has no names"):
        kind_of_pictures(open_dataset(root), "train")
    (error,) = (one for one in examine(root).errors if one.kind == "contradicting_names_of_bands")
    assert "images/train/train_c.tif has no names" in error.message and str(root) not in error.message
    write(root / "images/train/train_b.tif", values[:, :, :3], NAMES[:3])
    kind, notes = kind_of_pictures(open_dataset(root), "train")
    assert kind.names == () and kind.channels == 3
    (note,) = (one for one in notes if "1 of 4 files have no names" in one)
    found = examine(root)
    assert note in found.notes and not found.errors


def test_files_of_further_inputs_are_read_by_name(tmp_path, values):
    pytest.importorskip("rasterio")
    root = make(tmp_path, {"train_a": [0, 1, 2], "val_b": [0, 1, 2]}, values)
    (root / "inputs.yaml").write_text("inputs: {radar: {folder: radar}}", encoding="utf-8")
    for name, order in (("train_a", [0, 1]), ("val_b", [1, 0])):
        (root / "radar").mkdir(exist_ok=True)
        write(root / "radar" / f"{name}.tif", values[:, :, order], [("VV", "VH")[band] for band in order])
    assert kind_of_input(open_dataset(root), "radar", ("train", "val")).names == ("VV", "VH")
    write(root / "radar/val_b.tif", values[:, :, :2], ["VH", "other"])
    with pytest.raises(AtrousError, match=r"share only the names VH.*train_a.tif has VV, VH"):
        kind_of_input(open_dataset(root), "radar", ("train", "val"))


def test_values_that_inputs_yaml_calls_missing_are_no_data(tmp_path, values):
    pytest.importorskip("rasterio")
    values[:10, :, 2] = -5
    root = make(tmp_path, {"train_a": [0, 1, 2], "val_b": [2, 1, 0]}, values)
    (root / "inputs.yaml").write_text("inputs: {image: {bands: [red, green], missing: [-5]}}", encoding="utf-8")
    assert examine(root).ignored == {"train": 600, "val": 600}


def test_a_file_without_a_band_that_the_user_lists_is_an_error(tmp_path, values):
    pytest.importorskip("rasterio")
    root = make(tmp_path, {"train_a": [0, 1, 2], "val_b": [0, 1, 3]}, values)
    (root / "inputs.yaml").write_text("inputs: {image: {bands: [red, green]}}", encoding="utf-8")
    found = [text for finding in examine(root).errors for text in finding.examples]
    assert any("val_b.tif: the bands red, green are needed, and the file has blue, green, nir" in one for one in found)
