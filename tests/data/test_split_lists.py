"""Split lists in the forms that people and tools write them; none is passed over in silence."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atrous.data.dataset import Dataset, open_dataset
from atrous.data.labels import ClassTable, default_colors
from atrous.errors import AtrousError

TRAIN, VAL = ("a", "b é", "日本"), ("d",)


def dataset(root: Path, stems=(*TRAIN, *VAL, "e")) -> Path:
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for stem in stems:
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(root / f"images/{stem}.jpg")
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(root / f"masks/{stem}.png")
    ClassTable(("thing",), default_colors(1), ((0,),)).to_yaml(root / "classes.yaml")
    return root


def write(root: Path, name: str, text: str, encoding: str = "utf-8") -> None:
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_bytes(text.encode(encoding))


def stems(opened: Dataset) -> dict[str, list[str]]:
    return {name: [item.name for item in items] for name, items in opened.splits.items()}


WANTED = {"train": list(TRAIN), "val": list(VAL)}
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
        ("splits/train.yaml", "- a", r"\.csv"),
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


def test_a_split_answers_to_its_other_names(tmp_path):
    dataset(tmp_path)
    write(tmp_path, "splits/train.txt", "a\n")
    write(tmp_path, "splits/valid.txt", "d\n")
    opened = open_dataset(tmp_path)
    assert opened.split("valid") == opened.split("val") == opened.split("validation")


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
    with pytest.raises(AtrousError, match="name the pictures' column 'image'"):
        open_dataset(tmp_path)
