"""The papers, one file each, over shared bricks."""

from __future__ import annotations

import inspect
from typing import Any, TypeAlias

from atrous.errors import AtrousError, unknown_name
from atrous.models.deeplab_v1 import DeepLabV1
from atrous.models.deeplab_v2 import DeepLabV2
from atrous.models.deeplab_v3 import DeepLabV3
from atrous.models.deeplab_v3plus import DeepLabV3Plus
from atrous.models.info import Info, Preprocessing

#: Any paper's module: `.scores(images)`, `.forward(images)`, `.info`, `.backbone`, `.align_corners`.
SegmentationModel: TypeAlias = DeepLabV1 | DeepLabV2 | DeepLabV3 | DeepLabV3Plus

ARCHITECTURES: dict[str, type[SegmentationModel]] = {
    "deeplabv1": DeepLabV1,
    "deeplabv2": DeepLabV2,
    "deeplabv3": DeepLabV3,
    "deeplabv3plus": DeepLabV3Plus,
}

__all__ = [
    "ARCHITECTURES",
    "DeepLabV1",
    "DeepLabV2",
    "DeepLabV3",
    "DeepLabV3Plus",
    "Info",
    "Preprocessing",
    "SegmentationModel",
    "build",
]


def build(architecture: str, arguments: dict[str, Any]) -> SegmentationModel:
    """A paper's model with fresh weights.

    Args:
        architecture: a key of `ARCHITECTURES`.
        arguments: of the paper's class.

    Raises:
        AtrousError: unknown architecture or argument.
    """
    paper = ARCHITECTURES.get(architecture)
    if paper is None:
        raise unknown_name("architecture", architecture, ARCHITECTURES)
    allowed = inspect.signature(paper).parameters
    for name in arguments:
        if name not in allowed:
            raise unknown_name(f"argument of {architecture}", name, allowed)
    try:
        return paper(**arguments)
    except (TypeError, RuntimeError) as error:
        raise AtrousError(f"{architecture} cannot be built from {arguments}: {error}.") from error
