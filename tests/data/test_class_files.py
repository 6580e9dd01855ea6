"""Class names from the files that labelling tools write beside their masks."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atrous.data.dataset import open_dataset
from atrous.data.examine import examine
from atrous.errors import AtrousError

COLORS = np.array([(0, 0, 0), (250, 50, 83), (51, 221, 255)], np.uint8)
NAMES = ("background", "crack", "weld: bad")
LABELS = np.repeat(np.array([0, 1, 2], np.uint8), 4)[None].repeat(6, 0)


def voc(root: Path, mask: str) -> Path:
    """VOC folders of two pictures with masks of the three classes: "grey", "palette", or "rgb"."""
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for stem in "abc":
        Image.fromarray(np.zeros((6, 12, 3), np.uint8)).save(root / f"JPEGImages/{stem}.jpg")
        picture = Image.fromarray(COLORS[LABELS] if mask == "rgb" else LABELS)
        if mask == "palette":
            picture = Image.fromarray(LABELS).convert("P")
            picture.putpalette(COLORS.ravel().tolist())
        picture.save(root / f"SegmentationClass/{stem}.png")
    (root / "ImageSets/Segmentation/default.txt").write_text("a\nb\nc\n", encoding="utf-8")
    return root


FILES = {
    "labelmap.txt": "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncrack:250,50,83::\nweld: bad:51,221,255::\n",
    "class_names.txt": "__ignore__\n_background_\ncrack\nweld: bad\n",
    "classes.txt": "0 background\n1 crack\n2 weld: bad\n",
    "_classes.csv": "Pixel Value, Class\n0, background\n1, crack\n2, weld: bad\n",
    "class_dict.csv": "name,r,g,b\nbackground,0,0,0\ncrack,250,50,83\nweld: bad,51,221,255\n",
    "label_colors.txt": "0 0 0 background\n250 50 83\tcrack\n51 221 255 weld: bad\n",
    "obj_class_to_machine_color.json": json.dumps({"crack": [1, 1, 1], "weld: bad": [2, 2, 2]}),
    "meta.json": json.dumps(
        {"classes": [{"title": "crack", "color": "#FA3253"}, {"title": "weld: bad", "color": "#33DDFF"}]}
    ),
    "dataset.json": json.dumps({"labels": {"background": 0, "crack": 1, "weld: bad": 2}}),
    "id2label.json": json.dumps(dict(enumerate(NAMES))),
    "notes.json": json.dumps({"categories": [{"id": index, "name": name} for index, name in enumerate(NAMES)]}),
}
COLORED = ("labelmap.txt", "class_dict.csv", "label_colors.txt", "meta.json")


@pytest.mark.parametrize("mask", ["grey", "palette", "rgb"])
@pytest.mark.parametrize("name", FILES)
def test_names_are_taken_from_the_file(tmp_path, name, mask):
    if mask == "rgb" and name not in COLORED:
        pytest.skip("the file names no colours")
    voc(tmp_path, mask)
    (tmp_path / name).write_text(FILES[name], encoding="utf-8-sig")
    dataset = open_dataset(tmp_path)
    assert dataset.classes.names == NAMES
    assert any(name in note for note in dataset.notes)
    for item in (*dataset.split("train"), *dataset.split("val")):
        assert np.array_equal(dataset.read(item).label, LABELS)
    if name in COLORED:
        assert dataset.classes.colors == tuple(map(tuple, COLORS.tolist()))


def test_published_names_that_were_assumed_are_told(tmp_path):
    root = voc(tmp_path, "grey")
    assert "assumed_names" in [found.kind for found in examine(root).warnings]
    (root / "class_names.txt").write_text(FILES["class_names.txt"], encoding="utf-8")
    assert "assumed_names" not in [found.kind for found in examine(root).warnings]


def test_published_pictures_have_published_names(tmp_path):
    root = voc(tmp_path, "grey")
    (root / "ImageSets/Segmentation/default.txt").unlink()
    for index, stem in enumerate("abc"):
        (root / f"JPEGImages/{stem}.jpg").rename(root / f"JPEGImages/2007_00000{index}.jpg")
        (root / f"SegmentationClass/{stem}.png").rename(root / f"SegmentationClass/2007_00000{index}.png")
    assert "assumed_names" not in [found.kind for found in examine(root).warnings]


def test_cvats_list_without_a_split_is_split(tmp_path):
    dataset = open_dataset(voc(tmp_path, "grey"))
    assert dataset.splits.keys() == {"train", "val"}


@pytest.mark.parametrize("layout", ["camvid", "side_by_side"])
def test_beside_the_masks_of_a_split(tmp_path, layout):
    masks = {"camvid": "{split}annot/{stem}.png", "side_by_side": "{split}/{stem}_mask.png"}[layout]
    for split in ("train", "valid" if layout == "side_by_side" else "val"):
        for stem in "ab":
            for path, array in (
                (f"{split}/{stem}.jpg", COLORS[LABELS]),
                (masks.format(split=split, stem=stem), LABELS),
            ):
                (tmp_path / path).parent.mkdir(exist_ok=True)
                Image.fromarray(array).save(tmp_path / path)
    place = "trainannot" if layout == "camvid" else "train"
    (tmp_path / place / "_classes.csv").write_text(FILES["_classes.csv"], encoding="utf-8")
    dataset = open_dataset(tmp_path)
    assert dataset.layout == layout
    assert dataset.classes.names == NAMES


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labelmap.txt", b"background 0 0 0\n"),
        ("labelmap.txt", "größe:1,2,3::\n".encode("cp1252")),
        ("_classes.csv", b"a,b\nc,d\ne,f\n"),
        ("meta.json", b"{"),
        ("labelmap.txt", b"a:0,0,0::\na:1,1,1::\n"),
    ],
)
def test_damaged_files_are_refused_by_name(tmp_path, name, content):
    voc(tmp_path, "rgb")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AtrousError, match=name):
        open_dataset(tmp_path)


def test_a_classes_yaml_wins(tmp_path):
    voc(tmp_path, "grey")
    (tmp_path / "labelmap.txt").write_text(FILES["labelmap.txt"], encoding="utf-8")
    (tmp_path / "classes.yaml").write_text("classes: [{name: a}, {name: b}, {name: c}]", encoding="utf-8")
    assert open_dataset(tmp_path).classes.names == ("a", "b", "c")
