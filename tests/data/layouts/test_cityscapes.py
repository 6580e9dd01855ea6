"""The Cityscapes layout on a tiny tree with the published names; facts of cityscapesScripts' labels.py."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atrous.commands.doctor import doctor
from atrous.data.class_colors import default_colors
from atrous.data.doctor.examine import examine
from atrous.data.layouts.cityscapes import CITYSCAPES_LABEL_IDS, CITYSCAPES_TRAIN_IDS
from atrous.data.mask_value_map import ClassTable
from atrous.data.open_dataset import open_dataset
from atrous.errors import AtrousError

FRAMES = {
    "train": ("aachen_000000_000019", "aachen_000001_000019", "zurich_000000_000019"),
    "val": ("lindau_000000_000019",),
    "test": ("berlin_000000_000019",),
}
LABEL_IDS = np.array([[7, 8, 11, 0], [26, 33, 4, 3]], np.uint8)  # road, sidewalk, building, void; car, bicycle, voids
TRAIN_IDS = np.array([[0, 1, 2, 255], [13, 18, 255, 255]], np.uint8)


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def cityscapes(root: Path, *kinds: str) -> Path:
    """A tree whose masks are of these kinds, "labelTrainIds" or "labelIds", with the files that come beside them."""
    rng = np.random.default_rng(0)
    for split, frames in FRAMES.items():
        for frame in frames:
            city = frame.split("_")[0]
            write(
                root / f"leftImg8bit/{split}/{city}/{frame}_leftImg8bit.png", rng.integers(0, 255, (2, 4, 3), np.uint8)
            )
            truth = root / f"gtFine/{split}/{city}/{frame}_gtFine_"
            write(Path(f"{truth}color.png"), rng.integers(0, 255, (2, 4, 3), np.uint8))
            write(Path(f"{truth}instanceIds.png"), LABEL_IDS.astype(np.uint16) * 1000)
            Path(f"{truth}polygons.json").write_text("{}", encoding="utf-8")
            for kind in kinds:
                labelled = {"labelIds": LABEL_IDS, "labelTrainIds": TRAIN_IDS}[kind]
                dummy = np.full_like(labelled, 255 if kind == "labelTrainIds" else 3)
                write(Path(f"{truth}{kind}.png"), dummy if split == "test" else labelled)
    return root


@pytest.mark.parametrize(
    ("kinds", "table"),
    [
        (["labelTrainIds"], CITYSCAPES_TRAIN_IDS),
        (["labelIds"], CITYSCAPES_LABEL_IDS),
        (["labelIds", "labelTrainIds"], CITYSCAPES_LABEL_IDS),
    ],
)
def test_both_kinds_of_masks_give_the_same_labels(tmp_path, kinds, table):
    dataset = open_dataset(cityscapes(tmp_path, *kinds))
    assert dataset.layout == "cityscapes"
    assert "layout 'cityscapes'" in dataset.notes[0]
    assert dataset.classes == table
    assert [item.name for item in dataset.split("train")] == [f"{frame}_leftImg8bit" for frame in FRAMES["train"]]
    assert [item.name for item in dataset.split("val")] == ["lindau_000000_000019_leftImg8bit"]
    for item in (*dataset.split("train"), *dataset.split("val")):
        sample = dataset.read(item)
        np.testing.assert_array_equal(sample.label, TRAIN_IDS)
        assert sample.image.shape == (2, 4, 3)


def test_label_ids_come_back_as_the_server_wants_them():
    written = CITYSCAPES_LABEL_IDS.decode(TRAIN_IDS)
    np.testing.assert_array_equal(written, [[7, 8, 11, 0], [26, 33, 0, 0]])
    assert written.dtype == np.uint8
    np.testing.assert_array_equal(CITYSCAPES_TRAIN_IDS.decode(TRAIN_IDS), TRAIN_IDS)


def test_classes_are_the_published_ones():
    table = dict(zip(CITYSCAPES_LABEL_IDS.names, CITYSCAPES_LABEL_IDS.raw, strict=True))
    assert len(table) == 19
    assert [table[name] for name in ("road", "pole", "sky", "bus", "train", "bicycle")] == [
        (7,), (17,), (23,), (28,), (31,), (33,),
    ]  # fmt: skip
    voids = [0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30]
    assert (CITYSCAPES_LABEL_IDS.encode(np.array([[*voids, 255, -1]], np.int16)) == 255).all()
    every_id = CITYSCAPES_LABEL_IDS.encode(np.arange(34, dtype=np.uint8)[None])
    np.testing.assert_array_equal(every_id[every_id != 255], range(19))
    colors = dict(zip(CITYSCAPES_TRAIN_IDS.names, CITYSCAPES_TRAIN_IDS.colors, strict=True))
    assert colors["road"] == (128, 64, 128)
    assert colors["car"] == (0, 0, 142)
    assert colors["traffic light"] == (250, 170, 30)
    assert CITYSCAPES_LABEL_IDS.colors == CITYSCAPES_TRAIN_IDS.colors


def test_the_kind_that_is_complete_is_taken(tmp_path):
    cityscapes(tmp_path, "labelIds", "labelTrainIds")
    assert any(
        "To read *_gtFine_labelTrainIds.png, move the masks *_gtFine_labelIds.png to another folder" in note
        for note in open_dataset(tmp_path).notes
    )
    (tmp_path / "gtFine/val/lindau/lindau_000000_000019_gtFine_labelIds.png").unlink()
    dataset = open_dataset(tmp_path)
    assert dataset.classes == CITYSCAPES_TRAIN_IDS
    assert any("masks *_gtFine_labelTrainIds.png are read" in note for note in dataset.notes)


@pytest.mark.parametrize("kind", ["labelTrainIds", "labelIds"])
def test_the_test_split_is_left_out_and_said(tmp_path, kind):
    dataset = open_dataset(cityscapes(tmp_path, kind))
    assert set(dataset.splits) == {"train", "val"}
    assert any("no split 'test'" in note and "leftImg8bit/test/*/*" in note for note in dataset.notes)
    assert doctor(tmp_path) == 0
    diagnosis = examine(tmp_path)
    assert diagnosis.errors == ()
    assert "all_ignore" not in [finding.kind for finding in diagnosis.warnings]
    assert diagnosis.pixels["train"][:3] == (3, 3, 3)
    assert diagnosis.ignored == {"train": 9, "val": 3}


def test_missing_masks_and_pictures_are_found_by_the_doctor(tmp_path, capsys):
    cityscapes(tmp_path, "labelIds")
    (tmp_path / "gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png").unlink()
    (tmp_path / "leftImg8bit/train/aachen/aachen_000001_000019_leftImg8bit.png").unlink()
    dataset = open_dataset(tmp_path)
    assert [item.mask is None for item in dataset.split("train")] == [True, False]
    assert [path.name for path in dataset.masks_without_image] == ["aachen_000001_000019_gtFine_labelIds.png"]
    assert doctor(tmp_path) == 2
    printed = capsys.readouterr().out
    assert "missing_mask" in printed
    assert "missing_image" in printed


def test_a_set_of_ones_own_in_these_folders_keeps_its_classes(tmp_path):
    cityscapes(tmp_path, "labelIds")
    own = ClassTable(("road", "rest"), default_colors(2), ((7,), tuple(v for v in range(34) if v != 7)))
    own.to_yaml(tmp_path / "classes.yaml")
    assert open_dataset(tmp_path).classes == own
    assert open_dataset(tmp_path, classes=CITYSCAPES_LABEL_IDS).classes is CITYSCAPES_LABEL_IDS


def test_wrong_folders_are_named(tmp_path):
    with pytest.raises(AtrousError, match="'cityscapes' needs leftImg8bit/train/"):
        open_dataset(tmp_path, "cityscapes")
    cityscapes(tmp_path)
    with pytest.raises(
        AtrousError, match=r"gtFine: there are no masks.*_gtFine_labelIds\.png or _gtFine_labelTrainIds"
    ):
        open_dataset(tmp_path)
    (tmp_path / "leftImg8bit/val/empty").mkdir()
    with pytest.raises(AtrousError, match=r"empty: no pictures"):
        open_dataset(tmp_path)
    (tmp_path / "leftImg8bit/val/empty").rmdir()
    (tmp_path / "leftImg8bit/val/lindau").rename(tmp_path / "elsewhere")
    with pytest.raises(AtrousError, match=r"val: no file has a name such as CITY"):
        open_dataset(tmp_path)
    (tmp_path / "elsewhere").rename(tmp_path / "leftImg8bit/val/lindau")
    (tmp_path / "gtFine/val").rename(tmp_path / "elsewhere")
    with pytest.raises(AtrousError, match=r"gtFine/val: no such folder"):
        open_dataset(tmp_path)
