"""What a training says of its data before it starts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

import atrous
from atrous.cli import main
from atrous.data.open_dataset import open_dataset
from atrous.learning.recipe import to_recipe
from atrous.learning.training_data import training_samples


def make(root: Path, channels: int, colors: int | None = None) -> Path:
    """Four pictures of so many bands, of which inputs.yaml says that some are colours."""
    rng = np.random.default_rng(0)
    for folder in ("images", "masks", "splits"):
        (root / folder).mkdir(parents=True)
    for number in range(4):
        values = rng.integers(0, 255, (32, 32, channels), np.uint8)
        values = values[..., 0] if channels == 1 else values
        planes = {} if channels == 1 else {"planarconfig": "contig"}
        tifffile.imwrite(root / f"images/{number}.tif", values, photometric="minisblack", **planes)
        Image.fromarray(rng.integers(0, 2, (32, 32), np.uint8)).save(root / f"masks/{number}.png")
    for split, lines in (("train", "0\n1"), ("val", "2\n3")):
        (root / f"splits/{split}.txt").write_text(lines)
    (root / "classes.yaml").write_text("classes:\n- {name: a, color: [0, 0, 0]}\n- {name: b, color: [1, 1, 1]}\n")
    if colors is not None:
        (root / "inputs.yaml").write_text(f"inputs:\n  image: {{colors: {colors}}}\n")
    return root


@pytest.mark.parametrize(
    ("channels", "augment", "said"),
    [
        (5, {"brightness": 0.3}, "so brightness of augment has no effect"),
        (5, {"brightness": 0.3, "contrast": 0.1, "blur": 0.5}, "so brightness, contrast and blur of augment have no"),
        (5, {"flip": 0.5}, ""),
        (3, {"brightness": 0.3}, ""),
    ],
)
def test_augmentation_of_colours_that_there_are_none_of_is_said(channels, augment, said, tmp_path, capsys):
    data = make(tmp_path / "data", channels)
    model = atrous.create_model("deeplabv3plus", backbone="mobilenetv2_050", num_classes=2, in_channels=channels)
    recipe = to_recipe({"data": {"root": str(data)}, "augment": augment})
    training_samples(recipe, open_dataset(data), model)
    printed = " ".join(capsys.readouterr().out.split())
    assert said in printed if said else "no channel" not in printed


@pytest.mark.parametrize(
    ("channels", "colors", "said"), [(5, None, True), (5, 3, False), (3, None, False), (3, 0, True), (1, None, False)]
)
def test_the_doctor_says_it_too(channels, colors, said, tmp_path, capsys):
    main(["doctor", str(make(tmp_path / "data", channels, colors))])
    printed = " ".join(capsys.readouterr().out.split())
    assert ("brightness, contrast and blur of a recipe's augment would have no effect" in printed) == said
