"""Layouts that labelling tools export, and folders with files of other kinds beside the pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atrous.data.class_colors import default_colors
from atrous.data.mask_value_map import ClassTable
from atrous.data.open_dataset import open_dataset
from atrous.data.unread_folders import folders_with_pictures, unread_folder_notes
from atrous.errors import AtrousError

TWO = ClassTable(("background", "thing"), default_colors(2), ((0,), (1,)), (255,))


def save(path: Path, channels: int = 3, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    size = (4, 6, 3) if channels == 3 else (4, 6)
    Image.fromarray(np.full(size, value, np.uint8)).save(
        path, format=None if Image.registered_extensions().get(path.suffix.lower()) else "PNG"
    )
    return path


def make(root: Path, pictures: str, masks: str, splits=("train", "val"), stems="ab") -> Path:
    """Pictures and masks by patterns such as "images/{split}/{stem}.png"."""
    for split in splits:
        for stem in stems:
            save(root / pictures.format(split=split, stem=f"{split[0]}{stem}"))
            save(root / masks.format(split=split, stem=f"{split[0]}{stem}"), 1)
    TWO.to_yaml(root / "classes.yaml")
    return root


def pairs(root: Path, layout: str | None = None) -> dict[str, list[tuple[str, str]]]:
    opened = open_dataset(root, layout)
    assert not opened.masks_without_image
    return {
        name: [(str(i.image.relative_to(root)), str(i.mask.relative_to(root)) if i.mask else "") for i in items]
        for name, items in opened.splits.items()
    }


EXPORTS = {
    "split_folders": [
        ("images/{split}/{stem}.jpg", "masks/{split}/{stem}.png"),
        ("img_dir/{split}/{stem}.jpg", "ann_dir/{split}/{stem}.png"),
        ("Images/{split}/{stem}.jpg", "Labels/{split}/{stem}_label.png"),
        ("{split}/images/{stem}.jpg", "{split}/masks/{stem}.png"),
        ("{split}/img/{stem}.jpg", "{split}/gt/{stem}_gt.png"),
        ("{split}/{stem}.png", "{split}_labels/{stem}_L.png"),
        ("{split}/{stem}.jpg", "{split}_masks/{stem}_mask.gif"),
        ("{split}_images/{stem}.jpg", "{split}_masks/{stem}.png"),
    ],
    "side_by_side": [
        ("{split}/{stem}.jpg", "{split}/{stem}_mask.png"),
        ("{split}/{stem}.jpg", "{split}/{stem}.png"),
    ],
    "camvid": [("{split}/{stem}.png", "{split}annot/{stem}.png")],
}


@pytest.mark.parametrize(("layout", "form"), [(layout, form) for layout, forms in EXPORTS.items() for form in forms])
@pytest.mark.parametrize("splits", [("train", "val"), ("train", "val", "test"), ("test",), ("val",)])
def test_folders_of_splits_in_any_number(tmp_path, layout, form, splits):
    make(tmp_path, *form, splits=splits)
    wanted = {
        split: [tuple(part.format(split=split, stem=f"{split[0]}{stem}") for part in form) for stem in "ab"]
        for split in splits
    }
    assert open_dataset(tmp_path).layout == layout
    assert pairs(tmp_path) == pairs(tmp_path, layout) == wanted


@pytest.mark.parametrize("spelling", ["valid", "validation", "dev", "Valid"])
def test_spellings_of_val(tmp_path, spelling):
    make(tmp_path, "images/{split}/{stem}.png", "masks/{split}/{stem}.png", splits=("train", spelling))
    assert pairs(tmp_path).keys() == {"train", "val"}


@pytest.mark.parametrize(
    ("pictures", "masks", "layout"),
    [
        ("images/{stem}.jpg", "masks/{stem}_mask.png", "folder"),
        ("images/{stem}.jpg", "labels/{stem}_label.png", "folder"),
        ("imgs/{stem}.jpg", "gt/gt_{stem}.png", "folder"),
        ("images/img_{stem}.jpg", "masks/mask_{stem}.png", "folder"),
        ("images/{stem}_sat.jpg", "masks/{stem}_mask.png", "folder"),
        ("img/{stem}.jpg", "masks_machine/{stem}.png", "folder"),
        ("{stem}.png", "{stem}_mask.png", "side_by_side"),
        ("{stem}.jpg", "{stem}-seg.png", "side_by_side"),
        ("{stem}.jpg", "{stem}.png", "side_by_side"),
        ("imagesTr/{stem}_0000.png", "labelsTr/{stem}.png", "nnunet"),
    ],
)
def test_one_folder_is_split(tmp_path, pictures, masks, layout):
    make(tmp_path, pictures, masks, stems="abcdef", splits=("train",))
    assert open_dataset(tmp_path).layout == layout
    found = pairs(tmp_path)
    assert {name: len(items) for name, items in found.items()} == {"train": 5, "val": 1}
    stems = [f"t{stem}" for stem in "abcdef"]
    assert sorted(pair for items in found.values() for pair in items) == sorted(
        (pictures.format(stem=stem), masks.format(stem=stem)) for stem in stems
    )


def test_nnunet_with_labelled_test_pictures(tmp_path):
    make(tmp_path, "imagesTr/{stem}_0000.png", "labelsTr/{stem}.png", stems="abcdefghijkl", splits=("train",))
    make(tmp_path, "imagesTs/{stem}_0000.png", "labelsTs/{stem}.png", splits=("test",))
    assert {name: len(items) for name, items in pairs(tmp_path).items()} == {"train": 11, "val": 1, "test": 2}
    save(tmp_path / "imagesTr/ta_0001.png")
    with pytest.raises(AtrousError, match="another channel"):
        open_dataset(tmp_path)


def test_pictures_without_masks_of_their_split_are_left_out_and_said(tmp_path):
    make(tmp_path, "images/{split}/{stem}.png", "masks/{split}/{stem}.png")
    save(tmp_path / "images/test/x.png")
    opened = open_dataset(tmp_path)
    assert opened.splits.keys() == {"train", "val"}
    assert any("no split 'test'" in note for note in opened.notes)


@pytest.mark.parametrize("names", [("a_mask.png", "a_label.png"), ("a.png", "a_mask.png")])
def test_two_masks_of_one_picture_are_refused(tmp_path, names):
    make(tmp_path, "images/{stem}.jpg", "masks/{stem}.png", splits=("train",), stems="b")
    save(tmp_path / "images/a.jpg")
    for name in names:
        save(tmp_path / "masks" / name, 1)
    with pytest.raises(AtrousError, match=r"may both be the mask of 'a\.jpg'"):
        open_dataset(tmp_path)


def test_names_that_do_not_fit_are_answered_with_a_command(tmp_path):
    make(tmp_path, "images/{stem}.jpg", "masks/{stem}-final.png", splits=("train",))
    with pytest.raises(AtrousError, match=r"mv .*-final"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        *("x.heic", "x.HEIF", "x.dng", "x.svg", "x.pdf", "x.npy", "x.mat", "x.dcm", "x.xyz", "x"),
        *("x.psd", "x.jxl", "x.mp4", "x.zip", "x.jpg.part", "x.jpg~", "x.mpo"),
    ],
)
def test_files_of_other_kinds_are_said(tmp_path, name):
    make(tmp_path, "images/{stem}.jpg", "masks/{stem}.png", stems="abc", splits=("train",))
    (tmp_path / "images" / name).write_bytes(b"1")
    assert any("skipped" in note and name in note for note in open_dataset(tmp_path).notes)


def test_files_of_other_kinds_are_counted_by_suffix(tmp_path):
    make(tmp_path, "images/{stem}.jpg", "masks/{stem}.png", stems="abc", splits=("train",))
    for index in range(3):
        (tmp_path / f"images/{index}.heic").write_bytes(b"1")
        (tmp_path / f"masks/{index}.npy").write_bytes(b"1")
    notes = told(tmp_path)
    assert (
        f"{tmp_path / 'images'}: 3 files ending in .heic (0.heic, …) are skipped, because atrous does not read" in notes
    )
    assert (
        f"{tmp_path / 'masks'}: 3 files ending in .npy (0.npy, …) are skipped, because atrous does not read this format"
        in notes
    )


def test_texts_beside_pictures_are_not_said(tmp_path):
    make(tmp_path, "images/{stem}.jpg", "masks/{stem}.png", stems="abc", splits=("train",))
    for name in ("readme.txt", "Thumbs.db", ".DS_Store", "a.json"):
        (tmp_path / "images" / name).write_bytes(b"1")
    assert not any("skipped" in note for note in open_dataset(tmp_path).notes)


def test_a_folder_of_nothing_else_names_what_is_there(tmp_path):
    make(tmp_path, "images/{stem}.jpg", "masks/{stem}.png", stems="a", splits=("train",))
    (tmp_path / "images/ta.jpg").rename(tmp_path / "images/ta.heic")
    with pytest.raises(AtrousError, match=r"no pictures.*\.heic"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".pjpeg", ".apng", ".TIFF", ".JPG", ".dib"])
def test_other_names_of_known_formats_are_read(tmp_path, suffix):
    make(tmp_path, "images/{stem}.png", "masks/{stem}.png", stems="abc", splits=("train",))
    formats = {
        ".jfif": "JPEG",
        ".jpe": "JPEG",
        ".pjpeg": "JPEG",
        ".apng": "PNG",
        ".tiff": "TIFF",
        ".jpg": "JPEG",
        ".dib": "BMP",
    }
    for path in list((tmp_path / "images").iterdir()):
        Image.fromarray(np.full((4, 6, 3), 7, np.uint8)).save(path.with_suffix(suffix), format=formats[suffix.lower()])
        path.unlink()
    opened = open_dataset(tmp_path)
    assert (opened.read(opened.split("train")[0]).image == 7).all()


def told(root: Path, layout: str | None = None) -> str:
    return " | ".join(open_dataset(root, layout).notes)


HIDDEN = {
    "valid beside val": ("images/{split}/{stem}.png", "masks/{split}/{stem}.png", "images/valid/x.png", "images/val"),
    "valid beside val, splits first": (
        "{split}/images/{stem}.png", "{split}/masks/{stem}.png", "valid/images/x.png", "val"
    ),
    "valid beside val in camvid": ("{split}/{stem}.png", "{split}annot/{stem}.png", "valid/x.png", "val"),
    "annotations beside labels": (
        "images/{split}/{stem}.png", "labels/{split}/{stem}.png", "annotations/{split}/x.png", "labels"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HIDDEN)
def test_a_folder_that_another_hides_is_answered_with_a_command(tmp_path, case):
    pictures, masks, hidden, rival = HIDDEN[case]
    make(tmp_path, pictures, masks)
    assert "is not read" not in told(tmp_path)
    extra = save(tmp_path / hidden.format(split="train"))
    if "camvid" in case:
        save(tmp_path / "validannot/x.png", 1)
    before = told(tmp_path)
    assert "(1 picture) is not read" in before and f'mv "{tmp_path / rival}"' in before
    assert "To read both, move the files of" in before
    (tmp_path / rival).rename(tmp_path / f"{rival}_unused")  # as the command does
    try:
        after = told(tmp_path)
    except AtrousError as error:
        after = str(error)  # what is read now lacks its other half
    assert f"{extra.parent.relative_to(tmp_path)}/ (1" not in after


@pytest.mark.parametrize("other", ["labels", "Annotations", "gt"])
def test_two_folders_of_masks(tmp_path, other):
    make(tmp_path, "images/{stem}.png", "masks/{stem}.png", stems="abc", splits=("train",))
    save(tmp_path / other / "ta.png", 1)
    assert f"{other}/ (1 picture) is not read, because masks/ is" in told(tmp_path)


@pytest.mark.parametrize("extra", ["train/x.png", "previews/x.jpg", "images/tile_1/x.png", "old/images/x.tif", "x.png"])
def test_any_folder_with_pictures_that_is_not_read_is_said(tmp_path, extra):
    make(tmp_path, "images/{stem}.png", "masks/{stem}.png", stems="abc", splits=("train",))
    assert "not read" not in told(tmp_path)
    save(tmp_path / extra)
    folder = str(Path(extra).parent) if "/" in extra else "the folder itself"
    assert "not read" in told(tmp_path) and f"{folder}/ (1)".replace("itself/", "itself") in told(tmp_path)


def test_spellings_of_val_in_camvids_layout(tmp_path):
    make(tmp_path, "{split}/{stem}.png", "{split}annot/{stem}.png", splits=("training", "valid", "test"))
    assert open_dataset(tmp_path).layout == "camvid"
    assert pairs(tmp_path).keys() == {"train", "val", "test"}
    (tmp_path / "valid.txt").write_text("va\n", encoding="utf-8")
    assert len(pairs(tmp_path)["val"]) == 1


@pytest.mark.parametrize("empty", ["images/val", "masks/val"])
def test_a_split_of_an_empty_folder_is_left_out_and_said(tmp_path, empty):
    make(tmp_path, "images/{split}/{stem}.png", "masks/{split}/{stem}.png")
    for path in (tmp_path / empty).iterdir():
        path.rename(path.with_suffix(".heic"))
    assert pairs(tmp_path).keys() == {"train"}
    assert "no split 'val'" in told(tmp_path) and ".heic" in told(tmp_path)


def label_studio(root: Path) -> Path:
    """Two pictures and Label Studio's export of their masks, one file for each label."""
    for task, (stem, labels) in enumerate({"street": ["car", "road-side"], "park": ["road-side"]}.items(), 1):
        save(root / f"images/{stem}.jpg")
        for index, label in enumerate(labels):
            mask = np.zeros((4, 6), np.uint8)
            mask[2 * index : 2 * index + 2] = 255
            (root / "labels").mkdir(exist_ok=True)
            Image.fromarray(mask).save(root / f"labels/task-{task}-annotation-{task}-by-1-tag-{label}-0.png")
    tasks = [
        {"id": 1, "data": {"image": "/data/upload/1/0a1b2c3d-street.jpg", "text": "x"}},
        {"id": 2, "data": {"image": "/data/local-files/?d=images/park.jpg"}},
    ]
    (root / "export.json").write_text(json.dumps(tasks), encoding="utf-8")
    return root


