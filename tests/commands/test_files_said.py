"""What is in a set's files and is not read is said, once a set, by doctor, train, predict and evaluate."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from atrous import model_file
from atrous.commands.doctor import doctor
from atrous.commands.evaluate import evaluate
from atrous.commands.predict import predict
from atrous.commands.train import train
from atrous.data.class_colors import default_colors
from atrous.data.doctor.examine import examine
from atrous.data.mask_value_map import ClassTable
from atrous.data.open_dataset import open_dataset
from atrous.data.pictures import read_kind, read_pixels
from atrous.data.statistics import class_pixels
from atrous.inference.segmenter import Segmenter
from atrous.inference.value_range import PictureWarning
from atrous.learning.model_for_data import create_for
from atrous.learning.recipe import to_recipe
from atrous.model_file import read_info

SIZE = 32
MODEL = {"backbone": "mobilenetv2_050", "pretrained": False, "arguments": {"aspp_channels": 8, "low_channels": 8}}
TRAIN = {"epochs": 1, "batch_size": 4}


def label_of(seed: int) -> np.ndarray:
    """A 32×32 label of one square of class 1 on class 0."""
    label = np.zeros((SIZE, SIZE), np.uint8)
    top, left = np.random.default_rng(seed).integers(0, SIZE // 2, 2)
    label[top : top + SIZE // 2, left : left + SIZE // 2] = 1
    return label


def dataset(root: Path, save, suffix: str = ".tif", mask_save=None) -> Path:
    """Six pictures, four of them for training, written by ``save(path, label, seed)``."""
    for folder in ("images", "masks", "splits"):
        (root / folder).mkdir(parents=True)
    for seed in range(6):
        label = label_of(seed)
        save(root / f"images/{seed}{suffix}", label, seed)
        if mask_save:
            mask_save(root / f"masks/{seed}.tif", label, seed)
        else:
            Image.fromarray(label).save(root / f"masks/{seed}.png")
    for split, numbers in (("train", range(4)), ("val", range(4, 6))):
        (root / f"splits/{split}.txt").write_text("\n".join(map(str, numbers)), encoding="utf-8")
    ClassTable(("ground", "square"), default_colors(2), ((0,), (1,)), (255,)).to_yaml(root / "classes.yaml")
    return root


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(60, 120, shape).astype(np.uint8)


def grey(label: np.ndarray, seed: int) -> np.ndarray:
    return noise(seed, SIZE, SIZE) + label * np.uint8(100)


def three_pages(path: Path, label: np.ndarray, seed: int) -> None:
    """A TIFF whose third page alone shows the label."""
    with tifffile.TiffWriter(path) as file:
        for page in (noise(seed, SIZE, SIZE), noise(seed + 9, SIZE, SIZE), grey(label, seed)):
            file.write(page, photometric="minisblack", metadata=None)


def bands(count: int, alpha: bool = False, zeros: bool = False):
    """A writer of TIFFs of so many bands, the last of which may be marked as alpha and hold zeros."""

    def save(path: Path, label: np.ndarray, seed: int) -> None:
        image = noise(seed, SIZE, SIZE, count) + label[..., None]
        if zeros:
            image[: SIZE // 4, :, -1] = 0
        kinds = [0] * (count - 2) + [2 if alpha else 0]
        photometric, extra = ("rgb", kinds[2:]) if count == 4 and alpha else ("minisblack", kinds)
        tifffile.imwrite(path, image, photometric=photometric, extrasamples=extra, planarconfig="contig", metadata=None)

    return save


def recipe_for(root: Path, check: bool = True, **more):
    data = {"root": str(root), "workers": 0, "check": check, "pages": more.pop("pages", "first")}
    return to_recipe(
        {
            "name": "x",
            "data": data,
            "model": {**MODEL, **more},
            "train": TRAIN,
            "augment": {"crop": [SIZE, SIZE]},
        }
    )


def model_for(root: Path, **more) -> Path:
    """An untrained model for the pictures of a dataset."""
    path = root.parent / "model.safetensors"
    model_file.save(create_for(recipe_for(root, check=False, **more), open_dataset(root)), path)
    return path


def told(root: Path, kind: str, **asked) -> str:
    found = examine(root, **asked)
    return "\n".join(
        " ".join((one.message, *one.examples)) for one in (*found.errors, *found.warnings) if one.kind == kind
    )


def test_pages_of_pictures_and_masks_are_said(tmp_path):
    def two_pages(path, label, seed):
        with tifffile.TiffWriter(path) as file:
            for page in (label, label * 0):
                file.write(page, photometric="minisblack", metadata=None)

    root = dataset(tmp_path, three_pages, mask_save=two_pages)
    said = told(root, "several_pages")
    assert "6 pictures have 3 pages each; page 1 is read; `--data.pages channels`" in said
    assert "6 masks have 2 pages each; page 1 is read." in said
    assert "pictures" not in told(root, "several_pages", pages="channels")


@pytest.mark.parametrize(
    ("suffix", "options"), [(".png", {}), (".gif", {}), (".webp", {"lossless": True}), (".jpg", {"format": "MPO"})]
)
def test_frames_are_said(tmp_path, suffix, options):
    def animated(path, label, seed):
        frames = [Image.fromarray(np.stack([grey(label, seed + more)] * 3, axis=2)) for more in (0, 20)]
        frames[0].save(path, save_all=True, append_images=frames[1:], **options)

    root = dataset(tmp_path, animated, suffix)
    assert "6 pictures have 2 frames each; frame 1 is read." in told(root, "several_frames")


@pytest.mark.slow
def test_stacked_pages_are_trained_and_predicted(tmp_path):
    root = dataset(tmp_path / "data", three_pages)
    assert doctor(root, pages="channels") == 0
    run = train(recipe_for(root, pages="channels"), out=tmp_path / "run")
    info = read_info(run / "best.safetensors")
    assert info.preprocessing.image.pages == "channels"
    assert len(info.preprocessing.mean) == 3
    with warnings.catch_warnings(action="error", category=PictureWarning):
        masks = predict(run / "best.safetensors", [root / "images"], out=tmp_path / "out")
        assert [np.asarray(Image.open(path)).shape for path in masks] == [(SIZE, SIZE)] * 6
        assert evaluate(run / "best.safetensors", root, split="val")["miou"] >= 0


@pytest.mark.slow
def test_pages_are_said_by_train_and_predict(tmp_path, capsys):
    root = dataset(tmp_path / "data", three_pages)
    model = model_for(root)
    assert "6 pictures have 3 pages each; page 1 is read" in " ".join(capsys.readouterr().out.split())
    with pytest.warns(PictureWarning, match="6 pictures have 3 pages each; page 1 is read") as caught:
        predict(model, engine="torch", paths=[root / "images"], out=tmp_path / "out")
    assert len(caught) == 1
    with pytest.warns(PictureWarning, match="2 pictures have 3 pages each"):
        evaluate(model, root, split="val")
    with pytest.warns(PictureWarning, match=r"0\.tif: 1 picture has 3 pages"):
        Segmenter(model, engine="torch")(root / "images/0.tif")


@pytest.mark.slow
def test_channels_that_are_not_read_are_said(tmp_path, capsys):
    root = dataset(tmp_path / "data", bands(5))
    assert told(root, "dropped_channels") == ""
    assert "The model takes 3 channels, and these pictures have more (6 pictures with 5): the first 3 are read" in told(
        root, "dropped_channels", in_channels=3
    )
    model = model_for(root, in_channels=3)
    assert "6 pictures with 5" in capsys.readouterr().out
    with pytest.warns(PictureWarning, match="6 pictures with 5"):
        predict(model, engine="torch", paths=[root / "images"], out=tmp_path / "out")


def test_mixed_channels_say_what_is_dropped(tmp_path):
    def save(path, label, seed):
        bands(6 if seed else 5)(path, label, seed)

    assert "(5 pictures with 6): the first 5 are read" in told(dataset(tmp_path, save), "dropped_channels")


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_a_channel_marked_as_alpha_is_said_and_can_be_read(tmp_path, count):
    root = dataset(tmp_path / "data", bands(count, alpha=True, zeros=True))
    said = told(root, "doubtful_alpha")
    assert f"6 pictures mark band {count} as alpha" in said
    assert "25.0% of the pixels of these pictures" in said
    assert f"--model.in_channels {count}" in said
    assert examine(root).ignored["train"] == 4 * SIZE * SIZE // 4
    for kind in ("doubtful_alpha", "void"):
        assert told(root, kind, in_channels=count) == ""
    as_channel = examine(root, in_channels=count)
    assert as_channel.ignored["train"] == 0
    assert not as_channel.errors
    model, picture = model_for(root, in_channels=count), root / "images/0.tif"
    assert len(read_info(model).preprocessing.mean) == count
    assert not (Segmenter(model, engine="torch")(picture).mask == 255).any()
    assert np.sum(evaluate(model, root, split="val")["confusion"]) == 2 * SIZE * SIZE
    without = model_for(root)
    with pytest.warns(PictureWarning, match=r"its last band is marked as alpha .* near infrared"):
        evaluate(without, root, split="val")
    with pytest.warns(PictureWarning, match="near infrared"):
        mask = Segmenter(without, engine="torch")(picture).mask
    assert (mask[: SIZE // 4] == 255).all()
    assert (mask[SIZE // 4 :] != 255).all()


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_a_channel_marked_as_alpha_is_said_where_it_is_never_zero(tmp_path, count):
    """It hides no pixel then, and is lost as a channel all the same."""
    root = dataset(tmp_path / "data", bands(count, alpha=True, zeros=False))
    assert f"6 pictures mark band {count} as alpha" in told(root, "doubtful_alpha")
    assert told(root, "doubtful_alpha", in_channels=count) == told(root, "void") == ""
    with pytest.warns(PictureWarning, match="near infrared"):
        Segmenter(model_for(root), engine="torch")(root / "images/0.tif")


def test_true_transparency_is_no_doubt(tmp_path):
    def cut_out(path, label, seed):
        alpha = np.where(label, 255, 0).astype(np.uint8)
        alpha[:, ::8] //= 2  # soft edges
        alpha[:, 3::8] = np.clip(alpha[:, 3::8], 0, 255 - 8 * seed)
        Image.fromarray(np.dstack([noise(seed, SIZE, SIZE, 3), alpha])).save(path)

    root = dataset(tmp_path, cut_out, ".png")
    assert told(root, "doubtful_alpha") == ""
    assert "a large share" in told(root, "void")


def test_classes_are_counted_where_the_picture_holds_data(tmp_path):
    root = dataset(tmp_path, bands(4, alpha=True, zeros=True))
    data = open_dataset(root)
    labels = np.concatenate([data.read(item).label.ravel() for item in data.split("train")])
    counts = [int((labels == index).sum()) for index in (0, 1)]
    assert sum(counts) == 4 * SIZE * SIZE * 3 // 4
    assert class_pixels(data, "train") == counts
    assert list(examine(root).pixels["train"]) == counts
    assert sum(class_pixels(data.taking(4), "train")) == 4 * SIZE * SIZE


def test_pictures_without_any_data_are_named_and_a_split_of_them_is_refused(tmp_path):
    def save(path, label, seed):
        image = noise(seed, SIZE, SIZE, 4)
        image[..., 3] = 0 if seed == 2 or seed > 3 else 255
        Image.fromarray(image).save(path)

    root = dataset(tmp_path, save, ".png")
    found = examine(root)
    assert "images/2.png images/4.png images/5.png" in told(root, "all_void")
    assert [one.kind for one in found.errors] == ["nothing_labelled"]
    assert doctor(root) == 2


def test_white_is_zero_in_some_files_is_said(tmp_path):
    def save(path, label, seed):
        kind = "miniswhite" if seed < 2 else "minisblack"
        tifffile.imwrite(path, grey(label, seed), photometric=kind, metadata=None)

    def save_mask(path, label, seed):
        kind = "miniswhite" if seed == 5 else "minisblack"
        tifffile.imwrite(path, label, photometric=kind, metadata=None)

    said = told(dataset(tmp_path, save, mask_save=save_mask), "mixed_white_is_zero")
    assert "In 2 pictures of 6, 0 is white" in said
    assert "In 1 mask of 6, 0 is white" in said


def test_white_is_zero_in_all_files_is_no_finding(tmp_path):
    def save(path, label, seed):
        tifffile.imwrite(path, grey(label, seed), photometric="miniswhite", metadata=None)

    assert told(dataset(tmp_path, save), "mixed_white_is_zero") == ""


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_a_header_knows_where_data_may_be_missing(tmp_path, mode):
    path = tmp_path / "a.png"
    Image.new(mode, (9, 8)).save(path)
    assert read_kind(path).may_lack_data == (mode in ("LA", "RGBA"))
    (tmp_path / "a.png.aux.xml").write_text(
        "<PAMDataset><PAMRasterBand band='1'><NoDataValue>0</NoDataValue></PAMRasterBand></PAMDataset>"
    )
    assert read_kind(path).may_lack_data
    assert read_pixels(path).kind.channels == read_kind(path).channels
