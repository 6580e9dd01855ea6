import io

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from atrous.overwrite_checks import save_picture
from atrous.software_tag import UNSEALED, is_marked, is_sealed, seal

PICTURES = [
    np.arange(12, dtype=np.uint8).reshape(3, 4),
    np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000,
    np.arange(36, dtype=np.uint8).reshape(3, 4, 3),
    np.random.default_rng(0).integers(0, 255, (700, 900, 3), dtype=np.uint8),  # several chunks, several strips
]


@pytest.mark.parametrize("ending", [".png", ".tif"])
@pytest.mark.parametrize("array", PICTURES, ids=lambda array: f"{array.shape} {array.dtype}")
def test_a_picture_of_ours_is_known_and_has_its_pixels(array, ending, tmp_path):
    path = tmp_path / f"a{ending}"
    save_picture(Image.fromarray(array), path)
    assert is_sealed(path)
    with Image.open(path) as read:
        read.load()  # which checks the checksums of PNG's chunks
        assert np.array_equal(np.asarray(read), array)


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_one_that_was_corrected_is_not_even_where_the_software_is_kept(ending, tmp_path):
    path = tmp_path / f"a{ending}"
    array = PICTURES[0].copy()
    save_picture(Image.fromarray(array), path)
    with Image.open(path) as read:
        software = read.info["Software"] if ending == ".png" else read.tag_v2[305]
    array[1, 2] = 99
    kept = PngImagePlugin.PngInfo()
    kept.add_text("Software", software)
    options = {"pnginfo": kept} if ending == ".png" else {"software": software}
    Image.fromarray(array).save(path, **options)
    assert not is_sealed(path)


def test_a_raster_that_was_changed_in_place_is_not_ours(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    for big in ("NO", "YES"):
        path = tmp_path / f"{big}.tif"
        profile = {"driver": "GTiff", "height": 600, "width": 700, "count": 1, "dtype": "uint8", "compress": "deflate"}
        with rasterio.open(path, "w", tiled=True, blockxsize=256, blockysize=256, BIGTIFF=big, **profile) as file:
            file.update_tags(TIFFTAG_SOFTWARE=UNSEALED)
            file.write(np.arange(420000).reshape(1, 600, 700).astype(np.uint8))
        assert not is_sealed(path)
        seal(path)
        assert is_sealed(path)
        with rasterio.open(path, "r+") as file:
            file.write(np.full((1, 2, 2), 9, np.uint8), window=rasterio.windows.Window(300, 300, 2, 2))
        assert not is_sealed(path)


@pytest.mark.parametrize("big", ["NO", "YES"])
def test_a_raster_whose_position_was_corrected_is_not_ours(tmp_path, big):
    rasterio = pytest.importorskip("rasterio")
    at = rasterio.transform.from_origin(500000, 5000000, 10, 10)
    for name, change in (("scale", {"transform": rasterio.transform.from_origin(500000, 5000000, 20, 20)}),
                         ("corner", {"transform": rasterio.transform.from_origin(500010, 5000000, 10, 10)}),
                         ("system", {"crs": "EPSG:32632"})):  # fmt: skip
        path = tmp_path / f"{name}.tif"
        profile = {"driver": "GTiff", "height": 6, "width": 7, "count": 1, "dtype": "uint8", "BIGTIFF": big}
        with rasterio.open(path, "w", crs="EPSG:32633", transform=at, **profile) as file:
            file.update_tags(TIFFTAG_SOFTWARE=UNSEALED)
            file.write(np.ones((1, 6, 7), np.uint8))
        seal(path)
        assert is_sealed(path)
        with rasterio.open(path, "r+") as file:
            for field, value in change.items():
                setattr(file, field, value)
        assert not is_sealed(path), name
        assert is_marked(path)


def test_files_of_others_and_damaged_ones_are_not_ours(tmp_path):
    path = tmp_path / "a"
    for kind in ("PNG", "TIFF", "JPEG"):
        file = io.BytesIO()
        Image.fromarray(PICTURES[0]).save(file, kind)
        path.write_bytes(file.getvalue())
        assert not is_sealed(path)
    save_picture(Image.fromarray(PICTURES[3]), tmp_path / "b.tif")
    save_picture(Image.fromarray(PICTURES[3]), tmp_path / "b.png")
    for name in ("b.tif", "b.png"):
        whole = (tmp_path / name).read_bytes()
        for length in (0, 1, 7, 8, 15, 40, 200, len(whole) // 2):
            path.write_bytes(whole[:length])
            assert not is_sealed(path), (name, length)
    assert not is_sealed(tmp_path / "absent")
