"""Masks that were drawn on the stored pixels of pictures that their EXIF tag turns."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from atrous.data.class_colors import default_colors
from atrous.data.doctor.examine import examine
from atrous.data.formats.exif_orientation import upright
from atrous.data.mask_value_map import ClassTable


def dataset(root: Path, orientation: int, on_stored: bool, plain: bool = False) -> Path:
    """Six square pictures of a disc off the centre, stored turned, with masks of the disc; "plain" shows nothing."""
    exif = Image.Exif()
    exif[274] = orientation
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for index in range(6):
        label = cv2.circle(np.zeros((64, 64), np.uint8), (18 + index, 22), 11, 1, -1)
        stored = (
            np.full((64, 64, 3), 90, np.uint8)
            if plain
            else np.repeat(label[:, :, None] * np.uint8(120) + 60, 3, axis=2)
        )
        Image.fromarray(stored).save(root / f"images/{index}.jpg", exif=exif.tobytes(), quality=95)
        drawn = label if on_stored else upright(label, orientation)
        Image.fromarray(np.ascontiguousarray(drawn)).save(root / f"masks/{index}.png")
    ClassTable(("ground", "disc"), default_colors(2), ((0,), (1,))).to_yaml(root / "classes.yaml")
    return root


@pytest.mark.parametrize("orientation", range(2, 9))
def test_masks_on_the_stored_pixels_are_told(tmp_path, orientation):
    warned = [
        found for found in examine(dataset(tmp_path, orientation, True)).warnings if found.kind == "turned_by_exif"
    ]
    assert len(warned) == 1
    assert warned[0].count == 6
    assert "fits the stored pixels" in warned[0].examples[0]
    assert "images/0.jpg" in " ".join(warned[0].examples)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_masks_on_the_upright_picture_are_right(tmp_path, orientation):
    diagnosis = examine(dataset(tmp_path, orientation, False))
    assert "turned_by_exif" not in [found.kind for found in diagnosis.warnings]


def test_what_cannot_be_told_is_said(tmp_path):
    warned = [
        found for found in examine(dataset(tmp_path, 3, True, plain=True)).warnings if found.kind == "turned_by_exif"
    ]
    assert "it is unclear" in warned[0].examples[0]


def test_masks_that_are_wrong_are_found_behind_those_that_are_right(tmp_path):
    root = dataset(tmp_path / "right", 3, False)
    wrong = dataset(tmp_path / "wrong", 3, True)
    for folder in ("images", "masks"):
        for path in sorted((wrong / folder).iterdir()):
            path.rename(root / folder / f"z{path.name}")
    found = next(found for found in examine(root).warnings if found.kind == "turned_by_exif")
    assert "the masks of 6 fit the stored pixels" in found.message
    assert all("z" in example.partition(":")[0] for example in found.examples)
