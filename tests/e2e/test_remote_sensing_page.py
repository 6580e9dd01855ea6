"""docs/fields/remote-sensing.md: its commands run on scenes and polygons made by the test."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from atrous.data.mask_value_map import ClassTable
from atrous.data.open_dataset import open_dataset

rasterio = pytest.importorskip("rasterio")
pytest.importorskip("pyogrio")

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/fields/remote-sensing.md").read_text(encoding="utf-8")
SIDE, PIXEL = 256, 10


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


def block(kind: str, start: str) -> str:
    return next(found for found in blocks(kind) if found.startswith(start))


def scene(path: Path, east: int) -> None:
    """Writes a scene of four bands, whose left half is bright in the near infrared; its border has no data."""
    values = np.random.default_rng(east).normal(500, 20, (4, SIDE, SIDE)).astype(np.int16)
    values[3, :, : SIDE // 2] += 2000
    values[:, :3] = -9999
    place = {"crs": "EPSG:32633", "transform": rasterio.transform.from_origin(400_000 + east, 5_800_000, PIXEL, PIXEL)}
    kind = {"driver": "GTiff", "count": 4, "dtype": "int16", "height": SIDE, "width": SIDE, "nodata": -9999}
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", **kind, **place) as file:
        file.write(values)
        file.descriptions = ("B2", "B3", "B4", "B8")


@pytest.fixture
def folder(tmp_path):
    """Two labelled scenes, whose labels are polygons, and two scenes to map, which share an edge."""
    features = []
    for number in range(2):
        east = 5000 * number
        scene(tmp_path / f"data/scenes/s{number}.tif", east)
        left, right = 400_000 + east, 400_000 + east + SIDE * PIXEL // 2
        ring = [[left, 5_800_000], [right, 5_800_000], [right, 5_797_440], [left, 5_797_440], [left, 5_800_000]]
        area = {"type": "Polygon", "coordinates": [ring]}
        features.append({"type": "Feature", "properties": {"crop": "wheat"}, "geometry": area})
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}
    content = {"type": "FeatureCollection", "crs": crs, "features": features}
    (tmp_path / "data/labels.geojson").write_text(json.dumps(content))
    (tmp_path / "data/classes.yaml").write_text(block("yaml", "# classes.yaml"))
    (tmp_path / "data/inputs.yaml").write_text(block("yaml", "# inputs.yaml"))
    for number, name in enumerate("ab"):
        scene(tmp_path / f"new/{name}.tif", 20_000 + SIDE * PIXEL * number)
    return tmp_path


@pytest.mark.slow
def test_the_page_runs(folder):
    assert len(ClassTable.from_yaml(folder / "data/classes.yaml")) == 3
    dataset = open_dataset(folder / "data")
    assert dataset.layout == "rasters"
    commands = [line for one in blocks("bash") for line in one.splitlines() if line.startswith("atrous ")]
    assert [line.split()[1] for line in commands] == ["train", "evaluate", "predict", "area"]
    small = ["--model.backbone", "mobilenetv2_035", "--model.pretrained", "false"]
    for line in commands:
        words = [*shlex.split(line), *(small if " train " in line else [])]
        done = subprocess.run([sys.executable, "-m", *words], cwd=folder, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
    with rasterio.open(folder / "new/a.tif") as given, rasterio.open(folder / "masks/a.tif") as mask:
        assert (given.crs, given.transform, given.shape) == (mask.crs, mask.transform, mask.shape)
        assert (mask.read(1)[:3] == 255).all()
        assert mask.overviews(1) or SIDE <= 512
    found = json.loads((folder / "area.json").read_text())
    assert found
    for one in blocks("python"):
        done = subprocess.run([sys.executable, "-c", one], cwd=folder, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, f"{one}: {done.stdout}{done.stderr}"
    assert "EPSG:32633" in done.stdout
