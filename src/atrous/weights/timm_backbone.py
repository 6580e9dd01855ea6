"""An ImageNet network of timm (or torchvision's ResNets, which have the same names) as the backbone of a fresh model.

Source: timm/models/_features.py, version 1.0: where a network is cut into stages, `stages.0.` becomes `stages_0.`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from timm.models import adapt_input_conv
from torch import Tensor

from atrous import models
from atrous.errors import AtrousError
from atrous.weights.adapted import Adapted, Keys, translate
from atrous.weights.foreign import Foreign

#: Their names are ours, but where timm flattens a sequence of stages.
KEYS: Keys = ((r"", "backbone.net."),)
FLATTENED: Keys = ((r"([^.]+)\.([^.]+)\.", r"backbone.net.\1_\2."),)

#: Pairs of key beginnings that networks of timm have: stem and first stage.
FINGERPRINTS = (
    ("conv1.", "layer1.0."),
    ("conv_stem.", "blocks.0."),
    ("stem.", "stages.0."),
    ("stem.", "s1.b1."),
    ("stem.", "blocks.0."),
    ("conv1.", "block1."),
)


def recognises(foreign: Foreign) -> bool:
    """Whether stem and first stage begin as a classification network of timm does."""
    return any(
        all(any(key.startswith(beginning) for key in foreign.state) for beginning in pair) for pair in FINGERPRINTS
    )


def adapt(foreign: Foreign, given: Mapping[str, Any]) -> Adapted:
    """A fresh model over the backbone.

    Args:
        foreign: the state dict of a classification network.
        given: the backbone's name is needed; architecture is deeplabv3plus if not named.

    Raises:
        AtrousError: no backbone named.
    """
    if "backbone" not in given:
        raise AtrousError(
            f"{foreign.name or 'the state dict'} holds a classification network, whose keys do not tell which: name "
            "it as timm does with backbone= (--backbone), such as resnet50."
        )
    architecture = given.get("architecture", "deeplabv3plus")
    arguments = {name: value for name, value in given.items() if name != "architecture"}
    with torch.device("meta"):
        ours = models.build(architecture, arguments).state_dict()
    state, left_over = {}, []
    for key, tensor in foreign.state.items():
        name = _ours(key, ours)
        if name is not None:
            state[name] = _spread(tensor, ours[name])
        elif not key.endswith("num_batches_tracked"):
            left_over.append(key)
    return Adapted(architecture, arguments, state, tuple(left_over), fills=("backbone.",))


def _ours(key: str, ours: Mapping[str, Tensor]) -> str | None:
    for keys in (KEYS, FLATTENED):
        name = next(iter(translate({key: torch.empty(0)}, keys)[0]), None)
        if name in ours:
            return name
    return None


def _spread(tensor: Tensor, ours: Tensor) -> Tensor:
    """RGB filters spread over the picture's channels, where ours has another number of them."""
    rgb = tensor.ndim == 4 and tensor.shape[1] == 3
    if rgb and tensor.shape != ours.shape and tensor.shape[0] == ours.shape[0]:
        return adapt_input_conv(ours.shape[1], tensor)
    return tensor
