"""Class names from the files that labelling tools write beside their masks."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atrous.data.class_file_formats import FORMS
from atrous.data.doctor.examine import examine
from atrous.data.open_dataset import open_dataset
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


@pytest.mark.parametrize("stem", ["2007_00000{}", "00003{}", "00996{}"])
def test_published_pictures_have_published_names(tmp_path, stem):
    root = voc(tmp_path, "grey")
    (root / "ImageSets/Segmentation/default.txt").unlink()
    for index, name in enumerate("abc"):
        (root / f"JPEGImages/{name}.jpg").rename(root / f"JPEGImages/{stem.format(index)}.jpg")
        (root / f"SegmentationClass/{name}.png").rename(root / f"SegmentationClass/{stem.format(index)}.png")
    assert "assumed_names" not in [found.kind for found in examine(root).warnings]


@pytest.mark.parametrize("numbers", [range(3), range(1, 4), range(100, 110)])
def test_own_pictures_numbered_like_those_of_voc_2007(tmp_path, numbers):
    root = voc(tmp_path, "grey")
    (root / "ImageSets/Segmentation/default.txt").unlink()
    pair = (root / "JPEGImages/a.jpg").read_bytes(), (root / "SegmentationClass/a.png").read_bytes()
    for name in "abc":
        (root / f"JPEGImages/{name}.jpg").unlink()
        (root / f"SegmentationClass/{name}.png").unlink()
    for number in numbers:
        (root / f"JPEGImages/{number:06}.jpg").write_bytes(pair[0])
        (root / f"SegmentationClass/{number:06}.png").write_bytes(pair[1])
    assert "assumed_names" in [found.kind for found in examine(root).warnings]


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


def grey(root: Path, values=(0, 1, 2), name: str = "picture") -> Path:
    """Three pictures in images/ and masks/ that hold these values, without a table."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    mask = np.repeat(np.array(values, np.uint8), 4)[None].repeat(6, 0)
    for index in range(3):
        noise = np.random.default_rng(index).integers(0, 255, (*mask.shape, 3), dtype=np.uint8)
        Image.fromarray(noise).save(root / f"images/{name}{index}.png")
        Image.fromarray(mask).save(root / f"masks/{name}{index}.png")
    return root


