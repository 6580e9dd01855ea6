"""`atrous area`: hectares per class of tiny scenes, by a small model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.commands.conftest import CLASSES, draw

from atrous import create_model, model_file
from atrous.cli import main
from atrous.commands._area_results import area_results, hectares
from atrous.commands.area import area
from atrous.data.dataset import Item
from atrous.data.mask_value_map import ClassTable
from atrous.errors import AtrousError
from atrous.inference.segmenter import Segmenter
from atrous.learning.area_estimate import estimate_areas

rasterio = pytest.importorskip("rasterio")
pytest.importorskip("pyproj")
pytest.importorskip("shapely")
from rasterio.transform import from_origin  # noqa: E402

CPU: dict[str, Any] = {"device": "cpu", "precision": "float32"}
#: In an equal-area projection, a pixel of 10 m is 0.01 ha.
EQUAL_AREA = {"crs": "EPSG:3035", "transform": from_origin(4_300_000, 3_200_000, 10, 10)}


def save(path: Path, picture: np.ndarray, **profile) -> Path:
    height, width, count = picture.shape
    fixed = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": picture.dtype}
    with rasterio.open(path, "w", **fixed, **(profile or EQUAL_AREA)) as file:
        file.write(picture.transpose(2, 0, 1))
    return path


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """A patchwork of pictures, 192×256 px."""
    rng = np.random.default_rng(7)
    parts = [np.maximum(draw(rng)[0], 1) for _ in range(16)]
    return np.concatenate([np.concatenate(parts[row : row + 4], 1) for row in range(0, 16, 4)])


@pytest.fixture
def places(tmp_path) -> Path:
    """A dataset of 24 labelled pictures of 12 places."""
    root, rng = tmp_path / "places", np.random.default_rng(3)
    for folder in ("images", "masks", "splits"):
        (root / folder).mkdir(parents=True)
    names = [f"place{number // 2}_{number % 2}" for number in range(24)]
    for name in names:
        image, mask = draw(rng)
        Image.fromarray(image).save(root / "images" / f"{name}.png")
        Image.fromarray(mask).save(root / "masks" / f"{name}.png")
    (root / "splits" / "test.txt").write_text("\n".join(names))
    (root / "splits" / "train.txt").write_text(names[0])
    CLASSES.to_yaml(root / "classes.yaml")
    return root


def test_the_areas_are_those_of_the_predicted_masks_corrected_by_the_errors_of_the_split(
    model, places, picture, tmp_path, capsys
):
    missing = np.where(np.arange(192)[:, None, None] < 20, 0, picture).astype(np.uint8)
    one = save(tmp_path / "one.tif", missing, nodata=0, **EQUAL_AREA)
    beside = {**EQUAL_AREA, "transform": from_origin(4_302_560, 3_200_000, 10, 10)}
    other = save(tmp_path / "other.tif", picture[::-1], **beside)
    found = area(
        model, [one, other], data=places, split="test", groups=r"(place\d+)_", json=tmp_path / "area.json", **CPU
    )
    said = capsys.readouterr().out
    assert json.loads((tmp_path / "area.json").read_text()) == found

    assert (
        main(
            [
                "predict",
                str(model),
                str(one),
                str(other),
                "--out",
                str(tmp_path / "out"),
                "--device",
                "cpu",
                "--precision",
                "float32",
            ]
        )
        == 0
    )
    masks = [rasterio.open(tmp_path / "out" / name).read(1) for name in ("one.tif", "other.tif")]
    counts = np.sum([np.bincount(mask.ravel(), minlength=256) for mask in masks], 0)
    mapped = [entry["mapped_ha"] for entry in found["classes"]]
    np.testing.assert_allclose(mapped, counts[:3] * 0.01, rtol=1e-5)
    assert found["no_data_ha"] == pytest.approx(20 * 256 * 0.01, rel=1e-5)
    assert found["rasters"][1]["no_data_ha"] == 0

    segmenter, matrix = Segmenter(model, **CPU), np.zeros((3, 3), int)
    for path in sorted((places / "images").iterdir()):
        truth = CLASSES.encode(np.asarray(Image.open(places / "masks" / path.name)))
        mask = segmenter(path).mask
        np.add.at(matrix, (mask[truth != 255], truth[truth != 255]), 1)
    assert found["error_matrix"] == matrix.tolist()
    expected = estimate_areas(matrix, np.array(mapped))
    for index, entry in enumerate(found["classes"]):
        assert entry["estimated_ha"] == pytest.approx(expected.area[index])
        assert entry["users_accuracy"] == pytest.approx(expected.users[index])
        low, high = entry["interval_ha"]
        assert low <= entry["estimated_ha"] <= high
        assert entry["groups"] == 12
        assert entry["design_effect"] > 0
    assert found["intervals"]["units"] == 12
    assert found["remarks"][0].startswith("The split is no random sample")
    assert not any("too narrow" in remark for remark in found["remarks"])
    words = " ".join(said.split())
    assert "box" in words and "intervals over 12 groups" in words and "no random sample of the mapped area" in words
    assert f"{hectares(found['total_ha'])} ha in 2 rasters, {hectares(found['no_data_ha'])} ha without data" in words


def test_the_areas_do_not_depend_on_how_a_raster_is_read(model, places, picture, tmp_path):
    """A raster in degrees, in strips of windows and as a whole."""
    degrees = {"crs": "EPSG:4326", "transform": from_origin(11, 48, 1e-4, 1e-4)}
    raster = save(tmp_path / "scene.tif", picture, **degrees)
    whole = area(model, [raster], data=places, split="test", **CPU)
    tiles = area(model, [raster], data=places, split="test", tile=96, overlap=32, **CPU)
    assert tiles["total_ha"] == pytest.approx(whole["total_ha"])
    radius = 6_371_000
    about = (np.radians(1e-4) * radius) ** 2 * np.cos(np.radians(48)) * 192 * 256 / 10_000
    assert whole["total_ha"] == pytest.approx(about, rel=0.01)


def test_few_groups_are_said(model, shapes, picture, tmp_path, capsys):
    raster = save(tmp_path / "scene.tif", picture)
    words = ["area", str(model), str(raster), "--data", str(shapes), "--split", "test", "--device", "cpu"]
    assert main(words) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Intervals over 3 pictures are too narrow to trust" in said
    assert "intervals over 3 pictures" in said


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ({"transform": from_origin(0, 0, 10, 10)}, "scene.tif: it has no coordinate reference system"),
        ({"crs": "EPSG:32632"}, "no positions of its pixels"),
    ],
)
def test_rasters_without_a_place_are_refused(model, shapes, picture, tmp_path, profile, message):
    raster = save(tmp_path / "scene.tif", picture, **profile)
    with pytest.raises(AtrousError, match=message):
        area(model, [raster], data=shapes, split="test", **CPU)


def test_what_cannot_be_measured_is_refused(model, shapes, picture, tmp_path, capsys):
    raster = save(tmp_path / "scene.tif", picture)
    assert main(["area", str(model), str(raster)]) == 2
    assert "give --data DATASET" in " ".join(capsys.readouterr().err.split())
    save(tmp_path / "again.tif", picture, crs="EPSG:3035", transform=from_origin(4_300_500, 3_200_000, 10, 10))
    with pytest.raises(AtrousError, match=r"again\.tif and .*scene\.tif \(80%\)"):
        area(model, [tmp_path], data=shapes, split="test", **CPU)
    with pytest.raises(AtrousError, match="val"):
        area(model, [raster], data=shapes, split="tets", **CPU)
    with pytest.raises(AtrousError, match="never"):
        area(model, [raster], data=shapes, json=raster, overwrite=True, **CPU)
    empty = save(tmp_path / "empty.tif", picture * 0, nodata=0, crs="EPSG:3035", transform=from_origin(0, 0, 10, 10))
    with pytest.raises(AtrousError, match="no pixel has data"):
        area(model, [empty], data=shapes, split="test", **CPU)


def test_a_dataset_of_other_classes_is_refused(shapes, picture, tmp_path):
    network = create_model("deeplabv3plus", backbone="mobilenetv2_035", num_classes=2, aspp_channels=8)
    network.info = network.info.with_table(ClassTable(("a", "b"), ((0, 0, 0), (9, 9, 9)), ((0,), (1,))))
    model_file.save(network, tmp_path / "other.safetensors")
    raster = save(tmp_path / "scene.tif", picture)
    with pytest.raises(AtrousError, match="classes that this model does not have"):
        area(tmp_path / "other.safetensors", [raster], data=shapes, split="test", **CPU)


def items(count: int) -> list[Item]:
    return [Item(f"p{index}", Path(f"p{index}.png"), None, group=str(index)) for index in range(count)]


def results(groups: np.ndarray, mapped: list[float]) -> dict:
    names = ["water", "field", "wood"]
    return area_results(np.array(mapped) * 1e4, groups, names, items(len(groups)), "test", "pattern")


def test_a_class_of_the_map_that_the_split_never_shows_is_left_out_and_named():
    rng = np.random.default_rng(0)
    groups = rng.integers(5, 50, (12, 3, 3))
    groups[:, :, 2] = 0  # never predicted
    found = results(groups, [60.0, 30.0, 10.0])
    wood = found["classes"][2]
    assert (wood["mapped_ha"], wood["estimated_ha"], wood["interval_ha"], wood["users_accuracy"]) == (
        10,
        None,
        None,
        None,
    )
    assert found["left_out_ha"] == 10
    assert any("No pixel of the split is predicted as wood" in one and "10 ha" in one for one in found["remarks"])
    without = estimate_areas(groups.sum(0).T, np.array([60.0, 30.0, 0.0]))
    assert found["classes"][0]["estimated_ha"] == pytest.approx(without.area[0])


def test_a_class_without_labels_is_not_estimated_as_nothing():
    groups = np.random.default_rng(0).integers(5, 50, (12, 3, 3))
    groups[:, 2] = 0
    found = results(groups, [60.0, 30.0, 10.0])
    assert found["classes"][2]["estimated_ha"] is None
    assert found["classes"][2]["users_accuracy"] == 0
    assert any("no labelled pixel of wood" in remark for remark in found["remarks"])


def test_a_class_in_one_group_has_no_interval_and_is_named():
    groups = np.random.default_rng(0).integers(5, 50, (12, 3, 3))
    groups[1:, 2] = groups[1:, :, 2] = 0
    found = results(groups, [60.0, 30.0, 10.0])
    assert found["classes"][2]["estimated_ha"] > 0 and found["classes"][2]["interval_ha"] is None
    assert any("Only one group" in remark and "wood" in remark for remark in found["remarks"])
    assert found["intervals"]["undefined_draws"] == pytest.approx((11 / 12) ** 12, abs=0.02)
    assert any("draws of the bootstrap" in remark for remark in found["remarks"])


def test_a_split_that_shows_nothing_of_the_map_gives_no_estimate():
    groups = np.zeros((3, 3, 3), int)
    groups[:, 0, 0] = 5
    found = results(groups, [0.0, 4.0, 0.0])
    assert [entry["estimated_ha"] for entry in found["classes"]] == [None] * 3
    assert found["overall_accuracy"] is None and found["left_out_ha"] == found["total_ha"] == 4


@pytest.mark.parametrize(
    ("value", "words"),
    [(None, "–"), (0, "0"), (0.01234, "0.0123"), (12.34, "12.3"), (123.44, "123.4"), (12345.6, "12,346")],
)
def test_hectares_in_words(value, words):
    assert hectares(value) == words


def test_a_vrt_has_the_areas_and_the_mask_of_its_tiff_and_its_files_are_never_replaced(
    model, places, picture, tmp_path, capsys
):
    from rasterio.shutil import copy

    tiff = save(tmp_path / "one.tif", picture, **EQUAL_AREA)
    (tmp_path / "vrts").mkdir()
    vrt = tmp_path / "vrts" / "one.vrt"
    copy(str(tiff), str(vrt), driver="VRT")
    first, second = (area(model, [path], data=places, split="test", **CPU) for path in (tiff, vrt))
    assert first["classes"] == second["classes"]
    for path, out in ((tiff, "of_tiff"), (vrt, "of_vrt")):
        assert main(["predict", str(model), str(path), "--out", str(tmp_path / out), "--device", "cpu"]) == 0
    masks = [rasterio.open(tmp_path / out / "one.tif") for out in ("of_tiff", "of_vrt")]
    assert np.array_equal(masks[0].read(), masks[1].read()) and masks[0].transform == masks[1].transform
    assert masks[1].tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    before = tiff.read_bytes()
    assert main(["predict", str(model), str(vrt), "--out", str(tmp_path), "--device", "cpu", "--overwrite"]) != 0
    assert "one.tif" in capsys.readouterr().err and tiff.read_bytes() == before
    tiff.unlink()
    with pytest.raises(AtrousError, match="which is missing"):
        area(model, [vrt], data=places, split="test", **CPU)
