"""Split lists in the forms that people and tools write them; none is passed over in silence."""

import json
import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.data.split_files import BY_SPLIT, TRAIN, VAL, WANTED, dataset, stems, write

from atrous.data.class_colors import default_colors
from atrous.data.doctor.examine import examine
from atrous.data.mask_value_map import ClassTable
from atrous.data.open_dataset import open_dataset
from atrous.errors import AtrousError
from atrous.learning.recipe import Recipe, write_recipe
from atrous.overwrite_checks import save_json

FORMS = {
    "names": {"splits/train.txt": "\n".join(TRAIN), "splits/val.txt": "\n".join(VAL)},
    "csv of names": {"splits/train.csv": "\n".join(TRAIN), "splits/val.csv": "\n".join(VAL)},
    "csv with a head": {
        "splits/train.csv": "image,mask\n" + "\n".join(f"images/{s}.jpg,masks/{s}.png" for s in TRAIN),
        "splits/val.csv": "image,mask\n" + "\n".join(f"images/{s}.jpg,masks/{s}.png" for s in VAL),
    },
    "txt with commas": {
        "splits/train.txt": "\n".join(f"{s}.jpg,{s}.png" for s in TRAIN),
        "splits/val.txt": "\n".join(f"{s}.jpg;{s}.png" for s in VAL),
    },
    "tsv": {
        "splits/train.tsv": "\n".join(f"{s}.jpg\t{s}.png" for s in TRAIN),
        "splits/val.tsv": "filename\n" + "\n".join(VAL),
    },
    "one table": {
        "splits.csv": "image,split\n"
        + "".join(f"{s}.jpg,train\n" for s in TRAIN)
        + "".join(f"{s}.jpg,valid\n" for s in VAL)
    },
    "one table, semicolons, no head, in splits/": {
        "splits/splits.csv": "".join(f"{s};Train\n" for s in TRAIN) + "".join(f"{s};VAL\n" for s in VAL)
    },
    "any table with a column split": {
        "metadata.csv": "id,age,split\n"
        + "".join(f"{s},1,train\n" for s in TRAIN)
        + "".join(f"{s},2,dev\n" for s in VAL)
    },
    "in the root, named train and valid": {"train.txt": "\n".join(TRAIN), "valid.txt": "\n".join(VAL)},
    "train_list": {"train_list.txt": "\n".join(TRAIN), "val_list.txt": "\n".join(VAL)},
    "lists/": {"lists/training.lst": "\n".join(TRAIN), "lists/validation.lst": "\n".join(VAL)},
    "json": {"splits.json": json.dumps({"train": TRAIN, "val": VAL})},
    "json per split": {"splits/train.json": json.dumps(TRAIN), "splits/val.json": json.dumps(VAL, ensure_ascii=False)},
    "json of records": {
        "split.json": json.dumps(
            [{"image": s, "split": "train"} for s in TRAIN] + [{"image": s, "split": "val"} for s in VAL]
        )
    },
    "json by picture": {"splits.json": json.dumps(dict.fromkeys(TRAIN, "train") | dict.fromkeys(VAL, "val"))},
    "YAML": {"split.yml": f"train: {json.dumps(TRAIN)}\nval: {json.dumps(VAL)}\n"},
    "YAML per split": {
        "splits/train.yaml": "".join(f"- {s}\n" for s in TRAIN),
        "splits/val.yaml": "".join(f"- {s}\n" for s in VAL),
    },
    "JSON Lines per split": {
        "train.jsonl": "\n".join(json.dumps({"image": f"{s}.jpg"}) for s in TRAIN),
        "val.jsonl": "\n".join(json.dumps({"image": f"{s}.jpg"}) for s in VAL),
    },
    "COCO": {
        "train.json": json.dumps({"images": [{"id": 1, "file_name": f"{s}.jpg"} for s in TRAIN], "annotations": []}),
        "val.json": json.dumps({"images": [{"id": 1, "file_name": f"{s}.jpg"} for s in VAL], "annotations": []}),
    },
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("form", FORMS)
def test_forms_and_unicode_encodings(tmp_path, form, encoding):
    dataset(tmp_path)
    for name, text in FORMS[form].items():
        write(tmp_path, name, text.replace("\n", random.Random(0).choice(["\n", "\r\n"])), encoding)
    opened = open_dataset(tmp_path)
    assert stems(opened) == WANTED
    assert all(item.image.exists() and item.mask for items in opened.splits.values() for item in items)
    assert any("1 of 5 pictures are in no split list" in note for note in opened.notes)


@pytest.mark.parametrize(
    ("encoding", "name"), [("cp1252", "größe"), ("gb18030", "数据"), ("shift_jis", "写真"), ("cp1250", "łąka")]
)
def test_old_encodings_are_told_by_the_pictures_they_name(tmp_path, encoding, name):
    dataset(tmp_path, ("a", name, "c"))
    write(tmp_path, "splits/train.txt", f"a\n{name}\n", encoding)
    write(tmp_path, "splits/val.csv", "c\n", encoding)
    assert stems(open_dataset(tmp_path)) == {"train": ["a", name], "val": ["c"]}
    write(tmp_path, "splits/train.txt", f"a\n{name}\nnobody\n", encoding)
    with pytest.raises(AtrousError, match="UTF-8"):
        open_dataset(tmp_path)


def test_decomposed_names(tmp_path):
    dataset(tmp_path, ("cafe\N{COMBINING ACUTE ACCENT}", "b", "c"))
    write(tmp_path, "splits/train.txt", "café\nb\n")
    assert all(item.image.exists() for item in open_dataset(tmp_path).split("train"))


def test_a_list_may_pair_names_that_differ(tmp_path):
    dataset(tmp_path, ())
    for number in range(3):
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / f"images/photo{number}.jpg")
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / f"masks/m{number * 7}.png")
    write(
        tmp_path,
        "splits.csv",
        "image,mask,split\nphoto0.jpg,m0.png,train\nphoto1.jpg,m7.png,train\nphoto2.jpg,m14.png,val\n",
    )
    opened = open_dataset(tmp_path)
    assert [(item.name, item.mask and item.mask.name) for item in opened.split("train")] == [
        ("photo0", "m0.png"),
        ("photo1", "m7.png"),
    ]
    assert not opened.masks_without_image


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("splits.csv", "image,label\na,b\n", "column 'split'"),
        ("splits.csv", "image,split\na,fold1\n", "'fold1' is unknown"),
        ("splits.json", '{"folds": 5}', "no list of pictures"),
        ("splits.json", "{", "JSON"),
        ("train.xlsx", "PK", r"\.csv"),
        ("splits/train.toml", "a = 1", "no list of pictures"),
        ("splits/train.toml", "a = ", "TOML"),
        ("splits/train.yaml", "{", "YAML"),
        ("splits.jsonl", '{"image": "a"}\n{', "JSON"),
        ("splits/train.txt", "\n", "empty"),
        ("splits/train.csv", "image\n", "empty"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, name, text, told):
    dataset(tmp_path)
    write(tmp_path, name, text)
    with pytest.raises(AtrousError, match=told):
        open_dataset(tmp_path)


