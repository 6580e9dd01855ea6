"""A tiny dataset of coloured shapes and one short training on it, shared by the commands that need a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from atrous.commands.train import train
from atrous.data.mask_value_map import ClassTable
from atrous.learning.recipe import Recipe, to_recipe

CLASSES = ClassTable(
    ("ground", "box", "disc"), ((90, 60, 30), (220, 40, 40), (40, 60, 220)), ((0,), (7, 8), (300,)), (65535,)
)
SPLITS = {"train": 8, "val": 3, "test": 3}


def draw(rng: np.random.Generator, height: int = 48, width: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """A picture of a red box and a blue disc on brown, and its 16-bit mask of raw values."""
    label = np.zeros((height, width), np.uint8)
    y, x = rng.integers(2, height // 2), rng.integers(2, width // 2)
    label[y : y + 20, x : x + 24] = 1
    rows, columns = np.mgrid[:height, :width]
    label[(rows - rng.integers(10, 40)) ** 2 + (columns - rng.integers(35, 60)) ** 2 < 120] = 2
    image = np.asarray(CLASSES.colors)[label] + rng.normal(0, 12, (height, width, 3))
    mask = np.asarray([0, 7, 300], np.uint16)[label]
    mask[0, :] = 65535
    return image.clip(0, 255).astype(np.uint8), mask


def make_shapes(root: Path, classes: ClassTable = CLASSES, seed: int = 0) -> Path:
    """A dataset folder with train, val and test."""
    rng = np.random.default_rng(seed)
    for folder in ("images", "masks", "splits"):
        (root / folder).mkdir(parents=True)
    for split, count in SPLITS.items():
        names = [f"{split}_{index}" for index in range(count)]
        (root / "splits" / f"{split}.txt").write_text("\n".join(names))
        for name in names:
            image, mask = draw(rng)
            Image.fromarray(image).save(root / "images" / f"{name}.png")
            Image.fromarray(mask).save(root / "masks" / f"{name}.png")
    classes.to_yaml(root / "classes.yaml")
    return root


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset's folder; not to be changed."""
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture
def fresh_shapes(tmp_path: Path) -> Path:
    """The same dataset, to be spoilt."""
    return make_shapes(tmp_path / "shapes")


@pytest.fixture(scope="session")
def tiny(shapes: Path) -> Callable[..., Recipe]:
    """Makes a recipe that trains in a second or two; fields are changed by their dotted names."""

    def make(**changes: Any) -> Recipe:
        record: dict[str, Any] = {
            "name": "tiny",
            "data": {"root": str(shapes), "workers": 0, "check": False},
            "model": {
                "backbone": "mobilenetv2_035",
                "pretrained": False,
                "arguments": {"aspp_channels": 16, "low_channels": 8},
            },
            "augment": {"crop": [40, 48], "scale": [0.8, 1.2]},
            "optim": {"lr": 0.01},
            "train": {"epochs": 1, "batch_size": 4, "device": "cpu", "precision": "float32"},
        }
        for name, value in changes.items():
            part, _, field = name.partition("__")
            if field:
                record.setdefault(part, {})[field] = value
            else:
                record[part] = value
        return to_recipe(record)

    return make


@pytest.fixture(scope="session")
def run(tiny: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run whose model knows its shapes fairly well; not to be changed."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    recipe = tiny(
        train__epochs=30,
        train__batch_size=2,
        train__validate_every=15,
        train__ema=0.8,
        loss__class_weights="inverse_sqrt",
    )
    return train(recipe, out=out)


@pytest.fixture(scope="session")
def model(run: Path) -> Path:
    return run / "best.safetensors"
