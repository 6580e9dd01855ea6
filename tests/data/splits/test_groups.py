"""Groups of pictures: told by groups.csv, by a pattern, by the layout; kept whole by a split that a seed makes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atrous.data.class_colors import default_colors
from atrous.data.dataset import Item
from atrous.data.mask_value_map import ClassTable
from atrous.data.open_dataset import open_dataset
from atrous.data.splits.groups import find_groups
from atrous.data.splits.random_split import seeded_split
from atrous.errors import AtrousError

BINARY = ClassTable(("background", "thing"), default_colors(2), ((0,), (1,)), (255,))
PATIENTS = [f"patient{patient:02}_slice{index:02}" for patient in range(8) for index in range(5)]


def write(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 6), value, np.uint8)).save(path)


def folder(root: Path, names=PATIENTS) -> Path:
    for index, name in enumerate(names):
        write(root / f"images/{name}.png", index)
        write(root / f"masks/{name}.png", index % 2)
    BINARY.to_yaml(root / "classes.yaml")
    return root


def groups(dataset) -> dict[str, str | None]:
    return {item.name: item.group for items in dataset.splits.values() for item in items}


def split_names(dataset) -> dict[str, list[str]]:
    return {split: [item.name for item in items] for split, items in dataset.splits.items()}


def table(names, of=lambda name: name.partition("_")[0], suffix="", sep=",") -> str:
    return "".join(f"{name}{suffix}{sep}{of(name)}\n" for name in names)


TOLD = {name: name.partition("_")[0] for name in PATIENTS}


@pytest.mark.parametrize(
    "content",
    [
        "picture,group\n" + table(PATIENTS),
        table(PATIENTS),  # without a head
        "image;patient_id\n" + table(PATIENTS, suffix=".png", sep=";"),
        "picture\tgroup\n" + table(PATIENTS, sep="\t"),
        "file_name,mask,group\n" + "".join(f"images/{n}.png,masks/{n}.png,{TOLD[n]}\n" for n in PATIENTS),
        "group,picture\n" + "".join(f"{TOLD[n]},{n}.jpg\n" for n in PATIENTS),
        "# who is who\r\nPicture,Group\r\n\r\n" + table(PATIENTS).replace("\n", "\r\n"),
        "bild,gruppe\n" + table(PATIENTS),
        "".join(f"{name} {TOLD[name]}\n" for name in PATIENTS),
        "".join(f'"C:\\data\\images\\{name}.png","{TOLD[name]}"\n' for name in PATIENTS),
        "picture,group\n" + table([*PATIENTS, "not_there"]),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_table_of_groups_is_read_in_any_form(tmp_path, content, encoding):
    folder(tmp_path)
    (tmp_path / "groups.csv").write_bytes(content.encode(encoding))
    dataset = open_dataset(tmp_path)
    assert groups(dataset) == TOLD
    assert dataset.groups_from == "file"
    assert any("40 pictures in 8 groups" in note for note in dataset.notes)
    assert any("'not_there'" in note for note in dataset.notes) == ("not_there" in content)


def test_names_in_an_old_encoding_are_recognised(tmp_path):
    names = ["Müller_1", "Müller_2", "Jäger_1", "Jäger_2"]
    folder(tmp_path, names)
    (tmp_path / "groups.csv").write_bytes(("picture,group\n" + table(names)).encode("cp1252"))
    assert groups(open_dataset(tmp_path)) == {name: name[:-2] for name in names}


def test_numbers_may_name_pictures_and_groups(tmp_path):
    names = [str(number) for number in range(1, 13)]
    folder(tmp_path, names)
    (tmp_path / "groups.csv").write_text(table(names, lambda name: str((int(name) - 1) // 3 + 1)))
    assert groups(open_dataset(tmp_path)) == {name: str((int(name) - 1) // 3 + 1) for name in names}


def test_a_picture_without_a_group_is_alone(tmp_path):
    folder(tmp_path)
    content = table(PATIENTS).replace("slice00,patient00", "slice00,")
    (tmp_path / "groups.csv").write_text(content)
    dataset = open_dataset(tmp_path)
    assert groups(dataset) == TOLD | {"patient00_slice00": None}
    assert any("39 pictures in 8 groups, and 1 picture in no group" in note for note in dataset.notes)


def test_pictures_of_one_name_are_told_apart_by_their_paths(tmp_path):
    for split in ("train", "val"):
        for name in ("a", "b"):
            write(tmp_path / f"{split}/images/{name}.png", 1)
            write(tmp_path / f"{split}/masks/{name}.png", 1)
    BINARY.to_yaml(tmp_path / "classes.yaml")
    (tmp_path / "groups.csv").write_text("picture,group\na,1\nb,2\n")
    with pytest.raises(AtrousError, match=r"'a' matches 2 pictures.*such as 'train/images/a.png'"):
        open_dataset(tmp_path)
    rows = [f"{split}/images/{name},{split[0]}{name}" for split in ("train", "val") for name in ("a", "b")]
    (tmp_path / "groups.csv").write_text("picture,group\n" + "\n".join(rows))
    dataset = open_dataset(tmp_path)
    assert [item.group for split in ("train", "val") for item in dataset.split(split)] == ["ta", "tb", "va", "vb"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty.*picture,group"),
        ("picture,group\n", "no group for 40 of 40 pictures, such as 'patient00_slice00'"),
        ("\n".join(PATIENTS), "one column.*columns picture and group"),
        (table(PATIENTS[1:]), "no group for 1 of 40 pictures, such as 'patient00_slice00'.*Add a line"),
        (table(PATIENTS) + "patient00_slice00,other", "in the groups 'patient00' and 'other'.*remove one of the lines"),
        ("".join(f"{n},1,{TOLD[n]}\n" for n in PATIENTS), "unclear which of them is the group"),
        ("picture,patient,scan\n" + "".join(f"{n},{TOLD[n]},{n}\n" for n in PATIENTS), "which of them is the group"),
        (table(["x1", "x2"]), "'x1', which is not a picture of this dataset"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path, content, said):
    folder(tmp_path)
    (tmp_path / "groups.csv").write_text(content)
    with pytest.raises(AtrousError, match=said) as refusal:
        open_dataset(tmp_path)
    assert str(tmp_path / "groups.csv") in str(refusal.value)


def test_two_tables_are_refused_and_other_kinds_of_files_are_named(tmp_path):
    folder(tmp_path)
    (tmp_path / "groups.xlsx").write_bytes(b"PK")
    dataset = open_dataset(tmp_path)
    assert set(groups(dataset).values()) == {None}
    assert any("groups.xlsx is not read" in note and "groups.csv" in note for note in dataset.notes)
    (tmp_path / "groups.csv").write_text(table(PATIENTS))
    (tmp_path / "Groups.tsv").write_text(table(PATIENTS, sep="\t"))
    with pytest.raises(AtrousError, match="both define the groups"):
        open_dataset(tmp_path)


def test_a_pattern_tells_groups_and_a_table_comes_first(tmp_path):
    folder(tmp_path)
    dataset = open_dataset(tmp_path, groups=r"^(patient\d+)_")
    assert (groups(dataset), dataset.groups_from) == (TOLD, "pattern")
    (tmp_path / "groups.csv").write_text(table(PATIENTS, lambda name: name[-2:]))
    dataset = open_dataset(tmp_path, groups=r"^(patient\d+)_")
    assert (groups(dataset)["patient03_slice02"], dataset.groups_from) == ("02", "file")
    assert any("is not used, because groups.csv defines" in note for note in dataset.notes)


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("(", "not a regular expression"),
        (r"patient\d+", "0 groups in brackets; it needs one"),
        (r"(patient)(\d+)", "2 groups in brackets.*Write brackets that mark no group as \\(\\?:"),
        (r"^(patient0\d)_slice0[1-4]", "finds no group in 8 of 40 names, such as 'patient00_slice00'"),
        (r"^(x?)", "finds no group in 40 of 40 names"),
    ],
)
def test_a_wrong_pattern_is_refused(tmp_path, pattern, said):
    with pytest.raises(AtrousError, match=said):
        open_dataset(folder(tmp_path), groups=pattern)


def test_without_groups_nothing_changes(tmp_path):
    folder(tmp_path)
    plain = open_dataset(tmp_path)
    items = [Item(name, tmp_path / f"images/{name}.png", tmp_path / f"masks/{name}.png") for name in PATIENTS]
    assert dict(plain.splits) == seeded_split(items)[0]
    assert set(groups(plain).values()) == {None}
    val = ["patient00_slice00", "patient02_slice02", "patient04_slice01", "patient05_slice02"]
    assert split_names(plain)["val"] == val  # as it always was


def test_a_made_split_keeps_groups_whole(tmp_path):
    folder(tmp_path)
    for source in ("pattern", "file"):
        pattern = r"^(patient\d+)_" if source == "pattern" else None
        if source == "file":
            (tmp_path / "groups.csv").write_text(table(PATIENTS))
        dataset = open_dataset(tmp_path, groups=pattern)
        of = {split: {item.group for item in items} for split, items in dataset.splits.items()}
        assert list(of) == ["train", "val", "test"]
        assert sum(map(len, of.values())) == 8 == len(set.union(*of.values()))
        assert {name: len(items) for name, items in dataset.splits.items()} == {"train": 30, "val": 5, "test": 5}
        assert sum("split 80/10/10" in note for note in dataset.notes) == 1
        assert any(
            "by whole groups with seed 0: train 30 (6 groups), val 5 (1 group)" in note for note in dataset.notes
        )
        assert dataset == open_dataset(tmp_path, groups=pattern)


@pytest.mark.parametrize("sizes", [(3,), (5, 5), (90, 5, 5), (1, 1, 1, 1, 50), (10,) * 10, (1,) * 40, (7, 3, 9, 2, 30)])
def test_whole_groups_are_dealt_whatever_their_sizes(sizes):
    items = [
        Item(f"{group}_{index}", Path(f"{group}_{index}"), None, group=str(group))
        for group, size in enumerate(sizes)
        for index in range(size)
    ]
    splits, note = seeded_split(items)
    assert splits["train"]
    assert sorted(item.name for part in splits.values() for item in part) == sorted(item.name for item in items)
    if len(sizes) == 1:
        assert "in one group" in note
        return
    of = [{item.group for item in part} for part in splits.values()]
    assert sum(map(len, of)) == len(sizes)  # no group is in two
    assert splits["val"]
    assert ("test" in splits) == (len(sizes) >= 5)
    assert len(splits["val"]) <= max(len(items) // 10, min(sizes))


def test_listed_splits_stay_and_get_groups(tmp_path):
    folder(tmp_path)
    for split, names in {"train": PATIENTS[:30], "val": PATIENTS[28:]}.items():
        (tmp_path / "splits").mkdir(exist_ok=True)
        (tmp_path / f"splits/{split}.txt").write_text("\n".join(names) + "\nmissing")
    before = split_names(open_dataset(tmp_path))
    dataset = open_dataset(tmp_path, groups=r"^(patient\d+)_")
    assert split_names(dataset) == before
    assert groups(dataset) == TOLD | {"missing": None}


def test_camvid_cityscapes_and_nnunet_tell_groups(tmp_path):
    camvid = tmp_path / "camvid"
    for split, names in {
        "train": ["0001TP_006690", "0006R0_f00930"],
        "val": ["Seq05VD_f00000", "0016E5_00390"],
    }.items():
        for name in names:
            write(camvid / f"{split}/{name}.png")
            write(camvid / f"{split}annot/{name}.png")
    dataset = open_dataset(camvid)
    assert list(groups(dataset).values()) == ["0001TP", "0006R0", "0016E5", "Seq05VD"]
    assert any("4 groups" in note and "recording" in note for note in dataset.notes)
    write(camvid / "val/other.png")
    write(camvid / "valannot/other.png")
    assert set(groups(open_dataset(camvid)).values()) == {None}  # not the published set

    city = tmp_path / "city"
    for split, frames in {
        "train": ["aachen_000000_000019", "aachen_000001_000019"],
        "val": ["lindau_000000_000019"],
    }.items():
        for frame in frames:
            place = f"{split}/{frame.split('_')[0]}/{frame}"
            write(city / f"leftImg8bit/{place}_leftImg8bit.png")
            write(city / f"gtFine/{place}_gtFine_labelIds.png", 7)
    assert list(groups(open_dataset(city)).values()) == ["aachen_000000", "aachen_000001", "lindau_000000"]

    cases = tmp_path / "nnunet"
    for index in range(12):
        write(cases / f"imagesTr/case_{index:03}_0000.png")
        write(cases / f"labelsTr/case_{index:03}.png")
    BINARY.to_yaml(cases / "classes.yaml")
    told = open_dataset(cases)
    assert groups(told) == {name: name for name in groups(told)}
    assert {name: len(items) for name, items in told.splits.items()} == {"train": 10, "val": 1, "test": 1}
    assert not any("by whole groups" in note for note in told.notes)  # the layout's groups change no split


def test_nnunet_keeps_its_own_test_split_with_groups(tmp_path):
    for part, number in (("Tr", 30), ("Ts", 4)):
        for index in range(number):
            name = f"{part}{index // 5}_{index}"
            write(tmp_path / f"images{part}/{name}_0000.png")
            write(tmp_path / f"labels{part}/{name}.png")
    BINARY.to_yaml(tmp_path / "classes.yaml")
    dataset = open_dataset(tmp_path, groups=r"^(.+)_")
    assert {item.group for item in dataset.split("test")} == {"Ts0"}
    train, val = ({item.group for item in dataset.split(name)} for name in ("train", "val"))
    assert train | val == {f"Tr{index}" for index in range(6)} and not train & val
    assert sum(map(len, dataset.splits.values())) == 34


def test_folders_of_scenes_are_groups():
    root = Path("/data")
    paths = [
        root / f"images/{split}/{scene}/{index}.png"
        for split, scene in (("train", "s1"), ("train", "s2"), ("val", "s3"))
        for index in range(2)
    ]
    found = find_groups({path: path.stem for path in paths}, Path(__file__).parent, "folder")
    assert found.source == "layout"
    flat = [root / f"images/{split}/{index}.png" for split in ("train", "val") for index in range(2)]
    assert find_groups({path: path.stem for path in flat}, Path(__file__).parent, "split_folders").source == ""


def test_the_table_may_lie_beside_the_year_of_voc(tmp_path):
    year = tmp_path / "VOCdevkit/VOC2012"
    for name in PATIENTS:
        write(year / f"JPEGImages/{name}.png")
        write(year / f"SegmentationClass/{name}.png")
    (tmp_path / "groups.csv").write_text(table(PATIENTS))
    dataset = open_dataset(tmp_path)
    assert (dataset.layout, dataset.groups_from) == ("voc", "file")
    parts = [{item.group for item in items} for items in dataset.splits.values()]
    assert sum(map(len, parts)) == 8


def test_a_table_with_splits_and_groups_tells_both(tmp_path):
    folder(tmp_path)
    lines = [f"{name},{TOLD[name]},{'val' if name < 'patient02' else 'train'}" for name in PATIENTS]
    (tmp_path / "groups.csv").write_text("image,patient,split\n" + "\n".join(lines))
    dataset = open_dataset(tmp_path)
    assert groups(dataset) == TOLD
    assert [len(dataset.split(name)) for name in ("train", "val")] == [30, 10]