def test_lists_that_contradict_or_are_not_used_are_said(tmp_path):
    dataset(tmp_path)
    write(tmp_path, "splits/train.txt", "a\n")
    write(tmp_path, "splits/train.csv", "d\n")
    with pytest.raises(AtrousError, match=r"train\.csv and .*train\.txt are both"):
        open_dataset(tmp_path)
    write(tmp_path, "splits/train.csv", "a\n")
    write(tmp_path, "val.txt", "d\n")
    opened = open_dataset(tmp_path)
    assert stems(opened) == {"train": ["a"]}
    assert any("not used: val.txt" in note for note in opened.notes)


def test_a_list_that_cannot_be_read_beside_one_of_its_name_is_said(tmp_path):
    dataset(tmp_path)
    write(tmp_path, "train.txt", "a\n")
    write(tmp_path, "train.npz", "PK")
    opened = open_dataset(tmp_path)
    assert stems(opened) == {"train": ["a"]}
    assert any("train.npz is not read" in note for note in opened.notes)


def test_a_split_answers_to_its_other_names(tmp_path):
    dataset(tmp_path)
    write(tmp_path, "splits/train.txt", "a\n")
    write(tmp_path, "splits/valid.txt", "d\n")
    opened = open_dataset(tmp_path)
    assert opened.split("valid") == opened.split("val") == opened.split("validation")


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("splits/train.txt", "a\nba nobody\nnobody.jpg\n", 3),
        ("splits.csv", "image,split\na.jpg,train\nnobody.jpg,val\n", 3),
        ("data.json", '{"train": ["a.jpg"],\n"val": ["d.jpg",\n"nobody.jpg"]}', 3),
    ],
)
def test_a_picture_that_is_not_there_is_told_with_list_and_line(tmp_path, name, text, line):
    dataset(tmp_path)
    write(tmp_path, name, text)
    missing = next(f for f in examine(tmp_path).errors if f.kind == "missing_image")
    assert any(f"nobody (in {name}, line {line})" in example for example in missing.examples)
    opened = open_dataset(tmp_path)
    item = next(item for part in opened.splits.values() for item in part if item.name == "nobody")
    with pytest.raises(AtrousError, match=rf"{Path(name).name}, line {line}, names it"):
        opened.read(item)