MORE_FORMS = {
    "yolo": ("data.yaml", "path: .\nnames: [background, crack, 'weld: bad']\n"),
    "yolo by value": ("data.yaml", "nc: 3\nnames:\n  0: background\n  1: crack\n  2: 'weld: bad'\n"),
    "mmsegmentation": (
        "classes.json",
        json.dumps({"classes": NAMES, "palette": COLORS.tolist()}),
    ),
    "a list": ("classes.json", json.dumps(NAMES)),
    "values by name": ("classes.json", json.dumps({name: index for index, name in enumerate(NAMES)})),
    "records": ("classes.json", json.dumps([{"id": index, "name": name} for index, name in enumerate(NAMES)])),
    "a config": ("id2label.json", json.dumps({"id2label": dict(enumerate(NAMES))})),
    "nnU-Net 1": ("dataset.json", json.dumps({"labels": dict(enumerate(NAMES)), "modality": {"0": "R"}})),
    "a table": ("classes.csv", "id;name\n0;background\n1;crack\n2;weld: bad\n"),
    "value first": ("labelmap.txt", "0: background\n1: crack\n2: weld: bad\n"),
    "value last": ("labels.txt", "background: 0\ncrack: 1\nweld: bad: 2\n"),
    "names only": ("labelmap.txt", "background\ncrack\nweld: bad\n".replace(": ", " ")),
    "comments": ("names.txt", "# made by hand\n\nbackground\ncrack  # thin\n\nweld: bad\n\n"),
    "commas": ("classes.txt", "background,\ncrack,\nweld: bad,\n"),
    "tabs": ("labels.txt", "0\tbackground\n1\tcrack\n2\tweld: bad\n"),
    "tabs after": ("label_map.txt", "background\t0\ncrack\t1\nweld: bad\t2\n".replace(": ", " ")),
    "wide spaces": ("classes.txt", "0\u00a0background\n1\u3000crack\n2  weld: bad\n"),
    "a head": ("classes.txt", "id,name\n0,background\n1,crack\n2,weld: bad\n"),
    "a head last": ("names.txt", "name\tvalue\nbackground\t0\ncrack\t1\nweld: bad\t2\n"),
    "colours after": ("classes.txt", "background 0 0 0\ncrack 250 50 83\nweld: bad 51 221 255\n"),
    "colours after a head": ("classes.txt", "name r g b\nbackground 0 0 0\ncrack 250 50 83\nweld: bad 51 221 255\n"),
    "colours before": ("labels.txt", "0 0 0 background\n250 50 83 crack\n51 221 255 weld: bad\n"),
    "values and colours": ("labels.txt", "1,crack,250,50,83\n0,background,0,0,0\n2,weld: bad,51,221,255\n"),
    "stated ids": ("class_dict.csv", "name,r,g,b,id\nweld: bad,51,221,255,2\ncrack,250,50,83,1\nbackground,0,0,0,0\n"),
    "a head in another order": ("class_dict.csv", "R;G;B;Class Name\n0;0;0;background\n1;1;1;crack\n2;2;2;weld: bad\n"),
    "no head": ("class_dict.csv", "background,0,0,0\ncrack,250,50,83\nweld: bad,51,221,255\n"),
    "a number under class": ("classes.csv", "class,name\n0,background\n1,crack\n2,weld: bad\n"),
    "categories": ("labels.csv", "id,category,name\n0,none,background\n1,bad,crack\n2,bad,weld: bad\n"),
    "Roboflow's columns the other way": ("_classes.csv", "Class,Pixel Value\nbackground,0\ncrack,1\nweld: bad,2\n"),
    "quotes": ("labels.txt", "'background'\n'crack'\n'weld: bad'\n"),
    "labelme": ("labels.txt", "__ignore__\n_background_\ncrack\nweld: bad\n"),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("form", MORE_FORMS)
def test_more_forms_in_unicode(tmp_path, form, encoding):
    name, text = MORE_FORMS[form]
    root = grey(tmp_path)
    (root / name).write_bytes(text.encode(encoding))
    expected = dict(enumerate(NAMES if "weld: bad" in text else (*NAMES[:2], "weld bad")))
    opened = open_dataset(root)
    assert {raw: name for name, (raw,) in zip(opened.classes.names, opened.classes.raw, strict=True)} == expected


UNRELATED = {
    "meta.json": [
        '{"labels": {"quality": 5, "year": 2020}}',
        '{"author": "me", "classes": 3}',
        "[1, 2]",
        '{"version": 1}',
        "null",
        '{"classes": []}',
    ],
    "notes.json": ['{"todo": ["relabel"]}', '{"a": 1}\n{"b": 2}\n', "draw again", '{"categories": ["a", "b"]}'],
    "classes.json": [
        '{"a": {"b": 1}}',
        "[[1, 2], [3]]",
        '{"monday": "room 3"}',
        "[]",
        "3",
        '{"width": 512, "height": 256}',
    ],
    "dataset.json": ['{"name": "mine"}', '{"labels": ["a", "b"]}', '{"labels": {"a": {"count": 2}}}'],
    "labels.txt": [
        "picture0.png 1\npicture1.png 0\n",
        "picture0\npicture1\npicture2\n",
        "0 0.5 0.5 0.1 0.2\n1 0.2 0.3 0.1 0.1\n",
        "These masks were drawn by two students.\nAsk them.\n",
        "author: me\ndate: 2020-01-01\n",
        "images/a.jpg\nimages/b.jpg\n",
        "",
        "\x00\x01\x02\x7f",
        "0\n1\n2\n",
        "car 10 20 30 40\ntree 50 60 70 80\n",
        "car 640 480 300\ntree 600 400 500\n",
    ],
    "names.txt": ["<html><body></body></html>", "\n".join(f"person {index}" for index in range(400)), "{}"],
    "classes.txt": ["The classes are described in the paper that came with the data, see there for more\n"],
    "classes.csv": ["teacher,room\nMs Lee,3\n", "image,label\na.png,1\n"],
    "labels.csv": [
        "id,label\nimg0,dog\n",
        "id,label\nimg0,dog\nimg1,cat\n",
        "filename,label,id\npicture0,car,0\npicture1,tree,1\n",
        "name,label,id\npicture0.png,car,0\npicture1.png,tree,1\n",
        "id,label\n0,dog\n1,dog\n2,cat\n",
    ],
    "labels.json": [
        '{"picture0.png": 0, "picture1.png": 1}',
        '{"picture0": 0, "picture1": 1}',
        '{"elsewhere.jpg": 0, "other.jpg": 1}',
        '{"0": "picture0.png", "1": "picture1.png", "2": "picture2.png"}',
    ],
    "data.yaml": ["train: ../train\n", "- a\n", "{", "names: 3\n"],
    "id2label.json": ['{"model": "b0"}'],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in UNRELATED.items() for text in texts])
