"""Pascal VOC with the augmented list: which split takes its masks from where."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atrous.commands.doctor import doctor
from atrous.data.class_colors import default_colors
from atrous.data.layouts.voc import VOC_CLASSES
from atrous.data.open_dataset import open_dataset
from atrous.errors import AtrousError

STEMS = ("2007_000032", "2007_000033", "2008_000002", "2008_000003")
PAIR = "/JPEGImages/{0}.jpg /SegmentationClassAug/{0}.png"
PUBLISHED, ADDED = 3, 5  # the value that every mask of a folder holds


@pytest.fixture
def voc(tmp_path) -> Path:
    """Four pictures: the first two have published palette masks, the first and the last two grey ones of SBD's."""
    rng = np.random.default_rng(0)
    for folder in ("JPEGImages", "SegmentationClass", "SegmentationClassAug", "ImageSets/Segmentation"):
        (tmp_path / folder).mkdir(parents=True)
    for stem in STEMS:
        picture = Image.fromarray(rng.integers(0, 255, (4, 5, 3), np.uint8))
        picture.save(tmp_path / "JPEGImages" / f"{stem}.jpg")
    for stem in STEMS[:2]:
        mask = np.full((4, 5), PUBLISHED, np.uint8)
        mask[0] = 255
        picture = Image.fromarray(mask)
        picture.putpalette(np.array(default_colors(256), np.uint8).tobytes())
        picture.save(tmp_path / "SegmentationClass" / f"{stem}.png")
    for stem in (STEMS[0], *STEMS[2:]):
        mask = np.full((4, 5), ADDED, np.uint8)
        Image.fromarray(mask).save(tmp_path / "SegmentationClassAug" / f"{stem}.png")
    write_list(tmp_path, "train", [STEMS[0]])
    write_list(tmp_path, "val", [STEMS[1]])
    return tmp_path


def write_list(root: Path, name: str, lines: list[str], folder: str = "Segmentation") -> None:
    path = root / "ImageSets" / folder / f"{name}.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def values(dataset, split: str) -> list[int]:
    """The last row's value in the masks of a split."""
    return [int(dataset.read(item).label[-1, 0]) for item in dataset.split(split)]


@pytest.mark.parametrize("name", ["trainaug", "train_aug"])
@pytest.mark.parametrize("line", ["{0}", PAIR])
def test_the_augmented_list_takes_the_added_masks(voc, name, line):
    write_list(voc, name, [line.format(stem) for stem in (STEMS[0], *STEMS[2:])])
    dataset = open_dataset(voc)
    assert [item.name for item in dataset.split(name)] == [STEMS[0], *STEMS[2:]]
    assert values(dataset, name) == [ADDED] * 3
    assert values(dataset, "train") == [PUBLISHED]
    assert values(dataset, "val") == [PUBLISHED]
    assert any(f"split '{name}' takes its masks from SegmentationClassAug/" in note for note in dataset.notes)
    assert dataset.masks_without_image == ()
    assert doctor(voc) == 0


def test_where_one_folder_lacks_a_mask_the_other_has_it(voc):
    write_list(voc, "aug", list(STEMS))
    write_list(voc, "both", list(STEMS))
    dataset = open_dataset(voc)
    assert values(dataset, "aug") == [ADDED, PUBLISHED, ADDED, ADDED]
    assert values(dataset, "both") == [PUBLISHED, PUBLISHED, ADDED, ADDED]


def test_lines_that_name_the_added_masks_mean_them_whatever_the_list_is_called(voc):
    write_list(voc, "mine", [PAIR.format(STEMS[0])])
    assert values(open_dataset(voc), "mine") == [ADDED]


def test_lists_in_a_folder_of_their_own_are_splits_too(voc):
    for name in ("train", "train_aug"):
        write_list(voc, name, [PAIR.format(stem) for stem in (STEMS[0], STEMS[2])], "SegmentationAug")
    dataset = open_dataset(voc)
    assert set(dataset.splits) == {"train", "train_aug", "val"}
    assert values(dataset, "train_aug") == [ADDED, ADDED]
    assert values(dataset, "train") == [PUBLISHED]


def test_without_the_added_masks_nothing_is_said_of_them(voc):
    write_list(voc, "trainaug", list(STEMS))
    for path in (voc / "SegmentationClassAug").iterdir():
        path.unlink()
    with pytest.raises(AtrousError, match="SegmentationClassAug: no pictures"):
        open_dataset(voc)
    (voc / "SegmentationClassAug").rmdir()
    dataset = open_dataset(voc)
    assert [item.mask is None for item in dataset.split("trainaug")] == [False, False, True, True]
    assert not any("SegmentationClassAug" in note for note in dataset.notes)
    assert doctor(voc) == 2


def test_pictures_to_be_tested_on_are_left_out_and_said(voc):
    for stem in ("2012_000001", "2012_000002"):
        picture = Image.fromarray(np.random.default_rng(int(stem[-1])).integers(0, 255, (4, 5, 3), np.uint8))
        picture.save(voc / "JPEGImages" / f"{stem}.jpg")
    write_list(voc, "test", ["2012_000001", "2012_000002"])
    dataset = open_dataset(voc)
    assert set(dataset.splits) == {"train", "val"}
    assert any("no split 'test'" in note for note in dataset.notes)
    assert doctor(voc) == 0


def test_a_test_list_with_masks_stays_a_split(voc):
    write_list(voc, "test", list(STEMS[2:]))
    assert values(open_dataset(voc), "test") == [ADDED, ADDED]


def test_without_lists_all_masks_are_split(voc):
    for path in (voc / "ImageSets/Segmentation").iterdir():
        path.unlink()
    dataset = open_dataset(voc)
    assert sorted(item.name for items in dataset.splits.values() for item in items) == list(STEMS)


def test_an_empty_list_is_refused(voc):
    (voc / "ImageSets/Segmentation/trainaug.txt").write_text("\n\n")
    with pytest.raises(AtrousError, match=r"trainaug\.txt: the list is empty"):
        open_dataset(voc)


def test_classes_are_the_published_ones():
    assert len(VOC_CLASSES) == 21
    assert VOC_CLASSES.names[15] == "person"
    assert VOC_CLASSES.colors[15] == (192, 128, 128)
    raw = np.array([[0, 20, 255]], np.uint8)
    np.testing.assert_array_equal(VOC_CLASSES.decode(VOC_CLASSES.encode(raw)), raw)