NUMBERED = {
    "a class under label": ("splits/train.csv", "image,label\n7.png,0\n4.png,1\n", [("7", "7.png"), ("4", "4.png")]),
    "a fold without a head": ("splits/train.csv", "7.png,0\n4.png,1\n", [("7", "7.png"), ("4", "4.png")]),
    "an index of pandas": ("splits/train.csv", "0,7.png\n1,4.png\n", [("7", "7.png"), ("4", "4.png")]),
    "an index of pandas and a head": (
        "splits/train.csv",
        ",image\n0,7.png\n1,4.png\n",
        [("7", "7.png"), ("4", "4.png")],
    ),
    "a number under seg": ("splits/train.csv", "id,seg\n7,5\n4,2\n", [("7", "7.png"), ("4", "4.png")]),
    "a number under mask": ("splits/train.csv", "image,mask\n7.png,5\n4.png,2\n", [("7", "7.png"), ("4", "4.png")]),
    "two numbers": ("splits/train.csv", "4.png,3,5\n7.png,1,2\n", [("4", "4.png"), ("7", "7.png")]),
    "a fraction in a text": ("splits/train.txt", "7.png 0.5\n4.png 0.25\n", [("7", "7.png"), ("4", "4.png")]),
    "a number in JSON": ("splits/train.json", '[{"image": "7.png", "seg": "5"}]', [("7", "7.png")]),
    "masks by name": ("splits/train.csv", "7.png,5.png\n4.png,2.png\n", [("7", "5.png"), ("4", "2.png")]),
    "masks by name under seg": ("splits/train.csv", "image,seg\n7.png,5.png\n", [("7", "5.png")]),
}


@pytest.mark.parametrize("form", NUMBERED)
def test_a_number_beside_a_picture_is_no_mask(tmp_path, form):
    name, text, expected = NUMBERED[form]
    dataset(tmp_path, tuple(map(str, range(12))))
    write(tmp_path, name, text)
    found = [(item.name, item.mask and item.mask.name) for item in open_dataset(tmp_path).split("train")]
    assert found == expected


def test_columns_that_nothing_tells_apart_are_refused(tmp_path):
    dataset(tmp_path, tuple(map(str, range(12))))
    write(tmp_path, "splits/train.csv", "0,7\n1,4\n")
    with pytest.raises(AtrousError, match="names the column of pictures 'image'"):
        open_dataset(tmp_path)


