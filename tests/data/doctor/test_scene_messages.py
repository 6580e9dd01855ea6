"""Messages of the doctor on scenes: once per file, in pixels of the scene, and of windows instead of pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.data.rasters.rasters import write_raster

from atrous.cli import main
from atrous.console import notes_once, print_notes
from atrous.data.doctor.examine import examine
from atrous.data.file_headers import notes_on
from atrous.data.file_of_picture import word_of_picture
from atrous.data.open_dataset import open_dataset
from atrous.data.pixels import PictureKind
from atrous.errors import AtrousError

rasterio = pytest.importorskip("rasterio")
pytestmark = pytest.mark.filterwarnings("ignore")
PLACE = "EPSG:32632", rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "scenes").mkdir()
    (tmp_path / "labels").mkdir()
    values = np.random.default_rng(0).integers(1, 200, (120, 160)).astype(np.uint8)
    write_raster(tmp_path / "scenes/a.tif", values, *PLACE)
    (tmp_path / "classes.yaml").write_text("classes:\n  - {name: land}\n  - {name: water}\n", encoding="utf-8")
    return tmp_path


def finding(diagnosis, kind):
    return next(one for one in (*diagnosis.errors, *diagnosis.warnings) if one.kind == kind)


def test_an_unknown_value_is_shown_in_pixels_of_the_scene(root):
    label = np.zeros((120, 160), np.uint8)
    label[100, 150] = 7
    write_raster(root / "labels/a.tif", label, *PLACE)
    (place,) = finding(examine(root, window=40), "unknown_value").examples
    assert place.startswith("labels/a.tif (window of ")
    assert place.endswith("value 7 in 1 pixels, first at pixel x=150, y=100")
    dataset = open_dataset(root, window=40)
    with pytest.raises(AtrousError, match=r"labels/a.tif: the mask holds the value 7.* at pixel x=150, y=100"):
        list(map(dataset.read, dataset.unlisted))


def test_a_vector_file_with_an_error_is_named_once(root):
    square = [[500000, 5000000], [501600, 5000000], [501600, 4998800], [500000, 4998800], [500000, 5000000]]
    feature = {"type": "Feature", "properties": {"kind": "x"}, "geometry": {"type": "Polygon", "coordinates": [square]}}
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32632"}}
    content = {"type": "FeatureCollection", "crs": crs, "features": [feature]}
    (root / "labels/a.geojson").write_text(json.dumps(content), encoding="utf-8")
    (root / "classes.yaml").write_text("attribute: kind\nclasses:\n  - {name: land}\n  - {name: water}\n", "utf-8")
    found = finding(examine(root, window=40), "unreadable")
    assert found.count == 1
    assert "the attribute kind has the values 'x'" in found.examples[0]


def test_a_scene_without_labels_is_named_once(root):
    write_raster(
        root / "scenes/b.tif", np.ones((120, 160), np.uint8), PLACE[0], PLACE[1] @ rasterio.Affine.translation(500, 0)
    )
    write_raster(root / "labels/a.tif", np.zeros((120, 160), np.uint8), *PLACE)
    found = finding(examine(root, window=40), "missing_mask")
    assert (found.count, found.examples) == (1, ("scenes/b.tif",))
    assert found.message.startswith("Scenes without a mask.")


def test_windows_are_counted_as_windows(root):
    (root / "splits").mkdir()
    write_raster(root / "labels/a.tif", np.zeros((120, 160), np.uint8), *PLACE)
    for name in ("train", "val"):
        (root / "splits" / f"{name}.txt").write_text("a\n", encoding="utf-8")
    warning = finding(examine(root, window=200), "few_pictures")
    assert "The split 'val' has 1 window: too few" in warning.message
    assert warning.message.endswith("Add labelled scenes to it.")


def test_chosen_bands_decide_whether_a_channel_is_a_colour(root):
    bands = np.ones((6, 120, 160), np.uint16)
    path = write_raster(root / "scenes/a.tif", bands, *PLACE)
    with rasterio.open(path, "r+") as file:
        file.descriptions = ("B1", "B2", "B3", "B4", "B8", "B12")
    write_raster(root / "labels/a.tif", np.zeros((120, 160), np.uint8), *PLACE)
    assert any("is a colour" in note for note in examine(root, window=80).notes)
    (root / "inputs.yaml").write_text("inputs:\n  image: {bands: [B4, B3, B2, B8]}\n", encoding="utf-8")
    assert not any("is a colour" in note for note in examine(root, window=80).notes)


def test_counts_of_pictures_are_counts_of_windows():
    path = Path("scenes/a.tif/window/0_0_5_5")
    (note,) = notes_on({path: PictureKind(6, "uint16", 6)}, 4)
    assert "these windows have more (1 window with 6)" in note.message
    assert (word_of_picture(path), word_of_picture("a.png")) == ("window", "picture")


def test_each_note_is_printed_once_in_a_command(capsys):
    with notes_once():
        for _ in range(2):
            print_notes(["a random split", "another note"])
    assert capsys.readouterr().out == "a random split\nanother note\n"
    print_notes(["a random split"])
    assert capsys.readouterr().out == "a random split\n"


def test_the_command_takes_the_size_of_the_windows(root, capsys):
    write_raster(root / "labels/a.tif", np.zeros((120, 160), np.uint8), *PLACE)
    main(["doctor", str(root), "--window", "40", "--json", str(root / "found.json")])
    found = json.loads((root / "found.json").read_text("utf-8"))["images"]
    opened = open_dataset(root, window=40)
    assert found == {name: len(items) for name, items in opened.splits.items()}
    assert sum(found.values()) > sum(map(len, open_dataset(root).splits.values()))
    assert main(["doctor", str(root), "--window", "0"]) == 2
    assert "at least 1 pixel, got 0" in " ".join(capsys.readouterr().err.split())
