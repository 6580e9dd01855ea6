"""A tiny data set and files that tell its splits, for the tests of split lists."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from atrous.data.class_colors import default_colors
from atrous.data.dataset import Dataset
from atrous.data.mask_value_map import ClassTable

TRAIN, VAL = ("a", "b é", "日本"), ("d",)
BY_SPLIT = {"train": [f"images/{s}.jpg" for s in TRAIN], "val": [f"images/{s}.jpg" for s in VAL]}


def _encoded(array: np.ndarray, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind)
    return file.getvalue()


PICTURE, MASK = _encoded(np.zeros((4, 4, 3), np.uint8), "JPEG"), _encoded(np.zeros((4, 4), np.uint8), "PNG")


def dataset(root: Path, stems=(*TRAIN, *VAL, "e")) -> Path:
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for stem in stems:
        (root / f"images/{stem}.jpg").write_bytes(PICTURE)
        (root / f"masks/{stem}.png").write_bytes(MASK)
    ClassTable(("thing",), default_colors(1), ((0,),)).to_yaml(root / "classes.yaml")
    return root


def write(root: Path, name: str, text: str, encoding: str = "utf-8") -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(text.encode(encoding))


def stems(opened: Dataset) -> dict[str, list[str]]:
    return {name: [item.name for item in items] for name, items in opened.splits.items()}


WANTED = {"train": list(TRAIN), "val": list(VAL)}
