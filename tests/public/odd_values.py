"""Values of all kinds that nobody should give to a public call."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import atrous


class Unprintable:
    """An object whose text cannot be had."""

    def __repr__(self) -> str:
        raise RuntimeError("no text")


class Shaped:
    """An object whose shape is none."""

    shape = 5


class Failing:
    """An object whose attributes, length, items, path, array and truth cannot be had."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"no {name}")

    def __len__(self) -> int:
        raise RuntimeError("no length")

    def __iter__(self) -> Iterator[Any]:
        raise RuntimeError("no items")

    def __fspath__(self) -> str:
        raise RuntimeError("no path")

    def __array__(self, *words: Any, **options: Any) -> np.ndarray:
        raise RuntimeError("no array")

    def __bool__(self) -> bool:
        raise RuntimeError("no truth")

    def __repr__(self) -> str:
        raise RuntimeError("no text")


class Hidden:
    """An object of which nothing can be had, not even its class."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(f"no {name}")


class FailingMapping(Mapping[str, Any]):
    """A mapping whose entries cannot be had."""

    def __getitem__(self, key: str) -> Any:
        raise RuntimeError("no entry")

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError("no keys")

    def __len__(self) -> int:
        raise RuntimeError("no length")


def loop() -> list[Any]:
    """A list that holds itself."""
    items: list[Any] = [1]
    items.append(items)
    return items


def closed_picture() -> Image.Image:
    file = io.BytesIO()
    Image.new("RGB", (9, 7)).save(file, "PNG")
    picture = Image.open(file)
    picture.close()
    return picture


def cut_picture() -> Image.Image:
    file = io.BytesIO()
    Image.effect_noise((90, 70), 99).save(file, "PNG")
    return Image.open(io.BytesIO(file.getvalue()[:2000]))


def odd_values(model: Any, folder: Path) -> dict[str, Any]:
    """Values that nobody should give."""
    (folder / "empty").write_bytes(b"")
    (folder / "text.safetensors").write_text("no weights", encoding="utf-8")
    (folder / "x.pt2").write_bytes(b"PK")
    (folder / "x.bin").write_bytes(b"\0\1\2")
    array = np.zeros((4, 5, 3), np.uint8)
    return {
        "None": None,
        "nothing": "",
        "a text": "nonsense",
        "a zero character": "a\0b",
        "a long name": "x" * 5000,
        "half a letter": "\udcff",
        "bytes": b"nonsense",
        "a missing path": folder / "none" / "x.safetensors",
        "a folder": folder,
        "an empty file": folder / "empty",
        "a file of text": folder / "text.safetensors",
        "a .pt2": folder / "x.pt2",
        "a .bin": folder / "x.bin",
        "below a file": folder / "empty" / "x",
        "-1": -1,
        "0": 0,
        "1e30": 1e30,
        "NaN": float("nan"),
        "infinity": float("inf"),
        "10**30": 10**30,
        "1e300": 1e300,
        "1e-300": 1e-300,
        "10**400": 10**400,
        "10**5000": 10**5000,
        "-10**5000": -(10**5000),
        "a third": Fraction(1, 3),
        "a Fraction of 10**400": Fraction(10**400),
        "a list of 10**400": [10**400],
        "a range to 10**5000": (0, 10**5000),
        "a list of 1e300": [1e300, 1e300, 1e300],
        "a list of thirds": [Fraction(1, 3)] * 3,
        "a dict of 10**5000": {10**5000: 10**5000},
        "True": True,
        "a complex number": 1j,
        "an object": object(),
        "an unprintable object": Unprintable(),
        "a shape of 5": Shaped(),
        "a failing object": Failing(),
        "a hidden object": Hidden(),
        "a list of failing objects": [Failing()],
        "a list of hidden objects": [Hidden()],
        "a failing mapping": FailingMapping(),
        "a dict of an unprintable key": {Unprintable(): Unprintable()},
        "a list that holds itself": loop(),
        "a function": len,
        "a class": dict,
        "an empty list": [],
        "a list of None": [None],
        "a list of NaN": [float("nan")],
        "a list of texts": ["x"],
        "nested lists": [[1], [2, 3]],
        "a dict": {"x": 1},
        "a dict of dicts": {1: {2: None}},
        "a set": {1},
        "an empty array": np.zeros((0, 5, 3), np.uint8),
        "no dimension": np.array(3),
        "five dimensions": np.zeros((1, 1, 1, 1, 1), np.uint8),
        "two channels": np.zeros((4, 5, 2), np.uint8),
        "C first": np.zeros((3, 40, 50), np.uint8),
        "reversed": array[::-1, ::-1, ::-1],
        "float64": array.astype(np.float64),
        "float16": array.astype(np.float16),
        "int64": array.astype(np.int64),
        "booleans": array.astype(bool),
        "objects": array.astype(object),
        "texts": array.astype(str),
        "times": array.astype("datetime64[s]"),
        "complex": array.astype(complex),
        "big-endian": array.astype(">u2"),
        "records": np.zeros(3, [("a", "u1")]),
        "all NaN": np.full((4, 5, 3), np.nan, np.float32),
        "masked": np.ma.masked_all((4, 5, 3), np.uint8),
        "strides of 0": np.broadcast_to(np.uint8(0), (10**7, 10**7, 3)),
        "a tensor": torch.zeros(3, 4, 5),
        "a tensor of integers": torch.zeros(3, 4, dtype=torch.int64),
        "an empty tensor": torch.zeros(0),
        "a tensor without data": torch.zeros(3, 4, device="meta"),
        "a closed picture": closed_picture(),
        "a cut picture": cut_picture(),
        "an empty picture": Image.new("RGB", (0, 0)),
        "another's module": torch.nn.Linear(2, 2),
        "a module that was not built": torch.nn.Module.__new__(torch.nn.Linear),
        "a wrapped model": torch.nn.DataParallel(model),
        "a state dict": model.state_dict(),
        "a model": model,
        "a module without weights": torch.nn.Identity(),
        "a model of halves": atrous.create_model(
            "deeplabv3plus", backbone="mobilenetv2_035", num_classes=3, aspp_channels=8, pretrained=False
        ).half(),
    }
