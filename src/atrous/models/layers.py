"""Building blocks of all papers: convolutions with batch norm, separable convolutions, resizing, normalisation.

Shapes, here and in all other modules: N batch, C channels, K classes, H×W pixels, h×w feature pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atrous.errors import AtrousError, shown
from atrous.models.info import Preprocessing, aligned_side

#: If a training batch has only one picture, each of its sides must have at least this number of pixels. At output
#: stride 16 the last map then has 3×3 features, which are enough values per channel for batch statistics.
MINIMUM_SIDE_OF_ONE = 33

#: (eps > 0, momentum 0–1) of a batch norm, in PyTorch's sense of momentum.
Norm = tuple[float, float]


def resize(features: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
    """Resizes features bilinearly to a given size; returns them unchanged if they have this size.

    Args:
        features: N×C×h×w.
        size: target (H, W) in pixels, each ≥ 1.
        align_corners: True aligns the centres of the corner pixels (TensorFlow's DeepLab, segmentation-models-pytorch),
            False their outer edges.

    Returns:
        N×C×H×W.
    """
    if features.shape[-2:] == torch.Size(size):
        return features
    return F.interpolate(features, size=tuple(size), mode="bilinear", align_corners=align_corners)


def resize_rows(features: Tensor, size: Sequence[int], rows: range, align_corners: bool = False) -> Tensor:
    """Returns a band of rows of `resize(features, size)` without computing the other rows.

    Args:
        features: N×C×h×w.
        size: (H, W) of the whole resized map.
        rows: rows of the resized map to return, within 0…H.
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
    """Returns the class probabilities of logits.

    For N×K×H×W logits with K ≥ 2, the probabilities are N×K×H×W, by softmax. For N×1×H×W logits, they are N×2×H×W, by
    sigmoid.
    """
    if logits.shape[1] == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], 1)
    return logits.softmax(1)


class Normalize(nn.Module):
    """Normalisation of raw pixel values: clips, resizes, then computes (x − mean) / std.

    Every part that normalises uses this module: `TrainingStep`, `Pipeline` and the activations of `explaining`.

    Args:
        mean: mean of each channel, in raw units (0–255 for 8-bit pictures).
        std: standard deviation of each channel, > 0, in raw units.
        enlarge: factor by which pictures are enlarged, above 0, at most 64.
        aligned: whether pictures are resized to sides of 32k + 1 pixels even if `enlarge` is 1.
        windows: range (lowest, highest) of raw values to which each channel is clipped; None for no clipping.
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
        # 2×C×1×1: the memory order channels_last is only for tensors of rank 4
        limits = None if windows is None else torch.tensor(windows, dtype=torch.float32).T.reshape(2, -1, 1, 1)
        self.register_buffer("limits", limits, persistent=False)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1), persistent=False)

    @classmethod
    def of(cls, preprocessing: Preprocessing) -> Normalize:
        """Builds the module for the preprocessing of a model."""
        given = preprocessing
        return cls(given.mean, given.std, given.enlarge, given.aligned, given.windows)

    def forward(self, raw_images: Tensor) -> Tensor:
        """Normalises pictures.

        Args:
            raw_images: N×C×H×W raw values of any dtype.

        Returns:
            N×C×H'×W' float32. H' is H; if pictures are resized, H' is the number 32k + 1 ≥ 33 nearest to enlarge·H.
            The same holds for W'.
        """
        height, width = raw_images.shape[-2:]
        images = raw_images.float()
        if self.limits is not None:
            images = images.clamp(self.limits[0], self.limits[1])
        if self.enlarge != 1.0 or self.aligned:
            size = aligned_side(height, self.enlarge), aligned_side(width, self.enlarge)
            # Not `resize`: tracing would evaluate its comparison of sizes once and fix the result for the whole graph.
            images = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
        return (images - self.mean) / self.std


class PooledBatchNorm2d(nn.BatchNorm2d):
    """Batch norm for globally pooled features that also works for a training batch of one picture.

    One picture has one value per channel, whose variance is zero. In this case the running statistics are used and not
    updated.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Returns normalised N×C×1×1 features for N×C×1×1 features."""
        if self.training and input.shape[0] > 1:
            return super().forward(input)
        return F.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )


def conv_norm_relu(
    in_channels: int, out_channels: int, kernel_size: int = 1, *, rate: int = 1, groups: int = 1
) -> nn.Sequential:
    """Returns the papers' unit: atrous convolution without bias, batch norm and ReLU.

    Args:
        in_channels: C of the input.
        out_channels: C of the output.
        kernel_size: side of the kernel in feature pixels, odd; the output has the size of the input.
        rate: atrous rate r ≥ 1, the distance between two taps (arXiv:1706.05587 §3.1).
        groups: number of groups of channels, as in `torch.nn.Conv2d`.
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
    """Returns a separable unit: depthwise 3×3 atrous convolution, pointwise 1×1, batch norm and ReLU.

    Source: arXiv:1802.02611 §3.1.

    Args:
        in_channels: C of the input.
        out_channels: C of the output.
        rate: atrous rate of the depthwise convolution, ≥ 1.
        depthwise_norm: whether batch norm and ReLU are between the two convolutions, as in the paper;
            segmentation-models-pytorch has neither batch norm nor ReLU there.
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
    """Returns a 3×3 atrous unit, plain or depthwise separable; see `conv_norm_relu` and `separable_conv`."""
    if separable:
        return separable_conv(in_channels, out_channels, rate=rate, depthwise_norm=depthwise_norm)
    return conv_norm_relu(in_channels, out_channels, 3, rate=rate)


def set_rate(unit: nn.Module, rate: int) -> None:
    """Sets the atrous rate (≥ 1) of every convolution larger than 1×1 in place; the weights stay the same."""
    for conv in unit.modules():
        if isinstance(conv, nn.Conv2d) and conv.kernel_size != (1, 1):
            conv.dilation = (rate, rate)
            conv.padding = tuple(rate * (side // 2) for side in conv.kernel_size)


def live_taps(size: int, taps: int, stride: int, padding: int, rate: int) -> tuple[int, int]:
    """Returns the range of kernel rows (or columns) that overlap the map at least once (arXiv:1706.05587 §3.3).

    At large rates, some rows of the kernel cover only zero padding at every position. If the map is not larger than the
    rate, only the middle row of a 3×3 kernel remains.

    Args:
        size: height (or width) of the map, in feature pixels.
        taps: number of rows (or columns) of the kernel.
        stride: stride, ≥ 1.
        padding: zero padding on each side, in feature pixels.
        rate: atrous rate, ≥ 1.

    Returns:
        The first row, and the last row + 1. A kernel with only the rows of this range gives the same result if the
        padding is reduced by rate·first.
    """
    last = (size + 2 * padding - rate * (taps - 1) - 1) // stride * stride  # last position of the kernel
    live = [tap for tap in range(taps) if tap * rate + last >= padding and tap * rate < padding + size]
    first, end = (live[0], live[-1] + 1) if live else (0, taps)
    # Both sides must lose the same number of rows, so that the positions of the kernel stay the same.
    return (first, end) if first * rate <= padding and taps - end == first else (0, taps)


def multiply_rate(conv: nn.Conv2d, factor: int) -> None:
    """Multiplies a convolution's atrous rate in place, and adds padding so that the map keeps its size."""
    if conv.kernel_size == (1, 1) or factor == 1:
        return
    before = conv.dilation[0]
    conv.dilation = (before * factor, before * factor)
    if not isinstance(conv.padding, str):
        wider = before * (factor - 1)
        conv.padding = tuple(p + wider * (k // 2) for p, k in zip(conv.padding, conv.kernel_size, strict=True))


def initialise(head: nn.Module) -> None:
    """Initialises a head's convolutions in place.

    Convolutions with a bias are classifiers; their weights get a normal distribution with standard deviation 0.01. All
    other convolutions get He initialisation.
    """
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            if module.bias is None:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            else:
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)


def initialise_relu(module: nn.Module) -> None:
    """Applies He initialisation, in place, to all convolutions of a module.

    Each convolution must have a bias, and be followed by ReLU without batch norm.
    """
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d):
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.bias)  # pyright: ignore[reportArgumentType]


