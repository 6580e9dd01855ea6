import errno
import os
import stat
from pathlib import Path

import pytest

from atrous.atomic_write import atomic_path, remove_unfinished, write_text
from atrous.errors import AtrousError


def test_a_file_is_whole_or_untouched(tmp_path):
    path = tmp_path / "new" / "a.txt"
    write_text(path, "é\n")
    assert path.read_bytes() == "é\n".encode()
    with pytest.raises(UnicodeEncodeError), atomic_path(path) as part:
        part.write_text("half \ud800", encoding="utf-8")
    assert path.read_text(encoding="utf-8") == "é\n"
    assert [each.name for each in path.parent.iterdir()] == ["a.txt"]


def test_permissions_are_the_umasks_or_those_of_the_file_before(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "new", "")
        write_text(tmp_path / "old", "")
        (tmp_path / "old").chmod(0o604)
        write_text(tmp_path / "old", "more")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "old").stat().st_mode) == 0o604


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there" / "file")
    for text in ("first", "second"):
        write_text(tmp_path / "link", text)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "there" / "file").read_text(encoding="utf-8") == text


def test_long_names_fit(tmp_path):
    write_text(tmp_path / ("é" * 120), "x")
    assert len(list(tmp_path.iterdir())) == 1


def test_devices_are_written_to_and_not_replaced():
    write_text("/dev/null", "x")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_only_temporary_files_of_the_given_names_are_removed(tmp_path):
    random = "0123456789abcdef"
    gone = [f".a.json.{random}.atrous-part"]
    stay = [f".b.json.{random}.atrous-part", ".a.json.atrous-part", f"a.json.{random}.atrous-part", "x.part", "a.json"]
    for name in gone + stay:
        (tmp_path / name).write_text("x")
    (tmp_path / f".a.json.{random[::-1]}.atrous-part").mkdir()
    remove_unfinished(tmp_path, ["a.json"])
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == sorted(stay)


@pytest.mark.parametrize("call", ["open", "replace"])
def test_a_folder_that_may_not_be_written_is_named_with_the_reason(tmp_path, monkeypatch, call):
    def refuse(*given, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(*((os, "open") if call == "open" else (Path, "replace")), refuse)  # root may write everywhere
    with pytest.raises(AtrousError, match=r"a\.txt: Permission denied.* give another name"):
        write_text(tmp_path / "a.txt", "new")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_renamed_over_is_written_in_place(tmp_path, monkeypatch):
    """As a single file that is mounted into a container."""

    def refuse(*given):
        raise OSError(errno.EBUSY, "Device or resource busy")

    path = tmp_path / "a.txt"
    path.write_text("old and longer")
    monkeypatch.setattr(Path, "replace", refuse)
    number = path.stat().st_ino
    write_text(path, "new")
    assert (path.read_text(encoding="utf-8"), path.stat().st_ino) == ("new", number)
    assert list(tmp_path.iterdir()) == [path]
