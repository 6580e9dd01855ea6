"""The COCO-Stuff layout on a tiny tree with the published names; facts of nightrome/cocostuff's labels.txt."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atrous.commands.doctor import doctor
from atrous.data.doctor.examine import examine
from atrous.data.layouts.coco_stuff import COCO_STUFF_10K_TRAIN_IDS, COCO_STUFF_CLASSES, COCO_STUFF_TRAIN_IDS
from atrous.data.open_dataset import open_dataset
from atrous.errors import AtrousError

LABEL = np.array([[0, 11, 255], [80, 170, 255]], np.uint8)  # person, stop sign, …; banner, wood, …
RAW = np.array([[0, 12, 255], [91, 181, 255]], np.uint8)
STEMS = {"train2017": ("000000000009", "000000000025"), "val2017": ("000000000139",)}


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def coco_stuff(root: Path, **masks: np.ndarray) -> Path:
    """A tree with masks whose stems end in each name but "plain"."""
    rng = np.random.default_rng(0)
    for folder, stems in STEMS.items():
        for stem in stems:
            write(root / "images" / folder / f"{stem}.jpg", rng.integers(0, 255, (2, 3, 3), np.uint8))
            for ending, mask in masks.items():
                write(root / "annotations" / folder / f"{stem}{ending.removeprefix('plain')}.png", mask)
    return root


@pytest.mark.parametrize(
    ("masks", "table"),
    [
        ({"plain": RAW}, COCO_STUFF_CLASSES),
        ({"_labelTrainIds": LABEL}, COCO_STUFF_TRAIN_IDS),
        ({"plain": RAW, "_labelTrainIds": LABEL}, COCO_STUFF_TRAIN_IDS),
    ],
)
def test_both_kinds_of_masks_give_the_same_labels(tmp_path, masks, table):
    dataset = open_dataset(coco_stuff(tmp_path, **masks))
    assert dataset.layout == "coco_stuff"
    assert dataset.classes == table
    assert {name: tuple(item.name for item in items) for name, items in dataset.splits.items()} == {
        "train": STEMS["train2017"],
        "val": STEMS["val2017"],
    }
    for item in (*dataset.split("train"), *dataset.split("val")):
        np.testing.assert_array_equal(dataset.read(item).label, LABEL)
    np.testing.assert_array_equal(COCO_STUFF_CLASSES.decode(LABEL), RAW)
    np.testing.assert_array_equal(COCO_STUFF_TRAIN_IDS.decode(LABEL), LABEL)


def test_the_kind_that_is_complete_is_taken(tmp_path):
    coco_stuff(tmp_path, plain=RAW, _labelTrainIds=LABEL)
    (tmp_path / "annotations/train2017/000000000025_labelTrainIds.png").unlink()
    assert open_dataset(tmp_path).classes == COCO_STUFF_CLASSES
    (tmp_path / "annotations/train2017/000000000025.png").unlink()
    dataset = open_dataset(tmp_path)
    assert dataset.classes == COCO_STUFF_TRAIN_IDS
    assert [item.mask is None for item in dataset.split("train")] == [False, True]


def test_classes_are_the_published_ones():
    values = COCO_STUFF_CLASSES.decode(np.arange(171)[None])[0].tolist()
    # as labels.txt numbers them; a mask holds one less
    number = {name: value + 1 for name, value in zip(COCO_STUFF_CLASSES.names, values, strict=True)}
    published = {
        "person": 1, "fire hydrant": 11, "stop sign": 13, "backpack": 27, "handbag": 31, "bottle": 44,
        "dining table": 67, "tv": 72, "book": 84, "toothbrush": 90, "banner": 92, "cloth": 104, "grass": 124,
        "playingfield": 145, "sky-other": 157, "tree": 169, "wall-wood": 177, "wood": 182,
    }  # fmt: skip
    assert {name: number[name] for name in published} == published
    assert len(number) == 171
    assert sum(value <= 91 for value in number.values()) == 80
    unused = set(range(182)) - {raw[0] for raw in COCO_STUFF_CLASSES.raw}
    assert unused == {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90}
    assert len(set(COCO_STUFF_CLASSES.colors)) == 171
    assert (0, 0, 0) not in COCO_STUFF_CLASSES.colors


def test_the_release_of_10k_pictures_counts_from_one(tmp_path):
    rng = np.random.default_rng(0)
    for folder, stem in (("train2014", "COCO_train2014_000000000077"), ("test2014", "COCO_train2014_000000000081")):
        write(tmp_path / "images" / folder / f"{stem}.jpg", rng.integers(0, 255, (2, 3, 3), np.uint8))
        raw = np.where(LABEL == 255, 0, LABEL + 1).astype(np.uint8)
        write(tmp_path / "annotations" / folder / f"{stem}_labelTrainIds.png", raw)
    dataset = open_dataset(tmp_path)
    assert dataset.classes == COCO_STUFF_10K_TRAIN_IDS
    assert set(dataset.splits) == {"train", "val"}
    np.testing.assert_array_equal(dataset.read(dataset.split("val")[0]).label, LABEL)
    np.testing.assert_array_equal(dataset.classes.decode(LABEL), raw)
    assert doctor(tmp_path) == 0


@pytest.mark.parametrize("masks", [{"plain": RAW}, {"_labelTrainIds": LABEL}])
def test_the_doctor_is_content_or_names_what_is_wrong(tmp_path, masks, capsys):
    coco_stuff(tmp_path, **masks)
    write(tmp_path / "images/test2017/000000000001.jpg", np.zeros((2, 3, 3), np.uint8))
    assert doctor(tmp_path) == 0
    assert any("no split 'test'" in note for note in open_dataset(tmp_path).notes)
    assert examine(tmp_path).ignored == {"train": 4, "val": 2}
    if "plain" in masks:
        write(tmp_path / "annotations/val2017/000000000139.png", np.full((2, 3), 11, np.uint8))  # a street sign
        capsys.readouterr()
        assert doctor(tmp_path) == 2
        assert "value 11 in 6 pixels" in capsys.readouterr().out


def test_wrong_folders_are_named(tmp_path):
    with pytest.raises(AtrousError, match="'coco_stuff' needs images/train2017/"):
        open_dataset(tmp_path, "coco_stuff")
    coco_stuff(tmp_path, plain=RAW)
    (tmp_path / "annotations/val2017").rename(tmp_path / "elsewhere")
    with pytest.raises(AtrousError, match="annotations/val2017: no such folder"):
        open_dataset(tmp_path)
    write(tmp_path / "annotations/val2017/unrelated.png", RAW)
    dataset = open_dataset(tmp_path)
    assert dataset.split("val")[0].mask is None
    assert [path.name for path in dataset.masks_without_image] == ["unrelated.png"]


def test_masks_of_an_unknown_kind_are_refused(tmp_path):
    write(tmp_path / "images/train2014/a.jpg", np.zeros((2, 3, 3), np.uint8))
    write(tmp_path / "annotations/train2014/a.png", RAW)
    with pytest.raises(AtrousError, match=r"there are no masks; their names end in _labelTrainIds\.png\."):
        open_dataset(tmp_path)
