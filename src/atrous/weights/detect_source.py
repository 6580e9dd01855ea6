"""Finds the source of a checkpoint: the adapters by name, and detection from the keys of a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from atrous.errors import AtrousError, unknown_name
from atrous.weights import (
    huggingface,
    kazuto1011,
    mmseg,
    smp,
    tensorflow,
    timm_backbone,
    torchvision,
    vainf,
    vgg_imagenet,
)
from atrous.weights.adapter import Adapted
from atrous.weights.read_checkpoint import Foreign


class Adapter(Protocol):
    """The functions of each module in `SOURCES`."""

    def recognises(self, foreign: Foreign) -> bool:
        """Returns whether the checkpoint is from this source; values of weights are not used.

        Args:
            foreign: the checkpoint as read from its file.
        """
        ...

    def adapt(self, foreign: Foreign, given: Mapping[str, Any]) -> Adapted:
        """Converts the checkpoint to our keys and arguments.

        Args:
            foreign: the checkpoint as read from its file.
            given: arguments that the user gave, such as the backbone.
        """
        ...


#: Source → its adapter, in the order in which the adapters are tried.
SOURCES: dict[str, Adapter] = {
    "torchvision": torchvision,
    "smp": smp,
    "huggingface": huggingface,
    "tensorflow": tensorflow,
    "mmseg": mmseg,
    "vainf": vainf,
    "kazuto1011": kazuto1011,
    "timm-backbone": timm_backbone,
    "vgg16": vgg_imagenet,
}


def adapter_of(source: str) -> Adapter:
    """Returns the adapter of a source.

    Args:
        source: name of the source, a key of `SOURCES`.

    Raises:
        AtrousError: there is no such source; the message has the nearest match.
    """
    if source not in SOURCES:
        raise unknown_name("source", source, SOURCES)
    return SOURCES[source]


def guess(foreign: Foreign) -> str:
    """Returns the only source that recognises the keys of a checkpoint.

    Args:
        foreign: the checkpoint as read from its file.

    Raises:
        AtrousError: no source or more than one source recognises the keys; the message lists the possible sources.
    """
    found = recognising(foreign)
    if len(found) == 1:
        return found[0]
    keys = ", ".join(list(foreign.state)[:3])
    file = foreign.name or "the state dict"
    if found:
        raise AtrousError(f"{file} (keys {keys} …) may be from {' or '.join(found)}: name one with source (--source).")
    if any(key.startswith("backbone.net.") for key in foreign.state):
        raise AtrousError(
            f"{file} has atrous's own keys and needs no conversion. Save a model with atrous.save(model, path)."
        )
    raise AtrousError(
        f"no source recognises {file} (keys {keys} …). atrous converts DeepLab V1, V2, V3, V3+ and backbones, "
        f"not other networks (FCN, LR-ASPP, U-Net, FPN, PSPNet …). Set source (--source), one of: "
        f"{', '.join(SOURCES)}."
    )


def recognising(foreign: Foreign) -> list[str]:
    """Returns the sources that recognise the keys of a checkpoint.

    Args:
        foreign: the checkpoint as read from its file.
    """
    return [source for source, module in SOURCES.items() if module.recognises(foreign)]