ODD_FORMS = {
    "absolute paths": {"splits/train.txt": "{root}/images/a.jpg\n/elsewhere/b.jpg\n", "splits/val.txt": "c\n"},
    "Windows": {"splits/train.txt": "C:\\data\\images\\a.jpg\r\nimages\\b.jpg\r\n", "splits/val.txt": ".\\c.jpg\r\n"},
    "other suffixes": {"splits/train.txt": "a.tif\nb.JPG\n", "splits/val.txt": "c.png\n"},
    "spaces and empty lines": {"splits/train.txt": "a.jpg  \n\n \n b \t\n", "splits/val.txt": "\ufeffc \n\n"},
    "old Macs": {"splits/train.txt": "a\rb\r", "splits/val.txt": "c\r"},
    "comments": {"splits/train.txt": "# by hand\na\nb\n", "splits/val.txt": "c\n"},
    "quotes": {"splits/train.txt": "'a'\n\"b.jpg\"\n", "splits/val.csv": '"c"\n'},
    "bars": {"splits/train.csv": "image|mask\na.jpg|a.png\nb.jpg|b.png\n", "splits/val.csv": "c\n"},
    "fastai": {"labels.csv": "name,is_valid\na.jpg,False\nb.jpg,False\nc.jpg,True\n"},
    "fastai's numbers": {"train.csv": "image,is_valid\na,0\nb,0\nc,1\n"},
    "capitals": {"Splits/TRAIN.TXT": "a\nb\n", "Splits/Val.txt": "c\n"},
    "a text beside": {"splits/train.txt": "a\nb\n", "splits/val.txt": "c\n", "splits/readme.txt": "by hand, in 2020\n"},
    "a log beside": {"train.txt": "a\nb\n", "val.txt": "c\n", "train_log.csv": "epoch,loss\n1,2\n"},
    "paths of YOLO": {
        "train.txt": "./images/a.jpg\n./images/b.jpg\n", "val.txt": "./images/c.jpg\n",
        "data.yaml": "train: train.txt\nval: val.txt\n",
    },
}  # fmt: skip


@pytest.mark.parametrize("form", ODD_FORMS)
def test_odd_forms_are_read(tmp_path, form):
    dataset(tmp_path, tuple("abcde"))
    for name, text in ODD_FORMS[form].items():
        write(tmp_path, name, text.replace("{root}", str(tmp_path)))
    assert stems(open_dataset(tmp_path)) == {"train": ["a", "b"], "val": ["c"]}


UNREAD = {
    "folds.csv": "image,fold\na,0\nb,1\n",
    "metadata.csv": "image,age,fold\na.jpg,3,0\nb.jpg,4,1\n",
    "my_train.txt": "a\nb\n",
    "splits/train.md": "- a\n- b\n",
    "splits_final.json": '[{"train": ["a", "b"], "val": ["c"]}]',
    "images/train.txt": "a\nb\n",
    "partition/train.txt": "a\nb\n",
    "splits/fold_0/train.txt": "a\nb\n",
    "ImageSets/Main/train.txt": "a\nb\n",
    "val.xml": "<image>a.jpg</image>",
    "folds.json": '{"a.jpg": 0, "b.jpg": 1}',
    "list_partition.txt": "a.jpg 0\nb.jpg 1\n",
    "partition.csv": "image,age,sex,group\na.jpg,3,f,1\nb.jpg,4,m,2\n",
    "numbered_train.csv": "index,image\n0,a.jpg\n1,b.jpg\n",
    "meta/v1/x/train.txt": "a\nb\n",
    "meta/train.ids": "a\nb\n",
    "splits.psv": "image|split\na.jpg|train\n",
    "splits.dat": "a train\n",
    "train.dat": "a\nb\n",
    "val.ids": "c\n",
    "train.npz": "PK",
    "splits.npz": "PK",
    "splits/folds.npz": "PK",
    "splits_final.pkl": "\x80",
    "train_idx.npy": "NUMPY",
    "TRAIN.DAT": "a\nb\n",
    "splits.csv.gz": "\x1f",
    "splits.json5": "{train: ['a']}",
    "splits.cfg": "[train]\na\n",
    "split.ini": "[train]\na\n",
    "train.conf": "pictures = a.jpg b.jpg\n",
    "lists_of_train.md": "# Pictures\n\n1. a.jpg\n2. b.jpg\n3. c.jpg\n",
}


