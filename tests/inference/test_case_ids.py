"""Case ids in messages: no name of a volume stays in a message, and ordinary words stay."""

from pathlib import Path

import pytest

from atrous.data.dataset import Item
from atrous.errors import AtrousError, OutOfMemory
from atrous.inference.case_ids import case_ids_of, without_names
from atrous.inference.dataset_case_ids import DatasetCaseIds, dataset_case_ids, without_reasons


@pytest.fixture
def contrasts(tmp_path):
    """The place of a volume of three contrasts: a file, a link to a file of another name, and a missing file."""
    folder = tmp_path / "cases"
    folder.mkdir()
    (folder / "doe_john_0000.nii.gz").touch()
    (tmp_path / "archive_of_doe.nii.gz").touch()
    (folder / "doe_john_0001.nii.gz").symlink_to(tmp_path / "archive_of_doe.nii.gz")
    return folder / "doe_john_????.nii.gz"


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("whole", [True, False])
def test_no_file_of_a_contrast_is_named(contrasts, number, whole):
    file = contrasts.with_name(f"doe_john_{number:04d}.nii.gz")
    for one in {file, file.resolve()}:
        found = without_names(f"{one if whole else one.name}: it is damaged.", {contrasts: "case_0007"})
        assert "doe" not in found and found.startswith(f"case_0007_{number:04d}") and found.endswith(": it is damaged.")
    assert (
        without_names(f"{contrasts}: doe_john is large.", {contrasts: "case_0007"}) == "case_0007: case_0007 is large."
    )


@pytest.mark.parametrize("name", ["1", "12", "CT", "scan", "DICOM", "2024", "Doe_Jane", "Doe.Jane"])
def test_words_and_numbers_stay_and_names_do_not(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    ids = {folder: "case_0001"}
    text = "the DICOM scan 1 of 12 has 2024 values of CT"
    assert without_names(text, ids) == text
    for before, after in (
        (f"{folder}: {text}", f"case_0001: {text}"),
        (f"{folder}/slice.dcm: bad", "case_0001/slice.dcm: bad"),
        (f"{name} has one slice", "case_0001 has one slice"),
        (f"{name}: {text}", f"case_0001: {text}"),
        (f"no '{name}' here", "no 'case_0001' here"),
    ):
        assert without_names(before, ids) == after


def test_ids_that_are_also_names_are_not_replaced_twice(tmp_path):
    ids = {tmp_path / f"case_000{number}.nii.gz": f"case_000{3 - number}" for number in (1, 2)}
    text = f"{tmp_path}/case_0001.nii.gz and case_0002.nii.gz"
    assert without_names(text, ids) == "case_0002 and case_0001"


def test_a_volume_and_a_link_to_it_are_one_case(tmp_path, monkeypatch):
    (tmp_path / "a.nii.gz").touch()
    (tmp_path / "b.nii.gz").symlink_to(tmp_path / "a.nii.gz")
    monkeypatch.chdir(tmp_path)
    found = case_ids_of(tmp_path / "ids.csv", [Path("b.nii.gz"), tmp_path / "a.nii.gz", Path("c.nii.gz")])
    assert found == {tmp_path / "b.nii.gz": "case_0001", tmp_path / "c.nii.gz": "case_0002"}


@pytest.mark.parametrize(
    ("suffix", "key"), [(".mhd", "ElementDataFile = "), (".nhdr", "data file: "), (".nhdr", "datafile: ")]
)
@pytest.mark.parametrize("voxels", ["Poe_Ann.raw", "Roe_Jim.raw", "../Poe_Ann/Poe_Ann.raw", "smith.raw"])
def test_the_file_of_the_voxels_of_a_header_is_not_named(tmp_path, suffix, key, voxels):
    header = tmp_path / f"Roe_Jim{suffix}"
    header.write_text(f"{key}{voxels}\n")
    name = voxels.split("/")[-1]
    for text in (
        f"{tmp_path / name}: no such file",
        f"{name} has 3 bytes",
        f"it names {voxels!r}.",
        f"cannot open '{Path(name).stem}'.",
    ):
        found = without_names(text, {header: "case_0004"})
        assert not any(one in found for one in ("Roe", "Jim", "Poe", "Ann", "smith")) and "case_0004" in found, found


def of_one_volume(tmp_path: Path) -> DatasetCaseIds:
    volume = tmp_path / "data/images/Roe_Jim.nii.gz"
    mask = tmp_path / "data/masks/Roe_Jim.nii.gz"
    return dataset_case_ids(tmp_path / "ids.csv", [Item("Roe_Jim", volume, mask, group="SMITH")], tmp_path / "data")


def test_the_ids_of_a_dataset_replace_the_same_names_as_those_of_its_parts(tmp_path):
    cases = of_one_volume(tmp_path)
    ids = {**cases.volumes, **cases.masks}
    for text in (
        f"{tmp_path}/data/images/Roe_Jim.nii.gz: bad",
        f"{tmp_path}/data/masks/Roe_Jim.nii.gz: bad",
        "group 'SMITH' is small",
        "SMITH: 2 volumes",
        "a text without a name",
    ):
        assert cases.without_names(text) == without_names(text, ids, {**cases.others, **cases.groups})
        assert "Roe" not in cases.without_names(text) and "SMITH" not in cases.without_names(text)
    assert cases.without_names("a text without a name") == "a text without a name"


@pytest.mark.parametrize("error", [MemoryError("3 GiB"), RuntimeError("CUDA out of memory"), OutOfMemory("Roe_Jim")])
def test_memory_errors_keep_their_type(tmp_path, error):
    with pytest.raises(type(error)) as caught, of_one_volume(tmp_path).named():
        raise error
    assert "Roe" not in str(caught.value)


@pytest.mark.parametrize("error", [KeyError("Roe"), TypeError("Jim"), ValueError("Roe Jim")])
def test_unexpected_errors_show_places_and_no_message(tmp_path, error):
    words = rf"unexpected {type(error).__name__}.*test_case_ids\.py:\d+"
    with pytest.raises(AtrousError, match=words) as caught, of_one_volume(tmp_path).named():
        raise error
    assert "Roe" not in str(caught.value) and "Jim" not in str(caught.value)


def test_ordinary_names_are_whole_parts_of_a_path(tmp_path):
    cases = of_one_volume(tmp_path)
    for path in ("/a/SMITH/b", "/a/smith", "/a/SMITH.safetensors", "/a/old_roe_jim_2/b", "C:\\SMITH\\b"):
        assert cases.in_path(path)
    for path in ("/a/SMITHSON/b", "/a/blacksmith", "/a/jim"):
        assert not cases.in_path(path)


def test_reasons_are_hidden_unless_memory_ran_out_or_the_folder_is_missing(tmp_path):
    for root, error, shown in (
        (tmp_path, AtrousError("Roe"), False),
        (tmp_path, OSError(13, "Roe"), False),
        (tmp_path, OutOfMemory("of Roe"), True),
        (tmp_path / "gone", AtrousError("Roe"), True),
    ):
        with pytest.raises((AtrousError, OSError)) as caught, without_reasons(root):
            raise error
        assert ("Roe" in str(caught.value)) == shown
    with pytest.raises(AtrousError, match="Roe"), without_reasons(tmp_path, private=False):
        raise AtrousError("Roe")
