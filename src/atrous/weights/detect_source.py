"""Where a checkpoint comes from: the adapters by name, and the guess from a file's keys."""

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
    """What each module named in `SOURCES` offers."""

    def recognises(self, foreign: Foreign) -> bool:
        """Whether the keys are this source's; from names alone."""
        ...

    def adapt(self, foreign: Foreign, given: Mapping[str, Any]) -> Adapted:
        """The checkpoint in our words; `given` is what the user named, such as the backbone."""
        ...


#: Source → its adapter, in the order in which they are tried.
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
    """The adapter of a source.

    Raises:
        AtrousError: no such source; with the nearest match.
    """
    if source not in SOURCES:
        raise unknown_name("source", source, SOURCES)
    return SOURCES[source]


def guess(foreign: Foreign) -> str:
    """The one source whose keys these are.

    Raises:
        AtrousError: none recognises them, or more than one does; says which are possible.
    """
    found = recognising(foreign)
    if len(found) == 1:
        return found[0]
    keys = ", ".join(list(foreign.state)[:3])
    file = foreign.name or "the state dict"
    if found:
        raise AtrousError(f"{file} (keys {keys} …) may be from {' or '.join(found)}: name one with source (--source).")
    if any(key.startswith("backbone.net.") for key in foreign.state):
        raise AtrousError(f"{file} has atrous's own keys: nothing to convert. atrous.save(model, path) keeps a model.")
    raise AtrousError(
        f"no source recognises {file} (keys {keys} …). DeepLabs (V1, V2, V3, V3+) and backbones are converted; other "
        f"networks (FCN, LR-ASPP, U-Net, FPN, PSPNet …) are not. Name what it is with source (--source), one of: "
        f"{', '.join(SOURCES)}."
    )


def recognising(foreign: Foreign) -> list[str]:
    """The sources whose keys these may be."""
    return [source for source, module in SOURCES.items() if module.recognises(foreign)]
