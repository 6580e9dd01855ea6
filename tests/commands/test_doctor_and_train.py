"""Whatever state a dataset is in: the doctor's exit code is 0 where `train` starts, and only there."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from atrous.commands.doctor import doctor
from atrous.data.class_colors import default_colors
from atrous.data.mask_value_map import ClassTable
from atrous.errors import AtrousError
from atrous.learning.fit import fit
from atrous.learning.recipe import to_recipe

SIZE = (40, 48)
TWO = ClassTable(("a", "b"), default_colors(2), ((0,), (1,)), (255,))


def picture(path: Path, size: tuple[int, ...] = SIZE, channels: int = 3, seed: int = 0) -> None:
    shape = size if channels == 1 else (*size, channels)
    values = np.random.default_rng([seed, *path.stem.encode()]).integers(1, 255, shape, dtype=np.uint8)
    if channels == 4:
        values[..., 3] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def mask(path: Path, size: tuple[int, ...] = SIZE, value: int | None = None) -> None:
    values = np.random.default_rng(0).integers(0, 2, size).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values if value is None else np.full(size, value, np.uint8)).save(path)


def base(root: Path, stems=("p0", "p1", "p2", "p3")) -> None:
    for stem in stems:
        picture(root / f"images/{stem}.png")
        mask(root / f"masks/{stem}.png")
    TWO.to_yaml(root / "classes.yaml")


def write_lists(root: Path, suffix: str = ".txt", **lists: list[str]) -> None:
    (root / "splits").mkdir(exist_ok=True)
    for name, stems in lists.items():
        (root / f"splits/{name}{suffix}").write_text("\n".join(stems), encoding="utf-8")


def one_class(root: Path) -> None:
    base(root)
    (root / "classes.yaml").unlink()
    ClassTable(("a",), default_colors(1), ((0, 1),)).to_yaml(root / "classes.yaml")


def one_picture(root: Path) -> None:
    base(root, ("p0",))


def train_and_valid(root: Path) -> None:
    base(root)
    write_lists(root, train=["p0", "p1"], valid=["p2"])


def list_of_val_is_empty(root: Path) -> None:
    base(root)
    write_lists(root, train=["p0", "p1"], val=[""])


def folders_of_splits(root: Path) -> None:
    for split in ("train", "val"):
        for stem in ("a", "b"):
            picture(root / f"images/{split}/{split}{stem}.png")
            mask(root / f"masks/{split}/{split}{stem}.png")
    TWO.to_yaml(root / "classes.yaml")


def folder_of_val_is_empty(root: Path) -> None:
    folders_of_splits(root)
    for path in [*(root / "images/val").iterdir(), *(root / "masks/val").iterdir()]:
        path.unlink()


def only_a_test_split(root: Path) -> None:
    base(root)
    write_lists(root, test=["p0", "p1", "p2"])


def all_void(root: Path) -> None:
    base(root)
    for path in (root / "masks").iterdir():
        mask(path, value=255)


def pictures_without_data(root: Path) -> None:
    base(root)
    for path in (root / "images").iterdir():
        Image.fromarray(np.zeros((*SIZE, 4), np.uint8)).save(path)


def pictures_of_nan(root: Path) -> None:
    base(root)
    for path in list((root / "images").iterdir()):
        path.unlink()
        tifffile.imwrite(path.with_suffix(".tif"), np.full((*SIZE, 3), np.nan, np.float32), photometric="rgb")


def some_void(root: Path) -> None:
    base(root)
    write_lists(root, train=["p0", "p1", "p3"], val=["p2"])
    mask(root / "masks/p0.png", value=255)


def mixed_sizes(root: Path) -> None:
    base(root)
    for stem, size in (("p1", (20, 100)), ("p2", (130, 33)), ("p3", (1, 1))):
        picture(root / f"images/{stem}.png", size)
        mask(root / f"masks/{stem}.png", size)


def grey_and_alpha(root: Path) -> None:
    base(root)
    write_lists(root, train=["p0", "p1", "p2"], val=["p3"])
    picture(root / "images/p1.png", channels=1)
    picture(root / "images/p2.png", channels=4)


def three_and_five_bands(root: Path) -> None:
    base(root)
    (root / "images/p1.png").unlink()
    bands = np.random.default_rng(0).integers(0, 255, (*SIZE, 5), dtype=np.uint8)
    tifffile.imwrite(root / "images/p1.tif", bands, photometric="minisblack", planarconfig="contig")


def a_mask_is_absent(root: Path) -> None:
    base(root)
    (root / "masks/p1.png").unlink()


def all_masks_are_absent(root: Path) -> None:
    base(root)
    for path in list((root / "masks").iterdir()):
        path.unlink()


def an_unlisted_mask_is_absent(root: Path) -> None:
    base(root)
    write_lists(root, train=["p0", "p1"], val=["p2"])
    (root / "masks/p3.png").unlink()


def a_mask_more(root: Path) -> None:
    base(root)
    mask(root / "masks/zz.png")


def two_pictures_of_one_stem(root: Path) -> None:
    base(root)
    picture(root / "images/p1.bmp")


def two_masks_of_one_stem(root: Path) -> None:
    base(root)
    mask(root / "masks/p1.tif")


def upper_case_suffixes(root: Path) -> None:
    base(root)
    for path in list((root / "images").iterdir()):
        path.rename(path.with_suffix(".PNG"))


def spaces_and_unicode(root: Path) -> None:
    base(root, ("é b", "日本", "łąka x", "d'q", "#5", "%s", "-v", "a,b"))
    write_lists(root, train=["é b", "日本", "#5", "-v"], val=["a,b", "łąka x"])


def symlinks(root: Path) -> None:
    base(root / ".real")
    (root / "images").symlink_to(root / ".real/images")
    (root / "masks").mkdir()
    for path in (root / ".real/masks").iterdir():
        (root / "masks" / path.name).symlink_to(path)
    TWO.to_yaml(root / "classes.yaml")


def a_symlink_to_nothing(root: Path) -> None:
    base(root)
    (root / "images/x.png").symlink_to(root / "nowhere.png")
    mask(root / "masks/x.png")


def what_systems_leave(root: Path) -> None:
    base(root)
    write_lists(root, train=["p0", "p1"], val=["p2"])
    for folder in ("images", "masks", "splits", "."):
        for name in (".DS_Store", "._p0.png", "._train.txt", "Thumbs.db", "desktop.ini", ".p9.png"):
            (root / folder / name).write_bytes(b"\0junk")
    (root / "__MACOSX/images").mkdir(parents=True)
    (root / "__MACOSX/images/._p0.png").write_bytes(b"\0")
    (root / "images/a folder.png").mkdir()


def a_damaged_picture(root: Path) -> None:
    base(root)
    path = root / "images/p1.png"
    path.write_bytes(path.read_bytes()[:300])


def an_empty_mask_file(root: Path) -> None:
    base(root)
    (root / "masks/p1.png").write_bytes(b"")


def one_picture_in_two_splits(root: Path) -> None:
    base(root)
    write_lists(root, train=["p0", "p1"], val=["p1"])


def a_listed_picture_is_absent(root: Path) -> None:
    base(root)
    write_lists(root, train=["p0", "nobody"], val=["p1"])


def a_mask_of_another_size(root: Path) -> None:
    base(root)
    mask(root / "masks/p1.png", (20, 20))


def a_value_without_a_class(root: Path) -> None:
    base(root)
    mask(root / "masks/p1.png", value=7)


def one_value_of_two(root: Path) -> None:
    base(root)
    for path in (root / "masks").iterdir():
        mask(path, value=0)


def a_class_file_of_a_tool(root: Path) -> None:
    base(root)
    (root / "classes.yaml").unlink()
    (root / "classes.txt").write_text("background\nthing\n", encoding="utf-8")


def a_class_file_of_300(root: Path) -> None:
    base(root)
    (root / "classes.yaml").unlink()
    (root / "classes.txt").write_text("\n".join(f"c{index}" for index in range(300)), encoding="utf-8")


STATES: dict[Callable[[Path], None], bool] = {
    base: True,
    one_class: False,
    one_picture: False,
    train_and_valid: True,
    list_of_val_is_empty: False,
    folders_of_splits: True,
    folder_of_val_is_empty: False,
    only_a_test_split: False,
    all_void: False,
    pictures_without_data: False,
    pictures_of_nan: False,
    some_void: True,
    mixed_sizes: True,
    grey_and_alpha: True,
    three_and_five_bands: False,
    a_mask_is_absent: False,
    all_masks_are_absent: False,
    an_unlisted_mask_is_absent: True,
    a_mask_more: False,
    two_pictures_of_one_stem: False,
    two_masks_of_one_stem: False,
    upper_case_suffixes: True,
    spaces_and_unicode: True,
    symlinks: True,
    a_symlink_to_nothing: False,
    what_systems_leave: True,
    a_damaged_picture: False,
    an_empty_mask_file: False,
    one_picture_in_two_splits: True,
    a_listed_picture_is_absent: False,
    a_mask_of_another_size: False,
    a_value_without_a_class: False,
    one_value_of_two: True,
    a_class_file_of_a_tool: True,
    a_class_file_of_300: False,
}


@pytest.mark.parametrize(
    "state",
    [pytest.param(state, marks=pytest.mark.needs("links") if "symlink" in state.__name__ else ()) for state in STATES],
    ids=lambda state: state.__name__,
)
def test_content_where_a_training_starts(tmp_path, state):
    root = tmp_path / "data"
    root.mkdir()
    state(root)
    try:
        content = doctor(root) == 0
    except AtrousError:
        content = False
    recipe = {
        "name": "x",
        "data": {"root": str(root), "workers": 0},
        "model": {
            "backbone": "mobilenetv2_035",
            "pretrained": False,
            "arguments": {"aspp_channels": 16, "low_channels": 8},
        },
        "augment": {"crop": [33, 33]},
        "train": {"epochs": 1, "batch_size": 4, "device": "cpu", "precision": "float32"},
    }
    try:
        fit(
            to_recipe(recipe), tmp_path / "run"
        )  # the measurements and the report of `train` take longer than all before
        started = (tmp_path / "run/best.safetensors").exists()
    except AtrousError:
        started = False
    assert content == started == STATES[state]