def test_a_file_of_that_name_that_is_something_else_is_passed_over_and_said(tmp_path, name, text):
    root = grey(tmp_path)
    (root / name).write_text(text, encoding="utf-8")
    diagnosis = examine(root)
    assert [finding.kind for finding in diagnosis.errors] == ["no_classes"]
    assert any(f"{name} is not read" in note for note in diagnosis.notes)
    (root / "classes.yaml").write_text("classes: [{name: a}, {name: b}, {name: c}]", encoding="utf-8")
    assert not examine(root).errors


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("labels.txt", "größe\nhöhe\ntiefe\n".encode("cp1252"), "UTF-8"),
        ("labels.txt", b"crack\nweld\ncrack\n", "given twice"),
        ("classes.json", b'{"0": "a", "1": "b", "0": "c"}', "given twice"),
        ("classes.json", b'["a", "b"', "damaged"),
        ("meta.json", b'{"classes": [{"title": "a", "color": "red"}]}', "#RRGGBB"),
        ("class_dict.csv", b"name,r,g,b\na,1,2,3\nb,1,x,3\n", "'b,1,x,3'"),
        ("class_dict.csv", b"background,0,0\ncar,255,0,0\ntree,0,255,0\n", "'background,0,0'"),
        ("class_dict.csv", b"car,255,0,0,2\ntree,0,255,0,1\n", "more numbers"),
        ("class_dict.csv", b"name,r,g,b,id\ncar,255,0,0,x\ntree,0,255,0,y\n", "do not fit the header"),
        ("_classes.csv", b"x, car\n1, tree\n", "'x,car'"),
        ("classes.txt", b"background 0 0 0\ncar 255 0 0\ntree 0 255\n", "'tree 0 255'"),
        ("labels.txt", b"0 0 0 background\n255 0 0 car\ntree\n", "'tree'"),
        ("label_colors.txt", b"1 2 3 a\nhello\n", "'hello'"),
        ("dataset.json", b'{"labels": {"background": 0, "all": [1, 2], "core": 2}}', "region"),
        ("obj_class_to_machine_color.json", b'{"a": 1}', "r, g, b"),
        ("classes.csv", b"id,name\n0,a\nx,b\n", "'x,b'"),
    ],
)
def test_a_class_file_with_a_mistake_is_refused_in_one_sentence(tmp_path, name, content, told):
    (grey(tmp_path) / name).write_bytes(content)
    with pytest.raises(AtrousError, match=rf"{name}.*{told}"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("classes.txt", "background\ncrack\nweld\n"), ("labels.txt", "background\nweld\ncrack\n")),
        (("classes.txt", "crack\nweld\n"), ("labels.txt", "background\ncrack\nweld\n")),
        (("classes.txt", "cat\ndog\n"), ("classes.json", '["road", "sky"]')),
        (
            ("_classes.csv", "Pixel Value, Class\n0, a\n1, b\n"),
            ("masks/_classes.csv", "Pixel Value, Class\n0, b\n1, a\n"),
        ),
        (("labelmap.txt", "a:0,0,0::\nb:1,1,1::\n"), ("labels.txt", "0 b\n1 a\n2 c\n")),
    ],
)
def test_class_files_that_contradict_each_other_are_refused_with_both_names(tmp_path, first, second):
    root = grey(tmp_path)
    for name, text in (first, second):
        (root / name).write_text(text, encoding="utf-8")
    with pytest.raises(AtrousError, match="contradict") as error:
        open_dataset(root)
    assert first[0] in str(error.value) and second[0] in str(error.value)


def test_class_files_that_agree(tmp_path):
    root = grey(tmp_path)
    (root / "classes.txt").write_text("background\ncrack\nweld: bad\n", encoding="utf-8")
    (root / "labels.txt").write_text("__ignore__\n_background_\ncrack\nweld: bad\n", encoding="utf-8")
    (root / "labelmap.txt").write_text(FILES["labelmap.txt"], encoding="utf-8")
    (root / "meta.json").write_text(FILES["meta.json"], encoding="utf-8")
    assert open_dataset(root).classes.names == NAMES