@pytest.mark.parametrize("name", UNREAD)
def test_no_split_is_made_up_where_a_file_tells_one(tmp_path, name):
    dataset(tmp_path, tuple("abcde"))
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    write(tmp_path, name, UNREAD[name])
    with pytest.raises(AtrousError, match=f"{Path(name).name}"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("train.py", "print('a.jpg')\n"),
        ("train.zip", "PK"),
        ("test.cfg", "[optimiser]\nrate = 0.1\n"),
        ("train.toml", "[optimiser]\nrate = 0.1\n"),
        ("pyproject.toml", "[tool.train]\nimages = 'images'\n"),
        ("metadata.csv", "image,age\na.jpg,3\nb.jpg,4\n"),
        ("train_log.csv", "epoch,loss\n1,2\n"),
        ("train.yaml", "name: x\ndata: {root: .}\n"),
        ("readme.md", "train on a and b\n"),
        ("test_notes.txt", "nothing here\n"),
    ],
)
def test_texts_that_tell_no_split(tmp_path, name, text):
    dataset(tmp_path, tuple("abcde"))
    write(tmp_path, name, text)
    assert any("no split lists" in note for note in open_dataset(tmp_path).notes)


COCO = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 4, "height": 4}],
    "annotations": [{"id": 7, "image_id": 1, "bbox": [0, 0, 1, 1], "category_id": 1}],
    "categories": [{"id": 1, "name": "thing"}],
}
OTHER_FILES = {
    "annotations/instances_train.json": json.dumps(COCO),
    "annotations/instances_val.json": json.dumps(COCO, indent=1),
    "val_predictions.json": '[{"image": "a.jpg", "mask": "a.png"}, {"image": "b.jpg", "mask": "b.png"}]',
    "test_labels.json": '{"a.jpg": "cat", "b.jpg": "dog"}',
    "cross_val_scores.csv": "image,iou\na.jpg,0.5\nb.jpg,0.7\n",
    "dev/quality.csv": "image,sharpness,noise\na,0.5,0.25\nb,0.7,0.125\n",
    "dev/notes.txt": "We drew a.jpg again\n",
    "dev/todo.txt": "The mask of a.jpg is wrong at its left edge\n",
    "train/boxes.xml": "<annotation><filename>a.jpg</filename><width>4</width><depth>3</depth></annotation>",
    "test/report.txt": "a.jpg\n",
}


@pytest.mark.parametrize("name", OTHER_FILES)
def test_a_file_of_a_split_that_is_no_list_is_passed_over(tmp_path, name):
    dataset(tmp_path, tuple("abcde"))
    write(tmp_path, name, OTHER_FILES[name])
    assert any("no split lists" in note for note in open_dataset(tmp_path).notes)


@pytest.mark.parametrize("folder", ["train1", "runs/train1", "val"])
def test_what_this_program_wrote_is_passed_over(tmp_path, folder):
    dataset(tmp_path, tuple("abcde"))
    (tmp_path / folder).mkdir(parents=True)
    save_json({"per_image": ["a", "b", "c"]}, tmp_path / folder / "evaluation.json")
    (tmp_path / folder / "metrics.jsonl").write_text('{"kind": "val", "step": 1, "worst": ["a", "b", "c", "d"]}\n')
    assert any("no split lists" in note for note in open_dataset(tmp_path).notes)
    write_recipe(Recipe(), tmp_path / folder / "config.yaml")
    (tmp_path / folder / "worst.txt").write_text("a\nb\n")
    assert any("no split lists" in note for note in open_dataset(tmp_path).notes)


@pytest.mark.parametrize("name", ["val.json", "splits/train.json", "test.json"])
def test_scores_named_like_a_split_are_no_list(tmp_path, name):
    dataset(tmp_path, tuple("abcde"))
    (tmp_path / name).parent.mkdir(exist_ok=True)
    save_json({"model": "m", "split": "val", "per_image": {"a": 0.5}}, tmp_path / name)
    assert any("no split lists" in note for note in open_dataset(tmp_path).notes)


