from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from atrous.data.class_colors import default_colors
from atrous.data.dataset import Dataset, Item
from atrous.data.doctor.scan import survey
from atrous.data.layouts.pairing import NoClassesError
from atrous.data.mask_value_map import ClassTable
from atrous.data.open_dataset import open_dataset
from atrous.data.pictures import read_pixels
from atrous.data.splits.random_split import seeded_split
from atrous.errors import AtrousError

BINARY = ClassTable(("background", "thing"), default_colors(2), ((0,), (1,)), (255,))


def write(path: Path, array) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, dtype=np.uint8)).save(path)
    return path


def folder_dataset(root: Path, stems=tuple("abcdefghijkl")) -> Path:
    rng = np.random.default_rng(0)
    for stem in stems:
        write(root / "images" / f"{stem}.jpg", rng.integers(0, 256, (6, 8, 3)))
        write(root / "masks" / f"{stem}.png", rng.integers(0, 2, (6, 8)))
    BINARY.to_yaml(root / "classes.yaml")
    return root


def names(items):
    return [item.name for item in items]


def test_folder_without_lists_gets_a_stated_seeded_split(tmp_path):
    dataset = open_dataset(folder_dataset(tmp_path))
    assert dataset.layout == "folder"
    assert {name: len(items) for name, items in dataset.splits.items()} == {"train": 10, "val": 1, "test": 1}
    assert "layout 'folder'" in dataset.notes[0]
    assert "seed 0: train 10, val 1, test 1" in dataset.notes[1]
    assert dataset == open_dataset(tmp_path)
    everything = sorted(name for items in dataset.splits.values() for name in names(items))
    assert everything == list("abcdefghijkl")
    sample = dataset.read(dataset.split("train")[0])
    assert sample.image.shape == (6, 8, 3)
    assert sample.label.shape == (6, 8)
    assert sample.label.dtype == np.uint8


@pytest.mark.parametrize(
    ("count", "sizes"), [(1, (1, 0, 0)), (2, (1, 1, 0)), (3, (2, 1, 0)), (10, (8, 1, 1)), (50, (40, 5, 5))]
)
def test_seeded_split_sizes(count, sizes):
    items = [Item(f"{index:03}", Path(f"{index}"), None) for index in range(count)]
    splits, _ = seeded_split(reversed(items))
    assert tuple(len(splits.get(name, ())) for name in ("train", "val", "test")) == sizes
    assert splits == seeded_split(items)[0]
    if count == 50:
        assert splits != seeded_split(items, seed=1)[0]


def test_folder_lists_match_by_stem_whatever_they_write(tmp_path):
    folder_dataset(tmp_path, ("a", "b b", "c.v2", "d", "e"))
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits/train.txt").write_text("a.png\nb b\n\nc.v2\nmissing.png\na\n")
    (tmp_path / "splits/val.txt").write_text("/data/images/d.webp /data/masks/d.png\n")
    dataset = open_dataset(tmp_path, "folder")
    assert names(dataset.split("train")) == ["a", "b b", "c.v2", "missing"]
    assert names(dataset.split("val")) == ["d"]
    assert "1 of 5 pictures" in dataset.notes[0]
    missing = dataset.split("train")[3]
    assert not missing.image.exists()
    with pytest.raises(AtrousError, match="no mask"):
        dataset.read(missing)
    with pytest.raises(AtrousError, match="Did you mean 'train'"):
        dataset.split("trian")


def test_missing_pairs_do_not_stop_opening(tmp_path):
    folder_dataset(tmp_path)
    (tmp_path / "masks/a.png").unlink()
    (tmp_path / "images/b.jpg").unlink()
    dataset = open_dataset(tmp_path)
    items = {item.name: item for part in dataset.splits.values() for item in part}
    assert items["a"].mask is None
    assert "b" not in items
    assert [path.name for path in dataset.masks_without_image] == ["b.png"]


def test_no_classes_points_to_the_doctor(tmp_path):
    folder_dataset(tmp_path)
    (tmp_path / "classes.yaml").unlink()
    with pytest.raises(NoClassesError, match="--write-classes"):
        open_dataset(tmp_path)
    assert open_dataset(tmp_path, classes=BINARY).classes is BINARY


