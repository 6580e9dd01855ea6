"""`atrous predict` on pictures that are large, or that lie on Earth."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atrous.cli import main
from atrous.inference.segmenter import Segmenter

rasterio = pytest.importorskip("rasterio")
from rasterio.transform import from_origin  # noqa: E402

PLACE = {"crs": "EPSG:32632", "transform": from_origin(500000, 4600000, 10, 10)}


@pytest.fixture
def picture(shapes) -> np.ndarray:
    """A patchwork of the test pictures, 240×320 px."""
    names = [f"test_{index % 3}.png" for index in range(25)]
    parts = [np.asarray(Image.open(shapes / "images" / name)) for name in names]
    return np.concatenate([np.concatenate(parts[row : row + 5], 1) for row in range(0, 25, 5)])


def save(path, picture: np.ndarray, **profile):
    height, width, count = picture.shape
    fixed = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": picture.dtype}
    with rasterio.open(path, "w", **fixed, **profile) as file:
        file.write(picture.transpose(2, 0, 1))


def run(model, *words: object) -> int:
    return main(["predict", str(model), *map(str, words), "--device", "cpu", "--precision", "float32"])


def test_a_geotiff_becomes_a_geotiff(model, picture, tmp_path):
    missing = np.zeros((240, 320, 1), np.uint8)
    given = np.where(np.arange(240)[:, None, None] < 20, 0, np.maximum(picture, 1))
    save(tmp_path / "scene.tif", np.concatenate([given, missing], 2), nodata=0, **PLACE)
    assert run(model, tmp_path / "scene.tif", "--out", tmp_path / "out", "--json", tmp_path / "done.json") == 0
    segmenter = Segmenter(model, device="cpu", precision="float32")
    filled = given.copy()
    filled[:20] = np.asarray(segmenter.info.preprocessing.mean, np.uint8)
    whole = segmenter(filled).mask
    with rasterio.open(tmp_path / "out/scene.tif") as file:
        mask = file.read(1)
        assert file.transform == PLACE["transform"]
        assert file.crs.to_epsg() == 32632
    assert (mask[:20] == 255).all()
    assert np.array_equal(mask[20:], whole[20:])
    assert len(np.unique(whole[20:])) == 3
    record = json.loads((tmp_path / "done.json").read_text())["pictures"][0]
    assert record["mask"] == str(tmp_path / "out/scene.tif")
    assert record["share"]["box"] == pytest.approx((whole[20:] == 1).mean())
    assert record["work"]["tiles"] == 1


def test_the_mask_of_a_jpeg_2000_lies_where_the_picture_does(model, picture, tmp_path):
    path = tmp_path / "scene.jp2"
    fixed = {"driver": "JP2OpenJPEG", "count": 3, "height": 240, "width": 320, "dtype": picture.dtype}
    with rasterio.open(path, "w", QUALITY="100", REVERSIBLE="YES", **fixed, **PLACE) as file:
        file.write(picture.transpose(2, 0, 1))
    assert run(model, path, "--out", tmp_path / "out") == 0
    with rasterio.open(tmp_path / "out/scene.tif") as file:
        assert file.transform == PLACE["transform"]
        assert file.crs.to_epsg() == 32632
        assert np.array_equal(file.read(1), Segmenter(model, device="cpu", precision="float32")(picture).mask)


def test_coordinates_that_would_be_lost_without_rasterio_are_said(model, picture, tmp_path, capsys, monkeypatch):
    save(tmp_path / "scene.tif", picture, **PLACE)
    Image.fromarray(picture).save(tmp_path / "plain.tif")
    monkeypatch.setitem(sys.modules, "rasterio", None)
    assert run(model, tmp_path, "--out", tmp_path / "out") == 0
    assert "no coordinates in the masks of 1 GeoTIFF" in " ".join(capsys.readouterr().out.split())
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"scene.png", "plain.png"}


def test_tiles_as_asked_differ_little(model, picture, tmp_path, capsys):
    Image.fromarray(picture).save(tmp_path / "a.png")
    save(tmp_path / "a.tif", picture, **PLACE)
    whole = Segmenter(model, device="cpu", precision="float32")(picture).mask
    assert run(model, tmp_path / "a.*", "--tile", 160, "--overlap", 96, "--out", tmp_path / "out") == 0
    masks = sorted((tmp_path / "out").iterdir())
    assert [path.suffix for path in masks] == [".tif", ".png"] or [path.suffix for path in masks] == [".png", ".tif"]
    png, tif = (np.asarray(Image.open(path)) for path in sorted(masks, key=lambda path: path.suffix))
    assert np.array_equal(png, tif)
    assert 0 < (png != whole).mean() < 0.1  # a model of 30 epochs, of which image pooling sees another picture


def test_one_line_says_when_and_why(model, picture, tmp_path, capsys):
    Image.fromarray(np.tile(picture, (3, 3, 1))).save(tmp_path / "a.png")
    assert run(model, tmp_path / "a.png", "--memory", "0.84", "--out", tmp_path / "out") == 0
    out = capsys.readouterr().out
    assert "960×720 px would take about" in out
    assert len([line for line in out.splitlines() if "tiles of" in line]) == 1


def test_memory_and_tile_that_cannot_be(model, picture, tmp_path, capsys):
    Image.fromarray(picture).save(tmp_path / "a.png")
    assert run(model, tmp_path / "a.png", "--tile", "10", "--out", tmp_path / "out") == 2
    assert "tile must be 32 or more pixels" in capsys.readouterr().err
    assert run(model, tmp_path / "a.png", "--memory", "0.1", "--out", tmp_path / "out") == 1
    assert "force smaller tiles with --tile" in capsys.readouterr().out


def test_bands_that_are_missing_skip_one_picture(model, picture, tmp_path, capsys):
    save(tmp_path / "two.tif", picture[..., :2], **PLACE)
    save(tmp_path / "many.tif", np.concatenate([picture, picture], 2))
    assert run(model, tmp_path / "*.tif", "--overlay", "--out", tmp_path / "out") == 1
    out = capsys.readouterr().out
    assert "2 band(s), and the model takes the first 3" in out
    assert "no overlay" in out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["many.tif"]


RUN = """
import sys
from atrous.cli import main
code = main(sys.argv[1:])
with open("/proc/self/status") as file:  # getrusage begins with what the parent had
    print("PEAK", next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM")))
sys.exit(code)
"""


def peak(*words: object) -> float:
    done = subprocess.run([sys.executable, "-c", RUN, *map(str, words)], capture_output=True, text=True, check=True)
    return float(done.stdout.rpartition("PEAK")[2])


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read as Linux tells it")
def test_memory_does_not_grow_with_the_picture(model, picture, tmp_path):
    save(tmp_path / "small.tif", np.tile(picture, (3, 2, 1)), **PLACE)
    save(tmp_path / "large.tif", np.tile(picture, (16, 10, 1)), **PLACE)  # 3840×3200: 37 MB, its network a gigabyte
    words = ["--tile", 512, "--overlap", 32, "--out", tmp_path / "out", "--device", "cpu", "--precision", "float32"]
    small, large = (peak("predict", model, tmp_path / f"{name}.tif", *words) for name in ("small", "large"))
    assert large - small < 150e6
    assert large < 1.5e9
