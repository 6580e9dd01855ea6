"""Low-rank and other adapters of a network that are not merged into its weights, told by the names of their tensors.

Source: peft 0.17, tuners/*/layer.py (`adapter_layer_names`), utils/other.py (`modules_to_save`); microsoft/LoRA,
loralib/layers.py; diffusers and kohya's scripts (`lora.down`, `lora_up`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from atrous.errors import AtrousError
from atrous.weights.adapter import some

#: One part of a tensor's name, by which an adapter is told.
PART = re.compile(
    r"lora|lora_?[abAB]|\w*_lora|lora_(?:down|up|mid|embedding_[AB]|magnitude_vector|E|bias|[AB]\w*)|"
    r"hada_[wt]\d\w*|lokr_[wt]\d\w*|ia3_l|(?:oft|boft|hra)_[RrSsUu]|(?:rand)?(?:vera|lora)_(?:lambda_?\w*|gamma)|fourierft_spectrum|"
    r"modules_to_save|original_module"
)
#: peft's name of the layer that an adapter adds to; DLA networks have a part of that name, too, with parts of its own.
BASE = re.compile(r"(?:.*[./])?base_layer[./](?:weight|bias)")


def check_merged(keys: Iterable[str], name: str) -> None:
    """Refuses weights that are not the network's until adapters are merged into them.

    Args:
        keys: names of tensors.
        name: of the file, in messages.

    Raises:
        AtrousError: some of them belong to adapters; says how to merge these.
    """
    found = [key for key in keys if BASE.fullmatch(key) or any(map(PART.fullmatch, re.split(r"[./]", key)))]
    if found:
        raise AtrousError(
            f"{name or 'the state dict'} holds adapters (such as LoRA) that are not merged into the network's weights: "
            f"{some(found)}. Without them the masks would be others. Merge them where it was trained and save the "
            "whole network: with peft, torch.save(model.merge_and_unload().state_dict(), 'merged.pth')."
        )