def test_wrong_size_and_unknown_value_name_the_file(tmp_path):
    folder_dataset(tmp_path)
    write(tmp_path / "masks/a.png", np.zeros((8, 6)))
    write(tmp_path / "masks/b.png", np.full((6, 8), 9))
    dataset = open_dataset(tmp_path)
    items = {item.name: item for part in dataset.splits.values() for item in part}
    with pytest.raises(AtrousError, match=r"a\.png: the mask is 6×8 .* is 8×6"):
        dataset.read(items["a"])
    with pytest.raises(AtrousError, match=r"b\.png: .*value 9 \(48 pixels\)"):
        dataset.read(items["b"])


def test_exif_is_named_as_the_cause_of_a_turned_mask(tmp_path):
    folder_dataset(tmp_path)
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(tmp_path / "images/a.jpg", exif=exif.tobytes())
    dataset = open_dataset(tmp_path)
    item = next(item for part in dataset.splits.values() for item in part if item.name == "a")
    with pytest.raises(AtrousError, match="EXIF tag turns it"):
        dataset.read(item)


def test_unknown_folders_and_layouts(tmp_path):
    with pytest.raises(AtrousError, match="no such folder"):
        open_dataset(tmp_path / "none")
    (tmp_path / "labels").mkdir()
    with pytest.raises(AtrousError, match="the folder contains labels/") as caught:
        open_dataset(tmp_path)
    for layout in ("folder", "camvid", "voc", "cityscapes", "ade20k", "coco_stuff"):
        assert f"'{layout}' has " in str(caught.value)
    with pytest.raises(AtrousError, match="Did you mean 'folder'"):
        open_dataset(tmp_path, "foldr")
    with pytest.raises(AtrousError, match="images"):
        open_dataset(tmp_path, "folder")


def test_two_files_of_one_name_are_refused(tmp_path):
    folder_dataset(tmp_path)
    write(tmp_path / "images/a.png", np.zeros((6, 8)))
    with pytest.raises(AtrousError, match=r"'a\.jpg' and 'a\.png' share"):
        open_dataset(tmp_path)


def test_camvid_layout(tmp_path):
    for split, stems in {"train": "ab", "val": "c"}.items():
        for stem in stems:
            write(tmp_path / split / f"{stem}.webp", np.zeros((4, 4, 3)))
            write(tmp_path / f"{split}annot" / f"{stem}.png", np.full((4, 4), 11))
    (tmp_path / "train.txt").write_text("/SegNet/train/b.png /SegNet/trainannot/b.png\n")
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "camvid"
    assert names(dataset.split("train")) == ["b"]
    assert names(dataset.split("val")) == ["c"]
    assert len(dataset.classes) == 11
    assert (dataset.read(dataset.split("val")[0]).label == 255).all()
    BINARY.to_yaml(tmp_path / "classes.yaml")
    assert open_dataset(tmp_path).classes == BINARY


@pytest.mark.parametrize("inside", ["", "VOC2012", "VOCdevkit/VOC2012"])
@pytest.mark.parametrize("lists", ["ImageSets", "ImageSets/Segmentation", None])
def test_voc_layout(tmp_path, inside, lists):
    year = tmp_path / inside
    for stem in "abc":
        write(year / "JPEGImages" / f"{stem}.jpg", np.zeros((4, 4, 3)))
    for stem in "ab":
        write(year / "SegmentationClass" / f"{stem}.png", np.full((4, 4), 20))
    if lists:
        (year / lists).mkdir(parents=True)
        (year / lists / "train.txt").write_text("a\n")
        (year / lists / "val.txt").write_text("b\n")
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "voc"
    assert dataset.root == year
    assert sorted(names(dataset.split("train") + dataset.split("val"))) == ["a", "b"]
    assert dataset.classes.names[20] == "tvmonitor"
    assert (dataset.read(dataset.split("train")[0]).label == 20).all()


def test_real_camvid(shared):
    dataset = open_dataset(shared / "data/camvid")
    assert {name: len(items) for name, items in dataset.splits.items()} == {"train": 367, "val": 101}
    sample = dataset.read(dataset.split("train")[0])
    assert sample.image.shape == (360, 480, 3)
    assert set(np.unique(sample.label)) <= {*range(11), 255}


def test_real_voc(shared):
    dataset = open_dataset(shared / "data/voc2012_subset")
    assert dataset.layout == "voc"
    for item in dataset.split("val")[:5]:
        sample = dataset.read(item)
        assert sample.image.shape[:2] == sample.label.shape


def _raster(path, values, nodata):
    tifffile.imwrite(path, values, photometric="minisblack", extratags=[(42113, 2, 0, nodata, True)])


