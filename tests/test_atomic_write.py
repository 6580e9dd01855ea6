import ast
import errno
import os
import stat
from pathlib import Path

import pytest

import atrous
from atrous.atomic_write import atomic_path, remove_unfinished, temporary_folder, write_text
from atrous.errors import AtrousError


def test_a_file_is_whole_or_untouched(tmp_path):
    path = tmp_path / "new" / "a.txt"
    write_text(path, "é\n")
    assert path.read_bytes() == "é\n".encode()
    with pytest.raises(UnicodeEncodeError), atomic_path(path) as part:
        part.write_text("half \ud800", encoding="utf-8")
    assert path.read_text(encoding="utf-8") == "é\n"
    assert [each.name for each in path.parent.iterdir()] == ["a.txt"]


@pytest.mark.needs("modes")
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


@pytest.mark.needs("links")
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


@pytest.mark.needs("devices")
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


def test_a_temporary_folder_is_beside_what_it_is_for_and_goes(tmp_path):
    with temporary_folder(tmp_path / "new" / "a") as folder:
        assert folder.parent == tmp_path / "new" and folder.is_dir()
        assert folder.name.startswith(".a.") and folder.name.endswith(".atrous-part")
        (folder / "a").write_text("x")
        (folder / "a").replace(tmp_path / "new" / "a")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a"]
    with pytest.raises(AtrousError), temporary_folder(tmp_path / "b") as folder:
        write_text(folder, "a folder is no file")
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    with pytest.raises(AtrousError, match="cannot write"), temporary_folder(tmp_path / "new" / "a" / "b"):
        pass


#: Files that write otherwise, and why nothing is ever half written there.
OTHERWISE = {
    "file_lock.py": "locks are empty",
    "cluster/predict_on_ray.py": "into the temporary folder of a worker",
    "data/brain_slices.py": "into a folder that is renamed when it is whole",
    "data/sources/geotiff.py": "into a temporary folder, from which the finished mask is copied",
    "inference/openvino_cache.py": "into a folder that is renamed when it is whole",
    "inference/export_graph.py": "into the temporary folder of export",
    "inference/exported_onnx_and_openvino.py": "into the temporary folder of export",
    "inference/int8_quantisation.py": "into the temporary folder of export",
    "inference/polygon_files.py": "into a temporary file, which is renamed when it is whole",
    "learning/run_log.py": "metrics.jsonl grows line by line",
}
WRITERS = {"write_text", "write_bytes", "imwrite", "save_file", "savez", "tofile", "savefig", "save_model", "copyfile"}


def writes(path: Path) -> list[str]:
    """The calls of a file that write to a path which no temporary file stands for, as far as names tell."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        receiver = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        words = [ast.unparse(one) for one in (*node.args, *(keyword.value for keyword in node.keywords))]
        is_open = called == "open" and any(word[:2] in ("'w", "'a", "'x") for word in words[:2])
        is_save = called == "save" and receiver not in ("model_file", "prediction", "segmented", "trainer", "self")
        names = set(words) | {receiver}  # `file` is a file in memory, `part` ours
        if ((called in WRITERS and receiver) or is_open or is_save) and not names & {"file", "part", "self._part"}:
            found.append(ast.unparse(node))
    return found


def test_everything_that_writes_a_file_writes_it_atomically():
    source = Path(atrous.__file__).parent
    found = {path.relative_to(source).as_posix(): writes(path) for path in sorted(source.rglob("*.py"))}
    found = {name: calls for name, calls in found.items() if calls}
    assert found.keys() == OTHERWISE.keys(), found
