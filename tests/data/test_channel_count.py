"""The channels that a model takes are agreed on by the doctor and by training, from all pictures."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from atrous.data.class_colors import default_colors
from atrous.data.doctor.examine import examine
from atrous.data.mask_value_map import ClassTable
from atrous.data.open_dataset import open_dataset
from atrous.data.pictures import read_kind, read_pixels
from atrous.data.pixels import StoredPixels, gives_channels
from atrous.errors import AtrousError
from atrous.learning.distributed import current_group
from atrous.learning.model_for_data import create_for
from atrous.learning.recipe import Recipe, to_recipe
from atrous.learning.training_data import open_training_data

MODEL = {"backbone": "mobilenetv2_035", "pretrained": False, "arguments": {"aspp_channels": 8, "low_channels": 8}}


def save(path: Path, bands: int, pages: int = 1) -> None:
    """A TIFF none of whose bands is alpha."""
    seed = int.from_bytes(str(path.name).encode(), "big") % 2**32
    image = np.random.default_rng(seed).integers(1, 255, (pages, 32, 32, bands)).astype(np.uint8)
    extra = {} if bands == 1 else {"planarconfig": "contig", "extrasamples": [0] * (bands - 1)}
    with tifffile.TiffWriter(path) as file:
        for page in image:
            file.write(page[..., 0] if bands == 1 else page, photometric="minisblack", metadata=None, **extra)


def dataset(root: Path, train: list[int], val: list[int], pages: int = 1) -> Path:
    for folder in ("images", "masks", "splits"):
        (root / folder).mkdir(parents=True)
    for split, counts in (("train", train), ("val", val)):
        names = [f"{split}{index}" for index in range(len(counts))]
        for name, bands in zip(names, counts, strict=True):
            save(root / f"images/{name}.tif", bands, pages)
            mask = np.random.default_rng(0).integers(0, 2, (32, 32)).astype(np.uint8)
            Image.fromarray(mask).save(root / f"masks/{name}.png")
        (root / f"splits/{split}.txt").write_text("\n".join(names), encoding="utf-8")
    ClassTable(("a", "b"), default_colors(2), ((0,), (1,)), (255,)).to_yaml(root / "classes.yaml")
    return root


def recipe_for(root: Path, in_channels: int | None = None, check: bool = False, pages: str = "first") -> Recipe:
    data = {"root": str(root), "check": check, "workers": 0, "pages": pages}
    return to_recipe({"name": "x", "data": data, "model": {**MODEL, "in_channels": in_channels}})


@pytest.mark.parametrize(("bands", "alpha"), [*((bands, None) for bands in range(1, 7)), (2, 1), (4, 3), (5, 4)])
def test_what_is_said_to_give_channels_does(bands, alpha):
    pixels = StoredPixels(np.ones((2, 3, bands), np.uint8), alpha=alpha)
    for wanted in range(1, 8):
        try:
            gives = pixels.for_model(wanted)[0].shape[2] == wanted
        except AtrousError:
            gives = False
        assert gives_channels(pixels.channels, bands, wanted) == gives, wanted


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".jpg"])
def test_the_kind_is_that_of_the_pixels(tmp_path, mode, suffix):
    path = tmp_path / f"a{suffix}"
    try:
        Image.new(mode, (9, 8)).save(path)
    except (OSError, KeyError):
        pytest.skip("the format has no such mode")
    kind, pixels = read_kind(path), read_pixels(path)
    assert (kind.channels, kind.bands, kind.dtype) == (pixels.channels, pixels.values.shape[2], pixels.values.dtype)


#: Bands of the training pictures, of the others, and whether they train without model.in_channels.
MIXED = [
    ([3, 3], [3], True),
    ([1, 3], [3], True),
    ([4, 3], [1], True),
    ([5, 7], [6], True),
    ([2, 2], [2], True),
    ([3, 3], [5], True),
    ([3, 5], [3], False),
    ([5, 3], [5], False),
    ([2, 3], [3], False),
    ([5, 7], [4], False),
    ([5, 5], [3], False),
]


@pytest.mark.parametrize("in_channels", [None, 1, 3, 5])
@pytest.mark.parametrize(("train", "val", "fits"), MIXED)
def test_the_doctor_and_training_refuse_the_same_sets(tmp_path, train, val, fits, in_channels):
    root = dataset(tmp_path, train, val)
    found = [f for f in examine(root, in_channels=in_channels).errors if f.kind == "channels_without_a_way"]
    try:
        create_for(recipe_for(root, in_channels), open_dataset(root))
        said = None
    except AtrousError as error:
        said = str(error).replace(f"{root}/", "")
    assert [finding.message.lower() for finding in found] == ([] if said is None else [said.lower()])
    if in_channels is None:
        assert (said is None) == fits


def test_a_file_of_each_is_named(tmp_path):
    root = dataset(tmp_path, [3, 5, 3], [3])
    (told,) = [f.message for f in examine(root).errors]
    assert "images/train0.tif" in told and "images/train1.tif" in told
    named = r"train0\.tif: .* 3 channels, and the model takes 5 .*model\.in_channels.*train1\.tif has"
    with pytest.raises(AtrousError, match=named):
        open_training_data(recipe_for(root, 5, check=True), current_group())


def test_a_grey_picture_first_does_not_make_a_grey_model(tmp_path, capsys):
    root = dataset(tmp_path, [1] + [3] * 11, [3])
    model = create_for(recipe_for(root), open_dataset(root))
    assert len(model.info.preprocessing.mean) == 3
    assert "1 with 1, 11 with 3. The model takes 3." in " ".join(capsys.readouterr().out.split())


def test_the_doctor_reads_the_pages_that_training_reads(tmp_path):
    root = dataset(tmp_path, [1, 1], [1], pages=2)
    save(root / "images/val0.tif", 1, pages=3)
    assert not examine(root).errors
    assert [f.kind for f in examine(root, pages="channels").errors] == ["channels_without_a_way"]
    with pytest.raises(AtrousError, match=r"val0\.tif: the picture has 3 channels, and the model takes 2"):
        open_training_data(recipe_for(root, check=True, pages="channels"), current_group())
