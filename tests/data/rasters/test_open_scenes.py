"""The threads of a process keep few scenes open together, and close them when they end."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tests.data.rasters.rasters import write_raster

from atrous.data.pictures import read_pixels
from atrous.data.rasters import scene_windows
from atrous.data.rasters.scene_windows import close_scenes

rasterio = pytest.importorskip("rasterio")
needs_proc = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc/self/fd lists open files")


@pytest.fixture
def windows(tmp_path):
    """Windows of 70 scenes, each with a mask beside it."""
    values, transform = np.ones((1, 20, 20), np.uint8), rasterio.Affine.identity()
    for number in range(70):
        write_raster(tmp_path / f"{number}.tif", values * number, None, transform)
        write_raster(tmp_path / "mask.tif", values * 255, None, transform)
        (tmp_path / "mask.tif").rename(tmp_path / f"{number}.tif.msk")
    return [tmp_path / f"{number}.tif" / "window" / "0_0_5_5" for number in range(70)]


def open_tiffs(folder: Path) -> int:
    found = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            found += str(descriptor.readlink()).startswith(str(folder))
        except OSError:
            continue
    return found


@needs_proc
def test_eight_threads_together_keep_few_files_open_and_none_at_their_end(windows, tmp_path):
    close_scenes()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda path: int(read_pixels(path).values[0, 0, 0]), windows * 4))
        assert open_tiffs(tmp_path) <= 2 * (scene_windows.KEPT_OPEN + 8)
    assert found == [*range(70)] * 4
    assert open_tiffs(tmp_path) == 0


@needs_proc
def test_one_thread_keeps_its_last_scenes_open(windows, tmp_path):
    close_scenes()
    for path in windows:
        read_pixels(path)
    assert open_tiffs(tmp_path) == 2 * scene_windows.KEPT_OPEN
    close_scenes()
    assert open_tiffs(tmp_path) == 0


@needs_proc
def test_too_many_open_files_are_called_so(windows, monkeypatch):
    import errno

    def full(*_args, **_more):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(Exception, match=r"too many files open.*ulimit -n"):
        read_pixels(windows[0])
