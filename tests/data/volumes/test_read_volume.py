"""Volumes that memory cannot keep together: scratch files, and the number of times a volume is decoded."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from atrous.data.volumes import read_volume as module
from atrous.data.volumes.read_volume import read_volume
from atrous.data.volumes.scratch import scratch_file, scratch_folder
from atrous.errors import AtrousError

nibabel = pytest.importorskip("nibabel")
AFFINE = np.array([[-1.5, 0.2, 0, 7], [0.1, 2, 0, -3], [0, 0, 3, 11], [0, 0, 0, 1]])


@pytest.fixture
def volumes(tmp_path, monkeypatch):
    """Four volumes of which memory keeps one, and the list of decoded files."""
    monkeypatch.setenv("ATROUS_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setattr(module, "KEPT", 4000)
    decoded, decode = [], module.read_file
    monkeypatch.setattr(module, "read_file", lambda path: decoded.append(path) or decode(path))
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.nii.gz" for number in range(4)]
    for path in paths:
        nibabel.save(nibabel.Nifti1Image(rng.integers(-999, 999, (9, 10, 11, 2), np.int16), AFFINE), path)
    return paths, decoded


def test_in_random_order_each_volume_is_decoded_at_most_twice(volumes):
    paths, decoded = volumes
    expected = {path: (module.read_file(path).values.copy(), module.read_file(path)) for path in paths}
    decoded.clear()
    for number in np.random.default_rng(1).integers(0, 4, 60):
        path = paths[number]
        found, (values, volume) = read_volume(path), expected[path]
        np.testing.assert_array_equal(found.values, values)
        assert found.values.dtype == values.dtype and not found.values.flags.writeable
        np.testing.assert_array_equal(found.grid.affine, volume.grid.affine)
        assert found.notes == volume.notes
        for one, other in zip(found.mean_and_std(), volume.mean_and_std(), strict=True):
            np.testing.assert_allclose(one, other)
    assert max(decoded.count(path) for path in paths) == 2
    assert len(list(scratch_folder().glob("*.npy"))) == 3  # the fourth then fits into memory
    if os.name == "posix":
        assert scratch_folder().stat().st_mode & 0o077 == 0


def test_volumes_that_are_read_once_have_no_scratch_file(volumes):
    paths, decoded = volumes
    for path in paths:
        read_volume(path)
        read_volume(path)
    assert decoded == paths
    assert not scratch_folder().exists()


def test_threads_decode_a_volume_once(volumes):
    paths, decoded = volumes
    threads = [threading.Thread(target=read_volume, args=(paths[0],)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert decoded == [paths[0]]


def test_without_a_writable_folder_volumes_are_decoded_again(volumes, monkeypatch, tmp_path):
    paths, decoded = volumes
    (tmp_path / "file").touch()
    monkeypatch.setenv("ATROUS_SCRATCH", str(tmp_path / "file"))
    for path in [*paths, *paths, *paths]:
        assert read_volume(path).values.shape == (9, 10, 11, 2)
    assert decoded == [*paths, *paths, *paths]


def test_the_files_of_a_folder_are_looked_at_once_for_many_slices(tmp_path, monkeypatch):
    for number in range(3):
        (tmp_path / "a" / "b").mkdir(parents=True, exist_ok=True)
        (tmp_path / "a" / "b" / f"{number}.dcm").write_bytes(b"x")
    looked, scan = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: looked.append(path) or scan(path))
    first = module._stamp(tmp_path / "a")
    looked.clear()
    monkeypatch.setattr(module, "TRUSTED", 1000.0)
    assert {module._stamp(tmp_path / "a") for _ in range(100)} == {first} and not looked


@pytest.mark.parametrize(
    "change",
    [
        "added",
        "added in a subfolder",
        "replaced",
        "removed",
        "written in place",
        "touched",
        "written with an older time",
    ],
)
def test_a_changed_file_of_a_folder_is_noticed(tmp_path, monkeypatch, change):
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    for folder in (tmp_path / "a", deep):
        for number in range(2):
            (folder / f"{number}.dcm").write_bytes(b"12345")
            os.utime(folder / f"{number}.dcm", ns=(10**18, 10**18))
        os.utime(folder, ns=(10**18, 10**18))
    monkeypatch.setattr(module, "TRUSTED", -1.0 if change.startswith(("written", "touched")) else 1000.0)
    first, file = module._stamp(tmp_path / "a"), deep / "0.dcm"
    if change.startswith("added"):
        (deep if "sub" in change else tmp_path / "a").joinpath("new.dcm").write_bytes(b"")
    elif change == "replaced":
        (tmp_path / "new").write_bytes(b"54321")
        (tmp_path / "new").replace(file)
    elif change == "removed":
        file.unlink()
    elif change == "touched":
        file.touch()
    else:
        file.write_bytes(b"54321")
    if "older" in change:
        os.utime(file, ns=(10**17, 10**17))
    second = module._stamp(tmp_path / "a")
    assert second != first
    assert module._stamp(tmp_path / "a") == second


@pytest.mark.parametrize("numbers", [(0, 1), (0, 2), (1, 2)])
def test_exchanged_contrasts_are_read_again(tmp_path, numbers):
    """The files have one size and one time, as after a copy or from an archive."""
    for number in range(3):
        path = tmp_path / f"case_{number:04d}.nii"
        nibabel.save(nibabel.Nifti1Image(np.full((2, 3, 4), number, np.uint8), AFFINE), path)
        os.utime(path, ns=(10**18, 10**18))
    place = tmp_path / "case_????.nii"
    assert read_volume(place).values[0, 0, 0].tolist() == [0, 1, 2]
    one, other = (tmp_path / f"case_{number:04d}.nii" for number in numbers)
    one.rename(tmp_path / "meanwhile")
    other.rename(one)
    (tmp_path / "meanwhile").rename(other)
    expected = [0, 1, 2]
    expected[numbers[0]], expected[numbers[1]] = numbers[1], numbers[0]
    assert read_volume(place).values[0, 0, 0].tolist() == expected


@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".MHD"])
def test_without_simpleitk_the_command_that_installs_it_is_given(tmp_path, monkeypatch, suffix):
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    (tmp_path / f"scan{suffix}").write_bytes(b"NRRD0004\ndata file: scan.raw\nElementDataFile = scan.raw\n")
    (tmp_path / "scan.raw").write_bytes(b"")
    with pytest.raises(AtrousError, match=r"'SimpleITK', which is not installed.*pip install 'atrous\[medical\]'"):
        read_volume(tmp_path / f"scan{suffix}")


SCRIPT = """
import os, sys
from atrous.data.volumes import read_volume as module
module.KEPT = 1
from pathlib import Path
for path in sys.argv[2:] * 2:
    module.read_volume(Path(path))
