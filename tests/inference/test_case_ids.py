"""Case ids in messages: no name of a volume stays in a message, and ordinary words stay."""

from pathlib import Path

import pytest

from atrous.inference.case_ids import case_ids_of, without_names


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