def test_a_list_of_other_things_beside_a_tools_own_file_is_said(tmp_path):
    root = grey(tmp_path)
    (root / "labelmap.txt").write_text(FILES["labelmap.txt"], encoding="utf-8")
    (root / "names.txt").write_text("Alice\nBob\n", encoding="utf-8")
    opened = open_dataset(root)
    assert opened.classes.names == NAMES
    assert any("names.txt is not read" in note and "labelmap.txt" in note for note in opened.notes)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("meta.json", b"{"),
        ("classes.json", b'["a", "b"'),
        ("labels.csv", b"id,name\n0,a\n1,b\nx,c\n"),
        ("names.txt", "größe\nhöhe\n".encode("cp1252")),
    ],
)
@pytest.mark.parametrize("good", ["classes.txt", "labelmap.txt"])
def test_a_damaged_file_beside_a_good_one_is_said(tmp_path, good, name, content):
    root = grey(tmp_path)
    (root / good).write_text(FILES[good], encoding="utf-8")
    (root / name).write_bytes(content)
    opened = open_dataset(root)
    assert opened.classes.names == NAMES
    assert any(f"{name} is not read" in note for note in opened.notes)


def test_values_are_compared_with_more_masks_than_the_first(tmp_path):
    root = grey(tmp_path)
    mask = np.zeros((6, 12), np.uint8)
    Image.fromarray(mask).save(root / "masks/picture0.png")
    (root / "classes.json").write_text('{"crack": 1, "weld": 2}', encoding="utf-8")
    assert open_dataset(root).classes.names == ("crack", "weld")
    for index in range(3):
        Image.fromarray(mask).save(root / f"masks/picture{index}.png")
    assert open_dataset(root).classes.names == ("crack", "weld")
    (root / "classes.json").write_text('{"width": 512, "height": 256}', encoding="utf-8")
    with pytest.raises(AtrousError, match=r"classes\.json is not read"):
        open_dataset(root)


def test_a_picture_may_be_named_like_a_class(tmp_path):
    root = grey(tmp_path)
    for folder in ("images", "masks"):
        (root / folder / "picture0.png").rename(root / folder / "crack.png")
    (root / "labels.txt").write_text("background\ncrack\nweld\n", encoding="utf-8")
    assert open_dataset(root).classes.names == ("background", "crack", "weld")


def test_colours_in_a_plain_list_are_those_of_the_masks(tmp_path):
    root = voc(tmp_path, "rgb")
    (root / "classes.txt").write_text("background 0 0 0\ncrack 250 50 83\nweld: bad 51 221 255\n", encoding="utf-8")
    opened = open_dataset(root)
    assert opened.classes.names == NAMES
    assert np.array_equal(opened.read(opened.split("train")[0]).label, LABELS)


def test_names_without_a_background_where_masks_hold_one(tmp_path):
    root = grey(tmp_path)
    (root / "classes.txt").write_text("crack\nweld\n", encoding="utf-8")
    diagnosis = examine(root)
    assert [finding.kind for finding in diagnosis.errors] == ["unnamed_background"]
    assert diagnosis.proposed_classes and diagnosis.proposed_classes.names == ("background", "crack", "weld")
    (root / "classes.txt").write_text("crack\nweld\nrust\nhole\n", encoding="utf-8")
    assert "unnamed_background" in [finding.kind for finding in examine(root).warnings]
    (root / "classes.txt").write_text("crack\nweld\nrust\n", encoding="utf-8")
    diagnosis = examine(root)
    assert not diagnosis.errors and "unnamed_background" not in [finding.kind for finding in diagnosis.warnings]


def test_fewer_and_more_names_than_values(tmp_path):
    root = grey(tmp_path)
    (root / "classes.txt").write_text("background\ncrack\n", encoding="utf-8")
    assert [finding.kind for finding in examine(root).errors] == ["unknown_value"]
    (root / "classes.txt").write_text("background\ncrack\nweld\nrust\n", encoding="utf-8")
    diagnosis = examine(root)
    assert not diagnosis.errors
    assert any(finding.kind == "empty_class" and "rust" in finding.examples for finding in diagnosis.warnings)


LAYOUTS = {
    "cityscapes": ("leftImg8bit/{split}/{city}/{city}_00000{n}_000000_leftImg8bit.png",
                   "gtFine/{split}/{city}/{city}_00000{n}_000000_gtFine_labelTrainIds.png"),
    "ade20k": ("images/{ade}/{city}{n}.jpg", "annotations/{ade}/{city}{n}.png"),
    "coco_stuff": ("images/{split}2017/{city}{n}.jpg", "annotations/{split}2017/{city}{n}.png"),
    "camvid": ("{split}/{city}{n}.png", "{split}annot/{city}{n}.png"),
}  # fmt: skip


