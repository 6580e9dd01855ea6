"""Splits told by JSON, JSON Lines, YAML and TOML: read, or refused with what to write, and never merged or guessed."""

import json
from pathlib import Path

import pytest
from tests.data.split_files import BY_SPLIT, TRAIN, VAL, WANTED, dataset, stems, write

from atrous.data.open_dataset import open_dataset
from atrous.errors import AtrousError


def _records(train: str, val: str, **more: object) -> list[dict[str, object]]:
    told = [(s, train) for s in TRAIN] + [(s, val) for s in VAL]
    return [{"file_name": f"{s}.jpg", "width": 4, "split": name, **more} for s, name in told]


# what tells a split and is named like no list
RECORDS = {
    "records": ("dataset.json", _records("train", "val", label="cat")),
    "records in capitals": ("data.json", _records("Training", "Validation")),
    "records under a key": ("annotations.json", {"version": 1, "data": _records("train", "valid")}),
    "COCO": (
        "annotations.json",
        {
            "info": {"description": "train"},
            "images": _records("train", "val"),
            "annotations": [{"id": 7, "image_id": 1, "segmentation": [[0, 0, 1, 1, 1, 0]]}],
            "categories": [{"id": 1, "name": "thing"}],
        },
    ),
    "by split": ("metadata.json", BY_SPLIT),
    "by split among settings": ("config.json", {"seed": 1, "classes": ["thing"], "splits": BY_SPLIT}),
    "by split and kind": ("data.json", {f"{name}_images": part for name, part in BY_SPLIT.items()}),
    "by split, of records": ("x.json", {k: {"images": [{"path": p} for p in part]} for k, part in BY_SPLIT.items()}),
    "records of splits": ("parts.json", [{"split": name, "images": part} for name, part in BY_SPLIT.items()]),
    "by picture": ("info.json", {f"{s}.jpg": {"split": "train"} for s in TRAIN} | {"d.jpg": {"split": "val", "x": 3}}),
    "by picture alone": ("where.json", dict.fromkeys(TRAIN, "train") | {"d": "val"}),
    "fastai": ("labels.json", [{"name": f"{s}.jpg", "is_valid": s in VAL} for s in (*TRAIN, *VAL)]),
    "tags": (
        "samples.json",
        {"samples": [{"filepath": f"/x/{s}.jpg", "tags": ["val" if s in VAL else "train"]} for s in (*TRAIN, *VAL)]},
    ),
    "datumaro": (
        "default.json",
        {
            "items": [
                {"id": s, "image": {"path": f"{s}.jpg"}, "attr": {}, "subset": "val" if s in VAL else "train"}
                for s in (*TRAIN, *VAL)
            ]
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("suffix", [".json", ".yaml", ".jsonl", ".yml"])
@pytest.mark.parametrize("form", RECORDS)
def test_records_that_tell_a_split_are_read_under_any_name(tmp_path, form, suffix):
    dataset(tmp_path)
    name, content = RECORDS[form]
    if suffix == ".jsonl":
        lines = content if isinstance(content, list) else [content]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    else:
        text = json.dumps(content, indent=1 if suffix == ".json" else None)  # which is YAML, too
    write(tmp_path, Path(name).stem + suffix, text)
    opened = open_dataset(tmp_path)
    assert stems(opened) == WANTED
    assert all(item.image.exists() and item.mask for items in opened.splits.values() for item in items)


@pytest.mark.parametrize("form", RECORDS)
def test_records_in_a_folder_where_no_list_is_looked_for_are_refused(tmp_path, form):
    dataset(tmp_path)
    name, content = RECORDS[form]
    write(tmp_path, f"meta/{name}", json.dumps(content))
    with pytest.raises(AtrousError, match=rf"{name} assigns pictures to splits.*Move it to .*splits\.json"):
        open_dataset(tmp_path)


REFUSED_RECORDS = {
    "folds": ("folds_of_5.json", [{"image": "a.jpg", "fold": 0}, {"image": "d.jpg", "fold": 1}], "'fold 0' is unknown"),
    "other names": ("data.json", [{"image": "a.jpg", "split": "north"}, {"image": "d.jpg", "split": "south"}], "north"),
    "trained or not": ("data.json", [{"image": "a.jpg", "is_train": True}], "write train, val or test"),
    "nnU-Net's folds": ("five.json", [{"train": ["a", "d"], "val": ["e"]}, {"train": ["e"], "val": ["a"]}], "fold 0"),
}  # fmt: skip


@pytest.mark.parametrize("form", REFUSED_RECORDS)
def test_records_whose_splits_are_no_train_val_and_test_are_refused(tmp_path, form):
    dataset(tmp_path)
    name, content, told = REFUSED_RECORDS[form]
    write(tmp_path, name, json.dumps(content))
    with pytest.raises(AtrousError, match=f"{name}.*{told}"):
        open_dataset(tmp_path)


NO_SPLITS = {
    "settings": ("config.yaml", "data:\n  train: images\n  val: images\n  names: [a, b]\n"),
    "YOLO": ("data.yaml", "train: images/train\nval: images/val\nnc: 1\nnames: [thing]\n"),
    "Hugging Face": ("dataset_infos.json", '{"splits": {"train": {"name": "train", "num_examples": 5}}}'),
    "no split": ("annotations.json", json.dumps({"images": [{"file_name": "a.jpg"}], "annotations": []})),
    "a phase": ("data.json", '[{"image": "a.jpg", "phase": "venous"}, {"image": "d.jpg", "phase": "late"}]'),
    "other pictures": ("data.json", '{"train": ["x.jpg"], "val": ["y.jpg"]}'),
    "damaged": ("data.json", '{"images": ['),
    "deep": ("data.json", '{"train":' * 900 + '["a.jpg"]' + "}" * 900),
    "deep lists": ("data.json", "[" * 900 + "]" * 900),
    "classes": ("data.json", '{"a.jpg": "train", "d.jpg": "car"}'),
    "losses": ("curve.json", '{"train": [0.5, 0.25], "val": [0.75, 0.5]}'),
    "sizes": ("data.json", '{"train": [512, 512], "val": [512, 512]}'),
    "captions": ("captions.json", '{"a.jpg": "a train in the valley", "d.jpg": "a test"}'),
}


@pytest.mark.parametrize("form", NO_SPLITS)
def test_records_that_tell_no_split_are_passed_over(tmp_path, form):
    dataset(tmp_path)
    write(tmp_path, *NO_SPLITS[form])
    assert any("no split lists" in note for note in open_dataset(tmp_path).notes)


def test_records_that_call_every_picture_training_are_said(tmp_path):
    dataset(tmp_path)
    write(tmp_path, "dataset.json", json.dumps({"training": [{"image": f"./{s}.jpg"} for s in (*TRAIN, *VAL, "e")]}))
    opened = open_dataset(tmp_path)
    assert opened.splits.keys() == {"train", "val"}
    assert any("dataset.json assigns every picture to training" in note for note in opened.notes)


def test_splits_in_a_file_named_as_results_are_said(tmp_path):
    dataset(tmp_path)
    write(tmp_path, "results.json", json.dumps(BY_SPLIT))
    assert any("results.json assigns pictures to splits but is not read" in n for n in open_dataset(tmp_path).notes)


UNREAD_RECORDS = {
    "columns": {"image": ["a.jpg", "d.jpg"], "split": ["train", "val"]},
    "columns of pandas": {"image": {"0": "a.jpg", "1": "d.jpg"}, "split": {"0": "train", "1": "val"}},
    "a table": {"columns": ["image", "split"], "data": [["a.jpg", "train"], ["d.jpg", "val"]]},
    "pairs": [["a.jpg", "train"], ["d.jpg", "test"]],
    "numbers": {"train": [0, 1, 2], "val": [3, 4]},
    "numbered records": [{"id": 0, "split": "train"}, {"id": 1, "split": "val"}],
    "another name": {"train": ["a.jpg"], "eval": ["d.jpg"]},
}


@pytest.mark.parametrize("form", UNREAD_RECORDS)
def test_records_in_forms_that_are_not_read_are_refused(tmp_path, form):
    dataset(tmp_path)
    write(tmp_path, "metadata.json", json.dumps(UNREAD_RECORDS[form]))
    with pytest.raises(AtrousError, match=r"metadata\.json"):
        open_dataset(tmp_path)


def test_damaged_records_that_state_splits_are_refused(tmp_path):
    dataset(tmp_path)
    write(tmp_path, "metadata.json", '[{"image": "a.jpg", "split": "train"}, {"image": "d.jpg", "split": "val"')
    with pytest.raises(AtrousError, match=r"metadata\.json names pictures and seems to define their split"):
        open_dataset(tmp_path)


def test_splits_in_a_text_that_is_not_read_are_refused(tmp_path):
    dataset(tmp_path)
    text = '<annotations><image name="a.jpg" subset="Train"/><image name="d.jpg" subset="Validation"/></annotations>'
    write(tmp_path, "annotations.xml", text)
    with pytest.raises(AtrousError, match="seems to define their split"):
        open_dataset(tmp_path)


TOMLS = {
    "data.toml": '[[image]]\nname = "a.jpg"\nsplit = "train"\n[[image]]\nname = "d.jpg"\nsplit = "val"\n',
    "train.toml": 'train = ["a"]\nval = ["d"]\n',
    "splits/splits.toml": '[train]\nimages = ["a"]\n[val]\nimages = ["d"]\n',
}


@pytest.mark.parametrize("name", TOMLS)
def test_toml_is_read_as_records_are(tmp_path, name):
    dataset(tmp_path)
    write(tmp_path, name, TOMLS[name])
    assert stems(open_dataset(tmp_path)) == {"train": ["a"], "val": ["d"]}


def test_two_files_of_annotations_named_after_splits_are_refused(tmp_path):
    dataset(tmp_path)
    for name, part in {"train": TRAIN, "val": VAL}.items():
        images = [{"id": i, "file_name": f"{stem}.jpg"} for i, stem in enumerate(part)]
        write(tmp_path, f"annotations/instances_{name}2017.json", json.dumps({"images": images, "annotations": []}))
    with pytest.raises(AtrousError, match=r"instances_train2017\.json and .*instances_val2017\.json name pictures"):
        open_dataset(tmp_path)


FIRST, SECOND = {"train": list("abcd"), "val": list("ef")}, {"train": list("cdef"), "val": list("ab")}


def _listed(splits: dict[str, list[str]]) -> list[dict[str, str]]:
    return [{"image": f"{stem}.jpg", "split": name} for name, part in splits.items() for stem in part]


FOLDS = {
    "names": {"fold0": FIRST, "fold1": SECOND},
    "numbers": {"0": FIRST, "1": SECOND},
    "experiments": {"expA": FIRST, "expB": SECOND},
    "below a key": {"cv": {"seed": 1, "folds": {"one": FIRST, "two": SECOND}}},
    "splits below": {"one": {"splits": FIRST}, "two": {"splits": SECOND}},
    "numbered in a list": [{"fold": 0, **FIRST}, {"fold": 1, **SECOND}],
    "a list": [FIRST, SECOND],
    "named in a list": [{"title": "x", "splits": FIRST}, {"title": "y", "splits": SECOND}],
    "records": {"one": _listed(FIRST), "two": _listed(SECOND)},
    "records and keys": {"images": _listed(FIRST), "splits": SECOND},
    "one split differs": {"one": {"val": ["a"]}, "two": {"val": ["b"]}},
}


@pytest.mark.parametrize("suffix", [".json", ".yaml"])
@pytest.mark.parametrize("form", FOLDS)
def test_parts_that_tell_the_splits_differently_are_folds(tmp_path, form, suffix):
    dataset(tmp_path, tuple("abcdef"))
    write(tmp_path, f"cv{suffix}", json.dumps(FOLDS[form]))
    with pytest.raises(
        AtrousError, match=r"each define all splits, as folds do\. Write only one of them.*splits\.json"
    ):
        open_dataset(tmp_path)


MERGED = {
    "pictures and masks": {name: {k: [f"{s}.png" for s in v] for k, v in FIRST.items()} for name in ("image", "mask")},
    "keys of both": {f"{k}_{kind}": v for k, v in FIRST.items() for kind in ("images", "masks")},
    "images beside": {"images": [f"{s}.jpg" for s in "abcdef"], **FIRST},
    "COCO beside": {"images": [{"id": 1, "file_name": f"{s}.jpg"} for s in "abcdef"], "splits": FIRST},
    "one text": {k: " ".join(v) for k, v in FIRST.items()},
    "one text with commas": {k: ", ".join(f"{s}.jpg" for s in v) for k, v in FIRST.items()},
}


@pytest.mark.parametrize("form", MERGED)
def test_what_else_tells_the_splits_once_is_read(tmp_path, form):
    dataset(tmp_path, tuple("abcdef"))
    write(tmp_path, "cv.json", json.dumps(MERGED[form]))
    assert stems(open_dataset(tmp_path)) == FIRST


PARTED = {
    "a flag in records": [{"image": f"{s}.jpg", "train": s in "abcd"} for s in "abcdef"],
    "a number in records": [{"image": f"{s}.jpg", "val": int(s in "ef")} for s in "abcdef"],
    "a text in records": [{"image": f"{s}.jpg", "test": str(s in "ef")} for s in "abcdef"],
    "a number each": {f"{s}.jpg": int(s in "ef") for s in "abcdef"},
    "a flag each": {f"{s}.jpg": s in "ef" for s in "abcdef"},
    "a flag each, below": {"usage": {f"{s}.jpg": s in "ef" for s in "abcdef"}},
    "a digit each": {f"{s}.jpg": str(int(s in "ef")) for s in "abcdef"},
    "a word each": {f"{s}.jpg": "unlabeled" if s in "ef" else "labeled" for s in "abcdef"},
    "tr or va each": {f"{s}.jpg": "va" if s in "ef" else "tr" for s in "abcdef"},
    "numbers": {"train_idx": [0, 1, 2, 3], "val_idx": [4, 5]},
    "a column of flags": {"image": [f"{s}.jpg" for s in "abcdef"], "train": [s in "abcd" for s in "abcdef"]},
    "a column of pandas": {"image": {"0": "a.jpg", "1": "e.jpg"}, "val": {"0": 0, "1": 1}},
    "a table": {"columns": ["image", "is_test"], "data": [["a.jpg", False], ["e.jpg", True]]},
    "X_train": {"X_train": list("abcd"), "X_val": list("ef")},
    "tr and va": {"tr": list("abcd"), "va": list("ef")},
    "trn and tst": {"trn": list("abcd"), "tst": list("ef")},
    "labelled or not": {"labeled": list("abcd"), "unlabeled": list("ef")},
    "a split in two": {"train_labeled": ["a"], "train_unlabeled": list("bcd"), "val": list("ef")},
    "a fold in the key": {"train_fold0": list("abcd"), "val_fold0": list("ef")},
    "lists of lists": [list("abcd"), list("ef")],
    "numbered lists": {"0": list("abcd"), "1": list("ef")},
    "numbers of COCO": {"images": [{"id": i, "file_name": f"{s}.jpg"} for i, s in enumerate("abcdef")],
                        "splits": {"train": [0, 1, 2, 3], "val": [4, 5]}},
}  # fmt: skip


@pytest.mark.parametrize("name", ["cv.json", "splits.json", "cv.yaml"])
@pytest.mark.parametrize("form", PARTED)
def test_pictures_parted_in_another_form_are_refused(tmp_path, form, name):
    dataset(tmp_path, tuple("abcdef"))
    write(tmp_path, name, json.dumps(PARTED[form]))
    with pytest.raises(AtrousError, match=rf"{name}.*(write|Write)"):
        open_dataset(tmp_path)


NO_PARTS = {
    "classes": {"cats": list("abcd"), "dogs": list("ef")},
    "counts": {f"{s}.jpg": 17 * i for i, s in enumerate("abcdef")},
    "pairs": [[f"images/{s}.jpg", f"masks/{s}.png"] for s in "abcdef"],
    "scores": {f"{s}.jpg": 0.5 for s in "abcdef"},
}


@pytest.mark.parametrize("form", NO_PARTS)
def test_other_things_told_of_pictures_are_passed_over(tmp_path, form):
    dataset(tmp_path, tuple("abcdef"))
    write(tmp_path, "about.json", json.dumps(NO_PARTS[form]))
    assert any("no split lists" in note for note in open_dataset(tmp_path).notes)


def test_numbers_in_a_file_of_classes_are_classes(tmp_path):
    dataset(tmp_path, tuple("abcdef"))
    write(tmp_path, "labels.json", json.dumps({f"{s}.jpg": int(s in "ef") for s in "abcdef"}))
    assert any("no split lists" in note for note in open_dataset(tmp_path).notes)