@pytest.mark.parametrize(
    ("values", "nodata", "labels"),
    [
        (np.array([[0, 1, 9]], np.uint8), "9", [[0, 1, 255]]),
        (np.array([[0, 1, -9999]], np.int16), "-9999", [[0, 1, 255]]),
        (np.array([[0, 1, np.nan]], np.float32), "nan", [[0, 1, 255]]),
        (np.array([[0, 1, -3.4028235e38]], np.float32), "-3.4028234663852886e+38", [[0, 1, 255]]),
        (np.array([[0, 1, 1]], np.uint8), "1", [[0, 1, 1]]),  # the class table says what 1 means
        (np.array([[0, 1, 1]], np.uint8), "0", [[0, 1, 1]]),
        (np.array([[0, 1, -np.inf]], np.float32), "-9999", [[0, 1, 255]]),
        (np.array([[0, 1, 1]], np.float32), "0", [[0, 1, 1]]),
    ],
)
def test_a_masks_own_nodata_is_no_label_unless_a_class_lists_it(values, nodata, labels, tmp_path):
    _raster(tmp_path / "m.tif", values, nodata)
    dataset = Dataset(tmp_path, "folder", ClassTable(("a", "b"), ((0, 0, 0), (9, 9, 9)), ((0,), (1,))), {})
    assert dataset.read_label(tmp_path / "m.tif").tolist() == labels


def test_a_declared_zero_is_void_only_where_a_table_does_not_list_it(tmp_path):
    """Programs that draw outlines into rasters declare 0 by default, and use it for the background."""
    values = np.array([[0, 1, 2, 2]] * 4, np.uint8)
    for dtype in (np.uint8, np.float32):
        _raster(tmp_path / "m.tif", values.astype(dtype), "0")
        without = Dataset(tmp_path, "folder", ClassTable(("a", "b"), ((0, 0, 0), (9, 9, 9)), ((1,), (2,))), {})
        assert without.read_label(tmp_path / "m.tif")[0].tolist() == [255, 0, 1, 1]
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "a.png")
    _raster(tmp_path / "m.tif", values, "0")
    item = Item("a", tmp_path / "a.png", tmp_path / "m.tif")
    assert [pair.mask.values for pair in survey([item], None) if pair.mask] == [(0, 1, 2)]
    assert [pair.mask.values for pair in survey([item], without.classes) if pair.mask] == [(1, 2)]


def test_nodata_in_gdals_file_is_compared_with_what_the_picture_stores(tmp_path):
    beside = '<PAMDataset><PAMRasterBand band="1"><NoDataValue>{}</NoDataValue></PAMRasterBand></PAMDataset>'
    palette = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    palette.putpalette([10, 20, 30, 200, 0, 0, 0, 0, 0])
    palette.save(tmp_path / "p.bmp")
    Image.fromarray(np.array([[False, True]])).save(tmp_path / "b.png")
    tifffile.imwrite(tmp_path / "t.tif", np.array([[0, 3]], np.uint8), extratags=[(42113, 2, 0, "0", True)])
    for name, nodata, valid in (
        ("p.bmp", 0, [[False, True, True]]),
        ("b.png", 1, [[True, False]]),
        ("t.tif", 3, [[True, False]]),  # which GDAL prefers to the file's own
    ):
        (tmp_path / f"{name}.aux.xml").write_text(beside.format(nodata), encoding="utf-8")
        found = read_pixels(tmp_path / name).for_model()[1]
        assert found is not None and found.tolist() == valid, name


def test_nodata_in_gdals_file_beside_a_picture_or_mask(tmp_path):
    values = np.array([[0, 1, 7]], np.uint8)
    beside = '<PAMDataset><PAMRasterBand band="1"><NoDataValue>{}</NoDataValue></PAMRasterBand></PAMDataset>'
    dataset = Dataset(tmp_path, "folder", ClassTable(("a", "b"), ((0, 0, 0), (9, 9, 9)), ((0,), (1,))), {})
    for name in ("m.png", "m.tif"):
        save = tifffile.imwrite if name.endswith("tif") else (lambda path, array: Image.fromarray(array).save(path))
        save(tmp_path / name, values)
        with pytest.raises(AtrousError, match="the value 7"):
            dataset.read_label(tmp_path / name)
        (tmp_path / f"{name}.aux.xml").write_text(beside.format("7.0"), encoding="utf-8")
        assert dataset.read_label(tmp_path / name).tolist() == [[0, 1, 255]]
        valid = read_pixels(tmp_path / name).for_model()[1]
        assert valid is not None and valid.tolist() == [[True, True, False]]