def set_norm(module: nn.Module, norm: Norm) -> None:
    """Sets eps and momentum of every batch norm; momentum is the weight of the new batch (1 − TensorFlow's decay).

    Args:
        module: module whose batch norms are changed in place.
        norm: (eps > 0, momentum 0–1).
    """
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eps, part.momentum = norm


def freeze_norm(model: nn.Module) -> None:
    """Freezes the running statistics of all batch norms and normalises by them; scale and shift stay trainable.

    The V3 paper freezes batch norms in the second phase of training, at output stride 8 (arXiv:1706.05587 §4.1).
    `model.train()` ends the freezing, unless the model was built with `frozen_norm`.
    """
    for module in model.modules():
        if is_batch_norm(module):
            module.eval()


def is_batch_norm(module: nn.Module) -> bool:
    """Returns whether a module is a batch norm, either of one process or synchronised over all processes."""
    return isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm)


def check_pictures(model: nn.Module, images: Tensor, scale: float = 1.0) -> None:
    """Checks the pictures given to a model: type, shape, and in training enough values for batch norm.

    Args:
        model: the model; its `.backbone.in_channels` is the number of channels required.
        images: N×C×H×W.
        scale: smallest factor by which the model shrinks pictures before its backbone, above 0, at most 1.

    Raises:
        AtrousError: the pictures are not a tensor of floating-point numbers, or have another number of dimensions or
            channels; or a batch norm is in training and the batch is one picture with a side under 33 px / scale.
    """
    channels = getattr(getattr(model, "backbone", None), "in_channels", None)
    is_tensor = issubclass(type(images), Tensor)  # not isinstance: an object may report another class
    if not is_tensor or not images.is_floating_point():
        kind = f"a tensor of {images.dtype}" if is_tensor else shown(images)
        raise AtrousError(
            f"the model takes a tensor of N×{channels or 'C'}×H×W normalised floating-point numbers, got {kind}. "
            "atrous.Segmenter takes pictures, atrous.Pipeline takes raw pixel values."
        )
    if images.ndim != 4 or (channels is not None and images.shape[1] != channels):
        raise AtrousError(
            f"the model takes pictures of N×{channels or 'C'}×H×W, got {'×'.join(map(str, images.shape))}. "
            "Build the model with in_channels= for another number of channels."
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
