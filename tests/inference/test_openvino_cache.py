"""Converted networks in the user's cache: used again, repaired where damaged, removed only where they are ours."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import atrous
from atrous import Segmenter
from atrous.errors import AtrousError
from atrous.inference import openvino_cache, openvino_engine
from atrous.inference.openvino_core import openvino_core

pytest.importorskip("openvino", reason="the extra openvino is not installed")

FILES = {"entry.json", "network.bin", "network.xml"}


@pytest.fixture(scope="module")
def path(make_model, tmp_path_factory):
    file = tmp_path_factory.mktemp("model") / "model.safetensors"
    atrous.save(make_model("deeplabv1", backbone="mobilenetv2_035", fov_channels=8, output_stride=16), file)
    return file


@pytest.fixture(scope="module")
def filled(path, tmp_path_factory):
    """A cache with the model's network, not to be changed."""
    folder = tmp_path_factory.mktemp("filled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        Segmenter(path, engine="openvino")
    return folder


@pytest.fixture
def cache(filled, tmp_path, monkeypatch):
    """A copy of it, in use."""
    shutil.copytree(filled, tmp_path / "cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "atrous" / "openvino"


@pytest.fixture
def entry(cache):
    (only,) = cache.iterdir()
    return only


@pytest.fixture(scope="module")
def picture():
    rng = np.random.default_rng(0)
    return np.kron(rng.integers(0, 256, (7, 9, 3)), np.ones((11, 11, 1))).astype(np.uint8)


@pytest.fixture(scope="module")
def expected(path, picture):
    return Segmenter(path, engine="torch", device="cpu", precision="float32").segment(picture)


@pytest.fixture
def conversions(filled, monkeypatch):
    """The output strides that were converted for; what the filled cache has is read from there, to be quick."""
    made, convert = [], openvino_engine.convert
    (known,) = filled.rglob("network.xml")

    def count(model):
        made.append(model.info.arguments["output_stride"])
        return openvino_core().read_model(known) if made[-1] == 16 else convert(model)

    monkeypatch.setattr(openvino_engine, "convert", count)
    return made


@pytest.fixture
def sentences(recwarn):
    """What was said of the cache."""
    return lambda: [str(each.message) for each in recwarn if each.category is openvino_cache.CacheWarning]


def is_right(path, picture, expected, **options):
    mask = Segmenter(path, engine="openvino", precision="float32", **options).segment(picture)
    return (mask == expected).mean() > 0.999


def contents(folder: Path) -> dict[str, str]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.mark.parametrize(
    "options",
    [{}, {"precision": "bfloat16"}, {"scales": (0.5, 1.0), "flip": True}, {"crf": "deeplabv2"}, {"output_stride": 16}],
    ids=str,
)
def test_no_option_makes_a_start_convert_again(path, cache, conversions, sentences, options):
    Segmenter(path, engine="openvino", **options)
    assert not conversions and not sentences()
    assert len(list(cache.glob("*/network.xml"))) == 1


@pytest.mark.slow
def test_each_output_stride_is_converted_once(path, cache, conversions, picture):
    at_8 = Segmenter(path, engine="torch", device="cpu", precision="float32", output_stride=8).segment(picture)
    for _ in range(2):
        segmenter = Segmenter(path, engine="openvino", precision="float32", output_stride=8)
        assert (segmenter.segment(picture) == at_8).mean() > 0.999
        assert segmenter.info.arguments["output_stride"] == 8
        Segmenter(path, engine="openvino")
    assert conversions == [8]
    assert len(list(cache.glob("*/network.xml"))) == 2


def test_an_output_stride_that_cannot_be_is_refused_and_not_kept(path, cache):
    for engine in ("openvino", "torch"):
        with pytest.raises(AtrousError, match="output_stride"):
            Segmenter(path, engine=engine, output_stride=7)
    assert len(list(cache.iterdir())) == 1


def test_a_copy_of_the_model_file_is_not_converted_again(path, cache, conversions, tmp_path):
    shutil.copy(path, tmp_path / "copy.safetensors")  # with another time of change
    Segmenter(tmp_path / "copy.safetensors", engine="openvino")
    assert not conversions


def test_a_model_file_altered_under_the_same_size_and_time_is_not_taken_for_the_kept_one(path, cache, tmp_path):
    altered, stat = tmp_path / "altered.safetensors", path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 255
    altered.write_bytes(content)
    os.utime(altered, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(AtrousError, match="altered"):
        Segmenter(altered, engine="openvino")


@pytest.mark.slow
def test_a_changed_file_is_converted_anew(path, cache, tmp_path, picture):
    model = atrous.load(path)
    with torch.no_grad():
        model.classifier.bias.copy_(torch.tensor([0.0, 0.0, 1e4, 0.0]))
    atrous.save(model, tmp_path / "model.safetensors")
    assert (Segmenter(tmp_path / "model.safetensors", engine="openvino").segment(picture) == 2).all()
    assert len(list(cache.glob("*/network.xml"))) == 2


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def garble(file: Path) -> None:
    """Other contents of the same size."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def make_unreadable(file: Path) -> None:
    """As the owner of a file sees it; the administrator reads all files but folders."""
    if getattr(os, "geteuid", int)():
        file.chmod(0)
    else:
        file.unlink()
        file.mkdir()


DAMAGES = [(damage, name) for damage in (cut, empty, garble, make_unreadable, Path.unlink) for name in sorted(FILES)]


@pytest.mark.parametrize(("damage", "name"), DAMAGES, ids=lambda value: getattr(value, "__name__", value))
def test_a_damaged_entry_is_said_and_repaired(path, entry, picture, expected, conversions, sentences, damage, name):
    damage(entry / name)
    assert is_right(path, picture, expected)
    assert len(conversions) == 1
    (said,) = sentences()
    assert str(entry) in said and "converted again" in said
    assert is_right(path, picture, expected)
    assert len(conversions) == 1 and len(sentences()) == 1
    assert {file.name for file in entry.iterdir()} == FILES


def replace_by_file(entry: Path) -> None:
    shutil.rmtree(entry)
    entry.write_text("of somebody", encoding="utf-8")


def replace_by_link(entry: Path) -> None:
    shutil.rmtree(entry)
    entry.symlink_to(entry.with_name("nowhere"))


def replace_by_empty_folder(entry: Path) -> None:
    shutil.rmtree(entry)
    entry.mkdir()


def replace_by_others_files(entry: Path) -> None:
    shutil.rmtree(entry)
    entry.mkdir()
    for name in FILES:
        (entry / name).write_text(f"{name} of somebody")


def take_another_networks_weights(entry: Path) -> None:
    (entry / "network.bin").write_bytes(bytes((entry / "network.bin").stat().st_size))


PLACES = [
    replace_by_file,
    pytest.param(replace_by_link, marks=pytest.mark.needs("links")),
    replace_by_empty_folder,
    replace_by_others_files,
    take_another_networks_weights,
]


@pytest.mark.parametrize("damage", PLACES, ids=lambda damage: damage.__name__)
def test_whatever_is_in_an_entrys_place_is_said_and_replaced(
    path, cache, entry, picture, expected, conversions, sentences, damage
):
    damage(entry)
    foreign = [file.read_text() for file in cache.rglob("*") if file.is_file() and damage.__name__.endswith("s_files")]
    for _ in range(2):
        assert is_right(path, picture, expected)
    assert len(conversions) == len(sentences()) == 1
    assert {file.name for file in entry.iterdir()} == FILES
    kept = [file.read_bytes().decode(errors="replace") for file in cache.rglob("*") if file.is_file()]
    assert set(foreign) <= set(kept)


@pytest.mark.slow
def test_what_of_a_damaged_entry_may_be_somebodys_is_kept_and_named(path, entry, sentences):
    (entry / "notes.txt").write_text("of somebody")
    cut(entry / "network.bin")
    Segmenter(path, engine="openvino")
    (notes,) = entry.parent.rglob("notes.txt")
    assert notes.read_text() == "of somebody"
    assert str(notes.parent) in sentences()[0]


def fill(cache: Path, entry: Path, names: str, size: int) -> dict[str, Path]:
    """Entries of a size as other networks make them, the first unused for longest."""
    made = {}
    for age, name in enumerate(reversed(names)):
        made[name] = cache / (name * 24)
        shutil.copytree(entry, made[name])
        (made[name] / "network.bin").write_bytes(bytes(size))
        used = time.time() - 1000 * (age + 1)
        os.utime(made[name] / "entry.json", (used, used))
    return made


@pytest.mark.slow
def test_the_longest_unused_are_removed_when_it_is_full(path, cache, entry, monkeypatch):
    kept = sum(file.stat().st_size for file in entry.iterdir())
    made = fill(cache, entry, "abcd", 20_000_000)
    monkeypatch.setenv("ATROUS_CACHE_GB", str((45_000_000 + 3 * kept) / 1e9))
    Segmenter(path, engine="openvino")  # reads one, and removes none
    assert all(folder.exists() for folder in made.values())
    os.utime(made["a"] / "entry.json")  # another process has just used it
    Segmenter(path, engine="openvino", output_stride=8)
    assert {name for name, folder in made.items() if folder.exists()} == {"a", "d"}
    assert entry.exists()
    assert not [file for file in cache.iterdir() if file.name.startswith(".")]


@pytest.mark.slow
def test_what_this_process_uses_is_never_removed(path, cache, entry, monkeypatch, conversions):
    monkeypatch.setenv("ATROUS_CACHE_GB", "0.000001")
    for output_stride in (16, 8, 16, 8):
        Segmenter(path, engine="openvino", output_stride=output_stride)
    assert conversions == [8]
    assert len(list(cache.glob("*/network.xml"))) == 2


@pytest.mark.slow
@pytest.mark.needs("links")
def test_files_of_others_in_the_cache_stay(path, cache, entry, monkeypatch):
    """Nothing is removed that has no record of ours, or that holds anything else."""
    made = fill(cache, entry, "abcdef", 1_000_000)
    (made["a"] / "notes.txt").write_text("of somebody")
    (made["b"] / "entry.json").unlink()
    (made["c"] / "entry.json").write_text('{"files": {"network.xml": [1, "a"], "network.bin": [1, "b"]}}')
    (made["d"] / "folder").mkdir()
    shutil.rmtree(made["e"])
    made["e"].symlink_to(made["b"])
    (cache / "0123456789abcdef01234567").write_text("a file")
    shutil.copytree(entry, cache / "of somebody")
    (cache / f".{'f' * 24}.{'0' * 15}.atrous-part").mkdir()
    before = contents(cache)
    monkeypatch.setenv("ATROUS_CACHE_GB", "0.000001")
    Segmenter(path, engine="openvino", output_stride=8)
    removed = (entry.name, made["f"].name)
    assert not any((cache / name).exists() for name in removed)  # all were looked at
    bystanders = {name: digest for name, digest in before.items() if not name.startswith(removed)}
    assert bystanders.items() <= contents(cache).items()


@pytest.mark.slow
def test_what_killed_processes_left_unfinished_is_removed_in_time(path, cache, entry):
    old, young, foreign = (cache / f".{letter * 24}.{letter * 16}.atrous-part" for letter in "abc")
    for part in (old, young, foreign):
        part.mkdir()
        (part / "network.bin").write_bytes(b"half")
    (foreign / "notes.txt").write_text("of somebody")
    for part in (old, foreign):
        os.utime(part, (0, 0))
    Segmenter(path, engine="openvino", output_stride=8)
    assert not old.exists() and young.exists() and (foreign / "notes.txt").exists()


@pytest.mark.parametrize("given", ["much", "2 GB", "nan"])
def test_a_limit_that_is_no_size_is_refused(path, cache, monkeypatch, given):
    monkeypatch.setenv("ATROUS_CACHE_GB", given)
    with pytest.raises(AtrousError, match=f"ATROUS_CACHE_GB is '{given}'; give the GB"):
        Segmenter(path, engine="openvino")


@pytest.mark.slow
def test_a_limit_of_zero_keeps_nothing_and_reads_nothing(path, tmp_path, monkeypatch, sentences):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
    monkeypatch.setenv("ATROUS_CACHE_GB", "0")
    Segmenter(path, engine="openvino")
    assert not (tmp_path / "none").exists() and not sentences()


def test_where_nothing_may_be_written_it_runs_and_says_so(
    path, picture, expected, conversions, tmp_path, monkeypatch, sentences
):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert is_right(path, picture, expected)
    (said,) = sentences()
    assert "could not be stored" in said and "ATROUS_CACHE_GB=0" in said


@pytest.mark.needs("modes")
@pytest.mark.skipif(not getattr(os, "geteuid", int)(), reason="the administrator may write everywhere")
def test_a_cache_that_may_only_be_read_is_read(path, cache, entry, conversions, sentences):
    entry.chmod(0o500), cache.chmod(0o500)
    try:
        Segmenter(path, engine="openvino")
        assert not conversions and not sentences()
        Segmenter(path, engine="openvino", output_stride=8)
        assert len(sentences()) == 1
    finally:
        cache.chmod(0o700), entry.chmod(0o700)


@pytest.mark.skipif(sys.platform != "linux", reason="the folders are Linux's")
def test_the_cache_lies_where_it_always_lay_on_linux(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for given in ("", "relative/to/somewhere"):
        monkeypatch.setenv("XDG_CACHE_HOME", given)
        assert openvino_cache.cache_folder() == tmp_path / ".cache/atrous/openvino"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert openvino_cache.cache_folder() == tmp_path / "x/atrous/openvino"


def test_a_mac_keeps_it_in_its_own_folder(monkeypatch, tmp_path):
    from platformdirs.macos import MacOS

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(openvino_cache.platformdirs, "PlatformDirs", MacOS)
    assert openvino_cache.cache_folder() == tmp_path / "Library/Caches/atrous/openvino"


def test_without_a_home_it_runs_and_says_so(path, picture, expected, conversions, monkeypatch, sentences):
    monkeypatch.delenv("XDG_CACHE_HOME")

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert is_right(path, picture, expected)
    assert len(sentences()) == 1


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="no limit of a file's size here")
def test_on_a_full_disk_it_runs_and_says_so(path, picture, expected, tmp_path):
    """A file of more than 200 kB cannot be written there."""
    np.save(tmp_path / "picture.npy", picture)
    program = f"""if True:
        import resource, signal
        import numpy as np
        from atrous import Segmenter

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
        segmenter = Segmenter({str(path)!r}, engine="openvino", precision="float32")
        mask = segmenter.segment(np.load({str(tmp_path / "picture.npy")!r}))
        np.save({str(tmp_path / "mask.npy")!r}, mask)
    """
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("could not be stored") == 1
    assert (np.load(tmp_path / "mask.npy") == expected).mean() > 0.999
    assert not [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]


@pytest.mark.slow
def test_processes_that_fill_and_repair_one_cache_at_once(path, cache, entry, picture, expected, tmp_path):
    cut(entry / "network.bin")
    np.save(tmp_path / "picture.npy", picture)
    program = f"""if True:
        import numpy as np
        from atrous import Segmenter

        for stride in (16, 8):
            segmenter = Segmenter({str(path)!r}, engine="openvino", precision="float32", output_stride=stride)
        mask = Segmenter({str(path)!r}, engine="openvino", precision="float32").segment(
            np.load({str(tmp_path / "picture.npy")!r})
        )
        print((mask == 0).sum())
    """
    children = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for child in children:
        out, error = child.communicate()
        assert child.returncode == 0, error
        assert abs(int(out) - (expected == 0).sum()) <= expected.size / 1000
    assert len(list(cache.glob("*/entry.json"))) == 2
    assert {len(list(folder.iterdir())) for folder in cache.iterdir()} == {3}
    with warnings.catch_warnings():
        warnings.simplefilter("error", openvino_cache.CacheWarning)
        assert is_right(path, picture, expected)
