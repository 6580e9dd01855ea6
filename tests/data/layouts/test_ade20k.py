"""The ADE20K layout on a tiny tree with the published names; facts of CSAILVision/sceneparsing."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atrous.commands.doctor import doctor
from atrous.data.doctor.examine import examine
from atrous.data.layouts.ade20k import ADE20K_CLASSES
from atrous.data.open_dataset import open_dataset
from atrous.errors import AtrousError

FOLDERS = {"train": "training", "val": "validation"}
RAW = np.array([[0, 1, 2], [3, 13, 150]], np.uint8)
LABEL = np.array([[255, 0, 1], [2, 12, 149]], np.uint8)


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def ade20k(root: Path, prefix: str = "ADE_") -> Path:
    rng = np.random.default_rng(0)
    for split, folder in FOLDERS.items():
        for number in (1, 2):
            stem = f"{prefix}{split}_{number:08}"
            write(root / "images" / folder / f"{stem}.jpg", rng.integers(0, 255, (2, 3, 3), np.uint8))
            write(root / "annotations" / folder / f"{stem}.png", RAW)
    return root


def info_file(names: list[str]) -> str:
    rows = (f"{index}\t0.1\t10\t1\t{name}" for index, name in enumerate(names, 1))
    return "\n".join(["Idx\tRatio\tTrain\tVal\tName", *rows]) + "\n"


@pytest.mark.parametrize("inside", ["", "ADEChallengeData2016"])
def test_splits_and_labels(tmp_path, inside):
    dataset = open_dataset(ade20k(tmp_path / inside) if not inside else ade20k(tmp_path / inside).parent)
    assert dataset.layout == "ade20k"
    assert dataset.root == tmp_path / inside
    assert {name: [item.name for item in items] for name, items in dataset.splits.items()} == {
        split: [f"ADE_{split}_{number:08}" for number in (1, 2)] for split in ("train", "val")
    }
    sample = dataset.read(dataset.split("val")[1])
    np.testing.assert_array_equal(sample.label, LABEL)
    np.testing.assert_array_equal(dataset.classes.decode(sample.label), RAW)


def test_classes_are_the_published_ones():
    names, colors = ADE20K_CLASSES.names, ADE20K_CLASSES.colors
    assert len(names) == len(colors) == 150
    by_number = {number: names[number - 1] for number in (1, 13, 46, 58, 90, 124, 131, 150)}
    assert by_number == {
        1: "wall", 13: "person", 46: "counter", 58: "pillow", 90: "television", 124: "trade name", 131: "screen",
        150: "flag",
    }  # fmt: skip
    assert [colors[number - 1] for number in (1, 3, 13, 85, 150)] == [
        (120, 120, 120), (6, 230, 230), (150, 5, 61), (255, 184, 184), (92, 0, 255),
    ]  # fmt: skip
    # the published palette gives one colour twice, to road and skyscraper, and no other
    assert len(set(colors)) == 149
    assert colors[names.index("road")] == colors[names.index("skyscraper")]
    everything = ADE20K_CLASSES.encode(np.arange(151, dtype=np.uint8)[None])[0]
    np.testing.assert_array_equal(everything, [255, *range(150)])


def test_names_come_from_the_sets_own_list(tmp_path):
    ade20k(tmp_path)
    own = [f"{name}, another word" for name in ADE20K_CLASSES.names]
    (tmp_path / "objectInfo150.txt").write_text(info_file(own))
    assert open_dataset(tmp_path).classes == ADE20K_CLASSES
    own[7] = "bed \t"  # as in the published file
    own[0] = "Wand, Mauer"
    (tmp_path / "objectInfo150.txt").write_text(info_file(own))
    assert open_dataset(tmp_path).classes.names == ("Wand", *ADE20K_CLASSES.names[1:])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (info_file(["wall"]), "1 to 150"),
        (info_file([f"{index}" for index in range(150)]).replace("\n9\t", "\n8\t"), "1 to 150"),
        (info_file(["wall"] * 150), "'wall' is given twice"),
        ("", "1 to 150"),
    ],
)
def test_a_damaged_list_of_names_is_refused(tmp_path, text, message):
    ade20k(tmp_path)
    (tmp_path / "objectInfo150.txt").write_text(text)
    with pytest.raises(AtrousError, match=rf"objectInfo150\.txt.*{message}"):
        open_dataset(tmp_path)


def test_one_split_is_enough_and_pictures_to_be_tested_on_are_left_out(tmp_path):
    ade20k(tmp_path)
    for kind in ("images", "annotations"):
        (tmp_path / kind / "training").rename(tmp_path / f"{kind}_elsewhere")
    (tmp_path / "images/testing").mkdir()
    dataset = open_dataset(tmp_path)
    assert set(dataset.splits) == {"val"}
    assert any("no split 'test'" in note for note in dataset.notes)


def test_retina_sets_in_the_same_folders_are_not_taken_for_ade20k(tmp_path):
    ade20k(tmp_path, prefix="retina_")
    with pytest.raises(AtrousError, match="no known dataset layout"):
        open_dataset(tmp_path)
    assert open_dataset(tmp_path, "ade20k").layout == "ade20k"
    (tmp_path / "objectInfo150.txt").write_text(info_file(list(ADE20K_CLASSES.names)))
    assert open_dataset(tmp_path).layout == "ade20k"


def test_a_folder_with_masks_stays_a_folder(tmp_path):
    ade20k(tmp_path)
    write(tmp_path / "images/a.png", np.zeros((2, 3, 3), np.uint8))
    write(tmp_path / "masks/a.png", RAW)
    assert open_dataset(tmp_path, classes=ADE20K_CLASSES).layout == "folder"


def test_the_doctor_is_content_or_names_what_is_missing(tmp_path, capsys):
    assert doctor(ade20k(tmp_path)) == 0
    assert examine(tmp_path).ignored == {"train": 2, "val": 2}
    (tmp_path / "annotations/training/ADE_train_00000001.png").unlink()
    (tmp_path / "images/training/ADE_train_00000002.jpg").unlink()
    dataset = open_dataset(tmp_path)
    assert dataset.split("train")[0].mask is None
    assert [path.stem for path in dataset.masks_without_image] == ["ADE_train_00000002"]
    capsys.readouterr()
    assert doctor(tmp_path) == 2
    assert "missing_mask" in capsys.readouterr().out


def test_wrong_folders_are_named(tmp_path):
    with pytest.raises(AtrousError, match="'ade20k' needs images/training/"):
        open_dataset(tmp_path, "ade20k")
    ade20k(tmp_path)
    (tmp_path / "annotations/validation").rename(tmp_path / "elsewhere")
    with pytest.raises(AtrousError, match="annotations/validation: no such folder"):
        open_dataset(tmp_path)
    (tmp_path / "annotations/validation").mkdir()
    with pytest.raises(AtrousError, match="annotations/validation: no pictures"):
        open_dataset(tmp_path)
