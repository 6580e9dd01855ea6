"""The bricks every paper is built from: convolutions with norm, separable convolutions, named-size resizing.

Legend of shapes, here and everywhere: N batch, C channels, K classes, H×W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atrous.errors import AtrousError, shown
from atrous.models.info import Preprocessing, aligned_side

#: The smallest side on which one picture alone can be trained: at output stride 16 it still leaves 3×3 features,
#: enough values per channel for batch statistics.
MINIMUM_SIDE_OF_ONE = 33

#: (eps, momentum) of a batch norm, in PyTorch's sense of momentum.
Norm = tuple[float, float]


def resize(features: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
    """Bilinear resizing to a named size; a no-op when the size is already right.

    Args:
        features: N×C×h×w.
        size: target (H, W) in pixels, each ≥ 1.
        align_corners: whether the corner pixels' centres coincide (TensorFlow's DeepLab, smp) or their edges do.

    Returns:
        N×C×H×W.
    """
    if features.shape[-2:] == torch.Size(size):
        return features
    return F.interpolate(features, size=tuple(size), mode="bilinear", align_corners=align_corners)


def resize_rows(features: Tensor, size: Sequence[int], rows: range, align_corners: bool = False) -> Tensor:
    """A band of rows of `resize(features, size)`, without making the rest.

    Args:
        features: N×C×h×w.
        size: (H, W) of the whole resized map.
        rows: which of its rows, within 0…H.
        align_corners: as in `resize`.

    Returns:
        N×C×len(rows)×W.
    """
    height, full = features.shape[-2], size[0]
    targets = torch.arange(rows.start, rows.stop, device=features.device, dtype=torch.float32)
    if align_corners:
        sources = targets * ((height - 1) / max(full - 1, 1))
    else:
        sources = ((targets + 0.5) * (height / full) - 0.5).clamp(min=0)
    above = sources.long().clamp(max=height - 1)
    below = (above + 1).clamp(max=height - 1)
    share = (sources - above).clamp(0, 1).to(features.dtype)[:, None]
    band = torch.lerp(features[..., above, :], features[..., below, :], share)
    return resize(band, (len(rows), size[1]), align_corners)


def class_probabilities(logits: Tensor) -> Tensor:
    """N×K×H×W logits → probabilities that sum to one: by softmax, or N×2×H×W of one logit by sigmoid."""
    if logits.shape[1] == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], 1)
    return logits.softmax(1)


class Normalize(nn.Module):
    """Raw pixel values to what the network was trained on: clip, resize, then (x − mean) / std.

    The one brick that normalises, used by `TrainingStep` and `Pipeline` and nowhere else.

    Args:
        mean: one per channel, in raw units (0–255 for 8-bit pictures).
        std: one per channel, > 0, in raw units.
        enlarge: factor by which pictures are enlarged before the network sees them.
        aligned: round the sides to 32k + 1 also where `enlarge` is 1, which else leaves pictures alone.
        windows: per channel the (lowest, highest) raw value that is not clipped; None to clip nothing.
    """

    mean: Tensor
    std: Tensor
    limits: Tensor | None

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        enlarge: float = 1.0,
        aligned: bool = False,
        windows: Sequence[tuple[float, float]] | None = None,
    ) -> None:
        super().__init__()
        self.enlarge, self.aligned = enlarge, aligned
        limits = None if windows is None else torch.tensor(windows, dtype=torch.float32).T.reshape(2, 1, -1, 1, 1)
        self.register_buffer("limits", limits, persistent=False)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1), persistent=False)

    @classmethod
    def of(cls, preprocessing: Preprocessing) -> Normalize:
        """As a model's record has it."""
        given = preprocessing
        return cls(given.mean, given.std, given.enlarge, given.aligned, given.windows)

    def forward(self, raw_images: Tensor) -> Tensor:
        """N×C×H×W of any dtype → N×C×H'×W' float32; if resized, H' is the number 32k + 1 ≥ 33 nearest to enlarge·H."""
        height, width = raw_images.shape[-2:]
        images = raw_images.float()
        if self.limits is not None:
            images = images.clamp(self.limits[0], self.limits[1])
        if self.enlarge != 1.0 or self.aligned:
            size = aligned_side(height, self.enlarge), aligned_side(width, self.enlarge)
            # Not `resize`, whose question whether the size is right already would be answered once, for a whole graph.
            images = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
        return (images - self.mean) / self.std