print(len(list(module.with_scratch.__globals__["scratch_folder"]().glob("*.npy"))), flush=True)
if sys.argv[1] == "killed":
    os.kill(os.getpid(), 9)
"""


@pytest.mark.skipif(os.name != "posix", reason="a process is killed with SIGKILL")
def test_no_process_leaves_scratch_files(volumes, tmp_path):
    paths, _ = volumes

    def run(end):
        command = [sys.executable, "-c", SCRIPT, end, *map(str, paths)]
        return subprocess.run(command, capture_output=True, encoding="utf-8").stdout

    (folder,) = (tmp_path / "scratch" / f"atrous-volumes-{os.getuid()}",)
    assert run("killed") == "4\n"
    assert len(list(folder.glob("*/*.npy"))) == 4
    assert run("ended") == "4\n"
    assert not list(folder.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="other systems lock in another way")
def test_the_files_of_a_running_process_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("ATROUS_SCRATCH", str(tmp_path))
    script = "import sys\nfrom atrous.data.volumes.scratch import scratch_file\n"
    script += "with scratch_file() as file:\n    print(file, flush=True)\n    sys.stdin.read()"
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8") as process:
        assert process.stdout is not None and process.stdin is not None
        file = Path(process.stdout.readline().strip())
        with scratch_file() as own:
            assert own.exists() and file.exists()
        process.stdin.close()
    assert not file.exists()