@contextmanager
def stranger() -> Iterator[None]:
    """Runs as a user who owns nothing, where the tests run as the administrator, who may read everything."""
    if not hasattr(os, "setresuid") or os.geteuid():
        yield
        return
    os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


@pytest.mark.needs("modes")
@pytest.mark.parametrize("name", ["lost+found", "train", "splits", "partition/train", "old/masks", "lists"])
def test_folders_that_may_not_be_read_are_passed_over(name):
    with tempfile.TemporaryDirectory() as folder:
        root = dataset(Path(folder) / "data", tuple("abcde"))
        root.parent.chmod(0o755)
        (root / name).mkdir(parents=True)
        (root / name).chmod(0)
        try:
            with stranger():
                assert any("no split lists" in note for note in open_dataset(root).notes)
        finally:
            (root / name).chmod(0o700)


@pytest.mark.needs("modes")
@pytest.mark.parametrize("layout", ["folder", "camvid", "split_folders", "side_by_side"])
def test_a_folder_of_the_dataset_that_may_not_be_read_is_named(layout):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        split_folders(root, FOLDER_FORMS[layout]) if layout in FOLDER_FORMS else dataset(root)
        ClassTable(("thing",), default_colors(1), ((0,),)).to_yaml(root / "classes.yaml")
        root.parent.chmod(0o755)
        closed = next(path for path in sorted(root.rglob("*")) if path.is_dir())
        closed.chmod(0)
        try:
            with stranger(), pytest.raises(AtrousError):
                open_dataset(root, layout)
        finally:
            closed.chmod(0o700)


@pytest.mark.needs("modes")
@pytest.mark.parametrize("name", ["my_train.txt", "folds.csv", "metadata.csv", "dev/a.json"])
def test_files_that_may_not_be_read_and_have_no_lists_name_are_passed_over(name):
    with tempfile.TemporaryDirectory() as folder:
        root = dataset(Path(folder) / "data", tuple("abcde"))
        root.parent.chmod(0o755)
        write(root, name, "image,split\na,train\n")
        (root / name).chmod(0)
        with stranger():
            assert any("no split lists" in note for note in open_dataset(root).notes)


def test_numbers_name_pictures_only_alone(tmp_path):
    dataset(tmp_path, tuple("12345"))
    write(tmp_path, "train_times.csv", "epoch,seconds\n1,2\n2,3\n")
    open_dataset(tmp_path)
    write(tmp_path, "first_train.txt", "1\n2\n")
    with pytest.raises(AtrousError, match="first_train"):
        open_dataset(tmp_path)


def test_an_entry_that_is_not_there_and_one_in_two_splits_are_told(tmp_path):
    dataset(tmp_path, tuple("abcde"))
    write(tmp_path, "splits/train.txt", "a\nnobody.jpg\nb\n")
    write(tmp_path, "splits/val.txt", "b\nc\n")
    diagnosis = examine(tmp_path)
    assert any("nobody" in example for finding in diagnosis.errors for example in finding.examples)
    assert any(finding.kind == "same_picture" for finding in diagnosis.warnings)


def split_folders(root: Path, form: str) -> None:
    """Two pictures and masks in folders of train and val; form is the path of a picture or a mask."""
    for split in ("train", "val"):
        for stem in "ab":
            for kind, annot, mask, shape in (("images", "", "", (4, 4, 3)), ("masks", "annot", "_mask", (4, 4))):
                path = root / form.format(split=split, kind=kind, annot=annot, stem=f"{split}{stem}", mask=mask)
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.zeros(shape, np.uint8)).save(path)


FOLDER_FORMS = {
    "camvid": "{split}{annot}/{stem}.png",
    "split_folders": "{kind}/{split}/{stem}.png",
    "side_by_side": "{split}/{stem}{mask}.png",
}
UNUSED = {
    "train.json": json.dumps({"images": [{"id": 1, "file_name": "traina.png"}], "annotations": []}),
    "val.json": '{"lr": 0.1}',
    "test.json": "[",
    "train.pkl": "\x80",
    "test.xlsx": "PK",
    "split.yaml": "- a\n",
    "train.csv": "epoch,loss\n1,0.5\n",
    "splits/folds.npy": "",
}


