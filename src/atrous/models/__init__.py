"""The models of the four DeepLab papers, one file each, and their shared building blocks."""

from __future__ import annotations

import inspect
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias, Union

from atrous.errors import WrongArguments, unknown_name
from atrous.models.info import Info, Preprocessing

if TYPE_CHECKING:
    from atrous.models.deeplab_v1 import DeepLabV1
    from atrous.models.deeplab_v2 import DeepLabV2
    from atrous.models.deeplab_v3 import DeepLabV3
    from atrous.models.deeplab_v3plus import DeepLabV3Plus

    #: A model of any paper; it has `.scores(images)`, `.forward(images)`, `.info`, `.backbone` and `.align_corners`.
    SegmentationModel: TypeAlias = DeepLabV1 | DeepLabV2 | DeepLabV3 | DeepLabV3Plus

    ARCHITECTURES: dict[str, type[SegmentationModel]]

#: Module and class of each architecture.
_PAPERS = {
    "deeplabv1": ("deeplab_v1", "DeepLabV1"),
    "deeplabv2": ("deeplab_v2", "DeepLabV2"),
    "deeplabv3": ("deeplab_v3", "DeepLabV3"),
    "deeplabv3plus": ("deeplab_v3plus", "DeepLabV3Plus"),
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


def __getattr__(name: str) -> Any:
    """Imports a paper's module on first use, so that a model's record can be read without torch."""
    if name == "ARCHITECTURES":
        return _architectures()
    if name == "SegmentationModel":
        return Union[tuple(_architectures().values())]  # noqa: UP007 (the classes are in a tuple)
    for file, title in _PAPERS.values():
        if title == name:
            return getattr(import_module(f"atrous.models.{file}"), title)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def _architectures() -> dict[str, Any]:
    return {name: getattr(import_module(f"atrous.models.{file}"), title) for name, (file, title) in _PAPERS.items()}


def build(architecture: str, arguments: dict[str, Any]) -> SegmentationModel:
    """Builds the model of a paper with newly initialised weights.

    Args:
        architecture: a key of `ARCHITECTURES`.
        arguments: arguments of the paper class, by name.

    Raises:
        AtrousError: the architecture or an argument is unknown, or a value is out of range.
    """
    paper = _architectures().get(str(architecture))
    if paper is None:
        raise unknown_name("architecture", architecture, _PAPERS)
    allowed = inspect.signature(paper).parameters
    for name in arguments:
        if name not in allowed:
            raise WrongArguments(str(unknown_name(f"argument of {architecture}", name, allowed)))
    return paper(**arguments)
