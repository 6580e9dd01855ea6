"""The doctor warns where two splits share patients, scenes or recordings, and writes a split that does not."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atrous.cli import main
from atrous.commands.doctor import doctor
from atrous.data.class_colors import default_colors
from atrous.data.doctor.examine import examine
from atrous.data.mask_value_map import ClassTable
from atrous.data.open_dataset import open_dataset
from atrous.data.splits.group_name_patterns import groups_in_names, recognised_pattern
from atrous.errors import AtrousError

BINARY = ClassTable(("background", "thing"), default_colors(2), ((0,), (1,)), (255,))


def names(form: str, *counts: int) -> list[str]:
    return [form.format(*np.unravel_index(index, counts)) for index in range(int(np.prod(counts)))]


@pytest.mark.parametrize(
    ("given", "groups"),
    [
        (names("patient{:02}_slice{:02}", 4, 5), {f"patient{index:02}" for index in range(4)}),
        (names("sub-{:02}_ses-{:02}_slice-{:03}", 3, 2, 3), {f"sub-{index:02}" for index in range(3)}),
        (names("site{}_patient{}_{}", 2, 3, 4), {f"site{a}_patient{b}" for a in range(2) for b in range(3)}),
        (names("seq_{:04}_{:06}", 3, 5), {f"seq_{index:04}" for index in range(3)}),
        (names("{:04}TP_f{:05}", 3, 5), {f"{index:04}TP" for index in range(3)}),
        ([f"{clip}_{index:04}" for clip in ("clip_a", "clip_b") for index in range(4)], {"clip_a", "clip_b"}),
        ([f"{clip}_{index:04}" for clip in ("clipA", "clipB") for index in range(4)], {"clipA", "clipB"}),
        ([f"{place}_frame_{index}" for place in ("walk", "run") for index in range(4)], {"walk", "run"}),
        ([f"{place}_x{x}_y{y}" for place in ("lake", "hill") for x in range(2) for y in range(3)], {"lake", "hill"}),
        (names("ortho{}_{:03}", 3, 9), {f"ortho{index}" for index in range(3)}),
        (names("P{:02}-{:03}_left", 3, 9), {f"P{index:02}" for index in range(3)}),
        ([f"{city}_{index:06}_leftImg8bit" for city in ("ulm_0", "bonn_1") for index in range(4)], {"ulm_0", "bonn_1"}),
        (names("DRIVE{:02}.{}", 4, 3), {f"DRIVE{index:02}" for index in range(4)}),
    ],
)
def test_names_that_tell_patients_scenes_and_recordings(given, groups):
    found = groups_in_names(given)
    assert set(found.values()) == groups
    assert found.keys() == set(given)


@pytest.mark.parametrize(
    "given",
    [
        names("img_{:04}", 50),
        names("{:06}", 50),
        names("case_{:03}", 50),
        names("patient{}", 50),
        names("frame_{:04}", 50),
        [f"{kind}_{index:03}" for kind in ("cat", "dog") for index in range(9)],
        [f"{kind}.{index}" for kind in ("cat", "dog") for index in range(9)],
        [f"{split}_{index}" for split in ("train", "val", "test") for index in range(9)],
        [f"{year}_{index:06}" for year in (2007, 2008, 2009) for index in range(9)],
        names("path_{:02}", 20),
        [f"{word}_{index}" for word in ("lock", "rect") for index in range(9)],
        ["a", "b", "c"],
        [],
        names("e{:x}f{:x}", 3, 1),
    ],
)
def test_names_that_tell_nothing(given):
    assert recognised_pattern(given) is None


def test_the_pattern_that_is_proposed_is_short():
    assert recognised_pattern(names("seq_{:04}_{:06}", 3, 5)) == r"^(.+)_\d+$"
    assert recognised_pattern(names("patient{:02}_slice{:02}", 4, 5)) == r"(patient\d+)"
    assert recognised_pattern(names("site{}_patient{}_a{}", 2, 3, 4)) == r"^(.*?patient\d+)"


def dataset(root: Path, given: list[str], splits: dict[str, list[str]] | None = None, alike: bool = False) -> Path:
    """Pictures of noise, each another; or every two pictures in turn nearly alike."""
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    for index, name in enumerate(given):
        noise = np.random.default_rng(index // 2 if alike else index).integers(0, 255, (16, 16, 3))
        image = np.kron(noise, np.ones((3, 3, 1))) + index % 2
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(root / f"images/{name}.png")
        mask = np.zeros((48, 48), np.uint8)
        mask[10:30] = 1
        Image.fromarray(mask).save(root / f"masks/{name}.png")
    for split, part in (splits or {}).items():
        (root / "splits").mkdir(exist_ok=True)
        (root / f"splits/{split}.txt").write_text("\n".join(part))
    BINARY.to_yaml(root / "classes.yaml")
    return root


def found(root: Path, kind: str, **options):
    return [finding for finding in examine(root, **options).warnings if finding.kind == kind]


PATIENTS = names("patient{:02}_slice{:02}", 6, 4)


def test_a_listed_split_that_shares_patients_is_warned_of(tmp_path):
    dataset(tmp_path, PATIENTS, {"train": PATIENTS[:18], "val": PATIENTS[18:]})
    (finding,) = found(tmp_path, "shared_group")
    assert finding.examples == ("'patient04': 2 pictures in train, 2 in val",)
    assert "by their names" in finding.message and "--groups '" in finding.message
    assert "Move the split lists to another folder" in finding.message
    assert examine(tmp_path).proposed_split == {}
    pattern = finding.message.split("--groups '")[1].split("'.")[0]
    (told,) = found(tmp_path, "shared_group", groups=pattern)  # the pattern in the message is one that works
    assert told.examples == finding.examples and "according to the pattern of groups" in told.message


def test_a_split_between_patients_is_clean(tmp_path):
    dataset(tmp_path, PATIENTS, {"train": PATIENTS[:16], "val": PATIENTS[16:20], "test": PATIENTS[20:]})
    assert not found(tmp_path, "shared_group")
    diagnosis = examine(tmp_path)
    assert not diagnosis.proposes_split and diagnosis.as_json()["proposed_split"] is None


def test_told_groups_that_two_splits_share_are_warned_of(tmp_path):
    given = names("{:03}", 20)
    dataset(tmp_path, given, {"train": given[:14], "val": given[14:], "trainval": given})
    (tmp_path / "groups.csv").write_text(
        "picture,group\n" + "".join(f"{name},lake {int(name) // 5}\n" for name in given)
    )
    (finding,) = found(tmp_path, "shared_group")
    assert "according to groups.csv" in finding.message
    assert finding.examples == ("'lake 2': 4 pictures in train, 1 in val",)


def test_a_recording_that_camvids_folders_share_is_warned_of(tmp_path):
    for split, frames in {"train": (0, 30, 60), "val": (90, 120)}.items():
        for folder in (split, f"{split}annot"):
            (tmp_path / folder).mkdir()
        for frame in frames:
            pixels = np.random.default_rng(frame).integers(0, 11, (24, 24)).astype(np.uint8)
            Image.fromarray(pixels * 20).save(tmp_path / split / f"0016E5_{frame:05}.png")
            Image.fromarray(pixels).save(tmp_path / f"{split}annot" / f"0016E5_{frame:05}.png")
    (finding,) = found(tmp_path, "shared_group")
    assert "according to the layout" in finding.message and "Move all pictures of a group" in finding.message
    with pytest.raises(AtrousError, match="lists or folders define its split"):
        doctor(tmp_path, write_split=True)


@pytest.mark.parametrize("how", ["names", "pattern", "file"])
def test_write_split_writes_lists_that_share_no_patient(tmp_path, how, capsys):
    dataset(tmp_path, PATIENTS)
    words = ["--groups", r"^(patient\d+)"] if how == "pattern" else []
    if how == "file":
        (tmp_path / "groups.csv").write_text("".join(f"{name},{name[:9]}\n" for name in PATIENTS))
    assert bool(found(tmp_path, "shared_group")) == (how != "file")
    assert main(["doctor", str(tmp_path), *words]) == 0
    said = capsys.readouterr().out
    assert ("Proposed split (`--write-split` writes it): train 16, val 4, test 4" in said) == (how == "names")
    assert not (tmp_path / "splits").exists()
    assert main(["doctor", str(tmp_path), *words, "--write-split"]) == 0
    assert "Wrote split lists" in capsys.readouterr().out
    written = {path.stem: path.read_text().split() for path in (tmp_path / "splits").iterdir()}
    assert sorted(name for part in written.values() for name in part) == PATIENTS
    patients = [{name[:9] for name in part} for part in written.values()]
    assert sum(map(len, patients)) == 6
    opened = open_dataset(tmp_path)
    assert {name: [item.name for item in items] for name, items in opened.splits.items()} == written
    assert not found(tmp_path, "shared_group")
    before = {path: path.read_bytes() for path in (tmp_path / "splits").iterdir()}
    assert main(["doctor", str(tmp_path), *words, "--write-split"]) == 2  # never overwritten
    assert before == {path: path.read_bytes() for path in (tmp_path / "splits").iterdir()}


def test_near_copies_stay_together_in_a_written_split(tmp_path):
    given = names("{:03}", 40)  # 000 ≈ 001, 002 ≈ 003, …
    dataset(tmp_path, given, alike=True)
    assert found(tmp_path, "near_identical")
    assert doctor(tmp_path, write_split=True) == 0
    opened = open_dataset(tmp_path)
    of = {item.name: split for split, items in opened.splits.items() for item in items}
    assert all(of[given[index]] == of[given[index + 1]] for index in range(0, 40, 2))
    assert sorted(map(len, opened.splits.values())) == [4, 4, 32]
    assert not found(tmp_path, "near_identical")


def test_a_split_that_shares_nothing_is_written_as_it_is(tmp_path):
    dataset(tmp_path, names("{:03}", 20))
    before = {name: [item.name for item in items] for name, items in open_dataset(tmp_path).splits.items()}
    assert doctor(tmp_path, write_split=True) == 0
    assert {name: [item.name for item in items] for name, items in open_dataset(tmp_path).splits.items()} == before


def test_the_split_in_use_is_not_proposed(tmp_path, capsys):
    given = names("{:03}", 20)
    dataset(tmp_path, given)
    # no split can keep the pictures of the only group together
    (tmp_path / "groups.csv").write_text("".join(f"{name},patient\n" for name in given))
    assert found(tmp_path, "shared_group")
    assert not examine(tmp_path).proposes_split
    doctor(tmp_path)
    assert "Proposed split" not in capsys.readouterr().out


def test_a_long_pattern_is_not_shown(tmp_path):
    given = [*names("patient{:02}-{:02}", 3, 4), *names("Animal {:02} b{:02}", 3, 4)]
    dataset(tmp_path, given, {"train": given[:10], "val": given[10:]})
    (finding,) = found(tmp_path, "shared_group")
    assert "write a groups.csv." in finding.message and "(?" not in finding.message


def test_a_split_of_few_pictures_is_warned_of_as_in_train(tmp_path):
    given = names("{:03}", 6)
    dataset(tmp_path, given, {"train": given[:3], "val": given[3:]})
    assert not found(tmp_path, "few_pictures")
    (tmp_path / "splits/val.txt").write_text(given[3])
    (finding,) = found(tmp_path, "few_pictures")
    assert finding.message.startswith("The split 'val' has 1 picture: too few for a reliable score")
