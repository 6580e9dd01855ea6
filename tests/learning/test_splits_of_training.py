"""Data is measured on the random split of the training, whatever groups are given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.data.rasters.test_band_names import write

from atrous.data.dataset_spec import DatasetSpec
from atrous.learning.evaluation import open_to_measure

rasterio = pytest.importorskip("rasterio")
pytestmark = pytest.mark.filterwarnings("ignore")
PATTERN = r"^(.+)_\d+$"
TRAINED = {"data": "root"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four scenes of two cities, which are divided into places."""
    for index, name in enumerate(("berlin_2020", "berlin_2021", "potsdam_2020", "potsdam_2021")):
        transform = rasterio.transform.from_origin(400_000 + 10_000 * index, 5_800_000, 10, 10)
        for folder in ("scenes", "labels"):
            (tmp_path / folder).mkdir(exist_ok=True)
            path = tmp_path / folder / f"{name}.tif"
            write(path, np.zeros((192, 192, 1), np.uint8), [""], crs="EPSG:32633", transform=transform)
    (tmp_path / "classes.yaml").write_text("classes: [{name: background}, {name: water}]")
    return tmp_path


def paths(dataset, split):
    return {item.image for item in dataset.splits[split]}


def test_other_groups_keep_the_split_of_the_training(root):
    before = DatasetSpec(root).open()
    given = DatasetSpec(root, groups=PATTERN)
    assert paths(given.open(), "val") & paths(before, "train") or paths(given.open(), "val") != paths(before, "val")
    found = open_to_measure(given, TRAINED, None)
    assert found.splits.keys() == before.splits.keys()
    assert all(paths(found, split) == paths(before, split) for split in before.splits)
    assert {item.group for item in found.splits["train"]} == {"berlin", "potsdam"}
    assert found.groups_from == "pattern" and "The split is that of the training" in found.notes[-1]
    back = open_to_measure(DatasetSpec(root, groups=r"(\d+)$"), {**TRAINED, "groups": PATTERN}, None)
    assert paths(back, "val") == paths(given.open(), "val") and "with the groups" in back.notes[-1]
    assert {item.group for items in back.splits.values() for item in items} == {"2020", "2021"}


@pytest.mark.parametrize("provenance", [{}, {"made_by": "a converter"}, {**TRAINED, "groups": PATTERN}])
def test_the_groups_of_the_training_and_other_models_change_nothing(root, provenance):
    given = DatasetSpec(root, groups=PATTERN)
    assert open_to_measure(given, provenance, None) == given.open()


def test_a_split_that_cannot_be_drawn_again_is_said(root):
    found = open_to_measure(DatasetSpec(root, groups=PATTERN), {**TRAINED, "groups": "(patient)"}, None)
    assert "with the groups '(patient)', and cannot be drawn again" in found.notes[-1]
