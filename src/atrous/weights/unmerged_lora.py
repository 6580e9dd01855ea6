"""Detects adapters (such as LoRA) that are not merged into a network's weights, by the names of their tensors.

Source: peft 0.17, tuners/*/layer.py (`adapter_layer_names`), utils/other.py (`modules_to_save`); microsoft/LoRA,
loralib/layers.py; diffusers and kohya's scripts (`lora.down`, `lora_up`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from atrous.errors import AtrousError
from atrous.weights.adapter import some

#: A part of a tensor's name that identifies an adapter.
PART = re.compile(
    r"lora|lora_?[abAB]|\w*_lora|lora_(?:down|up|mid|embedding_[AB]|magnitude_vector|E|bias|[AB]\w*)|"
    r"hada_[wt]\d\w*|lokr_[wt]\d\w*|ia3_l|(?:oft|boft|hra)_[RrSsUu]|(?:rand)?(?:vera|lora)_(?:lambda_?\w*|gamma)|fourierft_spectrum|"
    r"modules_to_save|original_module"
)
#: peft's name of the layer that an adapter extends. DLA networks also have a module of that name, but it has
#: submodules.
BASE = re.compile(r"(?:.*[./])?base_layer[./](?:weight|bias)")


def check_merged(keys: Iterable[str], name: str) -> None:
    """Refuses a checkpoint with adapters that are not merged into the weights.

    Args:
        keys: names of the tensors in the checkpoint.
        name: file name, for messages.

    Raises:
        AtrousError: some tensors belong to adapters; the message states how to merge them.
    """
    found = [key for key in keys if BASE.fullmatch(key) or any(map(PART.fullmatch, re.split(r"[./]", key)))]
    if found:
        raise AtrousError(
            f"{name or 'the state dict'} holds adapters (such as LoRA) that are not merged into the network's weights: "
            f"{some(found)}. Without them the masks would differ. Merge them with the code that trained them, and save "
            "the whole network; with peft: torch.save(model.merge_and_unload().state_dict(), 'merged.pth')."
        )