class PooledBatchNorm2d(nn.BatchNorm2d):
    """Batch norm for globally pooled features, which works for a batch of one in training.

    One picture leaves one value per channel, whose variance is zero: then the running statistics normalise, and
    are not updated.
    """

    def forward(self, input: Tensor) -> Tensor:
        """N×C×1×1 → N×C×1×1."""
        if self.training and input.shape[0] > 1:
            return super().forward(input)
        return F.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )


def conv_norm_relu(
    in_channels: int, out_channels: int, kernel_size: int = 1, *, rate: int = 1, groups: int = 1
) -> nn.Sequential:
    """Atrous convolution without bias, batch norm, ReLU: the papers' unit.

    Args:
        in_channels: C of the input.
        out_channels: C of the output.
        kernel_size: odd, in feature pixels; the size of the map is kept.
        rate: atrous rate r ≥ 1, the distance between two taps (arXiv:1706.05587 §3.1).
        groups: as in `torch.nn.Conv2d`.
    """
    return nn.Sequential(
        nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            padding=rate * (kernel_size // 2),
            dilation=rate,
            groups=groups,
            bias=False,
        ),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def separable_conv(in_channels: int, out_channels: int, *, rate: int = 1, depthwise_norm: bool = True) -> nn.Sequential:
    """Depthwise 3×3 atrous convolution, then pointwise 1×1, norm, ReLU (arXiv:1802.02611 §3.1).

    Args:
        in_channels: C of the input.
        out_channels: C of the output.
        rate: atrous rate of the depthwise convolution, ≥ 1.
        depthwise_norm: norm and ReLU between the two, as the paper has it; segmentation-models-pytorch has none.
    """
    depthwise = conv_norm_relu(in_channels, in_channels, 3, rate=rate, groups=in_channels)
    if not depthwise_norm:
        depthwise = depthwise[:1]
    return nn.Sequential(*depthwise, *conv_norm_relu(in_channels, out_channels, 1))


def conv3x3(
    in_channels: int,
    out_channels: int,
    *,
    rate: int = 1,
    separable: bool = False,
    depthwise_norm: bool = True,
) -> nn.Sequential:
    """A 3×3 atrous unit, plain or depthwise separable; see `conv_norm_relu` and `separable_conv`."""
    if separable:
        return separable_conv(in_channels, out_channels, rate=rate, depthwise_norm=depthwise_norm)
    return conv_norm_relu(in_channels, out_channels, 3, rate=rate)


def set_rate(unit: nn.Module, rate: int) -> None:
    """Changes the atrous rate of every convolution larger than 1×1 in place; the weights stay."""
    for conv in unit.modules():
        if isinstance(conv, nn.Conv2d) and conv.kernel_size != (1, 1):
            conv.dilation = (rate, rate)
            conv.padding = tuple(rate * (side // 2) for side in conv.kernel_size)


def live_taps(size: int, taps: int, stride: int, padding: int, rate: int) -> tuple[int, int]:
    """Which rows, or columns, of a kernel ever meet the map; at wide rates few do (arXiv:1706.05587 §3.3).

    Of a 3×3 kernel only the middle is left where the map is no larger than the rate.

    Args:
        size: of the map, in feature pixels.
        taps: of the kernel.
        stride: ≥ 1.
        padding: with zeros, on either side.
        rate: ≥ 1.

    Returns:
        The first and the last + 1. A kernel of these alone, padded by rate·first less, gives the same values.
    """
    last = (size + 2 * padding - rate * (taps - 1) - 1) // stride * stride  # where the kernel stands at the end
    live = [tap for tap in range(taps) if tap * rate + last >= padding and tap * rate < padding + size]
    first, end = (live[0], live[-1] + 1) if live else (0, taps)
    # The same is lost on either side, so that the kernel still stands where it stood.
    return (first, end) if first * rate <= padding and taps - end == first else (0, taps)


def multiply_rate(conv: nn.Conv2d, factor: int) -> None:
    """Multiplies a convolution's atrous rate in place, and pads it so that the map keeps its size."""
    if conv.kernel_size == (1, 1) or factor == 1:
        return
    before = conv.dilation[0]
    conv.dilation = (before * factor, before * factor)
    if not isinstance(conv.padding, str):
        wider = before * (factor - 1)
        conv.padding = tuple(p + wider * (k // 2) for p, k in zip(conv.padding, conv.kernel_size, strict=True))


def initialise(head: nn.Module) -> None:
    """He initialisation of a head's convolutions; the last, the classifier (the one with a bias), N(0, 0.01)."""
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            if module.bias is None:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            else:
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)


def initialise_relu(module: nn.Module) -> None:
    """He initialisation of convolutions with a bias that are followed by ReLU, without a norm between."""
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d):
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.bias)  # pyright: ignore[reportArgumentType]


def set_norm(module: nn.Module, norm: Norm) -> None:
    """Gives every batch norm its eps and momentum; momentum is the share of the new value (1 − TensorFlow's decay).

    Args:
        module: changed in place.
        norm: (eps > 0, momentum 0–1).
    """
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eps, part.momentum = norm


def freeze_norm(model: nn.Module) -> None:
    """Batch norms normalise with their running statistics, and no longer update them; scale and shift still learn.

    What the papers do in the second phase of training, at output stride 8 (arXiv:1706.05587 §4.1). `model.train()`
    undoes it.
    """
    for module in model.modules():
        if is_batch_norm(module):
            module.eval()


def is_batch_norm(module: nn.Module) -> bool:
    """Whether a module is a batch norm, over one process's pictures or over those of all."""
    return isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm)


def check_pictures(model: nn.Module, images: Tensor, scale: float = 1.0) -> None:
    """Refuses pictures that a model cannot take, or that training would leave a single value per channel.

    Args:
        model: with `.backbone.in_channels`; asked whether one of its batch norms is in training.
        images: N×C×H×W.
        scale: the smallest factor by which the model shrinks pictures before its backbone sees them.

    Raises:
        AtrousError: no tensor of floating-point numbers, another number of dimensions or channels, or in training one
            picture with a side under 33 px.
    """
    channels = getattr(getattr(model, "backbone", None), "in_channels", None)
    is_tensor = issubclass(type(images), Tensor)  # an object may hide its class from isinstance
    if not is_tensor or not images.is_floating_point():
        kind = f"a tensor of {images.dtype}" if is_tensor else shown(images)
        raise AtrousError(
            f"the model takes a tensor of N×{channels or 'C'}×H×W normalised floating-point numbers, got {kind}. "
            "atrous.Segmenter takes pictures as they are, atrous.Pipeline their values."
        )
    if images.ndim != 4 or (channels is not None and images.shape[1] != channels):
        raise AtrousError(
            f"the model takes pictures of N×{channels or 'C'}×H×W, got {'×'.join(map(str, images.shape))}. "
            "in_channels= builds one for other channels."
        )
    height, width = images.shape[-2:]
    minimum = math.ceil(MINIMUM_SIDE_OF_ONE / scale)
    if not model.training or images.shape[0] > 1 or min(height, width) >= minimum:
        return
    if any(is_batch_norm(module) and module.training for module in model.modules()):
        raise AtrousError(
            f"a training batch of one picture of {height}×{width} px leaves batch norm too few values: "
            f"use at least {minimum}×{minimum} px, two pictures a batch, or frozen_norm."
        )