def test_masks_of_one_label_each_are_joined_by_the_lines_of_the_documentation(tmp_path, monkeypatch):
    root = label_studio(tmp_path)
    with pytest.raises(AtrousError, match=r"only the label 'car'.*docs/data\.md"):
        open_dataset(root)
    page = (Path(__file__).parents[3] / "docs/data.md").read_text(encoding="utf-8")
    lines = page.split("## Label Studio")[1].split("```python")[1].split("```")[0]
    monkeypatch.chdir(root)
    exec(compile(lines, "docs/data.md", "exec"), {})
    opened = open_dataset(root)
    assert opened.classes.names == ("background", "car", "road-side")
    labels = {item.name: opened.read(item).label for part in opened.splits.values() for item in part}
    assert np.array_equal(labels["street"][:, 0], [1, 1, 2, 2])
    assert np.array_equal(labels["park"][:, 0], [2, 2, 0, 0])


def test_masks_of_one_label_each_without_pictures(tmp_path):
    label_studio(tmp_path)
    for path in list((tmp_path / "labels").iterdir()):
        path.rename(tmp_path / path.name)
    with pytest.raises(AtrousError, match="only the label"):
        open_dataset(tmp_path)


@pytest.mark.needs("links")
def test_folders_with_pictures_are_searched_to_a_depth_and_counted_with_their_noun(tmp_path):
    deep = tmp_path
    for level in range(7):
        deep = deep / f"level{level}"
        deep.mkdir()
        (deep / "a.png").write_bytes(b"")
    (tmp_path / "level0" / "b.png").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "level0")
    found = dict(folders_with_pictures(tmp_path, lambda path: path.name != "b.png"))
    assert [len(folder.relative_to(tmp_path).parts) for folder in found] == [1, 2, 3, 4]
    assert set(found.values()) == {1}
    for name in ("val", "valid"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(b"")
    told = unread_folder_notes(tmp_path, [tmp_path / "val"], [])
    assert "(1 picture) is not read" in told[0]