@pytest.mark.parametrize("layout", FOLDER_FORMS)
@pytest.mark.parametrize("name", UNUSED)
def test_where_folders_are_the_splits_any_list_is_only_said(tmp_path, layout, name):
    split_folders(tmp_path, FOLDER_FORMS[layout])
    ClassTable(("thing",), default_colors(1), ((0,),)).to_yaml(tmp_path / "classes.yaml")
    write(tmp_path, name, UNUSED[name])
    opened = open_dataset(tmp_path)
    assert opened.layout == layout
    assert stems(opened) == {"train": ["traina", "trainb"], "val": ["vala", "valb"]}
    assert any(f"not used: {name}" in note for note in opened.notes)


def test_pictures_that_camvids_lists_leave_out_are_counted(tmp_path):
    split_folders(tmp_path, FOLDER_FORMS["camvid"])
    write(tmp_path, "train.txt", "traina.png\n")
    write(tmp_path, "val.json", '["vala.png", "valb.png"]')
    opened = open_dataset(tmp_path)
    assert stems(opened) == {"train": ["traina"], "val": ["vala", "valb"]}
    told = [note for note in opened.notes if "not used" in note]
    assert len(told) == 1 and "1 of 2 pictures" in told[0] and "is not in train.txt" in told[0]


def test_lists_beside_camvids_folders(tmp_path):
    split_folders(tmp_path, FOLDER_FORMS["camvid"])
    write(tmp_path, "train_list.txt", "traina\n")
    write(tmp_path, "val.json", '["vala"]')
    opened = open_dataset(tmp_path)
    assert stems(opened) == {"train": ["traina", "trainb"], "val": ["vala"]}
    assert any("not used: train_list.txt" in note for note in opened.notes)


def test_a_list_beside_the_folders_of_voc_is_read_where_image_sets_has_none(tmp_path):
    dataset(tmp_path)
    (tmp_path / "images").rename(tmp_path / "JPEGImages")
    (tmp_path / "masks").rename(tmp_path / "SegmentationClass")
    write(tmp_path, "splits.json", json.dumps(BY_SPLIT))
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    write(tmp_path, "ImageSets/Segmentation/default.txt", "a\n")
    assert stems(open_dataset(tmp_path)) == WANTED
    write(tmp_path, "ImageSets/Segmentation/train.txt", "a\n")
    write(tmp_path, "ImageSets/Segmentation/default.txt", "a\n")
    opened = open_dataset(tmp_path)
    assert stems(opened)["train"] == ["a"]
    assert any("these lists are not used: splits.json" in note for note in opened.notes)


PUBLISHED = {
    "cityscapes": ("leftImg8bit/{}/x/{}_leftImg8bit.png", "gtFine/{}/x/{}_gtFine_labelIds.png", ("train", "val")),
    "ade20k": ("images/{}/ADE_{}.jpg", "annotations/{}/ADE_{}.png", ("training", "validation")),
    "coco_stuff": ("images/{}/{}.jpg", "annotations/{}/{}.png", ("train2017", "val2017")),
}


@pytest.mark.parametrize("layout", PUBLISHED)
def test_published_layouts_name_lists_that_they_do_not_use(tmp_path, layout):
    picture, mask, splits = PUBLISHED[layout]
    for split in splits:
        for form, shape in ((picture, (4, 4, 3)), (mask, (4, 4))):
            path = tmp_path / form.format(split, f"{split}_1")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.ones(shape, np.uint8)).save(path)
    assert not any("not used" in note for note in open_dataset(tmp_path).notes)
    write(tmp_path, "splits.json", json.dumps(BY_SPLIT))
    opened = open_dataset(tmp_path)
    assert opened.layout == layout
    assert any(
        "The splits are defined by the folders; these lists are not used: splits.json" in n for n in opened.notes
    )