def published(root: Path, layout: str, city: str) -> Path:
    """A set in the folders of a published layout, of three pictures a split."""
    for split, ade in (("train", "training"), ("val", "validation")):
        for n, (pattern, array) in [
            (n, pair) for n in range(3) for pair in zip(LAYOUTS[layout], (COLORS[LABELS], LABELS), strict=True)
        ]:
            path = root / pattern.format(split=split, ade=ade, city=city, n=n)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    return root


@pytest.mark.parametrize("layout", LAYOUTS)
def test_own_classes_in_published_folders(tmp_path, layout):
    root = published(tmp_path, layout, "ours")
    if layout == "ade20k":
        (root / "objectInfo150.txt").unlink(missing_ok=True)
    found = examine(root, layout)
    assert any(finding.kind == "assumed_names" for finding in found.warnings)
    (root / "classes.json").write_text(json.dumps(NAMES), encoding="utf-8")
    found = examine(root, layout)
    assert found.classes and found.classes.names == NAMES
    assert not any(finding.kind == "assumed_names" for finding in found.warnings)


@pytest.mark.parametrize(
    ("layout", "city"),
    [("cityscapes", "aachen"), ("ade20k", "ADE_train_0000000"), ("coco_stuff", "00000000000"), ("camvid", "0001TP_")],
)
def test_the_published_pictures_of_every_layout(tmp_path, layout, city):
    root = published(tmp_path, layout, city)
    (root / "labels.txt").write_text("0: unlabeled\n1: person\n2: bicycle\n", encoding="utf-8")
    if layout != "coco_stuff":
        (root / "labels.txt").unlink()
    found = examine(root, layout)
    assert found.classes and len(found.classes) > 10
    assert not any(finding.kind == "assumed_names" for finding in found.warnings)


def test_the_order_of_a_list_of_colours_does_not_contradict_stated_values(tmp_path):
    root = grey(tmp_path)
    (root / "obj_class_to_machine_color.json").write_text(json.dumps({"weld": [1, 1, 1], "crack": [2, 2, 2]}))
    colors = [{"title": "crack", "color": "#FA3253"}, {"title": "weld", "color": "#33DDFF"}]
    (root / "meta.json").write_text(json.dumps({"classes": colors}), encoding="utf-8")
    assert open_dataset(root).classes.names == ("background", "weld", "crack")


@pytest.mark.parametrize(
    "pattern", ["{split}/{kind}/{stem}.png", "{kind}/{split}/{stem}.png", "camvid", "{split}/{stem}{mask}.png"]
)
def test_class_files_of_splits_that_contradict_each_other(tmp_path, pattern):
    for split in ("train", "val"):
        for stem in "ab":
            for kind, mask, array in (("images", "", COLORS[LABELS]), ("masks", "_mask", LABELS)):
                form = "{split}{annot}/{stem}.png" if pattern == "camvid" else pattern
                annot = "annot" if mask else ""
                path = tmp_path / form.format(split=split, kind=kind, stem=f"{split}{stem}", mask=mask, annot=annot)
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
        text = "Pixel Value, Class\n0, background\n" + ("1, a\n2, b\n" if split == "train" else "1, b\n2, a\n")
        (path.parent / "_classes.csv").write_text(text, encoding="utf-8")
    with pytest.raises(AtrousError, match="contradict") as error:
        open_dataset(tmp_path)
    assert str(error.value).count("_classes.csv") == 2


@pytest.mark.parametrize("name", ["Classes.TXT", "LABELS.txt", "Names.txt"])
def test_capitals_in_the_names_of_class_files(tmp_path, name):
    root = grey(tmp_path)
    (root / name).write_text("background\ncrack\nweld: bad\n", encoding="utf-8")
    assert open_dataset(root).classes.names == NAMES


@pytest.mark.parametrize("name", ["classes.yml", "classes.yaml.txt", "Classes.YML"])
def test_a_table_of_nearly_the_right_name_is_said(tmp_path, name):
    root = grey(tmp_path)
    (root / name).write_text("classes: [{name: a}, {name: b}, {name: c}]", encoding="utf-8")
    with pytest.raises(AtrousError, match=r"rename it to classes\.yaml"):
        open_dataset(root)
    assert any("rename it to classes.yaml" in note for note in examine(root).notes)


def test_the_documentation_lists_every_class_file():
    text = (Path(__file__).parents[2] / "docs/data.md").read_text(encoding="utf-8")
    assert [name for name in FORMS if f"`{name}`" not in text] == []
